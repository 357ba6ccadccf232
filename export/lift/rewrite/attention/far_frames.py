"""Holds a window that an attention has over a few frames to the graph at frames that lie far beyond them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.dependence.drawn_values import tried_frames
from rnn_export.export.lift.ir.dependence.length_runs import LENGTHS, LengthRun, Untried
from rnn_export.export.lift.ir.fx_nodes import args_of
from rnn_export.export.lift.ir.takes import take_of
from rnn_export.export.lift.model.attention_bound import MASKED
from rnn_export.export.lift.rewrite.attention.attention_parts import Attention
from rnn_export.export.lift.rewrite.attention.attention_windows import AttentionWindow
from rnn_export.export.lift.rewrite.attention.relative_products import is_constant, is_near

# Keys that a frame is tried with: next to its window, and of its window where that is long.
NEXT, IN_WINDOW = 8, 256
# Frames that are tried with keys far from them.
SOME = 48
# (batch and heads, T, T)
RANK = 3

# (frames, values of some nodes) -> a run over so many frames of the attention, or more.
Runs = Callable[[int, Mapping[fx.Node, Tensor]], tuple[LengthRun, int]]


@dataclass(frozen=True)
class FarFrames:
    """The `window` of an attention over the `few` frames of a run, in which masks and tables repeat every `period`.

    `by_key` are scores that follow from the key alone. With `is_bounded` frames before the window are left out whether
    masked or not. `most` are the most frames of the attention.
    """

    found: Attention
    window: AttentionWindow
    period: int
    few: int
    runs: Runs
    most: int
    by_key: Collection[fx.Node]
    is_bounded: bool

    def are_alike(self) -> bool:
        """True if masks, biases and tables are the same far away; False if no more frames can be tried.

        Queries and keys are the same for all frames.
        """
        if self.most <= self.few:
            return True
        for frames in [n for n in LENGTHS if n <= self.most] or [self.most]:
            try:
                return all(self._is_alike(*each, frames) for each in self._tried())
            except Untried:
                continue
        return False

    def _tried(self) -> Iterator[tuple[fx.Node, dict[fx.Node, Tensor], bool]]:
        """Each table (..., T, T, ...), what is given for it, and whether it masks what lies beyond the window."""
        found, drawn = self.found, torch.Generator().manual_seed(0)
        relatives = [r.query for r in found.relatives if r.scores not in self.by_key]
        inputs = dict.fromkeys((found.query, found.key, *relatives, *(t.given for t in found.table_products)))
        given = {n: torch.randn(_ones(n, last=n.meta["val"].shape[-1]), generator=drawn) for n in inputs}
        given |= {n: torch.zeros(_ones(n)) for n in self.by_key}
        yield args_of(found.probabilities)[0], given, True
        masks = [n for n in found.after if take_of(n) is None]
        if masks:
            yield masks[-1], {found.probabilities: torch.ones(_ones(found.probabilities))}, False
        for table in (n for added in found.adds for node in added.path for n in node.all_input_nodes):
            if is_constant(table) and isinstance(table.meta.get("val"), Tensor):
                yield table, {}, False

    def _is_alike(self, node: fx.Node, given: Mapping[fx.Node, Tensor], is_masked: bool, frames: int) -> bool:
        (near, few), (far, most) = self.runs(self.few, given), self.runs(frames, given)
        sizes = enumerate(zip(near.of_shape(node).shape, far.of_shape(node).shape, strict=True))
        axes = [axis for axis, both in sizes if both == (few, most)][-2:]
        if len(axes) < 2:
            return True
        tried = tried_frames(far, node, most)
        # All frames with the keys about them, and some with all others.
        some = tried[:: max(1, len(tried) // SOME)]
        both = ((tried, _about(self.window), tried[:0]), (some, torch.cat([tried, -tried]), tried))
        for rows, offsets, others in both:
            rows = rows[:, None]
            columns = torch.cat([rows + offsets, others.expand(len(rows), -1)], 1)
            # What is no frame stands for the frame itself.
            columns = torch.where((columns >= 0) & (columns < most), columns, rows)
            *stand_ins, is_taken = self._stand_ins(rows, columns, few)
            here, there = _entries(far, node, axes, rows, columns), _entries(near, node, axes, *stand_ins)
            here, there, is_taken = torch.broadcast_tensors(here, there, is_taken)  # type: ignore[no-untyped-call]
            later = is_taken | (columns < rows - self.window.behind) if self.is_bounded else is_taken
            if is_masked and not bool((here[~later] <= MASKED).all()):
                return False
            here, there = here[is_taken].double(), there[is_taken].double()
            left = there > MASKED if is_masked else torch.ones_like(there, dtype=torch.bool)
            if is_masked and not torch.equal(here > MASKED, left):
                return False
            if not is_near(here[left], there[left]):
                return False
        return True

    def _stand_ins(self, rows: Tensor, columns: Tensor, few: int) -> tuple[Tensor, Tensor, Tensor]:
        """The frames and keys among the few that stand for these, and which of them are in the window, or first."""
        window, offsets = self.window, columns - rows
        middle = window.behind + window.first + 1
        is_first = (columns < window.first) & (offsets < -window.behind)
        in_window = (offsets >= -window.behind) & (offsets <= window.ahead)
        own = middle + -middle % self.period + rows % self.period
        row = torch.where(is_first, few - 1, own)
        return row, torch.where(is_first, columns, row + torch.where(in_window, offsets, 0)), in_window | is_first


def _ones(node: fx.Node, last: int = 1) -> list[int]:
    return [*[1] * (node.meta["val"].dim() - 1), last]


def _about(window: AttentionWindow) -> Tensor:
    """Offsets of the keys of a window, some of them if it is long, and of a few beside it."""
    behind, ahead, next_ones = window.behind, window.ahead, torch.arange(NEXT)
    own = torch.arange(-behind, ahead + 1)
    if len(own) > IN_WINDOW:
        drawn = torch.rand(IN_WINDOW, generator=torch.Generator().manual_seed(1)) * len(own)
        own = torch.cat([drawn.long() - behind, next_ones - behind, ahead - next_ones])
    return torch.cat([own, -behind - 1 - next_ones, ahead + 1 + next_ones])


def _entries(run: LengthRun, node: fx.Node, axes: Sequence[int], rows: Tensor, columns: Tensor) -> Tensor:
    """The entries (other axes..., N, M) of a table at rows and columns along two axes, of one row of the batch."""
    shape, places = run.of_shape(node).shape, dict(zip(axes, (rows, columns), strict=True))
    others = [axis for axis in range(len(shape)) if axis not in axes]
    for at, axis in enumerate(others):
        size = 1 if axis == 0 and len(shape) > RANK else shape[axis]
        places[axis] = torch.arange(size).reshape([size, *[1] * (len(others) - at + 1)])
    return run.at(node, [places[axis] for axis in range(len(shape))])
