"""The end of a sequence: steps on the pending frames, then on none, until all outputs of the model are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_export.contract.layout import frames_in
from rnn_export.contract.snapshot import Snapshot
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array, Arrays
from rnn_export.runtime.core.frame_io import as_array, check_values


@dataclass(frozen=True)
class Unfinished:
    """Stands for a stream's pending frames: the memory is to be `goal`, and may be anything now."""

    goal: Snapshot


@dataclass(frozen=True)
class Ended:
    """Stands for a stream's pending frames: the sequence is over."""


@dataclass(frozen=True)
class Ending:
    """Sequences that end after whole steps and the frames that are `pending` by input, (rows, frames, ...).

    `held` are the inputs without a time axis, (rows, ...).
    """

    spec: StreamSpec
    rows: int
    pending: Arrays
    held: Arrays

    @property
    def waiting(self) -> int:
        """Number of frames waiting for a chunk."""
        return frames_in(self.spec, {n: a.shape[1] for n, a in self.pending.items()}) if self.pending else 0

    def states(self, states: Arrays) -> Arrays:
        """`states` (rows, ...) before the first of the last steps."""
        end = self.spec.end
        if end is None:
            return states
        return {**states, end: np.full_like(states[end], self.spec.chunk - self.waiting)}

    def last_outputs(self, steps: int, step: Callable[[dict[str, Array]], Mapping[str, Array]]) -> dict[str, Array]:
        """Every output with frames, (rows, frames, ...), of the last `steps` steps; `step` is of (rows, chunk, ...)."""
        spec = self.spec
        pieces: dict[str, list[Array]] = {t.name: [] for t in spec.outputs if spec.timed(t)}
        for number in range(steps):
            outputs = step(self._inputs(first=number == 0))
            for name, parts in pieces.items():
                parts.append(outputs[name].copy())
        none = {t.name: np.zeros((self.rows, 0, *t.frame), t.dtype) for t in spec.outputs if t.name in pieces}
        return {name: np.concatenate([none[name], *parts], 1) for name, parts in pieces.items()}

    def _inputs(self, first: bool) -> dict[str, Array]:
        inputs = dict(self.held)
        for tensor in (t for t in self.spec.inputs if t.name not in inputs):
            step = np.zeros((self.rows, tensor.frames_of(self.spec.chunk), *tensor.frame), tensor.dtype)
            if first and tensor.name in self.pending:
                step[:, : tensor.frames_of(self.waiting)] = self.pending[tensor.name]
            inputs[tensor.name] = step
        return inputs

    def steps(self, frames: int) -> int:
        """Number of steps that finish a sequence, `frames` of which were fed in whole steps."""
        return self.spec.closing_steps(frames + self.waiting) if frames + self.waiting else 0

    def left(self, frames: int, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The rest of a sequence, `frames` of which were fed before, from its `last_outputs` (rows, frames, ...).

        Outputs without a time axis are left out: the last ones stand.
        """
        whole = frames + self.waiting
        return {
            t.name: outputs[t.name][:, self.spec.left_in_last_steps(t, whole) if whole else slice(0)]
            for t in self.spec.outputs
            if t.name in outputs
        }


def as_given(spec: StreamSpec, left: dict[str, Array]) -> Any:
    """The rest in the caller's form: by name where the model has several outputs, else the only one's, or None."""
    return left if len(spec.outputs) > 1 else next(iter(left.values()), None)


def held_inputs(spec: StreamSpec, batch: int, held: Any) -> dict[str, Array]:
    """The inputs without a time axis, (batch, ...), from the argument of `finish`; raises StreamError."""
    tensors = [t for t in spec.inputs if not spec.timed(t)]
    names = [t.name for t in tensors]
    if held is None and names:
        raise StreamError(
            f"the inputs {names} have no frames: give them to finish too, as they were fed.", id="finish-inputs-missing"
        )
    given = {} if held is None else dict(held if isinstance(held, Mapping) else dict.fromkeys(names[:1], held))
    if set(given) != set(names):
        raise StreamError(
            f"finish takes the inputs without a time axis, {names}, but was given {list(given)}.",
            id="finish-inputs-given",
        )
    rows = {t.name: as_array(t.name, given[t.name], np.dtype(t.dtype)) for t in tensors}
    bare = {t.name: rows[t.name].ndim == len(t.frame) and batch == 1 for t in tensors}
    shapes = {t.name: t.frame if bare[t.name] else (batch, *t.frame) for t in tensors}
    checked = {t.name: check_values(t.name, rows[t.name], shapes[t.name], np.dtype(t.dtype)) for t in tensors}
    return {name: a[None] if bare[name] else a for name, a in checked.items()}
