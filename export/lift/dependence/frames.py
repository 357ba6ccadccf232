"""Whether an operator works frame by frame, answered by a trial: nothing is looked up in a table.

Its arguments are changed in one frame, and then in every other frame but that one: a frame of the result may change in
the first case only.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.program.compare import LOCALITY, differing


class NotFrameLocal(Exception):
    """Frames of a result depend on others than their own."""


@dataclass(frozen=True)
class FrameLayout:
    """Where the frames of a value stand: its axis `axis` is (batch_factor, frames, frame_size), merged.

    `batch_factor` counts rows of others before the frames, such as the batch; `frame_size` the entries of one frame.
    """

    axis: int
    batch_factor: int = 1
    frame_size: int = 1

    def frames_in(self, value: Tensor) -> int:
        return int(value.shape[self.axis]) // (self.batch_factor * self.frame_size)

    def split(self, value: Tensor) -> Tensor:
        """`value` with the frames in an axis alone: axis + 1."""
        sizes = (self.batch_factor, self.frames_in(value), self.frame_size)
        return value.reshape(*value.shape[: self.axis], *sizes, *value.shape[self.axis + 1 :])


class Dependence(enum.Enum):
    """Of a result without frames."""

    NONE = "no frame"
    LAST_FRAME = "the last frame alone"


FrameDependence = FrameLayout | Dependence


def growing_axes(value: Tensor, other: Tensor) -> list[int]:
    """The axes along which the sizes of a value differ between two runs of other lengths, or of other batches."""
    return [a for a, (m, n) in enumerate(zip(value.shape, other.shape, strict=True)) if m != n]


def frame_dependence(
    node: fx.Node, base: Mapping[Any, Any], longer: Mapping[Any, Any], layouts: Mapping[fx.Node, FrameLayout]
) -> list[FrameDependence]:
    """What each result of the operator `node` depends on; one that gives no tuple has one result.

    `base` has the values of a run by node, `longer` those of a run over more frames, and `layouts` says where the
    frames of the arguments stand, of which all have as many. Raises NotFrameLocal.
    """
    probe = _Probe(node, base, layouts)
    answers: list[FrameDependence] = []
    for i, (value, other) in enumerate(zip(_results(base[node]), _results(longer[node]), strict=True)):
        growing = growing_axes(value, other)
        if len(growing) > 1:
            raise NotFrameLocal
        answers.append(probe.layout(i, growing[0], value.shape[growing[0]]) if growing else probe.without_frames(i))
    return answers


class _Probe:
    """One operator, and where its results change with some frames of its arguments."""

    def __init__(self, node: fx.Node, values: Mapping[Any, Any], layouts: Mapping[fx.Node, FrameLayout]) -> None:
        self.node, self.values, self.layouts = node, values, layouts
        argument, layout = next(iter(layouts.items()))
        self.frames, self.usual_factor = layout.frames_in(values[argument]), layout.batch_factor
        self.tried = sorted({self.frames // 3, self.frames // 2, self.frames - 1})
        self.by_own = [self._changed([t]) for t in self.tried]
        self.by_others = [self._changed([f for f in range(self.frames) if f != t]) for t in self.tried]

    def _changed(self, which: Sequence[int]) -> list[Tensor]:
        """Where each result changes if the frames `which` of every argument become others."""
        order = list(range(self.frames))
        for f in which:
            order[f] = (f + self.frames // 2 + 1) % self.frames
        new = {n: _rearranged(self.values[n], layout, order, which) for n, layout in self.layouts.items()}
        args, kwargs = fx.node.map_arg((self.node.args, self.node.kwargs), lambda n: new.get(n, self.values[n]))
        assert callable(self.node.target)
        with torch.no_grad():
            results = self.node.target(*args, **kwargs)
        pairs = zip(_results(results), _results(self.values[self.node]), strict=True)
        return [differing(a, b, LOCALITY) for a, b in pairs]

    def without_frames(self, result: int) -> Dependence:
        if bool(self.by_others[-1][result].any()):
            raise NotFrameLocal
        return Dependence.LAST_FRAME if bool(self.by_own[-1][result].any()) else Dependence.NONE

    def layout(self, result: int, axis: int, size: int) -> FrameLayout:
        """Where the frames stand in a result that grows with them along `axis`."""
        if size % self.frames:
            raise NotFrameLocal
        rest = size // self.frames
        factors = [n for n in range(1, rest + 1) if rest % n == 0]
        # Values that are all alike tell nothing: then the frames stand as they stood before.
        for factor in sorted(factors, key=lambda n: n != self.usual_factor):
            layout = FrameLayout(axis, factor, rest // factor)
            if all(
                self._frames(own[result], layout) <= {t} and t not in self._frames(others[result], layout)
                for t, own, others in zip(self.tried, self.by_own, self.by_others, strict=True)
            ):
                return layout
        raise NotFrameLocal

    def _frames(self, changed: Tensor, layout: FrameLayout) -> set[int]:
        """The frames of a result with an entry that changed."""
        if changed.dim() <= layout.axis:
            return set(range(self.frames))
        by_frame = layout.split(changed).movedim(layout.axis + 1, 0).flatten(1).any(1)
        return set(by_frame.nonzero().flatten().tolist())


def _results(value: Any) -> Sequence[Any]:
    return [value] if isinstance(value, Tensor) else value


def _rearranged(value: Tensor, layout: FrameLayout, order: Sequence[int], moved: Sequence[int]) -> Tensor:
    """`value` with its frames in another order, those of `moved` twice as far from zero."""
    frames = layout.split(value).index_select(layout.axis + 1, torch.tensor(order))
    if value.is_floating_point():
        scale = torch.ones(len(order), dtype=value.dtype)
        scale[list(moved)] = 2
        frames = frames * scale.reshape([-1, *(1,) * (frames.dim() - layout.axis - 2)])
    return frames.reshape(value.shape)
