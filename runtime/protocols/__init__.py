"""The interface of backends. Each is a folder, imported by name on use.

Its `backend.py` has `open_session(artefacts, precision, device, threads) -> Session`, which raises `BackendUnavailable`
with the reason where it cannot run here or has no graph for the precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rnn_export.bundle import TargetRow
from rnn_export.contract.layout import canonical
from rnn_export.contract.precision import PRECISIONS
from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import BackendUnavailable, NotInBundle
from rnn_export.platform.arrays import Array, has_nan


class Artefacts(Protocol):
    """Input of a backend: an open bundle, or one that is not written yet."""

    @property
    def spec(self) -> StreamSpec: ...
    @property
    def targets(self) -> Sequence[TargetRow]: ...
    def read(self, name: str) -> bytes: ...
    def initial_states(self) -> Mapping[str, Array]: ...


class StreamBuffers(ABC):
    """The buffers of one stream: host arrays in the shapes of the graph, and states where the backend computes.

    Where the model takes whole sequences only there is no step, and no buffers.

    Attributes:
        frames: the number fed. A step counts its own; a caller of `run` or `write` sets it.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    frames: int = 0

    @abstractmethod
    def step(self) -> None:
        """Compute `outputs` and the next states from `inputs` and the states, which stay on an error.

        The states and `frames` change together, with no call in between at which an interrupt could separate them.
        """

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """The same for a piece of a sequence, where the session has one: all (batch, time, ...), as `canonical` gives.

        A tensor without a time axis is (batch, ...), an output as of the last frame.
        """
        raise NotImplementedError("has_sequence is False")

    @abstractmethod
    def read(self) -> dict[str, Array]:
        """Copies of the states by name, each (batch, ...)."""

    @abstractmethod
    def write(self, states: Mapping[str, Array]) -> None:
        """Set every state, each (batch, ...)."""

    def after_fork(self) -> None:  # noqa: B027 - most have nothing that ends
        """In a forked process: leave alone what is the parent's to end."""


class StateStore(ABC):
    """The states of a pool's streams, by slot, where the backend computes, and the steps on them.

    Attributes:
        rounds: the number stepped; it changes together with the states, with no call in between.
    """

    rounds: int = 0

    def finish(self) -> None:  # noqa: B027 - some have nothing to end
        """Undo or complete an interrupted round, so that every stream of it was stepped or none.

        A caller whose `step` did not end calls this first, and sees in `rounds` which of the two happened.
        """

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the states of all slots take."""

    @abstractmethod
    def grow(self, count: int) -> None:
        """Allocate `count` slots; those that are there keep their values, the others are not set yet."""

    @abstractmethod
    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        """One step of the rows `slots` (n,), intp and all different, in the order of their frames.

        `inputs` and the outputs that it gives have the layout of the graph with a batch of n; the outputs are good
        until the next call. The second value tells which rows have a NaN in an output or a next state, bool (n,); None
        where no row has. A NaN in a state alone may be told some rounds later. On an error the states stay, or it is
        RoundBroken.
        """

    @abstractmethod
    def read(self, slots: Array) -> dict[str, Array]:
        """Copies of the states of `slots` by name, each (n, ...)."""

    @abstractmethod
    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        """Set every state of `slots`, each (n, ...)."""

    def release(self, slots: Array) -> None:  # noqa: B027 - most have nothing to give back
        """Forget the streams of `slots`, which are over."""

    def after_fork(self) -> None:  # noqa: B027 - most have nothing that ends
        """In a forked process: leave alone what is the parent's to end."""


class UndoingStore(StateStore):
    """A store that undoes a round interrupted while its next states are written.

    Attributes:
        before: of a round whose next states are being written: its rows, and their states before.
    """

    before: tuple[Any, Any] | None = None

    @abstractmethod
    def put(self, rows: Any, states: Any) -> None:
        """Write the states of `rows`."""

    def keep(self, rows: Any, before: Any, after: Any) -> None:
        """End a round: `rows`, whose states were `before`, have those `after` it, all or none."""
        self.before = rows, before
        try:
            self.put(rows, after)
        except BaseException:
            self.finish()
            raise
        self.before = None
        self.rounds += 1

    def finish(self) -> None:
        if self.before is not None:
            self.put(*self.before)
            self.before = None


class Session(ABC):
    """A loaded model, immutable and shared between threads.

    Attributes:
        device: where it computes: "cpu", "cuda:0".
        precision: "fp32" and so on.
        has_sequence: True if its `StreamBuffers` can `run`.
        run_is_steps: True if `run` is nothing but steps, so that it takes the frames of a delay too.
        batches: the fewest and most rows of a stream; None where there is no most.
        rows_at_once: the number of rows of a step, where a step has either this number or 1; `stream_buffers` is asked
            for these two, and several rows go through it in pieces. None where a step has any number.
        steps_rows_apart: True if a step of several rows is one for each, so that the model may have one row alone.
        survives_fork: True if the session works in a forked process too: it is memory alone, without threads and locks.
        stepper: None, or a compiled base class for streams. In place of a lock and of Python's step it has `_locked`,
            `_turn`, `_frames`, `_pending`, `_advance`, and a `step` that calls `_any_step` for all other cases.
    """

    device: str
    precision: str = "fp32"
    has_sequence: bool = False
    run_is_steps: bool = False
    batches: tuple[int, int | None] = (1, None)
    rows_at_once: int | None = None
    steps_rows_independently: bool = False
    survives_fork: bool = False
    stepper: type | None = None

    @abstractmethod
    def stream_buffers(self, batch: int) -> StreamBuffers:
        """Buffers and states for `batch` streams in lockstep; the states are not set yet."""

    def state_store(self) -> StateStore:
        """States for the streams of a pool; it has no slots yet."""
        raise NotImplementedError("several rows go in pieces")

    def by_default(self) -> Session | None:
        """The same in the library's default precision; None where that is the one asked for."""
        return None

    def metrics(self) -> dict[str, float]:
        """Counts since it was loaded, where it keeps any."""
        return {}

    def after_fork(self) -> None:  # noqa: B027 - as of a store
        """In a forked process: leave alone what is the parent's to end."""

    def bind(self, stream: Any, buffers: Any, x: Array | None, y: Array | None) -> None:
        """Tie `stream`, a `stepper`, to its buffers; `x` and `y` are its frames where a step is simple, else None."""
        raise NotImplementedError("stepper is None")


def target_row(artefacts: Artefacts, target: str, precision: str | None) -> TargetRow:
    """The row of `target` in `precision`, or in the first one there is; raises BackendUnavailable if there is none."""
    rows = [row for row in artefacts.targets if row.target == target]
    for row in rows:
        if precision in (None, row.precision):
            if row.precision not in PRECISIONS:
                raise BackendUnavailable(
                    f"the bundle has {target!r} in {row.precision!r}, which is no precision: upgrade.",
                    id="target-precision-unknown",
                )
            return row
    if not rows:
        raise not_in_bundle(target, artefacts.targets)
    has = ", ".join(row.precision for row in rows)
    raise BackendUnavailable(f"the bundle has {target!r} in {has}, not in {precision}.", id="target-precision-missing")


def not_in_bundle(target: str, rows: Iterable[TargetRow]) -> NotInBundle:
    """That none of `rows` is of `target`, and how it gets there."""
    there = {row.target for row in rows}
    has = ", ".join(sorted(there)) or "none"
    place = "add it to this one, rnn-export build NAME.rnnx" if "onnx" in there else "build it in one with its graphs,"
    add = f", or {place} --target {target}"
    of_graphs = target in TARGETS and target != "onnx" and not TARGETS[target].from_torch
    return NotInBundle(
        f"the bundle has no target {target!r}, only {has}: export it with --target {target}{add if of_graphs else ''}.",
        id="target-not-in-bundle",
    )


def empty_state(spec: StreamSpec, batch: int) -> dict[str, Array]:
    return {state.name: np.empty((batch, *state.row), state.dtype) for state in spec.states}


def folder(target: str, precision: str) -> str:
    """The folder of a target and precision in the bundle."""
    return f"targets/{target}-{precision}"


def rows_with_nan(spec: StreamSpec, outputs: Mapping[str, Array], states: Iterable[Array]) -> Array | None:
    """The mask of rows with a NaN in an output, in the graph's layout, or in one of `states` (n, ...); None if none."""
    arrays = [canonical(outputs[t.name], t) for t in spec.outputs if has_nan(outputs[t.name])]
    arrays += [state for state in states if has_nan(state)]
    if not arrays:
        return None
    rows: Array = np.logical_or.reduce([np.isnan(array).reshape(len(array), -1).any(1) for array in arrays])
    return rows
