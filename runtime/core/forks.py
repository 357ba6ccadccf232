"""The child of a fork, which has the memory and one thread.

A lock that another thread held is held for ever in the child, and a library's own threads are not there. So an object
opened before a fork works in the child only if it needs nothing but memory and no call was inside; any other raises at
once, with the reason, where it would hang.
"""

import os
from typing import Protocol
from weakref import WeakSet

from rnn_export.errors import StreamError

FIX = "Load the bundle in this process, or start processes with the method 'spawn'"


class Watched(Protocol):
    """An object to notify in the child, once, before all else runs."""

    def after_fork(self) -> None: ...


_watched: "WeakSet[Watched]" = WeakSet()


def watch(opened: Watched) -> None:
    _watched.add(opened)


def why_over(what: str, survives: bool, held: bool) -> StreamError | None:
    """The error that `what` cannot be used in the child; None where it can. Raise it `with_traceback(None)`."""
    if not survives:
        return StreamError(
            f"{what} was opened before a fork, and its backend has threads and locks that only the parent has. {FIX}.",
            id="opened-before-fork",
        )
    if held:
        return StreamError(
            f"another thread was inside {what} when this process was forked, and is not here to come out. {FIX}.",
            id="thread-inside-at-fork",
        )
    return None


def _in_child() -> None:
    for opened in list(_watched):
        opened.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_in_child)
