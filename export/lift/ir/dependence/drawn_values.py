"""Values to try an operator on, and frames to try a value at.

Each kind reveals what others hide, such as a maximum that few values move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rnn_export.export.lift.ir.dependence.length_runs import LengthRun
from rnn_export.export.lift.ir.fx_nodes import END, aten, named_args, overloads, sources_of


@dataclass(frozen=True)
class Kind:
    """The values of all indices at first and after an exchange, times positive numbers about 1."""

    before: float
    after: float


# None is ordinary: random, of both signs.
KINDS = (None, Kind(1, 1e3), Kind(-1, -1e3), Kind(0, 1))
# What acts from a size on, as the bound of a norm does, shows where some or all are so loud.
LOUD = (Kind(1, 1e15), Kind(1e15, 1e30))
# These take what they pick from along an axis by number.
PICKING = overloads(
    "gather index_select index.Tensor take scatter.src scatter.value scatter_add scatter_reduce.two index_put "
    "index_add embedding"
)

# Frames that are tried: drawn ones, first ones, and products and quotients of the numbers of a value that has fewer
# than so many.
DRAWN, FIRST, FACTORS = 128, 8, 32


class Draws:
    """Seeded values for the arguments of one operator."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def pair(self, like: Tensor, kind: Kind | None, values: range | None) -> tuple[Tensor, Tensor]:
        """Two values of the shape and dtype of `like`, unlike in each entry if possible; integers in `values`."""
        if like.dtype == torch.bool:
            return self._bools(like.shape, kind)
        if like.is_floating_point() or like.is_complex():
            before, after = (self._floats(like, kind, changed) for changed in (False, True))
            return before.to(like.dtype), after.to(like.dtype)
        return self._numbers(like, kind, values or range(-3, 4))

    def weights(self, like: Tensor) -> Tensor:
        """Positive numbers about 1: no product with them cancels or vanishes, no root of them fails."""
        return (0.5 + torch.rand(like.shape, generator=self.generator)).to(like.dtype)

    def _floats(self, like: Tensor, kind: Kind | None, changed: bool) -> Tensor:
        shape, about_one = like.shape, 0.5 + torch.rand(like.shape, generator=self.generator)
        if kind is None:
            normal = torch.randn(shape, generator=self.generator)
            return 2 * normal + 1 if changed else normal
        return (kind.after if changed else kind.before) * about_one

    def _bools(self, shape: torch.Size, kind: Kind | None) -> tuple[Tensor, Tensor]:
        if kind is None:
            before = torch.randint(2, shape, generator=self.generator).bool()
        else:
            before = torch.full(shape, kind.before < 0)
        return before, ~before

    def _numbers(self, like: Tensor, kind: Kind | None, values: range) -> tuple[Tensor, Tensor]:
        count, last = len(values), len(values) - 1
        if kind is None:
            before = torch.randint(count, like.shape, generator=self.generator)
            step = torch.randint(1, max(count, 2), like.shape, generator=self.generator)
        else:
            before = torch.full(like.shape, last if kind.before < 0 else 0)
            step = torch.tensor(max(last, 1) if kind.before else 1)
        after = (before + step) % count
        return (values.start + before).to(like.dtype), (values.start + after).to(like.dtype)


def picked_from(node: fx.Node, sizes: Sequence[torch.Size]) -> range | None:
    """The indices that an operator picks with, among axes of these sizes; None if it does not pick."""
    if node.target not in PICKING or not sizes or not sizes[0]:
        return None
    given: Any = named_args(node)
    if node.target is aten.index.Tensor:
        indexed = [axis for axis, index in enumerate(given["indices"]) if index is not None]
        return range(min(sizes[0][axis] for axis in indexed))
    dim = given.get("dim")
    return range(sizes[0][dim] if isinstance(dim, int) else sizes[0][0])


def tried_frames(run: LengthRun, node: fx.Node, frames: int) -> Tensor:
    """Frames below `frames` to try `node` at: first and drawn ones, powers of two, and what its numbers make, +- 1."""
    made = sources_of(node, lambda n: n.all_input_nodes if run.is_read(n) else [])
    numbers = {abs(int(n)) for each in made for n in pytree.tree_leaves((each.args, each.kwargs)) if _is_plain(n)}
    for each in made:
        value = run.of_shape(each)
        if each.op == "get_attr":
            numbers |= {*value.shape}
        elif not isinstance(value, Tensor | tuple | list) and _is_plain(value):
            numbers.add(abs(int(value)))
    numbers = {n for n in numbers if n < frames} - {0, 1}
    if len(numbers) < FACTORS:
        numbers |= {n for a in numbers for b in numbers for n in (a * b, a // b)}
    numbers |= {2**k for k in range(frames.bit_length())}
    drawn = torch.rand(DRAWN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers |= {int(frames**n) for n in drawn.tolist()} | {*range(FIRST), frames - 1}
    return torch.tensor(sorted({m for n in numbers for m in (n - 1, n, n + 1) if 0 <= m < frames}))


def _is_plain(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value != END
