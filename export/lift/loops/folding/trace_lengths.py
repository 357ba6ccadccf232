"""Finds the lengths to export a model at by running it: lengths that it takes, and those of its own loop."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx

from rnn_export.errors import BoundedAxis, FrozenAxis, LiftError, first_line
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.ir.compare import BRANCH_TOLERANCE, same
from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.ir.op_recorder import SeesOperators
from rnn_export.export.lift.ir.source_location import line_of
from rnn_export.export.lift.loops.unrolled_graph import COPIES
from rnn_export.export.lift.model.call.pytree import leaves_of
from rnn_export.export.lift.trace.dataflow import Dataflow

# Primes, and multiples of small strides; above 4, so that an axis of time is not taken for another one.
LENGTHS = (5, 7, 8, 12, 20, 37, 40, 67, 120, 131, 240, 480, 521, 1024, 2053)
# Of the example's own length, where the model takes none of these.
MULTIPLES = (1, 2, 3, 5)
# Of these, as many as most strides divide.
MANY_FRAMES = 240
# Frames that a loop is followed over, to see that each goes through the same operators.
FAR = 256
# Weights times frames that a run may have, beyond as many frames as most strides divide.
WORK = 2**32
# How many times as long the next one is of lengths at which a loop shows.
FARTHER = 1.5
# As many times the rounding of a model may be that of its graph.
ROUNDINGS = 8
# Turns that a loop may look back, or begin with.
DEEP = 16
# Operators that a message names.
MOST_NAMED = 3
# A loop over pieces of the sequence begins so many more within so many frames.
SEGMENTS, SEGMENTS_WITHIN = 4, 600
# Each twice the one before.
DOUBLED = (16, 32, 64, 128)


def many_frames(module: BatchFirst) -> int:
    """Frames of a long sequence: many strides divide it, unless the model takes fewer, or multiples of its own."""
    most = module.flat.max_frames
    many = MANY_FRAMES if lengths_of(module)[0] in LENGTHS else lengths_of(module)[-1]
    return many if most is None else min(many, most)


def lengths_of(module: BatchFirst) -> tuple[int, ...]:
    """The lengths that a model is exported at, and tried: usual ones, or if it takes none of them its example's."""
    most = module.flat.max_frames
    usual = LENGTHS if most is None else tuple(n for n in LENGTHS if n <= most)
    own = _own_lengths(module)
    if not own or any(runs(module, n) for n in usual) or not runs(module, own[0]):
        return usual
    return tuple(n for n in own if most is None or n <= most)


def _own_lengths(module: BatchFirst) -> tuple[int, ...]:
    """The length of the example, and multiples of it."""
    frames = own_length(module)
    return () if frames is None else tuple(n * frames for n in MULTIPLES)


def own_length(module: BatchFirst) -> int | None:
    """The length of the user's example."""
    times = zip(module.flat.inputs, module.axes.input_time, strict=True)
    return max((x.example.shape[t] for x, t in times if t is not None), default=None)


def lengths_tried(module: BatchFirst) -> tuple[int, ...]:
    """The lengths that a graph is tried at: for a large model not the longest, which take minutes."""
    weights = sum(p.numel() for p in module.parameters())
    return tuple(n for n in lengths_of(module) if n <= MANY_FRAMES or n * weights <= WORK)


def longer_example(module: BatchFirst) -> list[int]:
    """The length of the user's example, if it is above all `LENGTHS`; else empty."""
    own = own_length(module)
    return [own] if own is not None and own > LENGTHS[-1] else []


def shortest_length(module: BatchFirst) -> int:
    """The shortest length that the model takes, of those that it is exported at."""
    return next((n for n in lengths_of(module) if runs(module, n)), many_frames(module)) if module.axes.has_time else 1


def output_frames(module: BatchFirst, frames: int) -> list[int]:
    """The frames of each output with time, given `frames`."""
    with torch.no_grad():
        results = module(*module.sample(2, frames))
    return [y.shape[t] for y, t in zip(results, module.axes.time_out, strict=False) if t is not None]


def runs(module: BatchFirst, frames: int) -> bool:
    """True if the model takes so many frames, and gives something of them."""
    if frames not in module.runs:
        try:
            with torch.no_grad():
                module.runs[frames] = all(t.numel() for t in module(*module.sample(2, frames)))
        except Exception:  # too short for a window of the model
            module.runs[frames] = False
    return module.runs[frames]


def is_right(module: BatchFirst, graph: fx.GraphModule, frames: int) -> bool | None:
    """True if a graph gives the model's results over `frames` frames; None if the model does not take them."""
    inputs = module.sample(2, frames)
    with torch.no_grad():
        try:
            want = module(*inputs)
        except Exception:  # a length that the model does not take may raise anything
            return None
        try:
            pairs = list(zip(graph(*inputs), want, strict=True))
            if all(same(a, b, BRANCH_TOLERANCE) for a, b in pairs):
                return True
            # Over many frames a model may itself round positions or sums by more than that.
            with _making_doubles():
                exact = deepcopy(module).double()(*(x.double() if x.is_floating_point() else x for x in inputs))
            return all(_as_near(a, b, truth) for (a, b), truth in zip(pairs, exact, strict=True))
        except Exception:  # sizes that do not fit, or a float32 of the code's own
            return False


@contextlib.contextmanager
def _making_doubles() -> Iterator[None]:
    """In the block, tensors made without a dtype (`torch.zeros(2)`) are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _as_near(given: Tensor, want: Tensor, exact: Tensor) -> bool:
    """True if a graph's error against exact values is at most a few times the model's own error."""
    if not given.is_floating_point() or given.shape != want.shape:
        return same(given, want, BRANCH_TOLERANCE)
    off, own = (float((x.double() - exact).abs().max()) for x in (given, want))
    return off <= ROUNDINGS * own


def unrollings(module: BatchFirst, chunk: int) -> Iterator[tuple[int, int]]:
    """Pairs of lengths between which the model's own loop makes one iteration more, the shortest first.

    Later ones are multiples of the chunk, beyond the first iterations with other operators, and far beyond.
    """
    shortest = next((n for n in range(1, FAR + 1) if runs(module, n)), None)
    if shortest is None:
        raise LiftError(
            f"the model loops over time in Python, and it runs on no sequence of up to {FAR} frames, of which the loop "
            "is written out. Let it run on shorter ones, and take the frames that it waits for out of a state.",
            id="loop-runs-too-long",
        )
    stride = _stride(module, shortest)
    least = -(-shortest // stride)
    first = (least + COPIES) * stride, (least + COPIES + 1) * stride
    yield first
    stride = math.lcm(stride, chunk)
    steady = _steady_from(module, -(-shortest // stride), stride)
    for strides in (steady + COPIES, steady + COPIES + DEEP):
        if (lengths := (strides * stride, (strides + 1) * stride)) != first:
            yield lengths


def _steady_from(module: BatchFirst, least: int, stride: int) -> int:
    """The number of strides from which on one more always calls the same operators; `least` if there is none."""

    def added(strides: int) -> Counter[str]:
        few, more = (operators(module, n * stride) for n in (strides, strides + 1))
        return Counter({name: more[name] - few[name] for name in more | few})

    usual = added(least + DEEP)
    return next((n for n in range(least, least + DEEP) if added(n) == usual), least)


def _stride(module: BatchFirst, shortest: int) -> int:
    """The number of frames that add a frame to every output."""
    fewest = output_frames(module, shortest)
    more = (n for n in range(1, 65) if runs(module, shortest + n))
    found = (n for n in more if all(a > b for a, b in zip(output_frames(module, shortest + n), fewest, strict=True)))
    return next(found, 1)


def irregular(module: BatchFirst, lengths: tuple[int, int]) -> str:
    """A message on operators that only some frames call, which the two lengths may miss; empty if none."""
    stride = lengths[1] - lengths[0]
    times = max(min(FAR, (module.flat.max_frames or FAR) - lengths[0]) // stride, 2)
    far = lengths[0] + times * stride
    few, more, many = (operators(module, n) for n in (*lengths, far))
    odd = sorted(name for name in few | more | many if many[name] - few[name] != times * (more[name] - few[name]))
    # Of several weights the first one says whose they are.
    names = list(dict.fromkeys(" with ".join(name.split(" with ")[:2]) for name in odd))[:MOST_NAMED]
    return f"of {far} frames, not every one goes through the same operators ({', '.join(names)})" if odd else ""


def has_loop(module: BatchFirst, frames: int, least: int = 0) -> bool:
    """True if more frames than `frames` go through more operators, and still more frames through still more.

    An operator or two come and go with the length without a loop: over a single window, or one that is cut. If the
    model takes fewer than `least` longer lengths, no loop is seen.
    """
    beyond = (n for n in lengths_of(module) if n > frames and runs(module, n))
    counts: list[int] = []
    for n in beyond:
        if n > frames * FARTHER:
            frames, counts = n, [*counts, operators(module, n).total()]
        if len(counts) == 3:
            break
    return len(counts) >= least and all(few < more for few, more in pairwise(counts))


def has_segments(module: BatchFirst, frames: int) -> bool:
    """True if a run does more with longer segments of the sequence, but not with each frame beyond `frames`.

    A trace of that for any length takes minutes, and still has a fixed number of segments.
    """
    here = operators(module, frames)
    next_one = next((n for n in lengths_of(module) if n > frames and runs(module, n)), frames)
    some = [n for n in lengths_of(module) if frames < n < many_frames(module) and runs(module, n)]
    if not some or operators(module, next_one) != here or operators(module, some[-1]) == here:
        return False
    return has_loop(module, max((n for n in some if n < some[-1] // FARTHER), default=frames), 2)


def segment_of(module: BatchFirst) -> int | None:
    """The number of frames in the segments that the model's loop takes; None without a loop, or for one frame."""
    count = cache(lambda frames: _tensors_taken(module, frames))

    def more_from(low: int, high: int) -> int:
        """The first length above `low` with a higher count; `high` has one."""
        least = count(low)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if count(middle) <= least else (low, middle)
        return high

    try:
        ends = [shortest_length(module)]
        for _ in range(SEGMENTS):
            if count(SEGMENTS_WITHIN) <= count(ends[-1]):
                return None
            ends.append(more_from(ends[-1], SEGMENTS_WITHIN))
    except LiftError:
        return None
    # A sequence of a frame or two may be something else.
    sizes = {b - a for a, b in pairwise(ends[-3:])}
    segment = sizes.pop()
    return segment if segment > 1 and not sizes else None


def _tensors_taken(module: BatchFirst, frames: int) -> int:
    """The number of tensors that operators of a run take, lists included: a loop over frames joins one of each."""
    counts = [0]

    class Taking(SeesOperators):
        def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            counts[0] += len(leaves_of((args, kwargs)))
            return func(*args, **kwargs)

    try:
        with torch.no_grad(), Taking():
            module(*module.sample(3, frames))
    except LiftError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise LiftError(first_line(error), id="counted-run-fails") from error
    return counts[0]


def doubles(module: BatchFirst) -> bool:
    """True if each doubling of the length adds the same number of operators."""
    try:
        counts = [operators(module, n).total() for n in DOUBLED]
    except LiftError:
        return False
    return len({b - a for a, b in pairwise(counts)}) == 1 and counts[0] < counts[-1]


def _longest(module: BatchFirst, frames: int) -> int:
    """The most frames below `frames` that the model takes, if it takes no longer sequence; 0 for none."""
    right, wrong = next((n for n in range(1, frames) if runs(module, n)), 0), frames
    while right and wrong - right > 1:
        middle = (wrong + right) // 2
        right, wrong = (middle, wrong) if runs(module, middle) else (right, middle)
    return right


def operators(module: BatchFirst, frames: int, with_floats: bool = False, with_integers: bool = False) -> Counter[str]:
    """The number of calls of each operator with each weight in a run of `frames` frames, and each number if asked.

    Integers are those that are computed with, and entries of axes with at most `DEEP`. Operators that make tables of
    the length are left out. Raises LiftError if the model fails.
    """
    weights = {
        p.untyped_storage().data_ptr(): name.removeprefix("flat.model.") for name, p in module.named_parameters()
    }
    found = Counter[str]()

    class Counting(Dataflow):
        def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            if module.tables and not any(map(self.moves, leaves_of((args, kwargs)))):
                return super().see(func, args, kwargs)
            memories = (a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor))
            taken = [weights[memory] for memory in memories if memory in weights]
            taken += [str(a) for a in args if with_floats and isinstance(a, float)]
            if with_integers and (
                torch.Tag.pointwise in func.tags or (func is aten.select.int and args[0].shape[args[1]] <= DEEP)
            ):
                taken += [str(a) for a in args if type(a) is int]
            found[" with ".join([str(func), *taken])] += 1
            return super().see(func, args, kwargs)

    sample = module.sample(3, frames)
    try:
        # What bounds attention looks at scores of many frames alone.
        with torch.no_grad(), patch.object(module.flat, "context", None), Counting(enumerate(sample)):
            module(*sample)
    except LiftError:
        raise
    except Exception as error:  # the user's code may raise anything
        if isinstance(error, IndexError) and (longest := _longest(module, frames)):
            ends = f"the loop fails{line_of(error)} ({first_line(error)})"
            raise BoundedAxis(*module.axes.first_time, longest, ends) from error
        raise LiftError(
            f"the model loops over time in Python, and fails on {frames} frames{line_of(error)}: "
            f"{type(error).__name__}: {first_line(error)}. A stream has no end: let the code take any length.",
            id="loop-fails-at-length",
        ) from error
    return found


def refuse_changes_by_length(module: BatchFirst, bounded: Sequence[BoundedAxis]) -> None:
    """Raise LiftError if graphs that were exported at several lengths are right up to different ones.

    Raise FrozenAxis if the code loops: over frames of another rate it is as long over a few lengths.
    """
    port, axis = module.axes.first_time
    ends = dict.fromkeys(error.longest for error in bounded if (error.port, error.axis) == (port, axis))
    if len(ends) > 1:
        if has_loop(module, min(ends)):
            raise FrozenAxis(
                f"axis {axis} of input {port} is looped over, at another rate.", port, axis, id="loop-at-other-rate"
            )
        raise LiftError(
            f"axis {axis} of input {port}: what the code does follows from the length, and changes beyond "
            f"{' and '.join(map(str, ends))} frames, as far as it was tried (by numbers computed from the length, such "
            "as padding that fills a last window up), but a stream has no length. Let the model take whole windows, "
            "and pad outside of it.",
            id="code-changes-with-length",
        )
