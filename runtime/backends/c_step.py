"""A step in C as a backend drives it, whatever it is compiled for: how rows lie, and what C does not look at."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import StreamError
from rnn_export.spec import BATCH, StreamSpec, TensorSpec, sized


def contract_sha256(spec: StreamSpec) -> str:
    """The sha256 of what a compiled step is held to: chunk, and name, dtype and shape of each tensor, in order."""
    groups = (spec.inputs, spec.outputs, spec.states)
    ports = [[(tensor.name, tensor.dtype, tensor.shape) for tensor in group] for group in groups]
    return hashlib.sha256(json.dumps([spec.chunk, ports]).encode()).hexdigest()


def row_shape(tensor: TensorSpec, frames: int) -> tuple[int, ...]:
    """The shape that one row has in a step of so many frames."""
    return sized([dim for dim in tensor.shape if dim != BATCH], 1, frames)


def row_buffer(tensor: TensorSpec, batch: int, chunk: int) -> Array:
    """In the shape of the graph, with the values of each row together."""
    return np.moveaxis(np.zeros((batch, *row_shape(tensor, chunk)), tensor.dtype), 0, tensor.axis(BATCH) or 0)


def check_indices(backend: str, table_rows: Mapping[str, int], what: str, inputs: Mapping[str, Array]) -> None:
    """Raise StreamError where an input is beyond the rows of its table: C does not look at an index."""
    for name, rows in table_rows.items():
        wrong = (inputs[name] < -rows) | (inputs[name] >= rows)
        if wrong.any():
            why = f"idx={inputs[name][wrong][0]} must be within the inclusive range [{-rows},{rows - 1}]"
            raise StreamError(f"{backend} refused the {what}: {name!r} is out of its table, {why}.")
