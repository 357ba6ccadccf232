"""A micro-batcher: callers that know nothing of each other share the rounds of a pool."""

from __future__ import annotations

import asyncio
import math
import threading
from time import monotonic
from typing import Any, Generic

import numpy as np

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BatcherStopped, Overloaded, RnnExportError, RoundBroken, StreamClosed, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.core.forks import FIX, watch
from rnn_export.runtime.core.histogram import Histogram
from rnn_export.runtime.core.types import BatcherCounts, BatcherMetrics, Frames, Y
from rnn_export.runtime.core.uncopied import Uncopied
from rnn_export.runtime.pool import Pool
from rnn_export.runtime.rounds import Rounds
from rnn_export.runtime.serve.aside import Aside
from rnn_export.runtime.serve.submission import Condition, Submission
from rnn_export.runtime.serve.waiting import Waiting


class Batcher(Uncopied, Generic[Y]):
    """Gathers frames from any number of threads and tasks into rounds of `pool`, run by a thread of its own.

    A round takes at most one frame of a stream, the oldest first, so that a stream's frames keep their order. It starts
    when `max_batch` streams have a frame, when every open stream has one, or when the oldest frame has waited for
    `max_delay_ms`. Close it, or use it with `with` or `async with`, which run waiting frames.

    Attributes:
        wait: waiting times of frames.
        latency: from submit to output.
    """

    _not_copied = "a batcher cannot be copied or pickled, for it has a thread: make another on the same pool."

    def __init__(
        self, pool: Pool[Y], max_delay_ms: float = 2.0, max_batch: int | None = None, max_waiting: int = 4096
    ) -> None:
        """`max_batch` is of streams in a round, None for the pool's capacity; `max_waiting` of frames in the queue."""
        max_batch = pool.capacity if max_batch is None else max_batch
        if not (isinstance(max_delay_ms, int | float | np.number) and max_delay_ms >= 0):
            raise StreamError(
                f"max_delay_ms={max_delay_ms!r}: give milliseconds, 0 for no delay.", id="max-delay-invalid"
            )
        for name, value in (("max_batch", max_batch), ("max_waiting", max_waiting)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise StreamError(f"{name}={value!r}: give a whole number of at least 1.", id="batcher-number-invalid")
        self.pool, self.max_delay_ms, self.max_batch, self.max_waiting = pool, max_delay_ms, max_batch, max_waiting
        self.wait, self.latency = Histogram(), Histogram()
        self._frame = Rounds(pool.spec).frame
        self._counts = BatcherCounts(rounds=0, frames=0, failed=0, refused=0, late=0, cancelled=0)
        self._changed, self._waiting, self._aside = Condition(), Waiting(), Aside("rnn-export callbacks")
        # What the worker has taken and not answered yet.
        self._taken: list[Submission[Y]] = []
        # How many streams start a round, and when the worker looks next, as of its last look.
        self._enough, self._alarm = 1, math.inf
        self._closing = False
        self._died: BaseException | None = None
        self._worker = threading.Thread(target=self._work, name="rnn-export batcher", daemon=True)
        self._worker.start()
        watch(self)

    def __repr__(self) -> str:
        how = f"rounds of {self.max_batch} streams at most, after {self.max_delay_ms:g} ms"
        return f"<Batcher{' (closed)' if self._closing else ''}: {how}; {self.pool!r}>"

    def submit(self, stream: int, frame: Frames, deadline_ms: float | None = None) -> Submission[Y]:
        """Queue one frame of `stream`, an id of the pool, from any thread or task; it is copied.

        The result is what `Stream.step` gives: the output without batch axis, or a dict by name; None while the
        first `spec.delay` frames go by. It fails with StreamClosed where the stream is over, and with
        DeadlineExceeded where no round takes it within `deadline_ms`: that frame is left out, later ones of the
        stream are fed all the same. A deadline starts no round: one below `max_delay_ms` counts on others to.

        Raises StreamError at once where the frame does not fit, Overloaded where `max_waiting` frames wait, and
        BatcherStopped after `close`.
        """
        if not isinstance(stream, int | np.integer) or not 0 < stream < 1 << 63:
            raise StreamError(
                f"{stream!r} is no id of a stream: give one that pool.open() gave.", id="batcher-stream-id"
            )
        rows, seconds = self._frame(frame), _seconds(deadline_ms)
        now = monotonic()
        submission: Submission[Y] = Submission(int(stream), rows, now, now + seconds, self._leave, self._aside)
        with self._changed:
            if self._died is not None:
                raise _stopped(self._died)
            if self._closing:
                raise BatcherStopped(
                    "the batcher is closed and takes no frames: open another on the same pool.", id="batcher-closed"
                )
            if len(self._waiting) >= self.max_waiting:
                self._counts["refused"] += 1
                raise Overloaded(
                    f"{len(self._waiting)} frames wait already, which is max_waiting: frames come faster than rounds "
                    "take them. Drop this frame or send it later; serve fewer streams, or raise max_waiting if it was "
                    "a burst.",
                    id="batcher-overloaded",
                )
            # First, so that an interrupt leaves no frame of which the worker does not know; it waits for the lock.
            if self._waiting.streams + 1 >= self._enough or self._due_by(submission) < self._alarm:
                self._changed.notify()
            self._waiting.add(submission)
        return submission

    def finish(self, stream: int, x: Frames | None = None) -> Any:
        """Call `Pool.finish` for one stream; raises StreamError while frames of it wait for their round."""
        with self._changed:
            if any(s.stream == stream for s in (*self._waiting.all(), *self._taken)):
                raise StreamError(
                    f"frames of stream {stream} still wait for a round: take their results before its end.",
                    id="batcher-frames-waiting",
                )
        return self.pool.finish([stream], x)[0]

    def metrics(self) -> BatcherMetrics:
        """Frames that wait, rounds, and results of the frames; see `BatcherMetrics`."""
        with self._changed:
            counts = self._counts
            return {
                "waiting": len(self._waiting),
                **counts,
                "mean_batch": counts["frames"] / counts["rounds"] if counts["rounds"] else None,
                "wait": self.wait.as_dict(),
                "latency": self.latency.as_dict(),
            }

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more frames, run those that wait (`drain`) or fail them, and end the worker.

        Raises StreamError where that takes more than `timeout` seconds; waiting frames have failed then.
        """
        if threading.current_thread() is self._aside.thread:
            raise StreamError(
                "a callback of a frame closes the batcher, whose own thread runs it: close it elsewhere.",
                id="batcher-closed-inside-callback",
            )
        end = math.inf if timeout is None else monotonic() + timeout
        with self._changed:
            self._closing = True
            dropped = [] if drain else self._claim_all()
            self._changed.notify()
        self._fail(
            dropped,
            BatcherStopped(
                "the batcher was closed before this frame's round: it was not fed.", id="frame-closed-unfed"
            ),
        )
        self._worker.join(timeout)
        if self._worker.is_alive():
            with self._changed:
                left = self._claim_all()
            self._fail(
                left,
                BatcherStopped(
                    f"the batcher was closed, and {timeout} s later this frame was not fed.", id="frame-unfed-in-time"
                ),
            )
            raise StreamError(
                f"the batcher did not end within {timeout} s: {len(left)} frames that waited were failed, and the "
                "round at work ends by itself. Give it a longer timeout, or drain=False.",
                id="batcher-end-late",
            )
        self._aside.end()
        if not self._aside.join(None if timeout is None else max(0.0, end - monotonic())):
            raise StreamError(
                f"all frames were answered, but callbacks of them did not end within {timeout} s: they go on in a "
                "thread of their own. Give it a longer timeout, or let callbacks hand long work on.",
                id="callbacks-end-late",
            )

    def after_fork(self) -> None:
        """See `runtime.forks`: the worker is not here, the frames are the parent's."""
        self._died = StreamError(
            f"this batcher was opened before a fork, and its thread is the parent's. {FIX}.", id="batcher-after-fork"
        )
        left, self._changed = [*self._waiting.all(), *self._taken], Condition()
        self._waiting, self._taken = Waiting(), []
        self._aside = Aside("rnn-export callbacks")
        for submission in left:
            submission.abandon(_stopped(self._died))

    def __enter__(self) -> Batcher[Y]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Batcher[Y]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    # --- inside the lock

    def _due_by(self, submission: Submission[Y]) -> float:
        return min(submission.since + self.max_delay_ms / 1e3, submission.deadline)

    def _claim(self, picked: list[Submission[Y]]) -> list[Submission[Y]]:
        """Those frames of `picked` that are not cancelled; none waits now."""
        claimed = [submission for submission in picked if submission.set_running_or_notify_cancel()]
        self._counts["cancelled"] += len(picked) - len(claimed)
        return claimed

    def _claim_all(self) -> list[Submission[Y]]:
        waiting = self._waiting.all()
        for submission in waiting:
            self._waiting.remove(submission)
        return self._claim(waiting)

    def _ready(self, now: float) -> list[Submission[Y]]:
        """The frames of the round that is to start now: none if it is not time yet."""
        if (oldest := self._waiting.oldest()) is None:
            return []
        waited = now >= oldest.since + self.max_delay_ms / 1e3
        if not (waited or self._closing or self._waiting.streams >= self._enough):
            return []
        return self._waiting.first(self.max_batch)

    # --- in the worker's thread

    def _work(self) -> None:
        expired, chosen = list[Submission[Y]](), list[Submission[Y]]()
        try:
            while (turn := self._next()) is not None:
                expired, chosen = turn
                for submission in expired:
                    submission.set_exception(submission.expired(monotonic()))
                if chosen:
                    self._run(chosen, monotonic())
        except BaseException as error:  # nobody may wait for a thread that is gone
            with self._changed:
                self._died = error
                left = [s for s in (*expired, *chosen) if not s.done()] + self._claim_all()
            self._fail(left, _stopped(error))

    def _next(self) -> tuple[list[Submission[Y]], list[Submission[Y]]] | None:
        """Wait for frames that expire or for those of a round; None when all is done."""
        while True:
            # The pool's lock may be another's for a whole round, in which submit must not wait.
            streams = len(self.pool)
            with self._changed:
                now = monotonic()
                expired = self._claim(self._waiting.expired(now))
                self._counts["late"] += len(expired)
                self._enough = max(1, min(self.max_batch, streams))
                chosen = self._claim(self._ready(now))
                self._taken = [*expired, *chosen]
                if expired or chosen:
                    return expired, chosen
                if self._closing and not self._waiting:
                    return None
                oldest = self._waiting.oldest()
                due = math.inf if oldest is None else self._due_by(oldest)
                self._alarm = min(due, self._waiting.deadline())
                self._changed.wait(min(self._alarm - now, threading.TIMEOUT_MAX))

    def _run(self, chosen: list[Submission[Y]], start: float) -> None:
        """One round; a frame that cannot be fed fails alone, unless others were fed before that was known."""
        try:
            results = self._step(chosen)
        except RnnExportError as error:
            if len(chosen) == 1 or isinstance(error, RoundBroken):
                self._fail(chosen, error)
                return
            for fewer in _splits(chosen, error):
                self._run(fewer, start)
            return
        since = np.array([s.since for s in chosen])
        with self._changed:
            self._counts["rounds"] += 1
            self._counts["frames"] += len(chosen)
            self.wait.add_each(start - since)
            self.latency.add_each(monotonic() - since)
        for submission, result in zip(chosen, results, strict=True):
            submission.set_result(result)

    def _step(self, chosen: list[Submission[Y]]) -> list[Any]:
        ids, spec = np.array([s.stream for s in chosen]), self.pool.spec
        x = {t.name: np.concatenate([s.rows[t.name] for s in chosen]) for t in spec.inputs}
        outputs, fed = self.pool.round(ids, x)
        by_name: Any = outputs if isinstance(outputs, dict) else {spec.outputs[0].name: outputs}
        return [_row(spec, by_name, row, frames) for row, frames in enumerate(fed.tolist())]

    def _leave(self, submission: Submission[Y]) -> None:
        with self._changed:
            if self._waiting.remove(submission):
                self._claim([submission])

    def _fail(self, claimed: list[Submission[Y]], error: Exception) -> None:
        with self._changed:
            self._counts["failed"] += len(claimed)
        for submission in claimed:
            submission.set_exception(error)


def _splits(chosen: list[Submission[Y]], error: RnnExportError) -> list[list[Submission[Y]]]:
    """A round that failed and fed nothing, as smaller ones: one for each stream that is over, or halves."""
    if isinstance(error, StreamClosed):
        rest = [s for s in chosen if s.stream not in error.ids]
        over = [[s] for s in chosen if s.stream in error.ids]
        return [*over, rest] if rest else over
    half = len(chosen) // 2
    return [chosen[:half], chosen[half:]]


def _stopped(died: BaseException) -> BatcherStopped:
    fix = "Frames that waited were not fed. Mend the cause and open another batcher on the pool"
    error = BatcherStopped(
        f"the batcher's worker died of {type(died).__name__}: {died}. {fix}.", id="batcher-worker-died"
    )
    error.__cause__ = died
    return error


def _seconds(deadline_ms: float | None) -> float:
    if deadline_ms is None:
        return math.inf
    if not isinstance(deadline_ms, int | float | np.number) or math.isnan(deadline_ms):
        raise StreamError(
            f"deadline_ms={deadline_ms!r}: give milliseconds from now, or None for no deadline.", id="deadline-invalid"
        )
    return float(deadline_ms) / 1e3


def _row(spec: StreamSpec, outputs: dict[str, Array], row: int, frames: int) -> Any:
    """The output of one stream that was fed `frames` before, less the frames of its delay."""
    settled = spec.settled(frames)
    if not settled and spec.without_output(frames):
        return None
    parts = {t.name: ... if settled or not spec.timed(t) else spec.valid(t, frames) for t in spec.outputs}
    # Copies: a view would keep the whole round for as long as one caller keeps its row.
    results = {name: outputs[name][row, ...][part].copy() for name, part in parts.items()}
    return results if len(results) > 1 else results[spec.outputs[0].name]
