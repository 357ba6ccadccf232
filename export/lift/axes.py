"""Which axis may be the batch and which time: found by running the model at several sizes, never guessed from rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from rnn_export.errors import LiftError
from rnn_export.export.lift.axis_probe import Assignment, AxisProbe, RowLayout
from rnn_export.export.lift.batch_search import batch_candidates
from rnn_export.export.lift.program.signature import FlatModel, Leaf
from rnn_export.export.lift.time_search import find_time

TimeAxis = Literal["auto"] | int | None | Mapping[str, int | None]


@dataclass(frozen=True)
class Axes:
    """Per tensor, where batch and time stand; None where there is no time.

    `causal` is False where an output depends on later frames than its own. `rivals` have another time, along which no
    run showed that a frame depends on another.
    """

    input_batch: tuple[int, ...]
    input_time: tuple[int | None, ...]
    states: tuple[RowLayout, ...]
    output_batch: tuple[int, ...]
    output_time: tuple[int | None, ...]
    causal: bool = True
    rivals: tuple[Axes, ...] = ()

    @property
    def has_time(self) -> bool:
        """Whether a call takes several frames."""
        return any(axis is not None for axis in self.input_time)

    @property
    def rows_in(self) -> tuple[int, ...]:
        """The batch axis of each input, and of each state as (B, *row)."""
        return (*self.input_batch, *(0 for _ in self.states))

    @property
    def rows_out(self) -> tuple[int, ...]:
        """The batch axis of each output, and of each next state as (B, *row)."""
        return (*self.output_batch, *(0 for _ in self.states))

    def input_sizes(self, batch: int, frames: int) -> list[dict[int, int]]:
        """By input, its sizes along its axes of batch and time."""
        axes = zip(self.input_batch, self.input_time, strict=True)
        return [{b: batch} if t is None else {b: batch, t: frames} for b, t in axes]


def axes_candidates(model: FlatModel, time_axis: TimeAxis) -> Iterator[Axes]:
    """Axes that the runs of `model` allow, the likeliest first; what its graph says of them is another matter.

    `model` must be a copy that may be run at will. Raises LiftError where there are none, or several could be time.
    """
    probe, said = AxisProbe(model), _said_time(model, time_axis)
    for batch in batch_candidates(probe, said):
        time = find_time(probe, batch, said)
        found = Axes(batch.inputs, time.inputs, batch.states, batch.outputs, time.outputs, time.causal)
        rivals = (replace(found, input_time=r.inputs, output_time=r.outputs) for r in time.rivals)
        yield replace(found, rivals=tuple(rivals))


def _said_time(model: FlatModel, time_axis: TimeAxis) -> Assignment | None:
    """The user's choice by input, with axes counted from 0; None for "auto"."""
    names = [leaf.name for leaf in model.inputs]
    if time_axis == "auto":
        return None
    if isinstance(time_axis, Mapping):
        unknown = sorted(set(time_axis) - set(names))
        if unknown:
            raise LiftError(f"time_axis names {unknown}, but the inputs are {names}.")
        return tuple(_axis(leaf, time_axis.get(leaf.name)) for leaf in model.inputs)
    if time_axis is None or type(time_axis) is int:
        return tuple(_axis(leaf, time_axis) for leaf in model.inputs)
    raise LiftError(f"time_axis={time_axis!r}: it must be 'auto', None, an axis, or an axis for each input by name.")


def _axis(leaf: Leaf, axis: int | None) -> int | None:
    rank = leaf.example.dim()
    if axis is None or -rank <= axis < rank:
        return None if axis is None else axis % rank
    raise LiftError(f"time_axis={axis}: input {leaf.name!r} has only {rank} axes, {tuple(leaf.example.shape)}.")
