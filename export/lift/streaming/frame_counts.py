"""The number of frames that each value of a graph has for any number of input frames.

torch.export has an expression for most sizes. For the others, the graph is run over some more frames.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import fx
from torch.utils._sympy.functions import Max, Min

from rnn_export.export.lift.ir.fx_nodes import placeholders, recorded
from rnn_export.export.lift.ir.symbolic_integers import size_of
from rnn_export.export.lift.streaming.recorded_runs import BATCH, RecordedRuns

# What gives a length a floor, which short sequences alone come down to.
BOUNDS = (Max, Min)
# Lengths that a value has over the numbers of frames that a graph is run over, at most.
MOST_RUN = 16


class Lengths:
    """The length of each value's axis of time; made before the graph is changed.

    Attributes:
        shortest: the fewest input frames from which on all lengths asked for are as `of` says.
    """

    def __init__(self, module: fx.GraphModule, runs: RecordedRuns, input_time: Sequence[int | None]) -> None:
        self.runs, graph, self.shortest = runs, module.graph, 1
        self._same: dict[fx.Node, fx.Node] = {}
        # As it is now.
        whole = fx.Graph()
        self._copies: dict[fx.Node, fx.Node] = {}
        whole.output(whole.graph_copy(graph, self._copies))
        whole.set_codegen(graph._codegen)
        self._whole, self._seen = fx.GraphModule(module, whole), dict[int, dict[fx.Node, Any]]()
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
        """The lengths of a time axis for 0, 1, ... `unit` - 1 input frames, extrapolated from longer inputs.

        `unit` is a number of frames for which the value has a whole number of frames, by its `rate`.
        """
        many = unit * -(-self.runs.longer_frames // unit + 1)
        size = self._size(node, axis)
        found = [self._at(size, many + n) for n in range(unit)]
        if None in found and min(unit, int(unit * rate)) <= MOST_RUN:
            found = self._runs(many, many + unit, node, axis)[:-1]
        base = int(self.runs.base[node].shape[axis])
        usual = (base + int((many + n - self.runs.frames) * rate // 1) for n in range(unit))
        lengths = [(m if n is None else n) - int(many * rate) for n, m in zip(found, usual, strict=True)]
        if isinstance(size, torch.SymInt) and size.node.expr.has(*BOUNDS):
            begin = bisect_left(
                range(many), True, key=lambda n: self._at(size, n) == _carried_on(lengths, n, unit, rate)
            )
            self.shortest = max(self.shortest, begin)
        return lengths

    def _runs(self, first: int, last: int, node: fx.Node, axis: int) -> list[int | None]:
        """The sizes in runs of `first` to `last` frames; between two that are equal there is no other."""
        low, high = self._run(first, node, axis), self._run(last, node, axis)
        if last - first <= 1 or low == high:
            return [low] * (last - first) + [high]
        middle = (first + last) // 2
        return self._runs(first, middle, node, axis)[:-1] + self._runs(middle, last, node, axis)

    def _run(self, frames: int, node: fx.Node, axis: int) -> int | None:
        """The size in a run of `frames` frames; None if the graph does not take them."""
        if frames not in self._seen:
            try:
                values = recorded(self._whole, self.runs.sample(BATCH, frames, 0))
            except Exception:  # a length that the graph does not take may raise anything
                values = {}
            self._seen[frames] = {node: values[copy] for node, copy in self._copies.items() if copy in values}
        value = self._seen[frames].get(self._same.get(node, node))
        return None if value is None else int(value.shape[axis])

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
        return size_of(size, {**self._numbers, **dict.fromkeys(self._frames, frames)})


def _carried_on(lengths: Sequence[int], frames: int, unit: int, rate: Fraction) -> int:
    """The length over `frames` frames of a value that is `lengths` long over the first."""
    periods, rest = divmod(frames, unit)
    return int(periods * unit * rate) + lengths[rest]
