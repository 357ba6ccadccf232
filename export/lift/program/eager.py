"""What `torch.compile` compiled runs as it was written: it would be compiled anew at each size that is tried."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def eager(call: Callable[P, R]) -> Callable[P, R]:
    """`call`, in which nothing is compiled."""

    @wraps(call)
    def as_written(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.compiler.set_stance("force_eager"):
            return call(*args, **kwargs)

    return as_written
