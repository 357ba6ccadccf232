"""Values to try an operator on: each kind shows what others hide, such as a maximum that ordinary values never move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.program.fx import aten, named_args, overloads

# Of each kind, what all cells hold at first, and what those that are exchanged hold then.
KINDS = ("ordinary", "positive, then large", "negative, then large", "zeros, then ones")
LARGE = 1e3
# These take what they pick from along an axis by number.
PICKING = overloads(
    "gather index_select index.Tensor take scatter.src scatter.value scatter_add scatter_reduce.two index_put "
    "index_add embedding"
)


class Draws:
    """Seeded values for the arguments of one operator."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def pair(self, like: Tensor, kind: str, values: range | None) -> tuple[Tensor, Tensor]:
        """Two values in the shape and dtype of `like`, no entry the same in both; numbers in `values`, if any."""
        if like.dtype == torch.bool:
            return self._bools(like.shape, kind)
        if like.is_floating_point() or like.is_complex():
            before, after = (self._floats(like, kind, changed) for changed in (False, True))
            return before.to(like.dtype), after.to(like.dtype)
        return self._numbers(like, kind, values or range(-3, 4))

    def weights(self, like: Tensor) -> Tensor:
        """Positive numbers about 1: no product with them cancels or vanishes, no root of them fails."""
        return (0.5 + torch.rand(like.shape, generator=self.generator)).to(like.dtype)

    def _floats(self, like: Tensor, kind: str, changed: bool) -> Tensor:
        shape, real = like.shape, torch.rand(like.shape, generator=self.generator)
        if kind == "ordinary":
            normal = torch.randn(shape, generator=self.generator)
            return 2 * normal + real.sign() if changed else normal
        scale = {KINDS[1]: (1.0, LARGE), KINDS[2]: (-1.0, -LARGE), KINDS[3]: (0.0, 1.0)}[kind][changed]
        return scale * (0.5 + real)

    def _bools(self, shape: torch.Size, kind: str) -> tuple[Tensor, Tensor]:
        if kind == "ordinary":
            before = torch.randint(2, shape, generator=self.generator).bool()
        else:
            before = torch.full(shape, kind == KINDS[2])
        return before, ~before

    def _numbers(self, like: Tensor, kind: str, values: range) -> tuple[Tensor, Tensor]:
        count = len(values)
        if kind == "ordinary":
            before = torch.randint(count, like.shape, generator=self.generator)
        else:
            before = torch.full(like.shape, count - 1 if kind == KINDS[2] else 0)
        step = 1 if kind == KINDS[3] else max(count - 1, 1)
        more = torch.randint(1, max(count, 2), like.shape, generator=self.generator) if kind == "ordinary" else step
        after = (before + more) % count
        return (values.start + before).to(like.dtype), (values.start + after).to(like.dtype)


def picked_from(node: fx.Node, sizes: Sequence[torch.Size]) -> range | None:
    """The numbers that an operator takes to pick with, among axes of these sizes; None where it does not pick."""
    if node.target not in PICKING or not sizes or not sizes[0]:
        return None
    given: Any = named_args(node)
    if node.target is aten.index.Tensor:
        indexed = [axis for axis, index in enumerate(given["indices"]) if index is not None]
        return range(min(sizes[0][axis] for axis in indexed))
    dim = given.get("dim")
    return range(sizes[0][dim] if isinstance(dim, int) else sizes[0][0])


def is_pointwise(node: fx.Node) -> bool:
    """Whether each entry of the result is made of the entries at its place, as torch says of the operator."""
    tags = getattr(node.target, "tags", ())
    if not str(node.target).startswith("aten."):
        return False
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
