"""A thread for the callbacks of users, so that a slow or failing one delays only those behind it."""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

LOG = logging.getLogger(__name__)


class Aside:
    """Calls functions in order, in a thread that begins with the first; their exceptions are logged."""

    def __init__(self, name: str) -> None:
        self.calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.lock, self.begun, self.ended = threading.Lock(), False, False

    def call(self, function: Callable[[], Any]) -> None:
        with self.lock:
            late = self.ended
            if not late:
                self.calls.put(function)
                if not self.begun:
                    self.thread.start()
                self.begun = True
        if late:
            _call(function)

    def end(self) -> None:
        """Take no more calls: the next are made at once, by their own callers."""
        with self.lock:
            self.ended = True
            self.calls.put(None)

    def join(self, timeout: float | None) -> bool:
        """True if all calls were made in `timeout` seconds."""
        if not self.begun:
            return True
        self.thread.join(timeout)
        return not self.thread.is_alive()

    def _work(self) -> None:
        while (function := self.calls.get()) is not None:
            _call(function)


def _call(function: Callable[[], Any]) -> None:
    try:
        function()
    except BaseException:  # SystemExit too: it would end the thread
        LOG.exception("a callback of a submitted frame raised")
