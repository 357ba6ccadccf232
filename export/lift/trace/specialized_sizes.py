"""Ends an export where torch specializes a size: torch itself reports it at the end, after unrolling loops."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from torch.fx.experimental.symbolic_shapes import ShapeEnv

from rnn_export.errors import FrozenAxis

# How torch names a size of what `FlatModel` takes.
_SIZE = re.compile(r"\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]$")


@contextlib.contextmanager
def refused_where_frozen() -> Iterator[None]:
    """Raise FrozenAxis during an export if torch specializes a symbolic axis of an input."""
    own = ShapeEnv._set_replacement

    def replace(env: Any, symbol: Any, value: Any, message: str) -> None:
        own(env, symbol, value, message)
        if value.is_number:
            names = (_SIZE.search(source.name) for source in env.var_to_sources.get(symbol, ()))
            if (name := next(filter(None, names), None)) is not None:
                raise frozen_axis(int(name[1]), int(name[2]), int(value))

    ShapeEnv._set_replacement = replace  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        ShapeEnv._set_replacement = own  # type: ignore[method-assign]


def frozen_axis(port: int, axis: int, size: int) -> FrozenAxis:
    return FrozenAxis(
        f"axis {axis} of input {port} must be of any size, but the code makes a number of it (it was {size}): by "
        "len(x), where x.shape[0] is meant, by int(), or a size written out.",
        port,
        axis,
        id="axis-made-number",
    )
