"""Checks a graph at other lengths: long ones, where the code may do something else, and those that are too short.

`if t % 300 == 299` and `gain[t]` are of the first kind.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import fx

from rnn_export.errors import BoundedAxis, LiftError, first_line
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.branches.counter_constants import CountedNumber, counted_numbers
from rnn_export.export.lift.ir.source_location import at_line, line_of, source_line
from rnn_export.export.lift.loops.folding.trace_lengths import WORK, is_right, lengths_tried

# The most frames that a loop is run over.
MOST = 4096
# As many times the work that is done to see whether a graph is right.
WORK_TIMES = 16
COUNT = (
    "count the frames in a value of the loop, x.new_zeros((batch, 1), dtype=torch.int64), and choose by it with "
    "torch.where; frames to look back at belong in one tensor that moves on"
)


def refuse_late_changes(module: BatchFirst, rolled: fx.GraphModule, frames: int, stride: int) -> tuple[str, ...]:
    """Compare a loop rolled up from `frames` frames to the model over as many as its work allows.

    `stride` divides the lengths that the model takes. Returns warnings about numbers that are too far. Raises
    BoundedAxis if the model fails before, or does something else.
    """
    ends, weights = module.flat.max_frames, sum(p.numel() for p in module.parameters())
    most = min(MOST, ends or MOST, WORK_TIMES * WORK // max(weights, 1)) // stride * stride
    numbers = _numbers(module, frames)
    if most > frames and not is_right(module, rolled, most):
        _refuse(module, rolled, (frames, most), [n for n in numbers if n.value < most])
    far = [n for n in numbers if n.value >= most and n.line and ends is None]
    return tuple(
        f"{at_line(n.file, n.line)} holds a count against {n.value:g}, and the loop was tried over {most} frames at "
        "most: what it does otherwise from there on, a stream does not"
        for n in far[:1]
    )


def _numbers(module: BatchFirst, frames: int) -> list[CountedNumber]:
    """Numbers in the code, and products of two if one divides: `t // 10 % 40`, `t * 0.01 > 4`."""

    def run() -> None:
        with torch.no_grad():
            module(*module.sample(2, frames))

    found = [n for n in counted_numbers(run) if 0 < n.value < torch.inf]
    made = []
    for a, b in itertools.permutations(found, 2):
        if a.divides and a.file == b.file:
            value = b.value * a.value if a.value > 1 else b.value / a.value
            made.append(CountedNumber(value, b.file, b.line))
    return [*found, *(n for n in made if n.value < MOST)]


def _refuse(
    module: BatchFirst, rolled: fx.GraphModule, lengths: tuple[int, int], numbers: Sequence[CountedNumber]
) -> None:
    """Raise BoundedAxis: the graph is right over the first length, and wrong over the second."""
    right, wrong = lengths
    while wrong - right > 1:
        middle = (wrong + right) // 2
        right, wrong = (middle, wrong) if is_right(module, rolled, middle) else (right, middle)
    raise BoundedAxis(*module.axes.first_time, right, _fails(module, wrong) or _otherwise(right, numbers))


def _fails(module: BatchFirst, frames: int) -> str:
    try:
        with torch.no_grad():
            module(*module.sample(2, frames))
    except Exception as error:  # the user's code may raise anything
        return f"the model fails{line_of(error)} ({type(error).__name__}: {first_line(error)})"
    return ""


def _otherwise(right: int, numbers: Sequence[CountedNumber]) -> str:
    nearest = min(numbers, key=lambda n: (abs(n.value - right), -n.line), default=None)
    where = (
        "" if nearest is None else f"{at_line(nearest.file, nearest.line)}: {source_line(nearest.file, nearest.line)}; "
    )
    return f"the loop does something else than before ({where}{COUNT})"


def other_branch(module: BatchFirst, graph: fx.GraphModule, frames: int) -> tuple[int, LiftError | None]:
    """The fewest frames at which the graph of `frames` is the model, and an error if it fails at more."""
    known = {n: is_right(module, graph, n) for n in lengths_tried(module) if n != frames}
    wrong, right = ([n for n, yes in known.items() if yes is way] for way in (False, True))
    if not wrong:
        return 1, None
    if max(wrong) < min([frames, *right]):
        return _first_right(module, graph, max(wrong), min([frames, *right])), None
    port, axis = module.axes.first_time
    return 1, LiftError(
        f"axis {axis} of input {port}: the code goes another way over {max(wrong)} frames than over {frames} (a branch "
        "on the length, or numbers computed from it), but in a stream nobody knows how many will come. Let it go one "
        "way at all lengths.",
        id="branch-on-length",
    )


def fewest(module: BatchFirst, graph: fx.GraphModule, tried: Sequence[int], frames: int) -> int:
    """The length from which a graph is the model, judged by the lengths `tried` below `frames`."""
    wrong = [n for n in tried if n < frames and is_right(module, graph, n) is False]
    return _first_right(module, graph, max(wrong), frames) if wrong else 1


def _first_right(module: BatchFirst, graph: fx.GraphModule, wrong: int, right: int) -> int:
    """The first length at which a graph is the model, between `wrong` and `right`."""
    while right - wrong > 1:
        middle = (wrong + right) // 2
        wrong, right = (middle, right) if is_right(module, graph, middle) is False else (wrong, middle)
    return right
