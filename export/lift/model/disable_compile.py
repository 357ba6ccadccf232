"""Runs modules compiled with `torch.compile` eagerly: each size tried would compile them anew."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

P = ParamSpec("P")
R = TypeVar("R")


def eager(call: Callable[P, R]) -> Callable[P, R]:
    """`call` in eager mode, if a model among its arguments has compiled modules.

    Other models keep compiling: torch's own `scan` and `while_loop` do not run without it.
    """

    @wraps(call)
    def as_written(*args: P.args, **kwargs: P.kwargs) -> R:
        if not any(_has_compiled(value) for value in (*args, *kwargs.values())):
            return call(*args, **kwargs)
        with torch.compiler.set_stance("force_eager"):
            return call(*args, **kwargs)

    return as_written


def _has_compiled(value: Any) -> bool:
    modules = value.modules() if isinstance(value, nn.Module) else ()
    return any(isinstance(m, OptimizedModule) or m._compiled_call_impl is not None for m in modules)
