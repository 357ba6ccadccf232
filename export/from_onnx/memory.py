"""Find memory of a file that is in none of its states, which a step would forget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from rnn_export.contract.precision import Tolerance
from rnn_export.contract.spec import TIME
from rnn_export.errors import SourceError
from rnn_export.export.from_onnx.layout import Layout, Placed
from rnn_export.export.from_onnx.original import Original
from rnn_export.platform.arrays import Array
from rnn_export.runtime.replay.closed_loop import ClosedLoop

# Inputs of ONNX's operators with a memory that are first states, and the axis of the first input that is time.
FIRST_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,), "CausalConvWithState": (3,), "LinearAttention": (3,)}
TIME_AXIS = {"CausalConvWithState": 2, "LinearAttention": 1}
# Steps that are run in one call.
AT_ONCE = 8


def restarting(step: bytes, chunk: int, meant: bool) -> Iterator[str]:
    """Notes on recurrent operators that start anew at each step, over an axis inside of a frame.

    Raises SourceError if they run over the frames of a step, so that their memory is lost; or may do so, forwards
    alone, and it is not `meant`.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(step))
    values = (*model.graph.value_info, *model.graph.input)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    known = {v.name for v in model.graph.input}
    for node in model.graph.node:
        if node.op_type in FIRST_STATES:
            fed = [node.input[i] for i in FIRST_STATES[node.op_type] if i < len(node.input) and node.input[i]]
            if not fed or not known & set(fed):
                frames = (shapes.get(node.input[0]) or [1, 1, 1])[TIME_AXIS.get(node.op_type, 0)]
                name = f"node {node.name!r} ({node.op_type})"
                if frames in (0, 1, chunk):
                    raise SourceError(
                        f"{name} starts from the same state at each call, and no input of the file is that state: a "
                        "step of it would forget all that was before. Export the model with its states as inputs and "
                        "outputs.",
                        id="state-restarts-each-call",
                    )
                direction = next((a.s for a in node.attribute if a.name == "direction"), b"forward")
                if direction == b"forward" and not meant:
                    raise SourceError(
                        f"{name} starts from the same state at each call, and runs over {frames} entries. If these are "
                        "frames of a sequence, a step would forget all that was before: export the model with its "
                        "states as inputs and outputs. If it is an axis inside of a frame, say that it has no state: "
                        "states={}, or --state NAME=none for an input.",
                        id="state-restarts-over-frames",
                    )
                yield f"{name} starts anew at each step, over the {frames} entries of an axis of the frame"
        if known & set(node.input):
            known |= set(node.output)


def check_whole(
    original: Original,
    layout: Layout,
    initial: Mapping[str, Array],
    loop: ClosedLoop,
    stepped: Mapping[str, Array],
    tolerance: Tolerance,
) -> None:
    """Raise SourceError if several frames in one call give other outputs than frame after frame.

    `stepped` are the latter outputs, with the states fed back, from the row `initial`. A file that takes steps of one
    size alone, or an input that is the same for all frames, is not checked.
    """
    timed = [(tensor, _time(tensor)) for tensor in layout.inputs]
    open_axes = [a is not None and not isinstance(original.shapes[t.name][a], int) for t, a in timed]
    if not open_axes or not all(open_axes):
        return
    frames = min(AT_ONCE * layout.chunk, loop.frames)
    part = loop.of_rows(slice(1))
    feed = {t.name: _to_file(t, part.cut(0, frames)[t.name]) for t in layout.inputs}
    starts = {s.name: s.to_file(initial[s.name][None]) for s in layout.states}
    given = original({**feed, **starts})
    for tensor in layout.outputs:
        if _time(tensor) is None:
            continue
        whole, steps = _from_file(tensor, given[tensor.name]), stepped[tensor.name][:1]
        steps = steps[:, : whole.shape[1]]
        error = float(np.abs(whole.astype(float) - steps.astype(float)).max()) if whole.shape == steps.shape else np.inf
        allowed = tolerance.atol + tolerance.rtol * float(np.abs(whole).max(initial=0))
        # The same sums in another order; what is forgotten is far more.
        if not error <= 10 * allowed:
            raise SourceError(
                f"{original.path} is no step: for {frames} frames in one call {tensor.name!r} is off by {error:.1e} "
                "from what it is frame after frame, its states fed back. It remembers, or looks ahead, over frames of "
                "a call, and that is among none of its states. Export the model with all of them as inputs and "
                "outputs, or bring it as a PyTorch module.",
                id="onnx-remembers-more",
            )


def _time(tensor: Placed) -> int | None:
    times = [axis for axis, d in enumerate(tensor.dims) if isinstance(d, str) and d.startswith(TIME)]
    return tensor.dropped if tensor.dropped is not None else times[0] if times else None


def _order(tensor: Placed) -> list[int]:
    """For each axis of the file, its index in (row, time, ...)."""
    rest = iter(range(2, 2 + len(tensor.dims)))
    return [0 if a == tensor.batch else 1 if a == _time(tensor) else next(rest) for a in range(len(tensor.dims))]


def _to_file(tensor: Placed, array: Array) -> Array:
    """(1, frames, ...) in the axes of the file."""
    order = _order(tensor)
    return array.transpose(order) if tensor.batch is not None else array[0].transpose([a - 1 for a in order])


def _from_file(tensor: Placed, array: Array) -> Array:
    order = _order(tensor)
    if tensor.batch is None:
        array, order = array[None], [0, *order]
    return array.transpose(np.argsort(order))
