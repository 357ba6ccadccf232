"""Finds time axes of fixed size, and code that reads only the first frames of an axis of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnn_export.errors import Advice, LiftError
from rnn_export.export.lift.axes.axis_probe import Assignment, AxisProbe, RowLayout, sizes_of
from rnn_export.export.lift.ir.compare import INDEPENDENCE, same

# An axis of fewer entries is no sequence.
FEWEST = 4
# What is not seen to change in so many draws does not.
DRAWS = 3


@dataclass(frozen=True)
class FixedTime:
    """A fixed-size axis along which each entry of an output follows from the input entries up to it."""

    name: str
    axis: int
    size: int

    def __str__(self) -> str:
        return (
            f"along axis {self.axis} of input {self.name!r} the model takes {self.size} entries, no fewer and no more, "
            "and each entry of an output follows from those of the input up to it, as over time. If it is time, let "
            f"the code take fewer frames too, of a table as many as there are (table[: x.shape[{self.axis}]])."
        )


class FixedAxes:
    """Runs the model at the sizes of its example, with some entries of an input exchanged."""

    def __init__(self, probe: AxisProbe, batch: Assignment, states: Sequence[RowLayout], rows: int) -> None:
        self.probe, self.batch, self.states, self.rows = probe, batch, states, rows

    def time(self) -> FixedTime | None:
        """The first axis that behaves as time; None without one."""
        for port, leaf in enumerate(self.probe.inputs):
            for axis, size in enumerate(leaf.example.shape):
                may_be = axis != self.batch[port] and size >= FEWEST and not self._takes_others(port, axis)
                if may_be and self._goes_as_time(port, axis):
                    return FixedTime(leaf.name, axis, size)
        return None

    def frames_read(self, times: Assignment, frames: int) -> int:
        """The number of first frames, of `frames` along `times`, that the results depend on; 0 for none."""
        none, all_of_them = 0, frames
        while none < all_of_them:
            middle = (none + all_of_them) // 2
            # Whether what stands behind the first `middle` frames counts.
            if self._counts(times, slice(middle, None), frames):
                none = middle + 1
            else:
                all_of_them = middle
        return none

    def follows_last(self, times: Assignment, frames: int) -> bool:
        """True if results depend on the last of `frames` along `times` and on others, not on the first third."""
        first, others, last = slice(0, frames // 3), slice(0, frames - 1), slice(frames - 1, None)
        counted = [self._counts(times, part, frames) for part in (first, others, last)]
        return counted == [False, True, True]

    def _counts(self, times: Assignment, part: slice, frames: int) -> bool:
        """True if the results depend on `part` of the frames."""
        return any(
            not all(same(a, b, INDEPENDENCE) for a, b in zip(*given, strict=True))
            for given in self._exchanged(times, part, [frames] * len(times))
        )

    def _takes_others(self, port: int, axis: int) -> bool:
        """True if the model runs with one entry less, or gives other shapes with more."""
        size, times = self.probe.inputs[port].example.shape[axis], self._along(port, axis)
        runs = [
            self.probe.run(self.states, self.probe.draw(self.rows, sizes, self.states))
            for sizes in (
                sizes_of(self.batch, times, self.rows, [n] * len(times)) for n in (size, size - 1, size + 1, 2 * size)
            )
        ]
        usual, fewer, *more = ([t.shape for t in given] if given is not None else None for given in runs)
        return usual is None or fewer is not None or any(shapes not in (None, usual) for shapes in more)

    def _along(self, port: int, axis: int) -> Assignment:
        return tuple(axis if i == port else None for i in range(len(self.probe.inputs)))

    def _goes_as_time(self, port: int, axis: int) -> bool:
        size, times = self.probe.inputs[port].example.shape[axis], self._along(port, axis)
        cuts = sorted({size // 4, size // 2, 3 * size // 4, size - 1})
        runs = {cut: [self._changed(times, part, size) for part in (slice(0, cut), slice(cut, None))] for cut in cuts}
        outputs = [a for a, t in enumerate(self.probe.model.example_outputs) if t.dim() > 1]
        return any(
            _is_causal([(cut, before[o], after[o]) for cut, (before, after) in runs.items()], along, size)
            for o in outputs
            for along in range(1, self.probe.model.example_outputs[o].dim())
        )

    def _changed(self, times: Assignment, part: slice, size: int) -> list[Tensor]:
        """Masks by output of changes with `part` of the frames."""
        outputs, found = len(self.probe.model.outputs), list[Tensor]()
        for before, after in self._exchanged(times, part, [size] * len(times)):
            moved = [
                ~torch.isclose(a.double(), b.double(), rtol=1e-5, atol=1e-6, equal_nan=True)
                for a, b in zip(before[:outputs], after[:outputs], strict=True)
            ]
            found = [a | b for a, b in zip(found, moved, strict=True)] if found else moved
        return found or [torch.ones_like(t, dtype=torch.bool) for t in self.probe.model.example_outputs]

    def _exchanged(
        self, times: Assignment, part: slice, frames: Sequence[int]
    ) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The results before and after `part` of the frames is exchanged; nothing if a run fails."""
        for _ in range(DRAWS):
            sizes = sizes_of(self.batch, times, self.rows, frames)
            tensors, others = (self.probe.draw(self.rows, sizes, self.states) for _ in range(2))
            mixed = list(tensors)
            for i, t in enumerate(times):
                if t is not None:
                    mixed[i] = tensors[i].clone()
                    mixed[i].movedim(t, 0)[part] = others[i].movedim(t, 0)[part]
            before, after = (self.probe.run(self.states, fed) for fed in (tensors, mixed))
            if before is not None and after is not None:
                yield before, after


def _is_causal(runs: Sequence[tuple[int, Tensor, Tensor]], along: int, size: int) -> bool:
    """True if entries of an output along an axis follow from those of an input up to them, some earlier.

    `runs` are cuts, each with the changes of the output by the frames before and after it. A shorter output has the
    frames at the front of the input, or those at its end.
    """
    frames = runs[0][1].shape[along]
    if not FEWEST <= frames <= size:
        return False
    for late in {0, size - frames}:
        pairs = [(max(cut - late, 0), b.movedim(along, 0), a.movedim(along, 0)) for cut, b, a in runs]
        causal = not any(bool(after[:at].any()) for at, _, after in pairs)
        follows = any(bool(after[at:].any()) for at, _, after in pairs)
        remembers = any(bool(before[at:].any()) for at, before, _ in pairs)
        if causal and follows and remembers:
            return True
    return False


def refuse_first_frames(axes: FixedAxes, times: Assignment, frames: int) -> None:
    """Raise LiftError if the model takes `frames` along `times`, but results use the first ones alone."""
    port, axis = next((i, t) for i, t in enumerate(times) if t is not None)
    read = axes.frames_read(times, frames)
    if 0 < read < frames:
        name = axes.probe.inputs[port].name
        raise LiftError(
            f"of {frames} frames along axis {axis} of input {name!r} the model reads the first {read} alone, whatever "
            f"comes behind them, as a loop over range({read}) does. If that axis is time, let the code go over all of "
            f"it, x.shape[{axis}].",
            advice=[
                Advice({"time_axis": None}, f"If one call is one frame of {read}, give an example of it, and say {{}}.")
            ],
            id="first-frames-alone",
        )
