"""A pool: thousands of independent streams of one model, stepped in one batched call."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, get_args

import numpy as np
import numpy.typing as npt

from rnn_export.contract.choices import OnNan
from rnn_export.contract.layout import frames_in, late_rows
from rnn_export.contract.snapshot import Snapshot, pack
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import PoolFull, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime import slot_table
from rnn_export.runtime.core.forks import watch, why_over
from rnn_export.runtime.core.frame_io import check_limit, check_snapshot, check_states
from rnn_export.runtime.core.histogram import Histogram, milliseconds, quantile_of
from rnn_export.runtime.core.types import Frames, Ids, PoolCounts, PoolMetrics, StreamHealth, Y
from rnn_export.runtime.core.uncopied import Uncopied
from rnn_export.runtime.protocols import Session
from rnn_export.runtime.rounds import Rounds
from rnn_export.runtime.slot_table import SlotTable

ON_NAN: tuple[OnNan, ...] = get_args(OnNan)


@dataclass(frozen=True)
class _Goal:
    """The content to give to some slots: states, number of frames fed, and whether their sequence is over."""

    slots: Array
    frames: Array | int
    states: Mapping[str, Array]
    ended: bool = False


class Pool(Uncopied, Generic[Y]):
    """Streams by id, each with a state of its own; any subset is stepped at once. Opened with `engine.pool()`.

    The frames of n streams are an input with n rows, (n, ...), or (n, chunk, ...) where the spec's chunk is above 1.
    Several inputs or outputs are dicts by name. Any thread may call: one is inside at a time, the others wait.

    Every method raises StreamError on a value that does not fit, and StreamClosed on the id of a stream that is over;
    nothing was fed to any stream then. Where a device fails in the middle of a round, that is RoundBroken. Interrupted,
    by Ctrl-C or another exception of a signal handler, a method has done all or nothing, to all of its streams.

    Attributes:
        capacity: the most streams; memory is taken as they come.
        latency: times of rounds.
    """

    _not_copied = (
        "a pool cannot be copied or pickled, for its memory is the backend's: open another with engine.pool(), and "
        "hand each stream on with open(snapshot=pool.snapshot(id))."
    )

    def __init__(
        self,
        spec: StreamSpec,
        session: Session,
        initial: Mapping[str, Array],
        capacity: int,
        idle_timeout: float | None,
        on_nan: OnNan,
    ) -> None:
        _check_options(spec, capacity, idle_timeout, on_nan)
        self.spec, self.capacity = spec, int(capacity)
        self.latency = Histogram()
        self._rounds, self._store, self._table = Rounds(spec), session.state_store(), SlotTable(self.capacity)
        self._row = initial
        self._initial = {s.name: np.broadcast_to(initial[s.name], (1, *s.row)) for s in spec.states}
        self._idle_timeout, self._on_nan = idle_timeout, on_nan
        self._last_sweep = time.monotonic()
        self._lock = threading.Lock()
        # What an interrupt may have broken off: slots of a round, their frames before, and the store's count of rounds;
        # or slots that are to be as a snapshot says. The next in the lock ends it (see `Stream`).
        self._fed: tuple[Array, Array, int] | None = None
        self._goal: _Goal | None = None
        self._survives_fork = session.survives_fork
        self._over: StreamError | None = None
        watch(self)
        self._counts = PoolCounts(opened=0, closed=0, evicted=0, rounds=0, frames=0, nan=0, reset=0, refused=0, full=0)

    def __repr__(self) -> str:
        return f"<Pool with {len(self._table)} of {self.capacity} streams: {self.spec.ports}>"

    def open(self, states: Mapping[str, npt.ArrayLike] | None = None, snapshot: bytes | None = None) -> int:
        """A new stream from the model's initial states, from `states` (one row each) or from a `snapshot`; its id.

        The id is above 0, below 2**63, and no other stream of this pool ever has it. Raises PoolFull where `capacity`
        streams are open.
        """
        if states is not None and snapshot is not None:
            raise StreamError("a stream starts from states= or from snapshot=, not from both.", id="two-starts-given")
        rows = self._initial if states is None else check_states(self.spec, 1, states, self._row)
        start = Snapshot(0, rows, {}) if snapshot is None else self._unpacked(snapshot)
        with self._lock:
            now = self._sweep()
            if len(self._table) == self.capacity:
                self._sweep(every=0)
            if not self._table.free:
                self._grow()
            slot = self._table.vacant()
            self._store.write(np.array([slot]), start.states)
            self._table.set(np.array([slot]), start.frames, start.ended)
            stream = self._table.take(slot, now)
            self._counts["opened"] += 1
            return stream

    def close(self, ids: int | Ids) -> None:
        """The streams `ids` (one or several) are over; their slots are free."""
        with self._lock:
            self._sweep()
            slots = self._find(ids)
            self._drop(slots, slot_table.CLOSED)
            self._counts["closed"] += len(slots)

    def reset(self, ids: int | Ids) -> None:
        """Back to the model's initial states, for `ids` (one or several)."""
        with self._lock:
            self._sweep()
            self._reset(self._find(ids))

    def states(self, stream: int) -> dict[str, Array]:
        """Copies of the states of one stream by name, each (1, ...)."""
        with self._lock:
            self._sweep()
            return self._store.read(self._one(stream))

    def snapshot(self, stream: int) -> bytes:
        """The memory of one stream as bytes, for `restore` or `open` of any pool, or for a Stream of one row."""
        with self._lock:
            self._sweep()
            slots = self._one(stream)
            frames = int(self._table.frames[slots[0]])
            return pack(self.spec, 1, Snapshot(frames, self._store.read(slots), {}, bool(self._table.ended[slots[0]])))

    def restore(self, stream: int, snapshot: bytes) -> None:
        """Let one stream go on from where `snapshot` was taken, here or of a Stream of one row."""
        start = self._unpacked(snapshot)
        with self._lock:
            self._sweep()
            self._set(_Goal(self._one(stream), start.frames, start.states, start.ended))

    @property
    def ids(self) -> list[int]:
        """Ids of open streams in the order of their slots."""
        with self._lock:
            self._sweep()
            return self._table.ids

    def __len__(self) -> int:
        with self._lock:
            self._sweep()
            return len(self._table)

    def __contains__(self, stream: object) -> bool:
        with self._lock:
            self._sweep()
            return self._table.holds(stream)

    def step(self, ids: Ids, x: Frames, out: Y | None = None) -> Y:
        """Feed each of `ids` its frame, row i of `x` to stream ids[i], and give the outputs in the same rows.

        Any subset of the streams, in any order, each once. In the first `spec.delay` frames of a stream its rows are
        NaN, or 0 in whole numbers. With `out`, an array or a dict of them, the outputs are written there.
        """
        return self.round(ids, x, out)[0]

    def round(self, ids: Ids, x: Frames, out: Y | None = None) -> tuple[Y, Array]:
        """Do `step`; give also the number of frames fed to each of `ids` before, (n,) int64."""
        with self._lock:
            start = time.perf_counter()
            now = self._sweep()
            try:
                slots = self._table.round(ids)
                self._table.refuse_ended(slots)
                inputs = self._rounds.inputs(ids, x, len(slots))
                if out is not None:
                    self._rounds.check_out(out, len(slots))
                if not len(slots):
                    return self._rounds.outputs(None, out, ()), np.zeros(0, np.int64)
                rows = self._table.rows
                frames: Array = self._table.frames[rows].copy()
                if self.spec.max_frames is not None:
                    latest = int(frames.argmax())
                    check_limit(self.spec, int(frames[latest]), self.spec.chunk, f"stream {list(ids)[latest]}: ")
                self._fed = slots, frames, self._store.rounds
                results, nan_rows = self._store.step(slots, inputs)
            except StreamError:
                self._fed = None
                self._counts["refused"] += 1
                raise
            self._table.frames[rows] = frames + self.spec.chunk
            self._table.last[rows] = now
            self._fed = None
            outputs = self._rounds.outputs(results, out, frames)
            if nan_rows is not None:
                # What a step gives before the first frame of its sequence is of no value, a NaN as well.
                self._found_nan(slots[nan_rows & (late_rows(self.spec, frames) == 0)])
            took = time.perf_counter() - start
            self._table.latency[self.latency.add(took)][rows] += 1
            self._counts["rounds"] += 1
            self._counts["frames"] += len(slots) * self.spec.chunk
            return outputs, frames

    def finish(self, ids: Ids, x: "Frames | None" = None) -> list[Any]:
        """End the sequences of `ids`; gives the result of `Stream.finish` for each in order.

        `x` are frames below a whole chunk that belong to the sequences too, (n, frames, ...), and untimed inputs.
        Nothing can be fed to these streams after that, until they are reset.
        """
        with self._lock:
            self._sweep()
            slots = self._find(ids)
            self._table.refuse_ended(slots)
            ending, frames = self._rounds.ending(x, len(slots)), self._table.frames[slots]
            if not len(slots):
                return []
            states = self._store.read(slots)
            self._goal = _Goal(slots, frames, states)
            try:
                self._store.write(slots, ending.states(states))
                steps = max(map(ending.steps, frames.tolist()))
                outputs = self._rounds.last_outputs(ending, steps, lambda given: self._store.step(slots, given)[0])
            finally:
                self._finish()
            self._set(_Goal(slots, frames, states, ended=True))
            return [self._rounds.left(ending, n, outputs, row) for row, n in enumerate(frames.tolist())]

    def frames(self, ids: int | Ids) -> Array:
        """Number of frames fed to each of `ids`, (n,) int64."""
        with self._lock:
            self._sweep()
            frames: Array = self._table.frames[self._find(ids)]
            return frames

    def health(self, stream: int) -> StreamHealth:
        """Counts of one stream, and the latency of its rounds."""
        with self._lock:
            now = self._sweep()
            (slot,), table = self._one(stream), self._table
            p50, p99 = (quantile_of(table.latency[:, slot], q) for q in (0.5, 0.99))
            return {
                "frames": int(table.frames[slot]),
                "idle_s": now - float(table.last[slot]),
                "resets": int(table.resets[slot]),
                "nan": int(table.nan[slot]),
                "p50_ms": milliseconds(p50),
                "p99_ms": milliseconds(p99),
            }

    def metrics(self) -> PoolMetrics:
        """Streams, slots and their bytes, counts since it was opened, and latency of rounds."""
        with self._lock:
            self._sweep()
            return {
                "capacity": self.capacity,
                "open": len(self._table),
                "slots": len(self._table.last),
                "nbytes": self._store.nbytes + self._table.nbytes,
                **self._counts,
                "round": self.latency.as_dict(),
            }

    def after_fork(self) -> None:
        """See `runtime.forks`."""
        self._store.after_fork()
        self._over = why_over("this pool", self._survives_fork, self._lock.locked())
        self._lock = threading.Lock()

    # --- inside the lock

    def _find(self, ids: Any) -> Array:
        return self._table.find([ids] if isinstance(ids, int | np.integer) else ids)

    def _one(self, stream: Any) -> Array:
        if not isinstance(stream, int | np.integer):
            raise StreamError(
                f"this is for one stream at a time: give an id of open(), not {repr(stream)[:60]}.",
                id="one-stream-only",
            )
        return self._find(stream)

    def _grow(self) -> None:
        count = self._table.count_for_one_more()
        if count == len(self._table.last):
            self._counts["full"] += 1
            fix = "close some, let idle ones go with idle_timeout=, or make it larger with capacity="
            raise PoolFull(
                f"the pool has {self.capacity} streams open, which is its capacity: {fix}.", id="pool-capacity"
            )
        self._store.grow(count)
        self._table.grow(count)

    def _set(self, goal: _Goal) -> None:
        self._goal = goal
        try:
            self._finish()
        except StreamError:
            self._goal = None
            raise

    def _finish(self) -> None:
        """End an interrupted operation."""
        if self._fed is not None:
            slots, frames, rounds = self._fed
            self._store.finish()
            if self._store.rounds != rounds:
                self._table.frames[slots] = frames + self.spec.chunk
            self._fed = None
        if self._goal is not None:
            goal = self._goal
            self._store.write(goal.slots, goal.states)
            self._table.set(goal.slots, goal.frames, goal.ended)
            self._goal = None

    def _reset(self, slots: Array) -> None:
        if not len(slots):
            return
        rows = {s.name: np.broadcast_to(self._initial[s.name], (len(slots), *s.row)) for s in self.spec.states}
        self._set(_Goal(slots, 0, rows))
        self._table.resets[slots] += 1
        self._counts["reset"] += len(slots)

    def _drop(self, slots: Array, cause: int) -> None:
        if len(slots):
            self._table.drop(slots, cause)
            self._store.release(slots)

    def _found_nan(self, slots: Array) -> None:
        self._counts["nan"] += len(slots)
        self._table.nan[slots] += 1
        if self._on_nan == "reset":
            self._reset(slots)
        elif self._on_nan == "close":
            self._drop(slots, slot_table.NAN)
            self._counts["closed"] += len(slots)

    def _sweep(self, every: float = 1 / 8) -> float:
        """Close streams idle for too long, looked for each time `every` of that has passed; the time in seconds.

        First of all, an interrupted operation is ended.
        """
        if self._over is not None:
            raise self._over.with_traceback(None)
        if self._fed is not None or self._goal is not None:
            self._finish()
        now = time.monotonic()
        if self._idle_timeout is not None and now >= self._last_sweep + self._idle_timeout * every:
            idle = self._table.idle(now - self._idle_timeout)
            self._drop(idle, slot_table.IDLE)
            self._counts["evicted"] += len(idle)
            self._last_sweep = now
        return now

    def _unpacked(self, snapshot: bytes) -> Snapshot:
        start = check_snapshot(self.spec, 1, snapshot, self._row)
        if start.pending:
            waiting = frames_in(self.spec, {n: a.shape[1] for n, a in start.pending.items()})
            why = "and a pool takes whole chunks only: take it when none waits"
            raise StreamError(
                f"in this snapshot {waiting} frames wait for a whole chunk of {self.spec.chunk}, {why}.",
                id="snapshot-frames-waiting",
            )
        return start


def _check_options(spec: StreamSpec, capacity: int, idle_timeout: float | None, on_nan: str) -> None:
    if spec.sequence_only:
        raise StreamError(
            "this bundle cannot stream, so it has no pool: the model needs whole sequences.", id="pool-cannot-stream"
        )
    if not isinstance(capacity, int | np.integer) or not 1 <= capacity <= 1 << slot_table.SLOT_BITS:
        raise StreamError(
            f"capacity={capacity!r}: a pool has from 1 to 2**{slot_table.SLOT_BITS} streams.", id="pool-capacity-range"
        )
    if idle_timeout is not None and not (isinstance(idle_timeout, int | float | np.number) and idle_timeout > 0):
        raise StreamError(
            f"idle_timeout={idle_timeout!r}: give seconds above 0, or None to close no stream.",
            id="idle-timeout-invalid",
        )
    if on_nan not in ON_NAN:
        raise StreamError(f"on_nan={on_nan!r}: choose one of {', '.join(ON_NAN)}.", id="on-nan-unknown")
