"""What `torch.compile` compiled runs as it was written: it would be compiled anew at each size that is tried."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

P = ParamSpec("P")
R = TypeVar("R")


def eager(call: Callable[P, R]) -> Callable[P, R]:
    """`call`, in which nothing is compiled of a model, among its arguments, that has compiled modules.

    In others torch's own `scan` and `while_loop` go on compiling, without which they do not run.
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
