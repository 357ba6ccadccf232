"""Exports a module as a flat graph of functional operators, which every pass of lifting reads."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.fx.graph import CodeGen

from rnn_export.errors import BoundedAxis, FrozenAxis, LiftError
from rnn_export.export.lift.ir.fx_nodes import aten, is_drawn, named_args, placeholders, results
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.normal_form import is_normal, normalise
from rnn_export.export.lift.ir.passes import Pass, apply_rules, rules, run_passes
from rnn_export.export.lift.ir.source_location import place_of
from rnn_export.export.lift.model.attention_bound import Context
from rnn_export.export.lift.rewrite.attention.attention import narrow_attention
from rnn_export.export.lift.rewrite.complex_pairs import has_complex
from rnn_export.export.lift.rewrite.complex_rules import make_real
from rnn_export.export.lift.rewrite.decomposition_table import DECOMPOSITIONS, WINDOWS
from rnn_export.export.lift.rewrite.ragged.data_dependent_sizes import make_axes_ragged
from rnn_export.export.lift.rewrite.recurrences import find_recurrences, has_running
from rnn_export.export.lift.rewrite.redundant_nodes import REDUNDANT, has_no_guards
from rnn_export.export.lift.rewrite.resampling import RESAMPLING
from rnn_export.export.lift.trace.functionalize import functional
from rnn_export.export.lift.trace.tracing import export_program

# A length that no stream is meant to stay below.
MANY = 2**31
ENTRIES = (aten.unbind.int, aten.split.Tensor)


@dataclass
class Flattening:
    """A traced graph on its way to a flat one, with the inputs it was traced on.

    `context` bounds causal attention, and a step has `chunk` frames. `counts` are states that begin at zero or above,
    by the indices of placeholder and next value. `frames` is the one length of a graph in which recurrences are found.
    """

    module: fx.GraphModule
    args: Sequence[Tensor]
    context: Context | None = None
    chunk: int = 1
    counts: Sequence[tuple[int, int]] = ()
    frames: int | None = None

    @cached_property
    def equal(self) -> Mapping[Any, Any]:
        """By symbol of a size, the first symbol of the same example size: the rows, or the frames."""
        alike: dict[int, Any] = {}
        return {
            size.node.expr: alike.setdefault(here, size.node.expr)
            for fed, value in zip(placeholders(self.module.graph), self.args, strict=True)
            for size, here in zip(fed.meta["val"].shape, value.shape, strict=True)
            if isinstance(size, torch.SymInt) and size.node.expr.is_symbol
        }


def flat_graph(
    module: nn.Module,
    args: Sequence[Tensor],
    shapes: tuple[Any, ...],
    fold_weights: bool = True,
    most: int | None = None,
    context: Context | None = None,
    chunk: int = 1,
    counts: Sequence[tuple[int, int]] = (),
    frames: int | None = None,
) -> fx.GraphModule:
    """`module` as a graph: placeholders in, one tuple out, no in-place operators, no checks of sizes.

    `most` is the greatest length of any axis; None for any length. The other arguments are those of `Flattening`.
    """
    program = export_program(module, args, shapes)
    _refuse_bounds(program, most or MANY)
    program = functional(program)
    _refuse_frozen(program, shapes)
    traced = program.module(check_guards=False)
    assert isinstance(traced, fx.GraphModule)
    traced.graph.set_codegen(CodeGen())
    passes = [*FLAT, *([FOLDED] if fold_weights else []), RAGGED]
    run_passes("flat", passes, Flattening(traced, args, context, chunk, counts, frames))
    # A new module, since the old one checks its inputs in a hook.
    return fx.GraphModule(traced, traced.graph)


def rewrite_over_time(module: fx.GraphModule, args: Sequence[Tensor], context: Context | None, chunk: int = 1) -> None:
    """Write attention, spectra, padding and other windowed operators over symbolic axes as windows, in place."""
    run_passes("over-time", OVER_TIME, Flattening(module, args, context, chunk))


def _normalise(subject: Flattening) -> None:
    """Bring all operators to normal form, and remove checks and identities, in inner graphs too."""
    for inner in subject.module.modules():
        if isinstance(inner, fx.GraphModule):
            for node in inner.graph.nodes:
                normalise(node)
            apply_rules(inner, REDUNDANT, "redundant")


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
                raise FrozenAxis(f"{what}, which is another size of the model too.", port, axis, id="size-of-model-too")


def _make_ragged(subject: Flattening) -> None:
    """Make axes whose sizes depend on values ragged; raises LiftError if the size of a tensor still does."""
    subject.module.graph.eliminate_dead_code()
    make_axes_ragged(subject.module, subject.counts)
    made: dict[Any, fx.Node] = {}
    for node in subject.module.graph.nodes:
        made |= dict.fromkeys(node.meta.get("unbacked_bindings") or (), node)
        value = node.meta.get("val")
        sizes = free_unbacked_symbols(value.shape) if made and isinstance(value, Tensor) else ()
        if source := next((made[symbol] for symbol in sizes if symbol in made), None):
            here = dict.fromkeys(map(place_of, (source, node)))
            raise LiftError(
                f"{', then '.join(here)}: the values of a tensor say how many entries another one has (entries picked "
                "by a mask, nonzero, a slice that ends where a value says), but every step of a stream has the same "
                "sizes. Keep all entries, and mask those that are left out: torch.where, or a product with zeros and "
                "ones.",
                id="sizes-by-value",
            )


def _fed(program: torch.export.ExportedProgram) -> list[fx.Node]:
    inputs = program.graph_signature.user_inputs
    return [n for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs]


def _settle_sizes(subject: Flattening) -> None:
    """Replace a size that is always the same number, as rows // rows, by that number, and one size by one node."""
    numbers, equal, first = dict[fx.Node, int](), subject.equal, dict[Any, fx.Node]()
    for node in subject.module.graph.nodes:
        if numbers and not numbers.keys().isdisjoint(node.all_input_nodes):
            node.args, node.kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: numbers.get(n, n))
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, torch.SymInt):
            times, factors = value.node.expr.as_coeff_mul()
            if node.target is aten.sym_size.int and len(factors) == 1 and factors[0] in first and times.is_Integer:
                # A value may have several rows for each of the batch.
                node.target, node.args = operator.mul, (first[factors[0]], int(times))
            node.replace_all_uses_with(first.setdefault(value.node.expr, node))
        if node.op == "call_function" and (number := _number(value, equal)) is not None:
            numbers[node] = number
        if node.target is aten.reshape.default:
            sizes = enumerate(node.args[1])
            node.update_arg(1, [_number(value.shape[i], equal) or n if n == -1 else n for i, n in sizes])


def _number(size: Any, equal: Mapping[Any, Any]) -> int | None:
    """The constant value of a computed size, or None."""
    expression = size.node.expr.subs(equal) if isinstance(size, torch.SymInt) else None
    return int(expression) if expression is not None and expression.is_Integer else None


def _unbound(equal: Mapping[Any, Any], write: NodeWriter, node: fx.Node) -> None:
    """Raise FrozenAxis if code takes a symbolic axis apart entry by entry, which torch.export lets pass."""
    if not node.users:
        return
    fed = enumerate(placeholders(write.graph))
    axes = {str(n): (i, a) for i, taken in fed for a, n in enumerate(taken.meta["val"].shape)}
    arguments = named_args(node)
    size = arguments["self"].meta["val"].shape[arguments["dim"]]
    symbols = size.node.expr.subs(equal).free_symbols if isinstance(size, torch.SymInt) else ()
    for port, axis in [axes[str(n)] for n in symbols if str(n) in axes]:
        what = f"axis {axis} of input {port} must be of any size, but the code takes its entries apart"
        raise FrozenAxis(f"{place_of(node)}: {what}, as many as there were.", port, axis, id="unbound-axis")
    if isinstance(size, torch.SymInt) and node.target is aten.unbind.int:
        _select_each(write.graph, node, arguments)


def _refuse_single_windows(subject: Flattening) -> None:
    """Raise FrozenAxis if torch specialized an axis to 1, its size at the length of the export."""
    graph = subject.module.graph
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
                    raise FrozenAxis(
                        f"{place_of(node)}: {what}, and torch.export took it for 1.",
                        port,
                        axis,
                        id="single-windows-taken",
                    )


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


def _find_recurrences(subject: Flattening) -> None:
    graph = subject.module.graph
    # Complex running sums have no form in pairs; real ones stay until they are held to the model, which may overflow.
    if subject.frames is not None or (has_running(graph) and has_complex(graph)):
        find_recurrences(subject.module, subject.args, subject.frames)


def _flatten_results(subject: Flattening) -> None:
    output = subject.module.graph.output_node()
    output.args = (tuple(torch.utils._pytree.tree_leaves(output.args[0])),)


def _make_real(subject: Flattening) -> None:
    if has_complex(subject.module.graph):
        fold(subject.module, "complex", torch.is_complex)
        make_real(subject.module)


def has_flat_results(graph: fx.Graph) -> bool:
    return all(isinstance(value, fx.Node | int | float | None) for value in results(graph))


def is_real(graph: fx.Graph) -> bool:
    return not has_complex(graph)


OVER_TIME: Sequence[Pass[Flattening]] = (
    Pass(
        "attention",
        lambda s: narrow_attention(s.module, s.args, s.context, s.chunk),
        changes_values=lambda s: s.context is not None,
    ),
    rules("windows", WINDOWS),
)
FLAT: Sequence[Pass[Flattening]] = (
    Pass("normal form", _normalise, ensures=(has_no_guards, is_normal)),
    Pass("constant sizes", _settle_sizes),
    Pass("entries", lambda s: apply_rules(s.module, dict.fromkeys(ENTRIES, partial(_unbound, s.equal)), "entries")),
    Pass("single windows", _refuse_single_windows),
    Pass("results", _flatten_results, ensures=(has_flat_results,)),
    rules("decompositions", DECOMPOSITIONS),
    *OVER_TIME,
    Pass("recurrences", _find_recurrences, requires=(has_no_guards,)),
    Pass("real pairs", _make_real, requires=(has_flat_results,), ensures=(is_real,)),
)
FOLDED: Pass[Flattening] = Pass("folded weights", lambda s: fold(s.module), ensures=(is_normal,))
RAGGED: Pass[Flattening] = Pass("ragged axes", _make_ragged, requires=(has_no_guards, is_real))
