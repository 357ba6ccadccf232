"""Calls and returns of Python's functions, seen while something runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def watching(see: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Within, `see` is what `sys.setprofile` calls; a profiler of the user's goes on after it."""
    before: Any = sys.getprofile()
    sys.setprofile(see)
    try:
        yield
    finally:
        sys.setprofile(None)
        # One of Python's own is an object that sets itself.
        sys.setprofile(before) if before is None or callable(before) else before.enable()
