"""Inputs to verify a file on: seeded noise in the range of each input, and the other kinds of input."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto, load_from_string

from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.errors import ExportError
from rnn_export.export.verify.frames import ROWS
from rnn_export.platform.arrays import Array
from rnn_export.runtime.replay.levels import CONSTANTS, ENDS, levels_of

# What moves an id and changes nothing of it.
MOVES = {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


class Noise:
    """Seeded inputs of a contract; `step` is its graph, which tells the rows of the tables that ids look up."""

    def __init__(self, spec: StreamSpec, step: bytes) -> None:
        self.spec, graph = spec, load_from_string(step)
        self.rows = {t.name: _rows_of(graph, t.name) for t in spec.inputs}

    def frames(self, frames: int) -> dict[str, Array]:
        """Noise of each input (rows, frames, ...); raises ExportError if a range of ids is unknown."""
        random = np.random.default_rng(1)
        return {t.name: self._drawn(random, t, self._shape(t, ROWS, frames)) for t in self.spec.inputs}

    def trials(self, frames: int) -> tuple[tuple[str, ...], dict[str, Array]]:
        """The kinds of input, and for every input a row of each: (kinds, frames, ...)."""
        random, levels = np.random.default_rng(2), levels_of(frames)
        held, of_frames, inputs = list(levels).index(CONSTANTS), np.stack(list(levels.values())), {}
        for tensor in self.spec.inputs:
            level = of_frames if self.spec.timed(tensor) else of_frames[:, :1]
            shape = self._shape(tensor, len(levels), frames)
            drawn = self._drawn(random, tensor, shape)
            level = level.reshape(*shape[: 2 if self.spec.timed(tensor) else 1], *(1 for _ in tensor.frame))
            near = random.integers(ENDS, size=shape)
            if self.spec.timed(tensor):
                drawn[held], near[held] = drawn[held, :1], near[held, :1]
            if drawn.dtype.kind == "f":
                drawn = drawn * level + 0.0
            elif drawn.dtype.kind == "b":
                drawn = np.where(level == 1, drawn, level > 1)
            else:
                high = (self.rows[tensor.name] or 1) - 1
                near = np.where(level == 0, 0, np.minimum(near, high))
                drawn = np.where(level == 1, drawn, np.where(level > 1, high - near, near))
            inputs[tensor.name] = drawn.astype(tensor.dtype)
        return tuple(levels), inputs

    def _shape(self, tensor: TensorSpec, rows: int, frames: int) -> tuple[int, ...]:
        return (rows, *((frames,) if self.spec.timed(tensor) else ()), *tensor.frame)

    def _drawn(self, random: np.random.Generator, tensor: TensorSpec, shape: tuple[int, ...]) -> Array:
        kind, rows = np.dtype(tensor.dtype).kind, self.rows[tensor.name]
        if kind == "f":
            return random.standard_normal(shape).astype(tensor.dtype)
        if kind == "b":
            return random.integers(2, size=shape).astype(bool)
        if rows is None:
            raise ExportError(
                f"input {tensor.name!r} is {tensor.dtype}, and nothing in the graph says which values it takes: give a "
                f"recording of them (data=, --data), or, if it is always the same, --fix {tensor.name}=VALUE.",
                id="unknown-input-values",
            )
        drawn: Array = random.integers(rows, size=shape).astype(tensor.dtype)
        return drawn


def _rows_of(model: ModelProto, name: str) -> int | None:
    """The fewest rows of a table that an input looks up."""
    tables: Mapping[str, TensorProto] = {t.name: t for t in model.graph.initializer}
    values, rows = {name}, []
    for node in model.graph.node:
        if node.op_type in MOVES and values & set(node.input[:1]):
            values |= set(node.output)
        if node.op_type == "Gather" and node.input[0] in tables and node.input[1] in values:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            rows.append(tables[node.input[0]].dims[axis])
    return min(rows, default=None)
