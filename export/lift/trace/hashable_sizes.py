"""Sizes of any value as keys: what the user's code keeps by the sizes that it was called with (functools.lru_cache)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

UNHASHABLE = "unhashable type: non-nested SymInt"


@contextlib.contextmanager
def hashed_sizes() -> Iterator[None]:
    """Within, a size of any value is a key that only it finds again, so that nothing kept is taken for it."""
    before = torch.SymInt.__hash__
    torch.SymInt.__hash__ = object.__hash__  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.SymInt.__hash__ = before  # type: ignore[method-assign]
