"""Log records and warnings of libraries dropped in one thread: all others log, warn and print as before.

Nothing of the process is replaced. A filter that looks at the thread stands beside those that are there while any
thread is quiet; `warnings` asks the pattern of a filter whether it matches, and this one says which thread it is.
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LIBRARIES = ("torch", "torchvision", "onnx", "onnx_ir", "onnxscript")

_here, _lock = threading.local(), threading.Lock()
_users, _filtered = [0], dict[int, logging.Filterer]()


class _OfThisThread(logging.Filter):
    """Drops log records of libraries in a quiet thread, and its warnings."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (_depth() and record.name.partition(".")[0] in LIBRARIES)

    def match(self, text: str) -> bool:
        return _depth() > 0


_FILTER = _OfThisThread()
_IGNORE: Any = ("ignore", _FILTER, Warning, None, 0)


@contextmanager
def quiet() -> Iterator[None]:
    """In this thread, keep libraries from logging, and anything from warning; failures are exceptions."""
    with _lock:
        _users[0] += 1
        _attach()
    _here.depth = _depth() + 1
    try:
        yield
    finally:
        _here.depth -= 1
        with _lock:
            _users[0] -= 1
            if not _users[0]:
                _detach()


def _depth() -> int:
    return getattr(_here, "depth", 0)


def _attach() -> None:
    """Loggers that are there, and the handlers of those above any that comes meanwhile."""
    root = logging.root
    # Of a copy: another thread may make one.
    known = [*root.manager.loggerDict.items()]
    own = [one for name, one in known if isinstance(one, logging.Logger) and name.partition(".")[0] in LIBRARIES]
    handlers = [handler for one in (*own, root) for handler in one.handlers]
    for place in (*own, *handlers, *([logging.lastResort] if logging.lastResort else [])):
        if id(place) not in _filtered:
            place.addFilter(_FILTER)
            _filtered[id(place)] = place
    filters: Any = warnings.filters
    # Whoever catches warnings puts a list of his own there, and the old one back.
    if _IGNORE not in filters:
        filters.insert(0, _IGNORE)


def _detach() -> None:
    for place in _filtered.values():
        place.removeFilter(_FILTER)
    _filtered.clear()
    filters: Any = warnings.filters
    if _IGNORE in filters:
        filters.remove(_IGNORE)
