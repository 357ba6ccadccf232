"""The values of every node of a graph in three runs, from which rules read sizes and values made of sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.ir.dependence.length_runs import LengthRun, Untried
from rnn_export.export.lift.ir.fx_nodes import END, SHAPE_ONLY, Recorder, sources_of
from rnn_export.export.lift.streaming.time_axis import refusal

BATCH, OTHER_BATCH = 2, 3
# Frames beyond the receptive field.
MARGIN = 8
# Bytes that one run may take.
MOST = 2**31
# Frames over which what goes on evenly is looked at, at least, and entries of it at most.
FAR, MOST_ENTRIES = 2**16, 2**25
# Of an entry, at most.
BYTES = 8
# By so much every number that it is made of is passed.
PASSED = 4

# (batch, frames, seed) to all inputs of a graph.
Sample = Callable[[int, int, int], Sequence[Tensor]]


@dataclass(frozen=True)
class RecordedRuns:
    """Values by node: of a batch of BATCH over `frames`, the same over `longer_frames`, and for OTHER_BATCH rows."""

    frames: int
    longer_frames: int
    base: dict[fx.Node, Any]
    longer: dict[fx.Node, Any]
    other_batch: dict[fx.Node, Any]
    sample: Sample

    @property
    def all(self) -> tuple[dict[fx.Node, Any], ...]:
        return self.base, self.longer, self.other_batch

    def number(self, argument: Any) -> int | None:
        """A number, or a node's value at both lengths; None if these differ."""
        if not isinstance(argument, fx.Node):
            return int(argument)
        value = self.base[argument]
        return int(value) if value == self.longer[argument] else None

    def number_of(self, argument: Any) -> float | None:
        """A number of any kind, as `number` has integers."""
        if not isinstance(argument, fx.Node):
            return float(argument)
        value = self.base[argument]
        return float(value) if value == self.longer[argument] else None

    def far(self, node: fx.Node, axis: int) -> Tensor | None:
        """The value of `node`, made of sizes alone, over so many frames along `axis` that its numbers are passed.

        None if that takes too much memory, or fails, as where a table ends.
        """
        made = sources_of(node, lambda n: [] if n.target in SHAPE_ONLY else n.all_input_nodes)
        if not all(n in self.base for n in made):
            return None
        given = [leaf for n in made for leaf in torch.utils._pytree.tree_leaves((n.args, n.kwargs))]
        numbers = [abs(n) for n in given if type(n) is int and n != END]
        here, there = (int(run[node].shape[axis]) for run in (self.base, self.longer))
        units = -(-max(FAR, PASSED * max(numbers, default=0)) // (there - here))

        def at(here: int, there: int) -> int:
            return here + units * (there - here)

        def sizes(n: fx.Node) -> list[int]:
            return [at(*pair) for pair in zip(self.base[n].shape, self.longer[n].shape, strict=True)]

        entries = [math.prod(sizes(n)) for n in made if isinstance(self.base[n], Tensor)]
        if max(entries) > MOST_ENTRIES or BYTES * sum(entries) > MOST:
            return None
        shapes = dict[fx.Node, Any]()
        for n in made.union(*(n.all_input_nodes for n in made)):
            value = self.base.get(n)
            if isinstance(value, Tensor):
                shapes[n] = value.new_empty(sizes(n), device="meta")
            elif isinstance(value, int) and n.op != "call_function":
                shapes[n] = at(value, self.longer[n])
        module = node.graph.owning_module
        assert module is not None
        try:
            found: Tensor = LengthRun(module, shapes).whole(node)
        except Untried:
            return None
        return found

    def grows(self, node: fx.Node) -> bool:
        """True if `node` is a number that grows with the length of the sequence."""
        value = self.base.get(node)
        return isinstance(value, int) and value != self.longer[node]


def record(module: fx.GraphModule, sample: Sample, unit: int, receptive_field: int, least: int = 0) -> RecordedRuns:
    """Run `module` over a multiple of `unit` frames beyond `receptive_field`, and of at least `least`.

    Raises LiftError if it does not take them, or if all of its values are too large to be kept.
    """
    frames = unit * max(math.ceil(receptive_field / unit) + MARGIN, math.ceil(least / unit))
    base, longer = sample(BATCH, frames, 0), sample(BATCH, frames + unit, 0)
    other_batch = sample(OTHER_BATCH, frames, 1)
    try:
        few, more, others = (
            _recorded(module, tensors, n)
            for tensors, n in ((base, frames), (longer, frames + unit), (other_batch, frames))
        )
    except MemoryError as error:
        raise LiftError(
            f"a frame of the model may depend on {receptive_field} frames, by its windows and strides, and over the "
            f"{frames} that it is followed over, {first_line(error)}. Shorten its context: smaller kernels, "
            "dilations, strides.",
            id="receptive-field-too-long",
        ) from None
    return RecordedRuns(frames, frames + unit, few, more, others, sample)


def _recorded(module: fx.GraphModule, tensors: Sequence[Tensor], frames: int) -> dict[fx.Node, Any]:
    recorder = Recorder(module, MOST)
    try:
        with torch.no_grad():
            recorder.run(*tensors)
    except MemoryError:
        raise
    except Exception as error:  # a length that an operator does not take may raise anything
        assert recorder.at is not None
        raise refusal(
            recorder.at, f"it fails over {frames} frames: {first_line(error)}", id="fails-over-frames"
        ) from error
    return dict(recorder.env)
