"""A module as a flat graph of functional operators: what every pass of lifting reads."""

from __future__ import annotations

import contextlib
import io
import logging
import operator
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen

from rnn_export import models
from rnn_export.errors import LiftError, first_line

aten = torch.ops.aten
# The folders of lifting and of the cells.
_OURS = tuple(
    f"{folder}/" for folder in (Path(__file__).resolve().parents[1], Path(str(models.__file__)).resolve().parent)
)
DYNAMIC = torch.export.Dim.DYNAMIC
END = 2**63 - 1
# A length that no stream is meant to stay below.
MANY = 2**31
# Guards for the sizes of one export; the program is exported again at others.
GUARDS = {
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
}
# What these make depends on the shape of their argument, not on its values.
SHAPE_ONLY = {
    aten.sym_size.int,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.new_empty.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
}
# What these make has the values of their first argument.
VALUES_OF_FIRST = {
    aten.type_as.default,
    aten.expand_as.default,
    aten.view_as.default,
    aten.reshape_as.default,
    aten.to.other,
}
FILLS: Mapping[Any, float] = {
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
    aten.zeros_like.default: 0,
    aten.ones_like.default: 1,
}
SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default}


class Frozen(LiftError):
    """An axis that must be of any size was made a number: which, of which input."""

    def __init__(self, message: str, port: int, axis: int) -> None:
        super().__init__(message)
        self.port, self.axis = port, axis


class Bounded(LiftError):
    """An axis that must be of any size may only be up to some."""


class CannotFollow(LiftError):
    """torch.export fails, and says it in words of its own."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch and the exporters from logging and warning about themselves; what matters ends in an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        sink = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_program(module: nn.Module, args: Sequence[Tensor], shapes: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """`torch.export` of `module`; raises LiftError with what it says, and where in the user's code."""
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(module, tuple(args), dynamic_shapes=shapes, strict=False)
    except LiftError:
        raise
    except Exception as error:  # torch.export raises many kinds, and those of the user's code
        raise _said(error) from error


def _said(error: Exception) -> LiftError:
    """What torch says, in the user's words where there are any."""
    text, place = str(error), _place(error)
    fixed = re.search(r"\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\] .*?constant \((\d+)\)", text)
    if fixed is not None:
        port, axis, size = map(int, fixed.groups())
        return Frozen(
            f"axis {axis} of input {port} must be of any size, but the code makes a number of it (it was {size}): by "
            "len(x), where x.shape[0] is meant, by int(), or a size written out.",
            port,
            axis,
        )
    if "fake tensor in the exported program constant" in text:
        return LiftError(
            f"the model writes to .data of a tensor{place}, behind the back of every exporter: drop .data, and use "
            "torch.no_grad() where no gradient is wanted."
        )
    if "data-dependent" in text:
        return LiftError(
            f"data-dependent control flow{place}: the code takes a decision by the value of a tensor (if, while, or a "
            "number made of one), which no graph can do. Compute both and choose with torch.where."
        )
    return CannotFollow(f"torch.export cannot follow the model{place}: {type(error).__name__}: {first_line(error)}")


def _place(error: Exception) -> str:
    """The last line of the user's code that the error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in frames if not _is_foreign(f.filename)]
    return f" at {lines[-1]}" if lines else ""


def _is_foreign(file: str) -> bool:
    """Whether a file is torch's or of this package."""
    path = str(Path(file).resolve())
    return path.startswith(_OURS) or any(part in path for part in ("/torch/", "/contextlib.py", "<"))


def flat_graph(
    module: nn.Module, args: Sequence[Tensor], shapes: tuple[Any, ...], fold_weights: bool = True
) -> fx.GraphModule:
    """`module` as a graph: placeholders in, one tuple out, nothing done in place, no check of sizes."""
    program = export_program(module, args, shapes)
    _refuse_bounds(program, args)
    with quiet():
        program = program.run_decompositions({})
    graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    graph = graph_module.graph
    for node in list(graph.nodes):
        if (node.op == "call_module" and node.target == "_guards_fn") or node.target in GUARDS:
            graph.erase_node(node)
        elif (same := _same_as(node)) is not None:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    graph.set_codegen(CodeGen())
    _refuse_frames_taken_apart(graph)
    output = graph.output_node()
    output.args = (tuple(torch.utils._pytree.tree_leaves(output.args[0])),)
    _free_constants(graph)
    if fold_weights:
        fold(graph_module)
    graph.eliminate_dead_code()
    # A new module, since the old one checks its inputs in a hook.
    return fx.GraphModule(graph_module, graph)


def _refuse_bounds(program: torch.export.ExportedProgram, args: Sequence[Tensor]) -> None:
    """Raise LiftError where the code does something else from some length on."""
    fed = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in program.graph_signature.user_inputs]
    for port, node in enumerate(fed):
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                upper = program.range_constraints[size.node.expr].upper
                if upper.is_number and upper < MANY:
                    raise Bounded(
                        f"axis {axis} of input {port} may only be up to {upper} long: beyond, the code does something "
                        "else (a branch on the length, a table of that many rows), but a stream has no end."
                    )


def _refuse_frames_taken_apart(graph: fx.Graph) -> None:
    """Raise Frozen where pieces are one for each entry of an axis of any size, which torch.export lets pass."""
    axes = {str(n): (i, a) for i, fed in enumerate(placeholders(graph)) for a, n in enumerate(fed.meta["val"].shape)}
    for node in graph.nodes:
        if node.target in (aten.unbind.int, aten.split.Tensor):
            given = named_args(node)
            size = given["self"].meta["val"].shape[given["dim"]]
            found = [axes[str(n)] for n in size.node.expr.free_symbols if str(n) in axes] if _is_open(size) else []
            for port, axis in found:
                raise Frozen(
                    f"{place_of(node)}: axis {axis} of input {port} must be of any size, but the code takes its "
                    "entries apart, as many as there were.",
                    port,
                    axis,
                )


def _is_open(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number


def fold(module: fx.GraphModule) -> None:
    """What is computed from weights alone is computed here, once."""
    graph, known = module.graph, dict[fx.Node, Any]()
    made: dict[tuple[Any, ...], str] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = attrgetter(str(node.target))(module)
        elif node.op == "call_function" and node.all_input_nodes and all(n in known for n in node.all_input_nodes):
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)
    for node in [n for n in known if n.op != "get_attr" and isinstance(known[n], Tensor)]:
        if all(user in known for user in node.users):
            continue
        key = (node.target, str(node.args), str(node.kwargs))
        if key not in made:
            made[key] = f"folded_{len(made)}"
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


def _free_constants(graph: fx.Graph) -> None:
    """Zeros and ones in the shape of a frame do not depend on the frame."""
    sizes = {str(n): fed for fed in placeholders(graph) for n in fed.meta["val"].shape}
    for node in [n for n in graph.nodes if n.target in FILLS]:
        shape = node.meta["val"].shape
        if any(not isinstance(n, int) and str(n) not in sizes for n in shape):
            continue
        with graph.inserting_before(node):
            dims = [n if isinstance(n, int) else _size_of(graph, sizes[str(n)], n) for n in shape]
            filled = graph.call_function(
                aten.full.default, (dims, FILLS[node.target]), {"dtype": node.meta["val"].dtype}
            )
        filled.meta = dict(node.meta)
        node.replace_all_uses_with(filled)
        graph.erase_node(node)


def _size_of(graph: fx.Graph, fed: fx.Node, size: Any) -> fx.Node:
    axis = next(a for a, n in enumerate(fed.meta["val"].shape) if str(n) == str(size))
    return graph.call_function(aten.sym_size.int, (fed, axis))


def args_of(node: fx.Node) -> list[Any]:
    """The arguments of `node`: nodes, numbers, lists of both."""
    return list(node.args)


def named_args(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator by name, those left out with their defaults."""
    target: Any = node.target
    schema = target._schema.arguments
    return {a.name: a.default_value for a in schema} | dict(zip((a.name for a in schema), node.args, strict=False))


def placeholders(graph: fx.Graph) -> list[fx.Node]:
    """The inputs of `graph`, in order."""
    return [n for n in graph.nodes if n.op == "placeholder"]


def results(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """The results of `graph`, in order."""
    given: Any = graph.output_node().args[0]
    return tuple(given)


def depends_on(graph: fx.Graph, sources: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes with the values of `sources` in them, not only their shapes."""
    reached = set(sources)
    for node in graph.nodes:
        if any(n in reached for n in values_of(node)):
            reached.add(node)
    return reached


def values_of(node: fx.Node) -> list[fx.Node]:
    """The arguments whose values, not only their shapes, are in the result."""
    if node.target in SHAPE_ONLY:
        return []
    return node.all_input_nodes[:1] if node.target in VALUES_OF_FIRST else node.all_input_nodes


class Recorder(fx.Interpreter):
    """Runs a graph and keeps the value of every node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)

    def values(self, sample: Sequence[Tensor]) -> dict[fx.Node, Any]:
        with torch.no_grad():
            self.run(*sample)
        return dict(self.env)


def path_of(node: fx.Node) -> str:
    """The path of the module that `node` stands in, as the user knows it; "" is the model itself."""
    return next(iter(reversed(paths_of(node))), "")


def paths_of(node: fx.Node) -> list[str]:
    """The paths of the modules that `node` stands in, outermost first."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    # The user's model is the submodule flat.model of what was exported.
    return [p.removeprefix("flat.model").lstrip(".") for p in stack if p.startswith("flat.model")]


def place_of(node: fx.Node) -> str:
    """Module path and source line of `node`, for a message."""
    path = path_of(node) or "the model"
    lines = list(_source_lines(node.meta.get("stack_trace") or ""))
    return f"{path} ({lines[-1]})" if lines else path


def busiest_place(module: fx.GraphModule) -> str:
    """Where most of the graph comes from: of an unrolled loop, its body."""
    places = Counter(place_of(node) for node in module.graph.nodes if node.op == "call_function")
    return places.most_common(1)[0][0] if places else "the model"


def _source_lines(trace: str) -> Iterator[str]:
    """`file.py:12` of each frame that is not torch's or ours."""
    for line in trace.splitlines():
        name, comma, rest = line.strip().partition(", line ")
        if comma and name.startswith('File "'):
            file = name.removeprefix('File "').removesuffix('"')
            if not _is_foreign(file):
                yield f"{file.rpartition('/')[2]}:{rest.split(',')[0]}"


def is_item(node: Any) -> bool:
    """Whether `node` takes one of several results."""
    return isinstance(node, fx.Node) and node.target is operator.getitem
