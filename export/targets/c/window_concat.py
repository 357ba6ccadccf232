"""Rewrite windows over time, `cat([cache[1:], x])`, to the form of lifted ones: the end of both, joined."""

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import replace_nodes_and_values

from rnn_export.export.graph.passes.nodes import input_of, new_constant
from rnn_export.export.targets.c.code.notation import shape_of

MOST = 2**31 - 1


def join_windows(model: ir.Model) -> None:
    """Rewrite next states that are a state without its first frames and as many new ones: Slice of a Concat."""
    states = set(model.graph.inputs)
    for node in [value.producer() for value in model.graph.outputs]:
        if node is None or node.op_type != "Concat" or len(node.inputs) != 2 or node.graph is None:
            continue
        kept, x = (input_of(node, i) for i in (0, 1))
        cut = None if kept is None else kept.producer()
        if kept is None or x is None or cut is None or cut.op_type != "Slice" or cut.inputs[0] not in states:
            continue
        state, axis = cut.inputs[0], node.attributes.get_int("axis", 0) % len(shape_of(kept))
        assert state is not None
        new = shape_of(x)[axis]
        if _is_end(cut, axis, new) and shape_of(node.outputs[0]) == shape_of(state):
            _rewrite(model.graph, node, state, x, axis)
            if not kept.uses() and not kept.is_graph_output():
                model.graph.remove(cut, safe=True)


def _is_end(cut: ir.Node, axis: int, new: int) -> bool:
    """True if a Slice leaves out the first `new` frames, and nothing else."""
    state, value = cut.inputs[0], cut.outputs[0]
    assert state is not None
    before, after = list(shape_of(state)), list(shape_of(value))
    before[axis] -= new
    starts, axes, steps = (input_of(cut, i) for i in (1, 3, 4))
    if before != after or starts is None or starts.const_value is None or starts.const_value.size != 1:
        return False
    given = [
        0 if v is None else None if v.const_value is None else int(v.const_value.numpy()[0]) for v in (starts, axes)
    ]
    ones = steps is None or (steps.const_value is not None and steps.const_value.numpy().tolist() == [1])
    return ones and None not in given and given[0] in (new, new - shape_of(state)[axis])


def _rewrite(graph: ir.Graph, node: ir.Node, state: ir.Value, x: ir.Value, axis: int) -> None:
    joined = ir.Node("", "Concat", [state, x], [ir.AttrInt64("axis", axis)], name=node.name)
    whole, after = joined.outputs[0], node.outputs[0]
    sizes = list(shape_of(state))
    sizes[axis] += shape_of(x)[axis]
    whole.name, whole.type, whole.shape = f"{after.name} with what leaves", after.type, ir.Shape(sizes)
    numbers = {"starts": shape_of(x)[axis], "ends": MOST, "axes": axis}
    bounds = [new_constant(f"{after.name} {what}", np.array([number])) for what, number in numbers.items()]
    sliced = ir.Node("", "Slice", [whole, *bounds], name=node.name)
    sliced.outputs[0].type, sliced.outputs[0].shape = after.type, after.shape
    for value in bounds:
        value.dtype, value.shape = ir.DataType.INT64, ir.Shape([1])
        graph.register_initializer(value)
    # What joins them already, to be read before they are cut, is the same.
    alike = [use.node for use in state.uses() if use.idx == 0 and use.node.op_type == "Concat"]
    alike = [n for n in alike if n is not joined and list(n.inputs) == [state, x] and _axis(n, state) == axis]
    first = next((n for n in graph if n is node or n in alike), node)
    if first is not node:
        whole.name, alike[0].outputs[0].name = alike[0].outputs[0].name, whole.name
    graph.insert_before(first, joined)
    replace_nodes_and_values(graph, node, [node], [sliced], [after], [sliced.outputs[0]])
    for other in alike:
        replace_nodes_and_values(graph, other, [other], [], [other.outputs[0]], [whole])


def _axis(node: ir.Node, state: ir.Value) -> int:
    return node.attributes.get_int("axis", 0) % len(shape_of(state))
