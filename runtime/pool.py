"""A pool: thousands of independent streams of one model, stepped in one batched call."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import PoolFull, StreamError
from rnn_export.runtime import slot_table
from rnn_export.runtime.backends.api import Session
from rnn_export.runtime.histogram import Histogram, bucket, quantile_of
from rnn_export.runtime.rounds import Rounds
from rnn_export.runtime.slot_table import Roster
from rnn_export.snapshot import Snapshot, pack, unpack
from rnn_export.spec import StreamSpec

ON_NAN = ("reset", "close", "keep")


class Pool:
    """Streams by id, each with a state of its own; any subset is stepped at once. Opened with `engine.pool()`.

    The frames of n streams are an input with n rows, (n, ...), or (n, chunk, ...) where the spec's chunk is above 1.
    Several inputs or outputs are dicts by name. Any thread may call: one is inside at a time, the others wait.

    Every method raises StreamError on a value that does not fit, and StreamClosed on the id of a stream that is over;
    nothing was fed to any stream then. Where a device fails in the middle of a round, that is RoundBroken.

    Attributes:
        capacity: the most streams; memory is taken as they come.
        latency: how long rounds took.
    """

    def __init__(
        self,
        spec: StreamSpec,
        session: Session,
        initial: Mapping[str, Array],
        capacity: int,
        idle_timeout: float | None,
        on_nan: str,
    ) -> None:
        _check_options(spec, capacity, idle_timeout, on_nan)
        self.spec, self.capacity = spec, int(capacity)
        self.latency = Histogram()
        self._rounds, self._slots, self._roster = Rounds(spec), session.slots(), Roster(self.capacity)
        self._initial = {s.name: np.broadcast_to(initial[s.name], (1, *s.row)) for s in spec.states}
        self._idle_timeout, self._on_nan = idle_timeout, on_nan
        self._swept = time.monotonic()
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(
            ("opened", "closed", "evicted", "rounds", "frames", "nan", "reset", "refused", "full"), 0
        )

    # --- streams

    def open(self, states: Mapping[str, Any] | None = None, snapshot: bytes | None = None) -> int:
        """A new stream from the model's initial states, from `states` (one row each) or from a `snapshot`; its id.

        The id is above 0, below 2**63, and no other stream of this pool ever has it. Raises PoolFull where `capacity`
        streams are open.
        """
        if states is not None and snapshot is not None:
            raise StreamError("a stream starts from states= or from snapshot=, not from both.")
        start = Snapshot(0, self._initial, {})
        if states is not None:
            start = Snapshot(0, self._rounds.states(states), {})
        elif snapshot is not None:
            start = self._unpacked(snapshot)
        with self._lock:
            now = self._sweep()
            if len(self._roster) == self.capacity:
                self._sweep(every=0)
            if not self._roster.free:
                self._grow()
            stream, slot = self._roster.take(now)
            try:
                self._set(np.array([slot]), start)
            except BaseException:
                self._roster.drop(np.array([slot]), slot_table.CLOSED)
                raise
            self._counts["opened"] += 1
            return stream

    def close(self, ids: Any) -> None:
        """The streams `ids` (one or several) are over; their slots are free."""
        with self._lock:
            self._sweep()
            slots = self._find(ids)
            self._drop(slots, slot_table.CLOSED)
            self._counts["closed"] += len(slots)

    def reset(self, ids: Any) -> None:
        """Back to the model's initial states, for `ids` (one or several)."""
        with self._lock:
            self._sweep()
            self._reset(self._find(ids))

    def states(self, stream: int) -> dict[str, Array]:
        """Copies of the states of one stream by name, each (1, ...)."""
        with self._lock:
            self._sweep()
            return self._slots.read(self._one(stream))

    def snapshot(self, stream: int) -> bytes:
        """The memory of one stream as bytes, for `restore` or `open` of any pool, or for a Stream of one row."""
        with self._lock:
            self._sweep()
            slots = self._one(stream)
            frames = int(self._roster.frames[slots[0]])
            return pack(self.spec, 1, Snapshot(frames, self._slots.read(slots), {}))

    def restore(self, stream: int, snapshot: bytes) -> None:
        """Let one stream go on from where `snapshot` was taken, here or of a Stream of one row."""
        start = self._unpacked(snapshot)
        with self._lock:
            self._sweep()
            self._set(self._one(stream), start)

    @property
    def ids(self) -> list[int]:
        """The open streams."""
        with self._lock:
            self._sweep()
            return self._roster.ids

    def __len__(self) -> int:
        with self._lock:
            self._sweep()
            return len(self._roster)

    def __contains__(self, stream: Any) -> bool:
        with self._lock:
            self._sweep()
            return self._roster.holds(stream)

    # --- a round

    def step(self, ids: Any, x: Any, out: Any = None) -> Any:
        """Feed each of `ids` its frame, row i of `x` to stream ids[i], and give the outputs in the same rows.

        Any subset of the streams, in any order, each once. In the first `spec.delay` frames of a stream its rows are
        NaN, or 0 in whole numbers. With `out`, an array or a dict of them, the outputs are written there.
        """
        return self.round(ids, x, out)[0]

    def round(self, ids: Any, x: Any, out: Any = None) -> tuple[Any, Array]:
        """What `step` gives, and how many frames each of `ids` had been fed before, (n,) int64."""
        with self._lock:
            start = time.perf_counter()
            now = self._sweep()
            try:
                slots = self._roster.round(ids)
                inputs = self._rounds.inputs(ids, x, len(slots))
                if out is not None:
                    self._rounds.check_out(out, len(slots))
                if not len(slots):
                    return self._rounds.outputs(None, out, ()), np.zeros(0, np.int64)
                given, turned = self._slots.step(slots, inputs)
            except StreamError:
                self._counts["refused"] += 1
                raise
            frames: Array = self._roster.frames[slots]
            self._roster.frames[slots] = frames + self.spec.chunk
            self._roster.last[slots] = now
            outputs = self._rounds.outputs(given, out, frames)
            if turned is not None:
                self._turned(slots[turned])
            took = time.perf_counter() - start
            self.latency.add(took)
            self._roster.latency[bucket(took)][slots] += 1
            self._counts["rounds"] += 1
            self._counts["frames"] += len(slots) * self.spec.chunk
            return outputs, frames

    def frames(self, ids: Any) -> Array:
        """How many frames each of `ids` was fed, (n,) int64."""
        with self._lock:
            self._sweep()
            frames: Array = self._roster.frames[self._find(ids)]
            return frames

    # --- health

    def health(self, stream: int) -> dict[str, Any]:
        """Of one stream: frames, seconds since its last frame, resets, NaNs, and latency of its rounds in ms."""
        with self._lock:
            now = self._sweep()
            (slot,), told = self._one(stream), self._roster
            p50, p99 = (quantile_of(told.latency[:, slot], q) for q in (0.5, 0.99))
            return {
                "frames": int(told.frames[slot]),
                "idle_s": now - float(told.last[slot]),
                "resets": int(told.resets[slot]),
                "nan": int(told.nan[slot]),
                "p50_ms": None if p50 is None else p50 * 1e3,
                "p99_ms": None if p99 is None else p99 * 1e3,
            }

    def metrics(self) -> dict[str, Any]:
        """Of the pool, as plain data: streams, slots and their bytes, counts since it was made, latency of rounds."""
        with self._lock:
            self._sweep()
            return {
                "capacity": self.capacity,
                "open": len(self._roster),
                "slots": len(self._roster.last),
                "nbytes": self._slots.nbytes + self._roster.nbytes,
                **self._counts,
                "round": self.latency.as_dict(),
            }

    # --- inside the lock

    def _find(self, ids: Any) -> Array:
        return self._roster.find([ids] if isinstance(ids, int | np.integer) else ids)

    def _one(self, stream: Any) -> Array:
        if not isinstance(stream, int | np.integer):
            raise StreamError(f"this is for one stream at a time: give an id of open(), not {repr(stream)[:60]}.")
        return self._find(stream)

    def _grow(self) -> None:
        count = self._roster.wanted()
        if count == len(self._roster.last):
            self._counts["full"] += 1
            raise PoolFull(
                f"the pool has {self.capacity} streams open, which is its capacity: close some, let idle ones go with "
                "idle_timeout=, or make it larger with capacity=."
            )
        self._slots.grow(count)
        self._roster.grow(count)

    def _set(self, slots: Array, start: Snapshot) -> None:
        self._slots.write(slots, start.states)
        self._roster.frames[slots] = start.frames

    def _reset(self, slots: Array) -> None:
        if not len(slots):
            return
        rows = {s.name: np.broadcast_to(self._initial[s.name], (len(slots), *s.row)) for s in self.spec.states}
        self._set(slots, Snapshot(0, rows, {}))
        self._roster.resets[slots] += 1
        self._counts["reset"] += len(slots)

    def _drop(self, slots: Array, cause: int) -> None:
        if len(slots):
            self._slots.release(slots)
            self._roster.drop(slots, cause)

    def _turned(self, slots: Array) -> None:
        self._counts["nan"] += len(slots)
        self._roster.nan[slots] += 1
        if self._on_nan == "reset":
            self._reset(slots)
        elif self._on_nan == "close":
            self._drop(slots, slot_table.TURNED_NAN)
            self._counts["closed"] += len(slots)

    def _sweep(self, every: float = 1 / 8) -> float:
        """Close what was idle for too long, looked for each time `every` of that has passed; the time in seconds."""
        now = time.monotonic()
        if self._idle_timeout is not None and now >= self._swept + self._idle_timeout * every:
            idle = self._roster.idle(now - self._idle_timeout)
            self._drop(idle, slot_table.IDLE)
            self._counts["evicted"] += len(idle)
            self._swept = now
        return now

    def _unpacked(self, snapshot: bytes) -> Snapshot:
        start = unpack(self.spec, 1, snapshot)
        if start.pending:
            waiting = next(iter(start.pending.values())).shape[1]
            raise StreamError(
                f"in this snapshot {waiting} frames wait for a whole chunk of {self.spec.chunk}, and a pool takes "
                "whole chunks only: take it when none waits."
            )
        return start


def _check_options(spec: StreamSpec, capacity: int, idle_timeout: float | None, on_nan: str) -> None:
    if spec.sequence_only:
        raise StreamError("this bundle cannot stream, so it has no pool: the model needs whole sequences.")
    if not isinstance(capacity, int | np.integer) or not 1 <= capacity <= 1 << slot_table.SLOT_BITS:
        raise StreamError(f"capacity={capacity!r}: a pool has from 1 to 2**{slot_table.SLOT_BITS} streams.")
    if idle_timeout is not None and not (isinstance(idle_timeout, int | float | np.number) and idle_timeout > 0):
        raise StreamError(f"idle_timeout={idle_timeout!r}: give seconds above 0, or None to close no stream.")
    if on_nan not in ON_NAN:
        raise StreamError(f"on_nan={on_nan!r}: choose one of {', '.join(ON_NAN)}.")
