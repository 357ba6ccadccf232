"""Windows over time: a state that is joined with what is new, and then all but its first frames are the next state.

Such a state and what enters it are not joined where a convolution can read both as they lie. The next state is the old
one, moved along in its place once everything has read it.
"""

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_of
from rnn_export.export.targets.c.code_builder import CodeBuilder
from rnn_export.export.targets.c.tensors import CTensor, Shift


def shift_of(code: CodeBuilder, node: ir.Node) -> Shift | None:
    """What a Concat is a window of, where its end becomes the state again and nothing else is done with that."""
    if len(node.inputs) != 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    state, x = code.tensor_of(node.inputs[0]), code.tensor_of(node.inputs[1])
    axis = node.attributes.get_int("axis", 0) % max(len(state.shape), 1)
    if state.address not in code.next_states or x.c_type != "float":
        return None
    new, length = x.shape[axis], state.shape[axis]
    kept = [use.node for use in node.outputs[0].uses() if use.node.outputs[0] is code.next_states[state.address]]
    if len(kept) != 1 or kept[0].op_type != "Slice" or kept[0].outputs[0].uses() or not 0 < new < length:
        return None
    given = [input_of(kept[0], i) for i in range(1, 5)]
    if any(value is not None and value.const_value is None for value in given):
        return None
    starts, ends, axes, steps = (None if v is None or v.const_value is None else v.const_value.numpy() for v in given)
    if starts is None or ends is None or len(starts) != 1 or (steps is not None and steps.tolist() != [1]):
        return None
    along = 0 if axes is None else int(axes[0]) % len(state.shape)
    taken = range(length + new)[slice(int(starts[0]), int(np.minimum(ends[0], length + new)))]
    if along != axis or taken != range(new, length + new):
        return None
    return Shift(state, _in_scratch(code, x), axis)


def _in_scratch(code: CodeBuilder, x: CTensor) -> CTensor:
    """What stays as it is until the end of the step: not where an output or a state may be written."""
    if x.buffer is not None:
        return x
    copied = code.alloc("float", x.shape)
    code.emit(f"memcpy({copied.address}, {code.with_address(x).address}, {x.size} * sizeof(float));")
    return copied


def defer(code: CodeBuilder, node: ir.Node, shift: Shift) -> None:
    """Let the next state lie where the state does."""
    kept = code.next_states[shift.state.address]
    code.shifts[shift.state.address] = shift
    code.windows[node.outputs[0]] = shift
    producer = kept.producer()
    assert producer is not None
    code.fused.add(producer)
    code.tensors[kept] = shift.state
