"""Windows over time: a state is joined with new frames, and all but the first frames are the next state.

The two are not joined if a convolution can read both in place. The next state is the old one, moved along in place
once everything has read it. A large one slides instead: its memory has space for some steps more, over which the
window moves by its address alone, and only then back to the front.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_of
from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.notation import shape_of
from rnn_export.export.targets.c.code.tensors import CTensor, Shift, Slide

# Values from which on a window slides.
LEAST = 128
# Steps that it has room for: at most, and at least, where that room is no more than a part of the window.
MOST_STEPS, LEAST_STEPS, PART = 64, 4, 8


@dataclass(frozen=True)
class _Window:
    """A Concat of a state and new values: its `axis`, the `new` values of a row, and the `size` of the state.

    With `read`, the next state is read in the step, and the old one by nothing else.
    """

    axis: int
    new: int
    size: int
    read: bool


def slides(model: ir.Model, next_states: Mapping[str, ir.Value], addresses: Mapping[str, str]) -> dict[str, Slide]:
    """The windows that slide, by the address of their states; `addresses` are those of inputs by name."""
    found: dict[str, Slide] = {}
    for value in model.graph.inputs:
        address = addresses[str(value.name)]
        windows = [_window(use.node, next_states[address]) for use in value.uses() if address in next_states]
        window = next((w for w, use in zip(windows, value.uses(), strict=False) if w and use.idx == 0), None)
        if window is not None and window.size >= LEAST and (steps := _steps(window, len(found))):
            number = len(found)
            found[address] = Slide(address, f"state->front[{number}]", f"s{number}", window.size, window.new, steps)
    return found


def _steps(window: _Window, number: int) -> int:
    """The steps that a window slides until it moves back: several differ, so that no step moves all."""
    steps = min(window.size // (PART * window.new), MOST_STEPS)
    return steps - number % (steps // LEAST_STEPS) if steps >= LEAST_STEPS else 0


def shift_of(code: CodeBuilder, node: ir.Node) -> Shift | None:
    """The window that a Concat forms, if the end of it is the next state of its first input."""
    if len(node.inputs) != 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    state, x = code.tensor_of(node.inputs[0]), code.tensor_of(node.inputs[1])
    if state.address not in code.next_states:
        return None
    window = _window(node, code.next_states[state.address])
    if window is None:
        return None
    entering = code.with_address(x) if window.read else _in_scratch(code, x)
    return Shift(state, entering, window.axis, code.slides.get(state.address), window.read)


def _window(node: ir.Node, next_state: ir.Value) -> _Window | None:
    if node.op_type != "Concat" or len(node.inputs) != 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    state, x = shape_of(node.inputs[0]), shape_of(node.inputs[1])
    axis = node.attributes.get_int("axis", 0) % max(len(state), 1)
    if node.inputs[1].dtype != ir.DataType.FLOAT:
        return None
    new, length = x[axis], state[axis]
    kept = [use.node for use in node.outputs[0].uses() if use.node.outputs[0] is next_state]
    if len(kept) != 1 or kept[0].op_type != "Slice" or not 0 < new < length:
        return None
    read = bool(kept[0].outputs[0].uses())
    if read and (len(node.outputs[0].uses()) > 1 or len(node.inputs[0].uses()) > 1):
        return None
    given = [input_of(kept[0], i) for i in range(1, 5)]
    if any(value is not None and value.const_value is None for value in given):
        return None
    starts, ends, axes, steps = (None if v is None or v.const_value is None else v.const_value.numpy() for v in given)
    if starts is None or ends is None or len(starts) != 1 or (steps is not None and steps.tolist() != [1]):
        return None
    along = 0 if axes is None else int(axes[0]) % len(state)
    taken = range(length + new)[slice(int(starts[0]), int(np.minimum(ends[0], length + new)))]
    if along != axis or taken != range(new, length + new):
        return None
    return _Window(axis, new * math.prod(state[axis + 1 :]), math.prod(state), read)


def _in_scratch(code: CodeBuilder, x: CTensor) -> CTensor:
    """A tensor that keeps its values until the end of the step: no memory of an output or a state."""
    if x.buffer is not None:
        return x
    copied = code.alloc("float", x.shape)
    code.emit(f"memcpy({copied.address}, {code.with_address(x).address}, {x.size} * sizeof(float));")
    return copied


def defer(code: CodeBuilder, node: ir.Node, shift: Shift) -> None:
    """Put the next state in the memory of the state: from the end of the step on, or now if it is read."""
    kept = code.next_states[shift.state.address]
    producer = kept.producer()
    assert producer is not None
    code.fused.add(producer)
    code.tensors[kept] = shift.state
    if not shift.read:
        code.shifts[shift.state.address] = shift
        code.windows[node.outputs[0]] = shift
        return
    for line in shift.statements():
        code.emit(line)
    if shift.slide is not None:
        code.tensors[kept] = replace(shift.state, address=shift.slide.now)
