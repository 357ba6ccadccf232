"""The two orders of a tensor's axes: the graph's own, and the canonical one, batch and time first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnn_export.arrays import Array
from rnn_export.spec import StreamSpec, TensorSpec


def canonical(array: Array, spec: TensorSpec) -> Array:
    """A view with the batch on axis 0 and time, if there is any, on axis 1."""
    return array.transpose(spec.canonical)


def graph_layout(array: Array, spec: TensorSpec) -> Array:
    """The inverse of `canonical`, contiguous."""
    return np.ascontiguousarray(array.transpose(spec.in_graph))


def in_graph_layout(spec: StreamSpec, inputs: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
    """The frames from `start` to `stop` of inputs (rows, frames, ...), as one call of the graph takes them."""
    pieces = {}
    for tensor in spec.inputs:
        piece = inputs[tensor.name]
        piece = piece[:, start:stop] if spec.timed(tensor) else piece
        pieces[tensor.name] = graph_layout(piece if spec.has_time else piece[:, 0], tensor)
    return pieces
