"""The states of many streams in host memory, gathered for a round and scattered after it, and the search for NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from rnn_export.arrays import Array
from rnn_export.layout import canonical
from rnn_export.runtime.backends.api import empty_state
from rnn_export.spec import StreamSpec


class HostStates:
    """Every state of every slot, one array (slots, ...) by name."""

    def __init__(self, spec: StreamSpec) -> None:
        self.arrays = empty_state(spec, 0)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def grow(self, count: int) -> None:
        for name, before in self.arrays.items():
            after = np.empty((count, *before.shape[1:]), before.dtype)
            after[: len(before)] = before
            self.arrays[name] = after

    def gather(self, slots: Array, rows: Mapping[str, Array]) -> None:
        """The states of `slots` into `rows`, each (n, ...)."""
        for name, array in self.arrays.items():
            # Clipping nothing, and without it numpy goes through a buffer.
            array.take(slots, 0, rows[name], "clip")

    def read(self, slots: Array) -> dict[str, Array]:
        return {name: array[slots] for name, array in self.arrays.items()}

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        for name, array in self.arrays.items():
            array[slots] = states[name]


def rows_with_nan(spec: StreamSpec, outputs: Mapping[str, Array], states: Iterable[Array]) -> Array | None:
    """Which rows have a NaN in an output, in the layout of the graph, or in one of `states` (n, ...); None if none."""
    arrays = [canonical(outputs[t.name], t) for t in spec.outputs if has_nan(outputs[t.name])]
    arrays += [state for state in states if has_nan(state)]
    if not arrays:
        return None
    rows: Array = np.logical_or.reduce([np.isnan(array).reshape(len(array), -1).any(1) for array in arrays])
    return rows


def has_nan(array: Array) -> bool:
    """Whether a value is NaN, which is the largest of all then."""
    return array.dtype.kind == "f" and array.size > 0 and math.isnan(np.maximum.reduce(array.reshape(-1)))
