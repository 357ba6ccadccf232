"""torch.gradient along symbolic axes, which torch itself specializes.

A frame's slope is the mean of the differences on both sides of it. With the differences at both ends repeated, or
extrapolated (`edge_order` 2), the mean is torch's slope there too:

    frame 0      (x1 - x0)                d0                   = (d0 + d0) / 2
    edge_order 2 (-3 x0 + 4 x1 - x2) / 2  (3 d0 - d1) / 2      = ((2 d0 - d1) + d0) / 2
    frame j      (x[j+1] - x[j-1]) / 2    (d[j-1] + d[j]) / 2

Source: the docstring of torch.gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def gradient(input: Tensor, *, spacing: Any = None, dim: Any = None, edge_order: int = 1) -> Sequence[Tensor]:  # noqa: A002 - torch's name
    """`torch.gradient`, by slices and concatenation if an axis is symbolic and `spacing` is numbers."""
    axes = [a % input.dim() for a in ([*range(input.dim())] if dim is None else [dim] if isinstance(dim, int) else dim)]
    steps = [*spacing] if isinstance(spacing, tuple | list) else [1 if spacing is None else spacing] * len(axes)
    is_free = any(isinstance(input.shape[a], torch.SymInt) for a in axes)
    if not is_free or len(steps) != len(axes) or any(isinstance(n, Tensor) for n in steps):
        options = {"dim": dim, "edge_order": edge_order}
        given: Sequence[Tensor] = torch.gradient(input, **({} if spacing is None else {"spacing": spacing}), **options)
        return given
    return tuple(_slope(input, axis, edge_order) / step for axis, step in zip(axes, steps, strict=True))


def _slope(x: Tensor, axis: int, edge_order: int) -> Tensor:
    differences = torch.diff(x, dim=axis)
    first, last = differences.narrow(axis, 0, 1), _from_end(differences, axis, 1)
    sides = torch.cat([first, differences, last], axis)
    if edge_order > 1:
        second, before = differences.narrow(axis, 1, 1).flip(axis), _from_end(differences, axis, 2).flip(axis)
        sides = 2 * sides - torch.cat([second, differences, before], axis)
    return sides.unfold(axis, 2, 1).mean(-1)


def _from_end(x: Tensor, axis: int, place: int) -> Tensor:
    """The frame that is `place` from the end."""
    return x[(slice(None),) * axis + (slice(-place, None if place == 1 else 1 - place),)]
