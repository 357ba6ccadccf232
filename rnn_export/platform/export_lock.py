"""One export at a time in a process: tracing a module changes settings of the whole process, and two exports that save
and restore them in turn would leave them changed.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_lock = threading.RLock()


def alone(call: Callable[P, R]) -> Callable[P, R]:
    """`call`, which waits until no other thread is in one of these; a call inside of another goes on."""

    @wraps(call)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _lock:
            return call(*args, **kwargs)

    return waiting
