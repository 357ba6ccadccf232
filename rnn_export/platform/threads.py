"""Threads of the numeric libraries in this process, and its garbage collector, set for some work.

While small models are lifted, exported and verified there is one thread: the matrices of a step are small, and a second
thread of OpenMP waits for the first at each operator, and for long where the cores are shared with other work.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from importlib.util import find_spec
from typing import Any, ParamSpec, TypeVar

from rnn_export.lazy import load_module

P = ParamSpec("P")
R = TypeVar("R")
# A module whose largest weight has so many elements gains by the threads that the caller has set; docs/report.md has
# the measurement.
LARGE = 4 << 20


def one_thread(call: Callable[P, R]) -> Callable[P, R]:
    """`call`, in which torch and BLAS use one thread, unless a module among its arguments has a large weight.

    The limit is that of the whole process while the call lasts, and is taken back however the call ends.
    """

    @wraps(call)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        if any(_is_large(value) for value in (*args, *kwargs.values())):
            return call(*args, **kwargs)
        with one_thread_each():
            return call(*args, **kwargs)

    return limited


@contextmanager
def one_thread_each() -> Iterator[None]:
    """One thread for torch, where it is imported, and for each BLAS that is loaded.

    BLAS is limited by threadpoolctl, which the extras `export` and `onnx` bring; a bare device has no use for BLAS.
    """
    torch: Any = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    try:
        with load_module("threadpoolctl").threadpool_limits(1) if find_spec("threadpoolctl") else nullcontext():
            if torch:
                torch.set_num_threads(1)
            yield
    finally:
        if torch:
            torch.set_num_threads(before)


def _is_large(value: Any) -> bool:
    parameters = getattr(value, "parameters", None)
    # A parameter of a lazy module has no size until it is materialized.
    return callable(parameters) and any(not hasattr(p, "materialize") and p.numel() >= LARGE for p in parameters())


@contextmanager
def no_collections() -> Iterator[None]:
    """Without Python's garbage collector: what nobody uses any more is freed before, or later."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
