"""Exports a module as a flat graph of functional operators, which every pass of lifting reads."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.fx.graph import CodeGen
from torch.utils._sympy.functions import FloorDiv

from rnn_export.errors import BoundedAxis, FrozenAxis, LiftError
from rnn_export.export.lift.ir.fx_nodes import END, SAME, aten, is_drawn, named_args, overloads, placeholders
from rnn_export.export.lift.ir.source_location import place_of
from rnn_export.export.lift.model.attention_bound import Context
from rnn_export.export.lift.rewrite.attention.attention import narrow_attention
from rnn_export.export.lift.rewrite.broadcast_copies import repeats_as_expands
from rnn_export.export.lift.rewrite.complex_pairs import has_complex
from rnn_export.export.lift.rewrite.complex_rules import make_real
from rnn_export.export.lift.rewrite.constant_fills import LIKE_ANOTHER, free_constants
from rnn_export.export.lift.rewrite.constant_masks import choose_by_known_masks
from rnn_export.export.lift.rewrite.full_length_masks import drop_full_masks
from rnn_export.export.lift.rewrite.ragged.data_dependent_sizes import make_axes_ragged
from rnn_export.export.lift.rewrite.resampling import RESAMPLING
from rnn_export.export.lift.rewrite.shared_filters import share_filters
from rnn_export.export.lift.rewrite.while_loops import write_counted_loops_out
from rnn_export.export.lift.rewrite.window_decomposition import decompose_windows
from rnn_export.export.lift.trace.functionalize import functional
from rnn_export.export.lift.trace.tracing import export_program

# A length that no stream is meant to stay below.
MANY = 2**31
# Guards for the sizes of one export; the program is exported again at others.
GUARDS = overloads("_assert_scalar _assert_tensor_metadata sym_constrain_range_for_size sym_constrain_range")
# Of a size they are that size: `math.ceil(2 * length)`.
ROUNDED = (math.ceil, math.floor, math.trunc)
RESHAPES = overloads("view _unsafe_view reshape")
CONVERTS = overloads("type_as to.other to.dtype to.dtype_layout to.device _to_copy")
PRODUCTS, PARTS = overloads("mul.Tensor mul.Scalar"), overloads("slice.Tensor select.int narrow index_select")
SQUEEZES = (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)


def flat_graph(
    module: nn.Module,
    args: Sequence[Tensor],
    shapes: tuple[Any, ...],
    fold_weights: bool = True,
    most: int | None = None,
    context: Context | None = None,
    chunk: int = 1,
    counts: Sequence[tuple[int, int]] = (),
) -> fx.GraphModule:
    """`module` as a graph: placeholders in, one tuple out, no in-place operators, no checks of sizes.

    `most` is the greatest length of any axis; None for any length. `context` bounds causal attention, and a step has
    `chunk` frames. `counts` are states that begin at zero or above, by the indices of placeholder and next value.
    """
    program = export_program(module, args, shapes)
    _refuse_bounds(program, most or MANY)
    program = functional(program)
    _refuse_frozen(program, shapes)
    graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    graph = graph_module.graph
    for inner in graph_module.modules():
        if isinstance(inner, fx.GraphModule):
            _drop_unused(inner.graph)
    graph.set_codegen(CodeGen())
    equal = _equal_sizes(graph, args)
    _settle_sizes(graph, equal)
    _sizes_of_what_is_there(graph)
    _refuse_single_frames(graph, equal)
    _refuse_single_windows(graph)
    output = graph.output_node()
    output.args = (tuple(torch.utils._pytree.tree_leaves(output.args[0])),)
    drop_full_masks(graph)
    choose_by_known_masks(graph)
    free_constants(graph)
    repeats_as_expands(graph)
    share_filters(graph_module)
    write_counted_loops_out(graph_module)
    rewrite_over_time(graph_module, args, context, chunk)
    if has_complex(graph):
        fold(graph_module, "complex", torch.is_complex)
        make_real(graph_module)
    if fold_weights:
        fold(graph_module)
    graph.eliminate_dead_code()
    make_axes_ragged(graph_module, counts)
    _refuse_sizes_of_values(graph)
    # A new module, since the old one checks its inputs in a hook.
    return fx.GraphModule(graph_module, graph)


def rewrite_over_time(module: fx.GraphModule, args: Sequence[Tensor], context: Context | None, chunk: int = 1) -> None:
    """Write attention, spectra, padding and other windowed operators over symbolic axes as windows, in place."""
    narrow_attention(module, args, context, chunk)
    decompose_windows(module)


def _drop_unused(graph: fx.Graph) -> None:
    """Remove checks and identities; a product with 0 becomes zeros."""
    for node in list(graph.nodes):
        if node.target in SQUEEZES:
            _squeeze_ones(graph, node)
        elif (node.op == "call_module" and node.target == "_guards_fn") or node.target in GUARDS:
            graph.erase_node(node)
        elif (same := _same_as(node)) is not None:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
        elif node.target is aten.view.default:
            # What lies in memory one way here may lie another way in a step.
            node.target = aten.reshape.default
        elif node.target in (aten.type_as.default, aten.to.other):
            # The other tensor says a type, and nothing of its values.
            node.target, node.args, node.kwargs = aten.to.dtype, (node.args[0], node.meta["val"].dtype), {}
        elif node.target is math.ceil:
            _ceil_of_whole(graph, node)
        elif _is_zero(node):
            node.target, node.args = aten.zeros_like.default, node.args[:1]
            node.kwargs = {"dtype": node.meta["val"].dtype}


def _is_zero(node: fx.Node) -> bool:
    """True if a node is a part of a tensor times 0: `x[:, :1] * 0`, in front of frames."""
    if node.target not in PRODUCTS or getattr(node.args[0], "target", None) not in PARTS:
        return False
    return isinstance(node.args[1], int | float) and node.args[1] == 0


def _ceil_of_whole(graph: fx.Graph, node: fx.Node) -> None:
    """Write `math.ceil(size / n)` in integers, which have a bound in a graph if the size has one."""
    (divided,) = node.args
    if not isinstance(divided, fx.Node) or divided.target is not operator.truediv:
        return
    size, by = divided.args
    if not isinstance(size, fx.Node) or not isinstance(size.meta.get("val"), torch.SymInt | int):
        return
    if type(by) is int and by > 0:
        with graph.inserting_before(node):
            more = graph.call_function(operator.add, (size, by - 1))
        more.meta = {**node.meta, "val": size.meta["val"] + by - 1}
        node.target, node.args = operator.floordiv, (more, by)


def _squeeze_ones(graph: fx.Graph, node: fx.Node) -> None:
    """Squeeze only axes that always have size 1: a symbolic axis stays, in a step of one frame or one row too."""
    arguments = named_args(node)
    value, before = arguments["self"], arguments["self"].meta["val"]
    asked = arguments.get("dim", range(before.dim()))
    axes = {a % before.dim() for a in ((asked,) if isinstance(asked, int) else asked)} if before.dim() else set()
    for axis in sorted((a for a in axes if isinstance(before.shape[a], int) and before.shape[a] == 1), reverse=True):
        with graph.inserting_before(node):
            squeezed = graph.call_function(aten.squeeze.dim, (value, axis))
        squeezed.meta = {**node.meta, "val": value.meta["val"].squeeze(axis)}
        value = squeezed
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def _refuse_bounds(program: torch.export.ExportedProgram, most: int) -> None:
    """Raise BoundedAxis if the code does something else from some length on."""
    for port, node in enumerate(_fed(program)):
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                upper = program.range_constraints[size.node.expr].upper
                if upper.is_number and upper < most:
                    beyond = "the code does something else (a branch on the length, a table of that many rows)"
                    raise BoundedAxis(port, axis, int(upper), beyond)


def _refuse_frozen(program: torch.export.ExportedProgram, shapes: tuple[Any, ...]) -> None:
    """Raise FrozenAxis if an operator specialized a symbolic axis to another size of the model."""
    axes = torch.utils._pytree.tree_leaves(shapes, lambda part: isinstance(part, dict))
    for port, (node, free) in enumerate(zip(_fed(program), axes, strict=True)):
        for axis in free:
            size = node.meta["val"].shape[axis]
            if not isinstance(size, torch.SymInt) or size.node.maybe_as_int() is not None:
                what = (
                    f"axis {axis} of input {port} must be of any size, but what is done with it holds for {size} alone"
                )
                raise FrozenAxis(f"{what}, which is another size of the model too.", port, axis)


def _refuse_sizes_of_values(graph: fx.Graph) -> None:
    """Raise LiftError if the values of a tensor determine the size of another one."""
    made: dict[Any, fx.Node] = {}
    for node in graph.nodes:
        made |= dict.fromkeys(node.meta.get("unbacked_bindings") or (), node)
        value = node.meta.get("val")
        sizes = free_unbacked_symbols(value.shape) if made and isinstance(value, Tensor) else ()
        if source := next((made[symbol] for symbol in sizes if symbol in made), None):
            here = dict.fromkeys(map(place_of, (source, node)))
            raise LiftError(
                f"{', then '.join(here)}: the values of a tensor say how many entries another one has (entries picked "
                "by a mask, nonzero, a slice that ends where a value says), but every step of a stream has the same "
                "sizes. Keep all entries, and mask those that are left out: torch.where, or a product with zeros and "
                "ones."
            )


def _fed(program: torch.export.ExportedProgram) -> list[fx.Node]:
    inputs = program.graph_signature.user_inputs
    return [n for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs]


def _equal_sizes(graph: fx.Graph, args: Sequence[Tensor]) -> Mapping[Any, Any]:
    """By symbol of a size, the first symbol of the same example size: the rows, or the frames."""
    alike: dict[int, Any] = {}
    return {
        size.node.expr: alike.setdefault(here, size.node.expr)
        for fed, value in zip(placeholders(graph), args, strict=True)
        for size, here in zip(fed.meta["val"].shape, value.shape, strict=True)
        if isinstance(size, torch.SymInt) and size.node.expr.is_symbol
    }


def _settle_sizes(graph: fx.Graph, equal: Mapping[Any, Any]) -> None:
    """Replace a size that is always the same number, as rows // rows, by that number."""
    numbers: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if numbers and not numbers.keys().isdisjoint(node.all_input_nodes):
            node.args, node.kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: numbers.get(n, n))
        value = node.meta.get("val")
        if node.op == "call_function" and (number := _number(value, equal)) is not None:
            numbers[node] = number
        if node.target in RESHAPES:
            sizes = enumerate(node.args[1])
            node.update_arg(1, [_number(value.shape[i], equal) or n if n == -1 else n for i, n in sizes])


def _sizes_of_what_is_there(graph: fx.Graph) -> None:
    """Read the count of windows in the size of a new tensor from its source, if that has such an axis.

    As an expression of the input's length it is that of a whole sequence, and not of a segment.
    """
    for node in [n for n in graph.nodes if n.target in LIKE_ANOTHER]:
        source, sizes = node.args[:2]
        axes = {str(size): a for a, size in enumerate(source.meta["val"].shape) if isinstance(size, torch.SymInt)}
        for place, size in enumerate(sizes):
            axis = axes.get(str(size.meta.get("val"))) if isinstance(size, fx.Node) else None
            if axis is None or not size.meta["val"].node.expr.has(FloorDiv):
                continue
            with graph.inserting_before(node):
                asked = graph.call_function(aten.sym_size.int, (source, axis))
            asked.meta = {**node.meta, "val": size.meta["val"]}
            sizes = [*sizes[:place], asked, *sizes[place + 1 :]]
        node.update_arg(1, sizes)


def _number(size: Any, equal: Mapping[Any, Any]) -> int | None:
    """The constant value of a computed size, or None."""
    expression = size.node.expr.subs(equal) if isinstance(size, torch.SymInt) else None
    return int(expression) if expression is not None and expression.is_Integer else None


def _refuse_single_frames(graph: fx.Graph, equal: Mapping[Any, Any]) -> None:
    """Raise FrozenAxis if code takes a symbolic axis apart entry by entry, which torch.export lets pass."""
    axes = {str(n): (i, a) for i, fed in enumerate(placeholders(graph)) for a, n in enumerate(fed.meta["val"].shape)}
    for node in list(graph.nodes):
        if node.target in (aten.unbind.int, aten.split.Tensor) and node.users:
            arguments = named_args(node)
            size = arguments["self"].meta["val"].shape[arguments["dim"]]
            symbols = size.node.expr.subs(equal).free_symbols if isinstance(size, torch.SymInt) else ()
            for port, axis in [axes[str(n)] for n in symbols if str(n) in axes]:
                what = f"axis {axis} of input {port} must be of any size, but the code takes its entries apart"
                raise FrozenAxis(f"{place_of(node)}: {what}, as many as there were.", port, axis)
            if isinstance(size, torch.SymInt) and node.target is aten.unbind.int:
                _select_each(graph, node, arguments)


def _refuse_single_windows(graph: fx.Graph) -> None:
    """Raise FrozenAxis if torch specialized an axis to 1, its size at the length of the export."""
    for node in graph.nodes:
        by_rate = node.target in RESAMPLING and not named_args(node).get("output_size")
        by_entry = torch.Tag.pointwise in getattr(node.target, "tags", ())
        if not (by_entry or by_rate) or not isinstance(node.meta.get("val"), Tensor):
            continue
        value = node.meta["val"]
        for taken in (n.meta["val"] for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)):
            for size, made in zip(taken.shape, value.shape, strict=False) if taken.dim() == value.dim() else ():
                if isinstance(size, torch.SymInt) and isinstance(made, int) and made == 1:
                    port, axis = _axis_of(graph, size)
                    what = f"axis {axis} of input {port} must be of any size, but what is made of it was 1 long"
                    raise FrozenAxis(f"{place_of(node)}: {what}, and torch.export took it for 1.", port, axis)


def _axis_of(graph: fx.Graph, size: torch.SymInt) -> tuple[int, int]:
    """The first axis of an input that a size follows from."""
    axes = ((i, a, n) for i, fed in enumerate(placeholders(graph)) for a, n in enumerate(fed.meta["val"].shape))
    free = size.node.expr.free_symbols
    return next(
        (i, a) for i, a, n in axes if isinstance(n, torch.SymInt) and not free.isdisjoint(n.node.expr.free_symbols)
    )


def _select_each(graph: fx.Graph, unbind: fx.Node, arguments: Mapping[str, Any]) -> None:
    """Select each entry of an axis whose size is computed, though it is always the same number."""
    for part in list(unbind.users):
        with graph.inserting_before(part):
            selected = graph.call_function(aten.select.int, (arguments["self"], arguments["dim"], part.args[1]))
        selected.meta = dict(part.meta)
        part.replace_all_uses_with(selected)
        graph.erase_node(part)


def fold(module: fx.GraphModule, name: str = "folded", which: Callable[[Tensor], bool] = lambda value: True) -> None:
    """Fold values computed from weights alone, for which `which` is true, into buffers that begin with `name`."""
    graph, known = module.graph, dict[fx.Node, Any]()
    made: dict[tuple[Any, ...], str] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = attrgetter(str(node.target))(module)
        elif node.op == "call_function" and node.all_input_nodes and all(n in known for n in node.all_input_nodes):
            if is_drawn(node):
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)
    for node in [n for n in known if n.op != "get_attr" and isinstance(known[n], Tensor) and which(known[n])]:
        if all(user in known for user in node.users):
            continue
        key = (node.target, str(node.args), str(node.kwargs))
        if key not in made:
            made[key] = f"{name}_{len(made)}"
            module.register_buffer(made[key], known[node].detach().clone())
        with graph.inserting_before(node):
            folded = graph.get_attr(made[key])
        folded.meta = dict(node.meta)
        node.replace_all_uses_with(folded)


def _same_as(node: fx.Node) -> fx.Node | None:
    """The argument whose value this node only repeats, or None."""
    first = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    if node.target in SAME:
        return first
    if node.target in CONVERTS and first is not None:
        return first if first.meta["val"].dtype == node.meta["val"].dtype else None
    if node.target in ROUNDED:
        return first if first is not None and isinstance(first.meta["val"], torch.SymInt) else None
    if node.target is operator.getitem and first is not None and first.target is aten.broadcast_tensors.default:
        broadcast = named_args(first)["tensors"][node.args[1]]
        return broadcast if broadcast.meta["val"].shape == node.meta["val"].shape else None
    if node.target is operator.getitem and first is not None and first.target is aten.split.Tensor:
        # `x.chunk(1)[0]`, one part of an axis of any size.
        value, parts = named_args(first)["self"], first.meta["val"]
        is_all = len(parts) == 1 and str(parts[0].shape) == str(value.meta["val"].shape)
        return value if is_all else None
    if node.target is aten.slice.Tensor and _is_whole(node.args[2:]):
        return first
    if node.target is aten.slice_scatter.default and _is_whole(node.args[3:]):
        return node.args[1] if isinstance(node.args[1], fx.Node) else None
    if node.target is aten.copy.default and isinstance(node.args[1], fx.Node):
        new, old = node.args[1].meta["val"], node.meta["val"]
        return node.args[1] if new.dtype == old.dtype and len(new.shape) == len(old.shape) else None
    return None


def _is_whole(bounds: Sequence[Any]) -> bool:
    start, end, step = [*bounds, None, None, None][:3]
    return start in (None, 0) and end in (None, END) and step in (None, 1)
