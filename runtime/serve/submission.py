"""A frame on its way through a batcher, for threads and for tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic

from rnn_export.arrays import Array
from rnn_export.errors import DeadlineExceeded
from rnn_export.runtime.types import Y


class Submission(Future[Y | None], Generic[Y]):
    """A frame of `stream`: `await` it, or ask its `result(timeout)`, for what `Stream.step` would give.

    Cancelled before its round, by `cancel()` or with the task that awaits it, the frame is not fed. `since` and
    `deadline` are in seconds on the clock of `time.monotonic`.
    """

    def __init__(
        self, stream: int, rows: dict[str, Array], since: float, deadline: float, leave: Callable[[Submission[Y]], None]
    ) -> None:
        super().__init__()
        self.stream, self.rows, self.since, self.deadline = stream, rows, since, deadline
        self._leave = leave

    def cancel(self) -> bool:
        """Whether the frame will not be fed: False where its round has begun."""
        if cancelled := super().cancel():
            self._leave(self)
        return cancelled

    def __await__(self) -> Generator[Any, None, Y | None]:
        return asyncio.wrap_future(self).__await__()

    def expired(self, now: float) -> DeadlineExceeded:
        """What it fails with when its deadline is over."""
        waited = (now - self.since) * 1e3
        return DeadlineExceeded(
            f"no round took this frame of stream {self.stream} by its deadline: it waited {waited:.1f} ms and was not "
            "fed; the stream goes on without it. Give it more time, serve fewer streams, or lower max_delay_ms."
        )
