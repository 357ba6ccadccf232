"""Makes symbolic sizes hashable, for code that caches by the sizes it was called with (functools.lru_cache)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

UNHASHABLE = "unhashable type: non-nested SymInt"


@contextlib.contextmanager
def hashed_sizes() -> Iterator[None]:
    """Hash a symbolic size by identity, so that no cached value of another size is taken for it."""
    before = torch.SymInt.__hash__
    torch.SymInt.__hash__ = object.__hash__  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.SymInt.__hash__ = before  # type: ignore[method-assign]
