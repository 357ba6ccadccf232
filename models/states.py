"""A pass over an exported program: the states that recurrent ops start from in silence become inputs and outputs."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen

from rnn_export.errors import LiftError
from rnn_export.models.layers import Stack
from rnn_export.models.roots import LayerModel

# The state operands of each recurrent op: position among the arguments, letter, position among the results.
OPS: Mapping[Any, tuple[tuple[int, str, int], ...]] = {
    torch.ops.rnn_export.lstm.default: ((4, "h", 1), (5, "c", 2)),
    torch.ops.rnn_export.gru.default: ((4, "h", 1),),
    torch.ops.rnn_export.rnn.default: ((4, "h", 1),),
}
# What these make depends on the shape of their argument, not on its values.
SHAPE_ONLY = {
    torch.ops.aten.sym_size.int,
    torch.ops.aten.new_zeros.default,
    torch.ops.aten.new_ones.default,
    torch.ops.aten.new_full.default,
    torch.ops.aten.zeros_like.default,
    torch.ops.aten.ones_like.default,
    torch.ops.aten.full_like.default,
}
# What these make has the values of their first argument.
VALUES_OF_FIRST = {
    torch.ops.aten.type_as.default,
    torch.ops.aten.expand_as.default,
    torch.ops.aten.view_as.default,
    torch.ops.aten.reshape_as.default,
    torch.ops.aten.to.other,
}
# Guards for the sizes of one export; the program is exported again at others.
GUARDS = {
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
    torch.ops.aten.sym_constrain_range.default,
}


@dataclass(frozen=True)
class Lifted:
    """A state that was found in the program: its name and the value that one row starts from."""

    name: str
    initial: Tensor


def without_guards(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a flat graph module: placeholders in, one tuple out, no check of sizes."""
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    for node in list(module.graph.nodes):
        if (node.op == "call_module" and node.target == "_guards_fn") or node.target in GUARDS:
            module.graph.erase_node(node)
    module.graph.set_codegen(CodeGen())
    output = module.graph.output_node()
    output.args = (tuple(torch.utils._pytree.tree_leaves(output.args[0])),)
    module.graph.eliminate_dead_code()
    # A new module, since the old one checks its inputs in a hook.
    return fx.GraphModule(module, module.graph)


def lift_states(
    module: fx.GraphModule, model: nn.Module, declared: int, time: Any, samples: Sequence[Sequence[Tensor]]
) -> list[Lifted]:
    """Turn each state that `module` makes up for a recurrent op over time into an input and an output, in place.

    Args:
        module: what `without_guards` gave; its last `declared` placeholders are states passed explicitly.
        model: the model with its layers replaced, to know a stack of layers from its path.
        declared: how many states the model takes itself.
        time: the symbol of the time axis.
        samples: two sets of inputs of different batch, to find the initial values with.

    Raises LiftError where a recurrent op starts from a value that was computed from the input.
    """
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    inputs = placeholders[: len(placeholders) - declared]
    from_input = _depends_on(module.graph, inputs)
    from_state = _depends_on(module.graph, placeholders[len(inputs) :])
    names = _Names(model)
    found: list[tuple[str, fx.Node, int, fx.Node, int]] = []
    for node in [n for n in module.graph.nodes if n.target in OPS]:
        path = names.of(node)
        if time not in _symbols(node.args[0].meta["val"].shape[0]):
            continue
        for argument, letter, result in OPS[node.target]:
            operand = node.args[argument]
            if operand in from_state:
                continue
            if operand in from_input:
                raise LiftError(
                    f"{path}: the state {letter!r} that it starts from is computed from the input, so it cannot be "
                    "carried between calls. Take it as an argument and declare it: states={argument: output}."
                )
            found.append((f"{path}.{letter}", node, argument, operand, result))
    values = [_evaluate(module, [operand for *_, operand, _ in found], sample) for sample in samples]
    states = [_initial(name, *rows) for (name, *_), *rows in zip(found, *values, strict=True)]
    last = placeholders[-1]
    after: list[fx.Node] = []
    for name, node, argument, operand, result in found:
        last = _state_input(module.graph, name, node, argument, operand, last)
        after.append(_state_output(module.graph, node, result))
    output = module.graph.output_node()
    results = output.args[0]
    assert isinstance(results, tuple)
    output.args = ((*results, *after),)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return states


def _state_input(graph: fx.Graph, name: str, node: fx.Node, argument: int, operand: fx.Node, last: fx.Node) -> fx.Node:
    with graph.inserting_after(last):
        state = graph.placeholder(name.replace(".", "_") + "_state")
    value = operand.meta["val"]
    state.meta["val"] = value[0]
    with graph.inserting_before(node):
        rows = graph.call_function(torch.ops.aten.unsqueeze.default, (state, 0))
    rows.meta["val"] = value
    node.update_arg(argument, rows)
    return state


def _state_output(graph: fx.Graph, node: fx.Node, result: int) -> fx.Node:
    taken = [u for u in node.users if u.target is operator.getitem and u.args[1] == result]
    if not taken:
        with graph.inserting_after(node):
            taken = [graph.call_function(operator.getitem, (node, result))]
        taken[0].meta["val"] = node.meta["val"][result]
    with graph.inserting_after(taken[0]):
        after = graph.call_function(torch.ops.aten.squeeze.dim, (taken[0], 0))
    after.meta["val"] = node.meta["val"][result][0]
    return after


def _depends_on(graph: fx.Graph, sources: Sequence[fx.Node]) -> set[fx.Node]:
    reached = set(sources)
    for node in graph.nodes:
        if any(n in reached for n in _values_of(node)):
            reached.add(node)
    return reached


def _values_of(node: fx.Node) -> list[fx.Node]:
    """The arguments whose values, not only their shapes, are in the result."""
    if node.target in SHAPE_ONLY:
        return []
    return node.all_input_nodes[:1] if node.target in VALUES_OF_FIRST else node.all_input_nodes


def _symbols(size: Any) -> set[Any]:
    return set(size.node.expr.free_symbols) if isinstance(size, torch.SymInt) else set()


class _Names:
    """Names layers by module path: `rnn.l0`, `rnn.l1`; a second call of the same module is `rnn.call1.l0`."""

    def __init__(self, model: nn.Module) -> None:
        modules = model.named_modules(remove_duplicate=False)
        self.stacks = {path: module for path, module in modules if isinstance(module, Stack)}
        # A bare layer's states are named as if it were the model.
        self.nameless = ("", "layer") if isinstance(model, LayerModel) else ("",)
        self.seen = Counter[str]()

    def of(self, node: fx.Node) -> str:
        # The model is the submodule flat.model of what was exported.
        paths = [p.removeprefix("flat.model").lstrip(".") for p, _ in node.meta["nn_module_stack"].values() if p]
        path = next(p for p in reversed(paths) if p in self.stacks)
        call, layer = divmod(self.seen[path], len(self.stacks[path].layers))
        self.seen[path] += 1
        called = [f"call{call}"] if call else []
        return ".".join([*([] if path in self.nameless else [path]), *called, f"l{layer}"])


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, wanted: Sequence[fx.Node]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.wanted = wanted

    def values(self, sample: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            self.run(*sample)
        return [self.env[node] for node in self.wanted]


def _evaluate(module: fx.GraphModule, nodes: Sequence[fx.Node], sample: Sequence[Tensor]) -> list[Tensor]:
    return _Recorder(module, nodes).values(sample) if nodes else []


def _initial(name: str, few: Tensor, many: Tensor) -> Lifted:
    """One row of an initial value that must be the same for every row and every batch; states are (1, B, H)."""
    row = few[0, 0]
    if not all(torch.equal(value[0], row.expand_as(value[0])) for value in (few, many)):
        raise LiftError(
            f"{name}: its initial value differs between the rows of a batch, so no row can start alone. "
            "Use one learned vector for all rows."
        )
    return Lifted(name, row.clone())
