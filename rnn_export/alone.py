"""One export at a time in a process: what torch changes while it traces a module, and what is changed around it, is the
process's, and two that save it and put it back in turn would leave it changed.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_turn = threading.RLock()


def alone(call: Callable[P, R]) -> Callable[P, R]:
    """`call`, which waits until no other thread is in one of these; a call inside of another goes on."""

    @wraps(call)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _turn:
            return call(*args, **kwargs)

    return waiting
