"""Observes calls and returns of Python functions while code runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def watching(see: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Make `see` the function of `sys.setprofile`; on exit, the user's profiler goes on."""
    before: Any = sys.getprofile()
    sys.setprofile(see)
    try:
        yield
    finally:
        sys.setprofile(None)
        # One of Python's own is an object that sets itself.
        sys.setprofile(before) if before is None or callable(before) else before.enable()
