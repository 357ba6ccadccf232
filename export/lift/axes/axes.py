"""Finds candidates for batch and time axes by running the model at several sizes, not from the rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from rnn_export.errors import Advice, BoundedAxis, LiftError, NoBatchAxis, keyword
from rnn_export.export.lift.axes.axis_probe import Assignment, AxisProbe, RowLayout, axis_of_one, sizes_of
from rnn_export.export.lift.axes.batch_search import ALONE, MOVED, batch_candidates
from rnn_export.export.lift.axes.time_search import ProbedRows, find_time
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.numbers.tensor_indices import WHOLE

TimeAxis = Literal["auto"] | int | None | Mapping[str, int | None]


@dataclass(frozen=True)
class Axes:
    """The batch and the time axis of each tensor; None if it has none.

    `causal` is False if an output depends on later frames than its own. `of_last`: time was found, and not said, but no
    output has it: each is the answer at the last frame. `rivals` have another time, along which no run showed that a
    frame depends on another. `one_row` says why the model takes one stream at a time; it is empty if it takes any
    number, and then every tensor has a batch axis.
    """

    input_batch: Assignment
    input_time: Assignment
    states: tuple[RowLayout, ...]
    output_batch: Assignment
    output_time: Assignment
    causal: bool = True
    of_last: bool = False
    rivals: tuple[Axes, ...] = ()
    one_row: str = ""

    @property
    def has_time(self) -> bool:
        """True if a call takes several frames."""
        return any(axis is not None for axis in self.input_time)

    @property
    def usual(self) -> bool:
        """True if the batch is the first axis of each input with time, or the second behind time."""
        pairs = zip(self.input_batch, self.input_time, strict=True)
        return all(t is None or b in (None, 0) or (t, b) == (0, 1) for b, t in pairs)

    @property
    def first_time(self) -> tuple[int, int]:
        """The first input with time, and its axis."""
        return next((i, t) for i, t in enumerate(self.time_in) if t is not None)

    @property
    def rows_in(self) -> tuple[int, ...]:
        """The batch axis of each input, and of each state as (B, *row); one in front if there is none."""
        return (*(b or 0 for b in self.input_batch), *(0 for _ in self.states))

    @property
    def rows_out(self) -> tuple[int, ...]:
        """The batch axis of each output, and of each next state as (B, *row)."""
        return (*(b or 0 for b in self.output_batch), *(0 for _ in self.states))

    @property
    def time_in(self) -> Assignment:
        """The time axis of each input, with a batch axis in front if it has none."""
        return _behind_batch(self.input_batch, self.input_time)

    @property
    def time_out(self) -> Assignment:
        """The time axis of each output, with a batch axis in front if it has none."""
        return _behind_batch(self.output_batch, self.output_time)

    def input_sizes(self, batch: int, frames: int) -> list[dict[int, int]]:
        """The sizes of each input along batch and time axes."""
        batch = 1 if self.one_row else batch
        return sizes_of(self.input_batch, self.input_time, batch, [frames] * len(self.input_time))


def _behind_batch(batch: Assignment, time: Assignment) -> Assignment:
    return tuple(t if t is None or b is not None else t + 1 for b, t in zip(batch, time, strict=True))


def axes_candidates(model: FlatModel, time_axis: TimeAxis) -> Iterator[Axes]:
    """Axes that the runs of `model` allow, the likeliest first; its graph may still refuse them.

    Raises LiftError if there are none, or several could be time.
    """
    probe, requested = AxisProbe(model), requested_time(model, time_axis)
    odd: list[Axes] = []
    try:
        for batch in batch_candidates(probe, requested):
            time = find_time(probe, ProbedRows(batch.inputs, batch.states, 2), requested)
            found = Axes(
                batch.inputs, time.inputs, batch.states, batch.outputs, time.outputs, time.causal, time.of_last
            )
            rivals = (replace(found, input_time=r.inputs, output_time=r.outputs) for r in time.rivals)
            _refuse_other_lengths(model, found)
            if requested is None and not found.usual:
                odd.append(found)
                continue
            yield replace(found, rivals=tuple(rivals))
    except NoBatchAxis as error:
        yield _axes_of_one(probe, requested, error)
    if odd:
        raise _odd_order(model, odd[0])


def _odd_order(model: FlatModel, axes: Axes) -> NoBatchAxis:
    stands = zip(model.inputs, axes.input_time, axes.input_batch, strict=True)
    found = ", ".join(f"of {leaf.name!r} time is axis {t} and the batch axis {b}" for leaf, t, b in stands)
    times = {leaf.name: t for leaf, t in zip(model.inputs, axes.input_time, strict=True)}
    return NoBatchAxis(
        f"{found}: no axes in a usual order are time and batch (rows along axis 0 depend on each other, or cannot be "
        f"any number), but most models have the batch first, or time and then the batch. Look for what mixes rows "
        "along axis 0.",
        [(0,) * len(model.inputs)],
        alone=False,
        advice=[Advice({"time_axis": times}, "If it is meant so, say {}.")],
        id="unusual-axis-order",
    )


def _refuse_other_lengths(model: FlatModel, axes: Axes) -> None:
    """Raise LiftError if inputs along one time have other lengths in the example."""
    times = zip(model.inputs, axes.input_time, strict=True)
    frames = {leaf.name: leaf.example.shape[t] for leaf, t in times if t is not None}
    if len(set(frames.values())) > 1:
        found = ", ".join(f"{name!r} has {n}" for name, n in frames.items())
        raise LiftError(
            f"inputs with time must have as many frames as each other, or stand in a ratio that the code holds to, but "
            f"in the example {found}, and none was found. Give all of them the same number, several values in one "
            "frame where one has more (N, 2T) as (N, T, 2); or say what is time, time_axis={name: axis, other: None} "
            "(--time-axis NAME=AXIS --time-axis OTHER=none).",
            id="unequal-frame-counts",
        )


def _axes_of_one(probe: AxisProbe, requested: Assignment | None, refused: NoBatchAxis) -> Axes:
    """Axes of a model that takes one stream at a time; raises `refused` if an axis holds dependent rows."""
    taken = requested or (None,) * len(probe.inputs)
    inputs = tuple(axis_of_one(leaf.example.shape, t) for leaf, t in zip(probe.inputs, taken, strict=True))
    rows = ProbedRows(inputs, tuple(RowLayout.of_one(leaf.example) for leaf in probe.states), 1)
    try:
        time = find_time(probe, rows, requested)
    except LiftError as error:
        # Where no other axis goes as rows would, one stream is meant, and its time has an end.
        is_time = isinstance(error, BoundedAxis) and all(axes[error.port] == error.axis for axes in refused.free)
        raise (error if is_time or not refused.free else refused) from None
    bare = [port for port, axis in enumerate(inputs) if axis is None]
    others = ((port, a) for port in bare for a in range(probe.inputs[port].example.dim()) if a != time.inputs[port])
    if any(_takes_more(probe, rows, port, axis) for port, axis in others):
        raise refused
    # Where the code decides by values, or by one number, all rows go one way: an example of one row says that one is
    # meant.
    by_one = probe.model.decisions.chosen or _numbers_of(probe)
    alone = by_one and all(axis is not None for axis in inputs)
    if not alone and not all(any(a == t for a, t in zip(axes, time.inputs, strict=True)) for axes in refused.free):
        raise refused
    outputs = zip(probe.model.example_outputs, time.outputs, strict=True)
    output_batch = tuple(axis_of_one(output.shape, t) for output, t in outputs)
    why = _why_one(probe, rows, refused)
    return Axes(inputs, time.inputs, rows.states, output_batch, time.outputs, time.causal, time.of_last, one_row=why)


def _takes_more(probe: AxisProbe, rows: ProbedRows, port: int, axis: int) -> bool:
    """True if one input alone may be longer along `axis`, which then may be its batch."""
    sizes: list[dict[int, int]] = [{} for _ in probe.inputs]
    sizes[port] = {axis: probe.inputs[port].example.shape[axis] + 1}
    return probe.run(rows.states, probe.draw(1, sizes, rows.states)) is not None


def _why_one(probe: AxisProbe, rows: ProbedRows, refused: NoBatchAxis) -> str:
    """The reason against a batch of any size, and its place."""
    bare = [leaf for leaf, axis in zip(probe.inputs, rows.inputs, strict=True) if axis is None]
    bare += [leaf for leaf, layout in zip(probe.states, rows.states, strict=True) if layout.alone]
    if bare:
        shapes = ", ".join(f"{leaf.name} {tuple(leaf.example.shape)}" for leaf in bare)
        return f"there is no batch axis in {shapes}"
    sizes = [{axis: 2} for axis in rows.inputs if axis is not None]
    if probe.run(rows.states, probe.draw(2, sizes, rows.states)) is None:
        return f"a batch of 2 fails{probe.place}: {probe.failure}"
    if decided := decided_for_all(probe.model):
        return decided
    if numbers := _numbers_of(probe):
        return f"one number is for all rows ({', '.join(numbers)})"
    return ALONE if refused.alone else MOVED


def decided_for_all(model: FlatModel) -> str:
    """The message on decisions computed both ways; empty if there are none."""
    chosen = ", ".join(sorted(model.decisions.chosen))
    return f"what is decided by values is decided for all rows at once ({chosen})" if chosen else ""


def _numbers_of(probe: AxisProbe) -> list[str]:
    """The states that are one whole number, such as an index into a ring of frames, or a frame counter."""
    declared = {leaf.name for leaf in probe.model.declared}
    numbers = [leaf for leaf in probe.states if leaf.example.numel() == 1 and leaf.example.dtype in WHOLE]
    return [x.name for x in numbers if x.example.dim() < 2 or x.name in declared]


def requested_time(model: FlatModel, time_axis: TimeAxis) -> Assignment | None:
    """The user's choice by input, with axes counted from 0; None for "auto"."""
    names = [leaf.name for leaf in model.inputs]
    if time_axis == "auto":
        return None
    if isinstance(time_axis, Mapping):
        unknown = sorted(set(time_axis) - set(names))
        if unknown:
            raise LiftError(
                f"time_axis (--time-axis) names {unknown}, but the inputs are {names}.", id="time-axis-unknown-input"
            )
        return tuple(_axis(model, i, time_axis.get(leaf.name)) for i, leaf in enumerate(model.inputs))
    return tuple(_axis(model, i, time_axis) for i in range(len(model.inputs)))


def _axis(model: FlatModel, number: int, axis: int | None) -> int | None:
    leaf, rated = model.inputs[number], model.rated.get(number)
    rank = leaf.example.dim() - (rated is not None and rated.frames > 1)
    if axis is None or -rank <= axis < rank:
        return None if axis is None else axis % rank
    raise LiftError(
        f"{keyword('time_axis', axis)}: input {leaf.name!r} has only {rank} axes, {tuple(leaf.example.shape)}.",
        id="time-axis-beyond-rank",
    )
