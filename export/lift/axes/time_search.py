"""Finds time axes: any length, frames that depend on earlier ones and, in a stream, on no later one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rnn_export.errors import (
    ONE_FRAME,
    SEQUENCES,
    Advice,
    BoundedAxis,
    LiftError,
    SeveralReadings,
    at_most,
    if_time,
    keyword,
)
from rnn_export.export.lift.axes.axis_probe import Assignment, AxisProbe, RowLayout, changed_axes, sizes_of
from rnn_export.export.lift.axes.explicit_recurrence import written_loop
from rnn_export.export.lift.axes.fixed_length_axis import FixedAxes, refuse_first_frames
from rnn_export.export.lift.ir.compare import INDEPENDENCE, same
from rnn_export.export.lift.ir.op_recorder import CountsOperators
from rnn_export.export.lift.layers.layer_replacement import LAYERS
from rnn_export.export.lift.model.flat_model import FlatModel

# A longer example is tried in parts.
LONG = 64
# How many times the example an axis may be before it counts as one without an end.
FAR = 4
# Frames within which it is seen that a model looks back on some of them alone.
SEEN_BACK = 2048
RECURRENT = (*LAYERS, nn.RNNCellBase)

NOTHING_KEPT = replace(ONE_FRAME, sentence="If one call is one frame, and nothing is kept, say {}.")


@dataclass(frozen=True)
class TimeCandidate:
    """Axes that may be time: for each input one, and for each output the axis that grows with it.

    `has_output_time`: an output has time, or the user says that this is it. `causal`: no output depends on later frames
    than its own. `remembers`: an output was seen to depend on earlier ones. `rivals`: others, not seen to do so, which
    may merely be computed entry by entry.
    """

    inputs: Assignment
    outputs: Assignment
    has_output_time: bool = True
    causal: bool = True
    remembers: bool = False
    rivals: tuple[TimeCandidate, ...] = ()

    @property
    def of_last(self) -> bool:
        """True if only inputs have time, and the user did not say it."""
        return not self.has_output_time and any(axis is not None for axis in self.inputs)

    @property
    def rank(self) -> int:
        """The sort key: the lowest is time, axes computed entry by entry come later."""
        return 0 if self.causal and self.remembers else 1 if self.has_output_time else 2


@dataclass(frozen=True)
class ProbedRows:
    """The batch axes of the inputs and states, and the number of rows in a run."""

    inputs: Assignment
    states: tuple[RowLayout, ...]
    count: int


def _declared_so(model: FlatModel) -> list[Advice]:
    """Advice to declare an argument that may be a state; empty if there is none."""
    results = [*zip(model.output_keys, model.example_outputs, strict=True)]
    given = [(leaf.name, k) for leaf in model.inputs[1:] for k, t in results if t.shape == leaf.example.shape]
    left_out = [(name, model.output_keys[-1]) for name in model.defaulted_to_none if len(set(model.output_keys)) > 1]
    name, key = next(iter([*given, *left_out]), ("", ""))
    if not name:
        return []
    return [Advice({"states": {name: key}}, f"If {name!r} is its state, declare where it comes back: {{}}.")]


def find_time(probe: AxisProbe, rows: ProbedRows, requested: Assignment | None) -> TimeCandidate:
    """The one candidate that is time, `requested` by the user or found; without any axis if a call is one frame.

    Raises LiftError if `requested` cannot be time, or several axes could be.
    """
    none = TimeCandidate((None,) * len(rows.inputs), (None,) * len(probe.model.outputs), False)
    if requested == none.inputs:
        return none
    search = TimeSearch(probe, rows)
    if requested is not None:
        found = search.candidate(requested, True)
        if found is None:
            ports = zip(probe.inputs, requested, strict=True)
            raise LiftError(
                f"{keyword('time_axis', probe.by_name(requested))}: the model cannot run at other lengths. "
                f"{probe.failure}.",
                advice=[at_most(min(leaf.example.shape[t] for leaf, t in ports if t is not None))],
                id="time-axis-fixed-length",
            )
        return found
    best = search.best()
    times = [if_time(probe.by_name(candidate.inputs)) for candidate in best]
    if not best or best[0].rank:
        search.refuse_bounded(times if any(not candidate.causal for candidate in best) else ())
    if best and best[0].rank == 1 and not search.has_states() and (fixed := search.fixed_axes.time()):
        raise LiftError(
            f"{fixed} Along others no frame was seen to know of another.",
            advice=[*times, ONE_FRAME],
            id="axis-of-fixed-length",
        )
    layers = [path for path, m in probe.model.model.named_modules() if isinstance(m, RECURRENT)]
    if best and not best[0].has_output_time and search.has_states():
        # A call may be one frame, of which an input, or a part of it, is not read.
        best = [candidate for candidate in best if search.reads(candidate)]
    if not best and layers and not search.has_states():
        fixed = search.fixed_axes.time()
        raise LiftError(
            f"{layers[0]} is recurrent, but no axis was found along which the model takes another length, and no "
            f"output follows from a state of it: each call would start anew{f': {fixed}' if fixed else '.'}",
            advice=[*_declared_so(probe.model), NOTHING_KEPT, *([] if fixed else [SEQUENCES])],
            id="recurrent-without-time",
        )
    if best and not (best[0].has_output_time or layers or probe.model.max_frames or search.loops(best)):
        # What is of all entries may be a pool over the features of one frame, or over an image.
        several = len(best) > 1
        best = [c for c in best if not search.has_states() and search.looks_back(c, several)]
    if not best:
        search.refuse_written_loop()
        return none
    if not best[0].has_output_time:
        refuse_first_frames(search.fixed_axes, best[0].inputs, search.frames_of(best[0]))
    if len(best) > 1:
        times = [if_time(probe.by_name(candidate.inputs)) for candidate in best]
        if best[0].has_output_time:
            raise SeveralReadings("more than one axis could be time. Say which.", advice=times, id="several-time-axes")
        raise SeveralReadings(
            "no output has a time axis, and several axes of the inputs can be of any length: if an output is the "
            "answer at the last frame, which of them is time must be said.",
            advice=[*times, ONE_FRAME],
            id="answer-without-time-axis",
        )
    return best[0]


class TimeSearch:
    """Runs the model at several lengths, with known batch axes."""

    def __init__(self, probe: AxisProbe, rows: ProbedRows) -> None:
        self.probe, self.rows = probe, rows
        self.whole_example = False
        self._failed: list[Assignment] = []

    def best(self) -> list[TimeCandidate]:
        """The candidates of the lowest rank, the causal ones first."""
        choices = {axes: self.candidate(axes, False) for axes in self._choices()}
        self._failed = [axes for axes, candidate in choices.items() if candidate is None]
        found = [candidate for candidate in choices.values() if candidate is not None]
        if sum(c.has_output_time for c in found) > 1 or self._failed:
            found = [replace(c, remembers=self._remembers(c)) if c.has_output_time and c.causal else c for c in found]
        found.sort(key=lambda c: (c.rank, not c.causal))
        rivals = tuple(c for c in found if found[0].rank == 0 and c.rank == 1 and c.causal)
        return [replace(c, rivals=rivals) for c in found if c.rank == found[0].rank]

    def candidate(self, inputs: Assignment, requested: bool) -> TimeCandidate | None:
        """The candidate of time axes `inputs`; None if the model takes no other length of them."""
        outputs = self._outputs(inputs)
        if outputs is None and not self.whole_example:
            # Parts of the example may be too short for the model.
            self.whole_example = True
            outputs = self._outputs(inputs)
        if outputs is None:
            return None
        has_output_time = requested or any(axis is not None for axis in outputs)
        found = TimeCandidate(inputs, outputs, has_output_time)
        return replace(found, causal=self._is_causal(found)) if has_output_time else found

    def refuse_written_loop(self) -> None:
        """Raise LiftError if a loop over an axis of fixed size would start anew at each call."""
        model = self.probe.model
        if self.has_states():
            return
        fixed = self.fixed_axes.time()
        if not (loop := written_loop(model, self.rows.inputs)):
            if fixed:
                raise LiftError(
                    f"nothing is kept, so each call would start anew: {fixed}",
                    advice=[ONE_FRAME],
                    id="nothing-kept-fixed-length",
                )
            return
        raise LiftError(
            f"{loop} is used in a loop over an axis of fixed size, each time on what it gave before, and nothing is "
            "kept: each call would start anew. If that axis is time, let the code take it of any length, x.shape[1].",
            advice=[*_declared_so(model), ONE_FRAME],
            id="nothing-kept-in-loop",
        )

    @property
    def fixed_axes(self) -> FixedAxes:
        """The model at the sizes of its example."""
        return FixedAxes(self.probe, self.rows.inputs, self.rows.states, self.rows.count)

    def frames_of(self, candidate: TimeCandidate) -> int:
        """Twice the length that is tried along the axes of `candidate`, which the model takes."""
        sizes = zip(self.probe.inputs, candidate.inputs, strict=True)
        return 2 * self._length(min(leaf.example.shape[t] for leaf, t in sizes if t is not None))

    def reads(self, candidate: TimeCandidate) -> bool:
        """True if the results depend on the inputs with the axes of `candidate`."""
        return self.fixed_axes.frames_read(candidate.inputs, self.frames_of(candidate)) > 0

    def looks_back(self, candidate: TimeCandidate, is_one_of_several: bool) -> bool:
        """True if the results follow from the last frames, and from none far before them."""
        frames = 3 * (self.frames_of(candidate) // 2)
        while not self.fixed_axes.follows_last(candidate.inputs, frames):
            frames *= 4
            if is_one_of_several or frames > min(SEEN_BACK, self.probe.model.max_frames or SEEN_BACK):
                return False
        return True

    def has_states(self) -> bool:
        """True if a state is declared or seen in use."""
        return bool(self.probe.model.declared) or self.has_memory()

    def has_memory(self) -> bool:
        """True if other states change outputs, or a next state depends on inputs and states.

        A counter of calls that no output reads is no memory; an output may be a choice that few states change.
        """
        none, first = (None,) * len(self.rows.inputs), len(self.rows.inputs)
        here, there = (self._draw(none, 1) for _ in range(2))
        mixed = here, [*here[:first], *there[first:]], [*there[:first], *here[first:]]
        given = [results for tensors in mixed if (results := self._run(tensors)) is not None]
        if len(given) < len(mixed):
            return bool(self.rows.states)
        of_states, of_inputs = (
            [not same(a, b, INDEPENDENCE) for a, b in zip(given[0], g, strict=True)] for g in given[1:]
        )
        outputs = len(self.probe.model.outputs)
        remembered = (a and b for a, b in zip(of_states[outputs:], of_inputs[outputs:], strict=True))
        return any(of_states[:outputs]) or any(remembered)

    def loops(self, candidates: Sequence[TimeCandidate]) -> bool:
        """True if the model calls more operators for more frames, as its own loop over them does."""
        return any(
            self._operators(self._draw(c.inputs, 1)) != self._operators(self._draw(c.inputs, 2)) for c in candidates
        )

    def _operators(self, tensors: Sequence[Tensor]) -> int:
        counted = CountsOperators()
        with counted:
            self._run(tensors)
        return counted.calls

    def refuse_bounded(self, others: Sequence[Advice]) -> None:
        """Raise BoundedAxis for an axis that varies in size, but is longer only up to some length.

        It is one that `best` found to take no multiples. With `others`, axes that look ahead, it is a LiftError.
        """
        for axes in self._failed:
            sizes = {leaf.example.shape[t] for leaf, t in zip(self.probe.inputs, axes, strict=True) if t is not None}
            size = min(sizes)
            if len(sizes) > 1 or size < 3:
                continue
            outputs, near = len(self.probe.model.outputs), ((size - 1, size - 2), (size + 2, size + 1))
            if self._run(self._drawn_at(axes, size)) is None:
                continue
            runs = ([self._run(self._drawn_at(axes, n)) for n in pair] for pair in near)
            if not any(_shrinks(long, short, outputs) for long, short in runs):
                continue
            longest = self._longest(axes, size)
            self._run(self._drawn_at(axes, longest + 1))
            port, axis = next((i, t) for i, t in enumerate(axes) if t is not None)
            if others:
                raise SeveralReadings(
                    f"which axis is time must be said: axis {axis} of input {port} may only be up to {longest} long, "
                    "and along the others an output depends on later frames.",
                    advice=[at_most(longest), *others],
                    id="time-axis-undecided",
                )
            beyond = f"the model fails ({self.probe.failure}). That is a table of so many positions, most likely"
            raise BoundedAxis(port, axis, longest, beyond)

    def _longest(self, axes: Assignment, size: int) -> int:
        """The most entries that the model takes along `axes`, up to `FAR` times the example."""
        runs, fails = size, FAR * size + 1
        while fails - runs > 1:
            middle = (runs + fails) // 2
            runs, fails = (middle, fails) if self._run(self._drawn_at(axes, middle)) is not None else (runs, middle)
        return runs

    def _drawn_at(self, axes: Assignment, size: int) -> list[Tensor]:
        return self._drawn(axes, [size] * len(axes))

    def _choices(self) -> Iterator[Assignment]:
        # The frames of one input that go with one of the others are no time.
        inside = {i: rated.axis + 1 for i, rated in self.probe.model.rated.items() if rated.frames > 1}
        taken = [(b, inside.get(i)) for i, b in enumerate(self.rows.inputs)]
        pairs = zip(self.probe.inputs, taken, strict=True)
        by_input = [[*(a for a in range(leaf.example.dim()) if a not in others), None] for leaf, others in pairs]
        return (choice for choice in itertools.product(*by_input) if any(axis is not None for axis in choice))

    def _draw(self, inputs: Assignment, multiple: int) -> list[Tensor]:
        """Noise of `multiple` times the example's length along time."""
        own = (0 if t is None else leaf.example.shape[t] for leaf, t in zip(self.probe.inputs, inputs, strict=True))
        return self._drawn(inputs, [multiple * self._length(n) if n else 0 for n in own])

    def _drawn(self, inputs: Assignment, frames: Sequence[int]) -> list[Tensor]:
        rows = self.rows
        return self.probe.draw(rows.count, sizes_of(rows.inputs, inputs, rows.count, frames), rows.states)

    def _length(self, size: int) -> int:
        """The length of the example, or a part of it if that is long."""
        part = next(n for n in range(LONG, 0, -1) if size % n == 0)
        if (most := self.probe.model.max_frames) is not None and 3 * size > most:
            # Three times as many are tried.
            return max(min(size, most // 3), 1)
        return part if size > LONG and part > LONG // 2 and not self.whole_example else size

    def _run(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        return self.probe.run(self.rows.states, tensors)

    def _outputs(self, inputs: Assignment) -> Assignment | None:
        """For each output, the axis that grows with `inputs`; None if the model fails or several axes grow."""
        runs = []
        for multiple in (1, 2, 3):
            results = self._run(self._draw(inputs, multiple))
            if results is None:
                return None
            runs.append(results)
        grown = [changed_axes(a, b) for a, b in zip(runs[1], runs[2], strict=True)][: len(self.probe.model.outputs)]
        return None if any(len(axes) > 1 for axes in grown) else tuple(axes[0] if axes else None for axes in grown)

    def _is_causal(self, candidate: TimeCandidate) -> bool:
        """True if the outputs of the first third are those of a call that ends after two thirds."""
        whole = self._draw(candidate.inputs, 3)
        head = [
            t if x is None else t.narrow(x, 0, t.shape[x] // 3 * 2).contiguous()
            for t, x in zip(whole, self._axes(candidate), strict=True)
        ]
        long, short = self._run(whole), self._run(head)
        if long is None or short is None:
            # Nothing is known: what follows the graph will see.
            return True
        return all(
            x is None or same(a.narrow(x, 0, b.shape[x] // 2), b.narrow(x, 0, b.shape[x] // 2), INDEPENDENCE)
            for a, b, x in zip(long, short, candidate.outputs, strict=False)
        )

    def _remembers(self, candidate: TimeCandidate) -> bool:
        """True if another first third changes the outputs after it."""
        whole, other = self._draw(candidate.inputs, 3), self._draw(candidate.inputs, 3)
        mixed = [
            a if x is None else torch.cat([b.narrow(x, 0, a.shape[x] // 3), _after_third(a, x)], x)
            for a, b, x in zip(whole, other, self._axes(candidate), strict=True)
        ]
        before, after = self._run(whole), self._run(mixed)
        if before is None or after is None:
            return False
        return any(
            x is not None and not same(_after_third(a, x), _after_third(b, x), INDEPENDENCE)
            for a, b, x in zip(before, after, candidate.outputs, strict=False)
        )

    def _axes(self, candidate: TimeCandidate) -> Assignment:
        """The time axis of everything that goes in; states have none."""
        return (*candidate.inputs, *(None for _ in self.rows.states))


def _shrinks(long: Sequence[Tensor] | None, short: Sequence[Tensor] | None, outputs: int) -> bool:
    """True if an output's size changes with the input."""
    if long is None or short is None:
        return False
    return any(changed_axes(a, b) for a, b in zip(long[:outputs], short[:outputs], strict=True))


def _after_third(tensor: Tensor, axis: int) -> Tensor:
    third = tensor.shape[axis] // 3
    return tensor.narrow(axis, third, tensor.shape[axis] - third)
