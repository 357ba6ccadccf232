"""A graph with the value of every node on a few runs, and what is known of its time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.program.fx import Recorder, aten, depends_on, place_of, placeholders
from rnn_export.export.lift.program.names import Names
from rnn_export.export.lift.streaming.context import context_of
from rnn_export.export.lift.streaming.frames import Timed
from rnn_export.export.lift.streaming.states import Kept, Rows

# Which recorded run: two lengths, another batch, and the first again with another first row.
BASE, LONGER, MORE, OTHER = range(4)
BATCH, MORE_ROWS = 2, 3
# Frames beyond the context of the model in the runs that are looked at.
ROOM = 8

Sample = Callable[[int, int, int], list[Tensor]]


class Recorded:
    """What every layer of the pass knows."""

    def __init__(
        self,
        module: fx.GraphModule,
        model: nn.Module,
        sample: Sample,
        input_time: Sequence[int | None],
        outputs: int,
        output_time: Sequence[int | None],
        chunk: int,
    ) -> None:
        self.module, self.graph, self.chunk = module, module.graph, chunk
        self.outputs, self.output_time = outputs, output_time
        self.names = Names(model)
        self.fed = placeholders(self.graph)
        self.inputs = self.fed[: len(input_time)]
        self.names.given.update(n.name for n in self.inputs)
        self.from_input = depends_on(self.graph, self.inputs)
        self.from_state = depends_on(self.graph, self.fed[len(self.inputs) :])
        unit, context = context_of(self.graph)
        self.frames = unit * (math.ceil(context / unit) + ROOM)
        self.longer = self.frames + unit
        self.values = self.record(sample)
        self.info: dict[Any, Any] = {}
        for node, axis in zip(self.inputs, input_time, strict=True):
            self.info[node] = None if axis is None else Timed(axis, 1, 1, Fraction(1), 0)
        self.states: list[Kept] = []
        self.after: dict[str, fx.Node] = {}  # by name
        self.owners: dict[fx.Node, tuple[Kept, Rows, fx.Node]] = {}  # of a state in the layout of the graph
        self.last_input = self.fed[-1]
        self.layers: dict[fx.Node, str] = {}
        self.shorter: dict[fx.Node, fx.Node] = {}
        self.multiple = 1
        self.ahead: list[str] = []
        self.count: fx.Node | None = None
        self.needed = Fraction(0)

    def record(self, sample: Sample) -> list[dict[Any, Any]]:
        base = sample(BATCH, self.frames, 0)
        new = sample(BATCH, self.frames, 2)
        more = sample(MORE_ROWS, self.frames, 1)
        other = [_first_row(b, a, m) for a, b, m in zip(base, new, more, strict=True)]
        fed = [base, sample(BATCH, self.longer, 0), more, other]
        try:
            return [Recorder(self.module).values(tensors) for tensors in fed]
        except Exception as error:  # a length that the model does not take may raise anything
            raise LiftError(f"the model fails on {self.frames} or {self.longer} frames: {first_line(error)}") from error

    def time_axis(self, node: Any) -> int | None:
        """The axis of time of a value in which nothing else stands in that axis before it."""
        info = self.info.get(node)
        return info.axis if isinstance(info, Timed) and info.outer == 1 else None

    def refuse(self, node: fx.Node, reason: str) -> LiftError:
        return LiftError(f"{place_of(node)}: {reason}")

    def grows(self, node: fx.Node) -> bool:
        value = self.values[BASE].get(node)
        return isinstance(value, int) and value != self.values[LONGER][node]

    def frames_in(self, node: fx.Node) -> int:
        info: Timed = self.info[node]
        return int(self.values[BASE][node].shape[info.axis]) // (info.outer * info.inner)

    def stand_in(self, new: fx.Node, like: fx.Node, info: Timed) -> fx.Node:
        """A node of ours that holds the frames of `like`, seen over a whole sequence."""
        self.info[new] = info
        new.meta = {k: v for k, v in like.meta.items() if k != "val"}
        for run in self.values:
            run[new] = run[like]
        return new

    def plain(self, value: fx.Node) -> Timed:
        """The info of a value with every entry of its axis taken as a frame."""
        info: Timed = self.info[value]
        lag = None if info.lag is None else info.lag * info.inner
        waited = info.waited * info.inner
        return replace(info, inner=1, rate=info.rate * info.inner, lag=lag, past=info.past * info.inner, waited=waited)

    def alias(self, value: fx.Node, info: Timed) -> fx.Node:
        return self.stand_in(self.graph.call_function(aten.alias.default, (value,)), value, info)


def _first_row(new: Tensor, old: Tensor, more: Tensor) -> Tensor:
    """`old` with the first row of `new`; `more` is of another batch, and shows where it stands."""
    axis = next(a for a in range(old.dim()) if old.shape[a] != more.shape[a])
    return torch.cat([new.narrow(axis, 0, 1), old.narrow(axis, 1, old.shape[axis] - 1)], axis)
