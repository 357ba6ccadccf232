"""Queries on graph nodes for passes: arguments, values in a run, place in the model."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten


@torch.library.custom_op("rnn_export::frame_numbers", mutates_args=())
def frame_numbers(rows: int, frames: int) -> Tensor:
    """The frame indices 0, 1, 2, ... of each row: int64, (rows, frames)."""
    return torch.arange(frames).expand(rows, frames).contiguous()


FRAME_NUMBERS = frame_numbers._opoverload
END = 2**63 - 1
# Beside the place of a node that stands for another one: the name of that operator of the user's.
WRITTEN_FOR = "written_for"


def overloads(names: str) -> set[Any]:
    """Operators of aten by name, each with its overload if that is not the default."""
    return {operator.attrgetter(name if "." in name else f"{name}.default")(aten) for name in names.split()}


def by_operator(names: Mapping[Any, str]) -> dict[Any, Any]:
    """A table by operator of aten, from one of the names of the operators by entry."""
    return {target: row for row, several in names.items() for target in overloads(several)}


# These take numbers that are sizes: of a sequence, or of a batch.
TAKE_SIZES = overloads(
    "reshape expand repeat unflatten.int slice.Tensor full new_zeros new_ones new_full new_empty "
    "arange arange.start arange.start_step"
) | {FRAME_NUMBERS}
# These number what they make.
NUMBERING = overloads("arange arange.start arange.start_step linspace eye eye.m tril_indices triu_indices")
# What these make depends on the shape of their argument, not on its values.
SHAPE_ONLY = overloads("sym_size.int new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like")
# What these make has the values of their first argument.
VALUES_OF_FIRST = overloads("type_as expand_as view_as reshape_as to.other")
# Arguments that are numbers of axes.
AXIS_NAMES = ("dim", "dims", "dim0", "dim1", "dimension", "start_dim", "end_dim")
SAME = overloads("detach alias lift_fresh_copy")


def args_of(node: fx.Node) -> list[Any]:
    """The arguments of `node`: nodes, numbers, lists of both."""
    return list(node.args)


def named_args(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator by name, with defaults for those left out."""
    target: Any = node.target
    schema = target._schema.arguments
    return {a.name: a.default_value for a in schema} | dict(zip((a.name for a in schema), node.args, strict=False))


def behind_axes(given: Mapping[str, Any], more: int) -> dict[str, Any]:
    """Arguments by name, in which axes that are counted from the front stand behind `more` new ones."""

    def moved(dims: Any) -> Any:
        if isinstance(dims, list | tuple):
            return [moved(dim) for dim in dims]
        return dims + more if isinstance(dims, int) and dims >= 0 else dims

    return {name: moved(value) if name in AXIS_NAMES else value for name, value in given.items()}


def arguments_by_name(node: fx.Node, given: Mapping[str, Any], instead: Mapping[fx.Node, Any]) -> tuple[Any, Any]:
    """The arguments of `node`: those `given` by name, and others for nodes."""
    target: Any = node.target
    plain = [given[a.name] for a in target._schema.arguments if not a.kwarg_only]
    both: tuple[Any, Any] = fx.node.map_arg((plain, dict(node.kwargs)), lambda n: instead.get(n, n))
    return both


def placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.nodes if n.op == "placeholder"]


def results(graph: fx.Graph) -> tuple[fx.Node, ...]:
    values: Any = graph.output_node().args[0]
    return tuple(values)


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """A module with a graph of its own and the same tensors."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    graph.set_codegen(module.graph._codegen)
    return fx.GraphModule(module, graph)


def sources_of(node: fx.Node, follow: Callable[[fx.Node], Sequence[fx.Node]]) -> set[fx.Node]:
    """`node` and all nodes reached from it through `follow`, which mostly gives some of a node's arguments."""
    seen, waiting = set[fx.Node](), [node]
    while waiting:
        if (here := waiting.pop()) not in seen:
            seen.add(here)
            waiting += follow(here)
    return seen


def is_drawn(node: fx.Node) -> bool:
    """True if a node gives another value each time it is computed."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def size_of(value: fx.Node, size: Any) -> fx.Node:
    """A new node for `size`, a size of `value`, where its graph inserts."""
    axis = next(a for a, n in enumerate(value.meta["val"].shape) if str(n) == str(size))
    node = value.graph.call_function(aten.sym_size.int, (value, axis))
    node.meta["val"] = size
    return node


def depends_on(graph: fx.Graph, sources: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes that depend on values of `sources`, not only on shapes."""
    reached = set(sources)
    for node in graph.nodes:
        if not reached.isdisjoint(values_of(node)):
            reached.add(node)
    return reached


def values_of(node: fx.Node) -> list[fx.Node]:
    """The arguments whose values, not only shapes, are in the result."""
    if node.target in SHAPE_ONLY:
        return []
    return node.all_input_nodes[:1] if node.target in VALUES_OF_FIRST else node.all_input_nodes


def numbers_taken(node: fx.Node) -> list[fx.Node]:
    """The arguments that may be numbers but no sizes: their values are in the result."""
    if node.target not in TAKE_SIZES:
        return node.all_input_nodes
    fills: dict[Any, int] = {aten.full.default: 1, aten.new_full.default: 2}
    fill = node.args[fills[node.target]] if node.target in fills else None
    return [fill] if isinstance(fill, fx.Node) else []


def made_of_sizes(graph: fx.Graph, here: Mapping[fx.Node, Any], there: Mapping[fx.Node, Any]) -> set[fx.Node]:
    """The numbers computed from a size that differs between two runs, even if they do not differ.

    A number that enters a graph is a size: the body of a loop takes those from outside.
    """
    taken = [n for n in placeholders(graph) if not isinstance(here[n], Tensor | tuple | list)]
    found = {n for n in taken if here[n] != there[n]}
    for node in graph.nodes:
        if node.op == "call_function" and not isinstance(here[node], Tensor | tuple | list):
            differs = node.target is aten.sym_size.int and here[node] != there[node]
            if differs or not found.isdisjoint(node.all_input_nodes):
                found.add(node)
    return found


def recorded(module: fx.GraphModule, sample: Sequence[Tensor], most: float = math.inf) -> dict[fx.Node, Any]:
    """The value of every node of a graph in a run on `sample`; raises MemoryError if all take over `most` bytes."""
    recorder = Recorder(module, most)
    with torch.no_grad():
        recorder.run(*sample)
    return dict(recorder.env)


class Recorder(fx.Interpreter):
    """Keeps the value of every node, up to `most` bytes in all; `at` is the node that runs or failed."""

    def __init__(self, module: fx.GraphModule, most: float) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.most, self.bytes = most, 0
        self.at: fx.Node | None = None
        # Many values share one memory.
        self.seen = set[int]()

    def run_node(self, n: fx.Node) -> Any:
        self.at = n
        value = super().run_node(n)
        for tensor in torch.utils._pytree.tree_leaves(value):
            if isinstance(tensor, Tensor) and n.op != "get_attr":
                memory = tensor.untyped_storage()
                self.bytes += 0 if memory.data_ptr() in self.seen else memory.nbytes()
                self.seen.add(memory.data_ptr())
        if self.bytes > self.most:
            raise MemoryError(f"the values of a run take more than {self.most / 2**30:.1f} GiB")
        return value


def path_of(node: fx.Node) -> str:
    """The path of the module of `node`, as the user knows it; "" is the model itself."""
    return ["", *paths_of(node)][-1]


def paths_of(node: fx.Node) -> list[str]:
    """The paths of the modules around `node`, outermost first."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    # The user's model is the submodule flat.model of what was exported.
    return [p.removeprefix("flat.model").lstrip(".") for p in stack if p.startswith("flat.model")]


def name_of(node: fx.Node) -> str:
    """The name of an operator, as PyTorch's users know it."""
    return str(node.target).removeprefix("aten.").removeprefix("rnn_export.").partition(".")[0]


def stands_for(node: fx.Node) -> str:
    """The name of the user's operator that `node` stands for: its own if lifting wrote it for no other."""
    return str(node.meta.get(WRITTEN_FOR) or name_of(node))


def meta_of(like: fx.Node) -> dict[str, Any]:
    """The metadata of a node written for `like`: its place, and the first operator that it is written for."""
    known = {key: value for key, value in like.meta.items() if key != "val"}
    return {**known, WRITTEN_FOR: stands_for(like)}


def forget_bookkeeping(graph: fx.Graph) -> None:
    """Keep only the source location in each node's metadata: the rest keeps all of torch.export's alive."""
    for node in graph.nodes:
        node.meta = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace", WRITTEN_FOR) if key in node.meta}
