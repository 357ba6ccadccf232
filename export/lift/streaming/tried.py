"""The question put to every operator: does it work frame by frame? Answered on numbers, not looked up in a table.

Its arguments are changed in one frame, and then in every other frame but that one: a frame of the result may change in
the first case only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.streaming.frames import Timed, differs

# axis, rows before the frames, entries of a frame
Place = tuple[int, int, int]


class Mixed(Exception):
    """Frames of a result depend on others than their own."""


def operator_of(node: fx.Node) -> Callable[..., Any]:
    """What a node calls."""
    assert callable(node.target)
    return node.target


class Trial:
    """One operator on recorded values, its arguments `timed` being of `frames` frames each."""

    def __init__(self, node: fx.Node, values: Mapping[Any, Any], timed: Mapping[fx.Node, Timed], frames: int) -> None:
        self.node, self.values, self.timed, self.frames = node, values, timed, frames
        self.at = sorted({frames // 3, frames // 2, frames - 1})
        self.alone = [self._changed([t]) for t in self.at]
        self.others = [self._changed([f for f in range(frames) if f != t]) for t in self.at]

    def _changed(self, which: Sequence[int]) -> list[Tensor]:
        """Where each result changes if the frames `which` of every argument become others."""
        order = list(range(self.frames))
        for f in which:
            order[f] = (f + self.frames // 2 + 1) % self.frames
        new = {n: _rearranged(self.values[n], info, order, which) for n, info in self.timed.items()}
        args, kwargs = fx.node.map_arg((self.node.args, self.node.kwargs), lambda n: new.get(n, self.values[n]))
        with torch.no_grad():
            given = operator_of(self.node)(*args, **kwargs)
        return [differs(a, b) for a, b in zip(_results(given), _results(self.values[self.node]), strict=True)]

    def whole(self, result: int) -> bool:
        """Whether a result without time depends on the last frame; raises Mixed if on any other."""
        if bool(self.others[-1][result].any()):
            raise Mixed
        return bool(self.alone[-1][result].any())

    def place(self, result: int, axis: int, size: int) -> Place:
        """Where the frames stand in a result that has time along `axis`; raises Mixed if they are not its own."""
        if size % self.frames:
            raise Mixed
        rest = size // self.frames
        usual = next(iter(self.timed.values())).outer
        outers = [n for n in range(1, rest + 1) if rest % n == 0]
        # Values that are all alike tell nothing: then the frames stand as they stood before.
        for outer in sorted(outers, key=lambda n: n != usual):
            place = (axis, outer, rest // outer)
            alone = [self._frames(c[result], place) - {t} for c, t in zip(self.alone, self.at, strict=True)]
            others = [self._frames(c[result], place) & {t} for c, t in zip(self.others, self.at, strict=True)]
            if not any(alone) and not any(others):
                return place
        raise Mixed

    def _frames(self, changed: Tensor, place: Place) -> set[int]:
        axis, outer, inner = place
        if changed.dim() <= axis:
            return set(range(self.frames))
        along = changed.movedim(axis, 0).flatten(1).any(1) if changed.dim() > 1 else changed
        return set(along.reshape(outer, self.frames, inner).any(2).any(0).nonzero().flatten().tolist())


def _results(value: Any) -> Sequence[Any]:
    return [value] if isinstance(value, Tensor) else value


def _rearranged(value: Tensor, info: Timed, order: Sequence[int], moved: Sequence[int]) -> Tensor:
    """`value` with its frames in another order, those that moved as far again from zero."""
    axis = info.axis
    split = [*value.shape[:axis], info.outer, len(order), info.inner, *value.shape[axis + 1 :]]
    frames = value.reshape(split).index_select(axis + 1, torch.tensor(order))
    if value.is_floating_point():
        scale = torch.ones(len(order), dtype=value.dtype)
        scale[list(moved)] = 2
        frames = frames * scale.reshape([-1, *(1,) * (frames.dim() - axis - 2)])
    return frames.reshape(value.shape)
