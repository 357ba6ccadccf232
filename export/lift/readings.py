"""Tries the readings of a model one by one until one lifts; keeps every refusal, and shows that of the likeliest one.

A call leaves open which axes are batch and time, how many frames a step takes, whether it is one frame or one stream,
and whether inputs have several rates. The refusal of one reading often says which one to try next.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch

from rnn_export.errors import (
    Advice,
    DecidedByValue,
    FrozenAxis,
    LiftError,
    RowsDepend,
    SpecError,
    StateMovesByCall,
    WrongChunk,
    keyword,
)
from rnn_export.export.lift.axes.axes import Axes, TimeAxis, decided_for_all
from rnn_export.export.lift.axes.axis_probe import Assignment
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.axes.input_rates import rated_inputs
from rnn_export.export.lift.branches.resolve_branches import resolve_branch
from rnn_export.export.lift.capture import Capture
from rnn_export.export.lift.loops.folding.trace_lengths import many_frames, shortest_length
from rnn_export.export.lift.model.decisions import with_unused_assumptions
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.options import LiftOptions
from rnn_export.export.lift.rated_ports import are_along_time, with_rated_ports
from rnn_export.export.lift.states.module_state import with_states
from rnn_export.export.lift.streaming import LiftedState
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.lift.trace.tracing import place_of_number

# In the order in which a reading goes through them.
STAGES = ("memory", "axes", "capture", "streaming", "contract")


@dataclass(frozen=True, eq=False)
class Probed:
    """A copy of a model with module state as states and recurrent layers as opaque operators, along given axes.

    `captures` has those for steps of any number of frames, by why there is one row.
    """

    flat: FlatModel
    axes: Axes
    states: tuple[LiftedState, ...]
    captures: dict[str, Capture] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to read the call of a model.

    Attributes:
        flat: the call, with the decisions known so far; inputs of several rates may be folded.
        time_axis: as in the options.
        candidates: the axes that runs of the model allow, the likeliest first, found as they are asked for.
        chunk: the frames of a step.
        why_chunk: the reason for them, if the user did not ask for them.
        probed: the model along the axes of this reading; None for the next ones of `candidates`.
    """

    flat: FlatModel
    time_axis: TimeAxis
    candidates: Iterator[Probed]
    chunk: int
    why_chunk: str = ""
    probed: Probed | None = None

    @property
    def is_one_stream(self) -> bool:
        """True if streams go one at a time."""
        return self.probed is not None and bool(self.probed.axes.one_row)

    @property
    def rows(self) -> int:
        """The most rows that the example has along the batch axes."""
        batches = self.probed.axes.input_batch if self.probed else ()
        ports = zip(self.flat.inputs, batches, strict=False)
        return max((leaf.example.shape[b] for leaf, b in ports if b is not None), default=0)

    def refines(self, other: Reading) -> bool:
        """True if this is `other` with another chunk, or for one stream."""
        return self.probed is not None and other.probed is not None and self.probed.flat is other.probed.flat

    def __str__(self) -> str:
        rated = [(self.flat.inputs[i].name, r.frames) for i, r in self.flat.rated.items()]
        folded = [f"{n} frames of {name!r} for one of the others" for name, n in rated if n > 1]
        if self.probed is None:
            return ", ".join(folded or ["one frame a call" if self.time_axis is None else "all inputs of one rate"])
        axes = self.probed.axes
        times, batches = (self._named(a) for a in (axes.input_time, axes.input_batch))
        rows = ["one stream at a time"] if axes.one_row else [f"batch along {batches}"] if batches else []
        return ", ".join([f"time along {times}" if times else "one frame a call", *rows, *folded])

    def _named(self, axes: Assignment) -> str:
        ports = zip(self.flat.inputs, axes, strict=True)
        return " and ".join(f"axis {axis} of {leaf.name!r}" for leaf, axis in ports if axis is not None)


@dataclass(frozen=True)
class Refused:
    """The refusal of a reading, at a stage by its number."""

    reading: Reading
    error: LiftError
    stage: int

    def is_likelier(self, other: Refused) -> bool:
        """True if this reading got farther than `other`, or as far and the inputs were seen to go by its rates."""
        is_closer = self.reading.refines(other.reading) or (self.reading.flat.rated and not other.reading.flat.rated)
        return self.stage > other.stage or (self.stage == other.stage and bool(is_closer))


class Readings:
    """The readings of `flat`, tried in turn, and their refusals.

    `candidates` finds the axes that a model may have, `lifted` lifts it along given ones, in chunks of some frames.
    """

    def __init__(
        self,
        flat: FlatModel,
        options: LiftOptions,
        candidates: Callable[[FlatModel, LiftOptions], Iterator[Probed]],
        lifted: Callable[[FlatModel, Probed, LiftOptions], StreamingModel],
    ) -> None:
        self._flat, self._candidates, self._lifted = flat, candidates, lifted
        self._show, self._stage = options.progress, STAGES[0]
        self._options = replace(options, progress=self._reach)
        self._refused: list[Refused] = []
        self._without_time: StreamingModel | None = None
        self._is_folded = False
        # By the last refusal, the reading to try next.
        self._next: tuple[tuple[type[LiftError], Callable[[Refused], Reading | None]], ...] = (
            (DecidedByValue, self._with_decision),
            (WrongChunk, self._in_fitting_chunks),
            (FrozenAxis, self._one_stream_of_frozen_batch),
            (RowsDepend, self._along_next_axes),
            (LiftError, self._one_stream_of_dependent_rows),
            (StateMovesByCall, self._one_frame_a_call),
            (LiftError, lambda last: self._of_several_rates()),
        )

    def first(self) -> StreamingModel:
        """The model as its first reading that lifts; raises the refusal of the likeliest if none does."""
        reading: Reading | None = self._read(self._flat, self._options.time_axis)
        while reading is not None:
            try:
                lifted = self._lift(reading)
            except LiftError as error:
                reading = self._after(error)
                continue
            if lifted.spec.has_time:
                return lifted
            # What is one frame a call may be one input of several.
            self._without_time, reading = lifted, self._of_several_rates()
        return self._without_time or self._refuse()

    def _read(self, flat: FlatModel, time_axis: TimeAxis) -> Reading:
        options = replace(self._options, time_axis=time_axis)
        return Reading(flat, time_axis, self._candidates(flat, options), options.frames)

    def _lift(self, reading: Reading) -> StreamingModel:
        self._reading, self._stage = reading, "axes"
        probed = reading.probed or next(reading.candidates, None)
        if probed is None:
            raise LiftError("the model has no other axes that rows of a batch could be on.", id="no-other-axes")
        self._reading = reading = replace(reading, probed=probed)
        if not are_along_time(reading.flat, probed.axes):
            raise LiftError(
                f"{reading}: the inputs are longer together, but not along their time.", id="rates-not-of-time"
            )
        try:
            lifted = self._lifted(reading.flat, probed, replace(self._options, chunk=reading.chunk))
        except SpecError as error:
            raise LiftError(str(error), id=error.id) from error
        notes = [f"chunk {reading.chunk} frames: {reading.why_chunk}"] if reading.why_chunk else []
        return with_rated_ports(replace(lifted, notes=(*notes, *lifted.notes)))

    def _reach(self, stage: str) -> None:
        self._stage = stage
        # What follows takes no time to speak of.
        if stage != "contract":
            self._show(stage)

    def _after(self, error: LiftError) -> Reading | None:
        """The reading to try after `error` of the last one; None if no other is left."""
        last = Refused(self._reading, error, STAGES.index(self._stage))
        self._refused.append(last)
        fitting = (find(last) for kind, find in self._next if isinstance(error, kind))
        return next((reading for reading in fitting if reading is not None), None)

    def _with_decision(self, last: Refused) -> Reading:
        """All from the start, with the decision that was met as well."""
        assert isinstance(last.error, DecidedByValue)
        self._show("branches")
        try:
            decisions = resolve_branch(with_states(self._flat), last.error)
        except DecidedByValue as undecided:
            raise with_unused_assumptions(undecided, self._flat.decisions) from undecided
        self._flat = self._flat.replace(decisions=replace(decisions, checked=True))
        self._refused, self._without_time, self._is_folded = [], None, False
        return self._read(self._flat, self._options.time_axis)

    def _in_fitting_chunks(self, last: Refused) -> Reading | None:
        assert isinstance(last.error, WrongChunk)
        if self._options.chunk != "auto" or last.reading.why_chunk:
            return None
        return replace(last.reading, chunk=last.error.fits, why_chunk=last.error.why)

    def _one_stream_of_frozen_batch(self, last: Refused) -> Reading | None:
        """One stream at a time, where the code makes a number of the size of the batch."""
        error, probed = last.error, last.reading.probed
        assert isinstance(error, FrozenAxis)
        if probed is None or probed.axes.one_row or error.axis != dict(enumerate(probed.axes.rows_in)).get(error.port):
            return None
        return self._as_one_stream(last.reading, probed, _why_one(probed.flat, probed.axes, error))

    def _along_next_axes(self, last: Refused) -> Reading:
        return replace(last.reading, probed=None)

    def _one_stream_of_dependent_rows(self, last: Refused) -> Reading | None:
        """One stream of the likeliest axes, where an example of one row says what is meant.

        Nothing but the number of rows may be against any other.
        """
        alike = [r for r in self._refused if r.reading.candidates is last.reading.candidates]
        first = next((r for r in alike if isinstance(r.error, RowsDepend)), None)
        if first is None or any(r.reading.refines(first.reading) and r.reading.is_one_stream for r in alike):
            return None
        probed, error = first.reading.probed, first.error
        assert probed is not None
        assert isinstance(error, RowsDepend)
        place = f"the number of rows is used as a value at {error.place}"
        why = place if error.counted else decided_for_all(probed.flat)
        return self._as_one_stream(first.reading, probed, why) if why and first.reading.rows == 1 else None

    def _as_one_stream(self, reading: Reading, probed: Probed, why: str) -> Reading | None:
        one = replace(probed, axes=replace(probed.axes, one_row=why))
        return replace(reading, probed=one) if _takes_one(one.flat, one.axes) else None

    def _one_frame_a_call(self, last: Refused) -> Reading | None:
        """Without time, where nothing but the call itself moves the memory: then time is another axis."""
        assert isinstance(last.error, StateMovesByCall)
        if last.reading.time_axis != "auto" or last.error.has_others or self._options.frames > 1:
            return None
        return self._read(last.reading.flat, None)

    def _of_several_rates(self) -> Reading | None:
        """Inputs with several frames for one of others folded, if the model takes such."""
        probed = self._reading.probed
        if self._is_folded or len(self._flat.inputs) < 2 or (probed and probed.axes.has_time):
            return None
        self._is_folded = True
        found = rated_inputs(self._flat, self._options.time_axis)
        return self._read(self._flat.folded(found), self._options.time_axis) if found else None

    def _refuse(self) -> NoReturn:
        likeliest = functools.reduce(lambda best, other: other if other.is_likelier(best) else best, self._refused)
        error, decisions = likeliest.error, self._flat.decisions
        if refusal := next(iter(decisions.seen.spared.values()), None):
            # What stands against both ways of a decision is why it cannot be taken.
            raise with_unused_assumptions(refusal.computed_both_branches(error), decisions) from error
        if isinstance(error, WrongChunk):
            error = LiftError(error.args[0], advice=error.advice, id=error.id)
        known = [advice.keywords for advice in error.advice]
        error.advice += tuple(advice for advice in self._doubt(likeliest) if advice.keywords not in known)
        shown, probed = str(likeliest.reading), likeliest.reading.probed
        if probed and any(probed.axes.input_batch):
            error.args = (f"{error.args[0]} That is with {shown}.",)
        error.others = tuple(name for name in dict.fromkeys(str(r.reading) for r in self._refused) if name != shown)
        raise error from likeliest.error.__cause__

    def _doubt(self, refused: Refused) -> Iterator[Advice]:
        """Advice where a time that was found may be the features of a frame, or what a call takes as a whole."""
        reading, probed = refused.reading, refused.reading.probed
        known = (LiftError, WrongChunk) if self._options.chunk != "auto" else (LiftError,)
        if probed is None or type(refused.error) not in known or STAGES[refused.stage] not in ("capture", "streaming"):
            return
        unsure = probed.axes.of_last or (reading.time_axis == "auto" and probed.flat.states)
        if unsure and probed.axes.has_time and not self._options.sequence_only:
            what = "window of frames" if probed.axes.of_last else "frame"
            names = (leaf.name for leaf in reading.flat.inputs)
            found = keyword("time_axis", dict(zip(names, probed.axes.input_time, strict=True)))
            yield Advice({"time_axis": None}, f"Time was found, {found}; if one call is one {what}, say {{}}.")


def _why_one(flat: FlatModel, axes: Axes, error: FrozenAxis) -> str:
    """The place where the code of `flat` makes a number of its batch size, from `error`."""
    model = BatchFirst(flat, axes)
    place = place_of_number(model, model.sample(3, shortest_length(model)), error.port, error.axis)
    return f"the code makes a number of the size of the batch{f' at {place}' if place else ''}"


def _takes_one(flat: FlatModel, axes: Axes) -> bool:
    """True if the model runs on one row and its module state has one row."""
    kept_rows = [
        axes.states[i].example_rows(leaf.example)
        for i, leaf in enumerate(flat.states)
        if flat.module_state_at(leaf.name)
    ]
    model = BatchFirst(copy.deepcopy(flat), axes)
    try:
        with torch.no_grad():
            model(*model.sample(1, many_frames(model) if axes.has_time else 1))
    except Exception:  # a size that the model does not take may raise anything
        return False
    return all(len(rows) == 1 for rows in kept_rows)
