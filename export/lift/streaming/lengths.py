"""How many frames the values of a graph have for any number of frames of the input, by what torch.export knows."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.program.fx import placeholders
from rnn_export.export.lift.streaming.runs import RecordedRuns


class Lengths:
    """The length of each value's axis of time; made before the graph is changed."""

    def __init__(self, graph: fx.Graph, runs: RecordedRuns, input_time: Sequence[int | None]) -> None:
        self.runs = runs
        self._same: dict[fx.Node, fx.Node] = {}
        symbols: dict[Any, int | None] = {}
        for i, node in enumerate(placeholders(graph)):
            known: Any = node.meta.get("val")
            time = input_time[i] if i < len(input_time) else None
            for axis, size in enumerate(getattr(known, "shape", ())):
                if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                    symbols.setdefault(size.node.expr, None if axis == time else int(runs.base[node].shape[axis]))
        self._frames = [s for s, number in symbols.items() if number is None]
        self._numbers = {s: number for s, number in symbols.items() if number is not None}

    def same(self, new: fx.Node, like: fx.Node) -> None:
        """Over a whole sequence `new` is as long as `like`."""
        self._same[new] = self._same.get(like, like)

    def of(self, node: fx.Node, axis: int, rate: Fraction, unit: int) -> list[int]:
        """The lengths of an axis of time for 0, 1, ... `unit` - 1 frames of the input, carried on below what there is.

        `unit` is a number of frames for which the value has a whole number of frames, by its `rate`.
        """
        many = unit * -(-self.runs.longer_frames // unit + 1)
        size = self._size(node, axis)
        found = [self._at(size, many + n) for n in range(unit)]
        if None in found:
            # What has no name for its size has as many frames as its rate allows.
            base = int(self.runs.base[node].shape[axis])
            found = [base + ((many + n - self.runs.frames) * rate.numerator) // rate.denominator for n in range(unit)]
        return [int(n or 0) - int(many * rate) for n in found]

    def _size(self, node: fx.Node, axis: int) -> Any:
        original = self._same.get(node, node)
        known = original.meta.get("val")
        if not isinstance(known, torch.Tensor) or known.dim() <= axis:
            return None
        size = known.shape[axis]
        fits = all(
            self._at(size, frames) == run[original].shape[axis]
            for frames, run in ((self.runs.frames, self.runs.base), (self.runs.longer_frames, self.runs.longer))
        )
        return size if fits else None

    def _at(self, size: Any, frames: int) -> int | None:
        if not isinstance(size, torch.SymInt):
            return int(size) if isinstance(size, int) else None
        value = size.node.expr.subs({**self._numbers, **dict.fromkeys(self._frames, frames)})
        return int(value) if value.is_Integer else None
