"""A frame on its way through a batcher, for threads and for tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from operator import attrgetter
from typing import Any, Generic

from rnn_export.errors import DeadlineExceeded
from rnn_export.platform.arrays import Array
from rnn_export.runtime.core.types import Y
from rnn_export.runtime.serve.aside import Aside


class Condition(threading.Condition):
    """One that no interrupt leaves locked: `with` finds the lock's own methods, which are C (see `runtime.stream`)."""

    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))


class Submission(Future[Y | None], Generic[Y]):
    """A frame of `stream`: `await` it, or ask its `result(timeout)`, for what `Stream.step` would give.

    Cancelled before its round, by `cancel()` or with the task that awaits it, the frame is not fed. Callbacks are
    called in a thread of their own. `since` and `deadline` are in seconds on the clock of `time.monotonic`; `number` is
    its place in the queue.
    """

    def __init__(
        self,
        stream: int,
        rows: dict[str, Array],
        since: float,
        deadline: float,
        leave: Callable[[Submission[Y]], None],
        aside: Aside,
    ) -> None:
        super().__init__()
        self._condition = Condition()
        self.stream, self.rows, self.since, self.deadline, self.number = stream, rows, since, deadline, 0
        self._leave, self._aside = leave, aside

    def cancel(self) -> bool:
        """Cancel the frame; False if its round has begun."""
        if cancelled := super().cancel():
            self._leave(self)
        return cancelled

    def add_done_callback(self, fn: Callable[[Future[Y | None]], object]) -> None:
        """Call `fn` with this when it is done, in a thread for callbacks alone; exceptions are logged."""
        # asyncio's own does no more than to wake its loop.
        direct = getattr(fn, "__module__", None) == "asyncio.futures"
        super().add_done_callback(fn if direct else partial(_aside, self._aside, fn))

    def __await__(self) -> Generator[Any, None, Y | None]:
        return asyncio.wrap_future(self).__await__()

    def abandon(self, error: Exception) -> None:
        """Fail in a forked process: a thread of the parent's may have held its lock, and callbacks are the parent's."""
        self._condition = Condition()
        self._done_callbacks: list[Any] = []
        if not self.done():
            self.set_exception(error)

    def expired(self, now: float) -> DeadlineExceeded:
        """The error for a deadline that is over."""
        waited = (now - self.since) * 1e3
        return DeadlineExceeded(
            f"no round took this frame of stream {self.stream} by its deadline: it waited {waited:.1f} ms and was not "
            "fed; the stream goes on without it. Give it more time, serve fewer streams, or lower max_delay_ms.",
            id="frame-past-deadline",
        )


def _aside(aside: Aside, fn: Callable[[Any], object], done: Any) -> None:
    aside.call(partial(fn, done))
