"""The graph of a model, for any batch and any number of frames: exported, and its own time loop rolled up."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from rnn_export.errors import BoundedAxis, FrozenAxis, LiftError, first_line
from rnn_export.export.lift.axes import Axes
from rnn_export.export.lift.axis_probe import draw_states
from rnn_export.export.lift.contract import contract
from rnn_export.export.lift.driver import inputs_of, torch_driver
from rnn_export.export.lift.layers.functions import OpaqueFunctions
from rnn_export.export.lift.loops.operators import roll_operators
from rnn_export.export.lift.loops.rolling import roll
from rnn_export.export.lift.loops.two_lengths import cannot_roll
from rnn_export.export.lift.loops.unrolled import COPIES
from rnn_export.export.lift.noise import SCALES, Noise
from rnn_export.export.lift.program.compare import CLOSED_LOOP, INDEPENDENCE, same
from rnn_export.export.lift.program.flat_graph import flat_graph, fold
from rnn_export.export.lift.program.modes import SeesOperators
from rnn_export.export.lift.program.places import busiest_place, line_of
from rnn_export.export.lift.program.signature import FlatModel
from rnn_export.export.lift.program.tracing import DYNAMIC
from rnn_export.export.lift.streaming import LiftedState, Streamed
from rnn_export.runtime.replay.closed_loop import ClosedLoop

KEEP_OUTSIDE = (
    "Keep the state of the loop in a registered buffer, or take it as an argument, return it, and declare it: "
    "states={argument: output}."
)
# Primes, and multiples of small strides; above 4, so that an axis of time is not taken for another one.
LENGTHS = (5, 7, 8, 12, 20, 37, 40, 67, 120, 131, 240, 480, 521, 1024, 2053)
# Frames that a loop is followed over, to see that each goes through the same operators.
FAR = 256
# Of these, as many as most strides divide.
MANY_FRAMES = 240
ELSE = "the code does something else (a branch on the length)"
# Lengths at which a model is exported before a bound is taken for its own.
TRIES = 3
# Turns that a loop may look back, or begin with.
DEEP = 16


class BatchFirst(nn.Module):
    """The flat model with the batch on axis 0 of every state."""

    def __init__(self, flat: FlatModel, axes: Axes) -> None:
        super().__init__()
        self.flat, self.axes = flat, axes

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """(inputs..., states of (B, *row)...) -> (outputs..., next states of (B, *row)...)."""
        inputs, outputs, layouts = len(self.flat.inputs), len(self.flat.outputs), self.axes.states
        states = [layout.tensor(s) for s, layout in zip(tensors[inputs:], layouts, strict=False)]
        fed = [x if b is not None else x.squeeze(0) for x, b in zip(tensors, self.axes.input_batch, strict=False)]
        # What is run, and compared with, is torch's own.
        with OpaqueFunctions() if torch.compiler.is_exporting() else contextlib.nullcontext():
            results = self.flat(*fed, *states)
        given = [y if b is not None else y.unsqueeze(0) for y, b in zip(results, self.axes.output_batch, strict=False)]
        after = [layout.rows(s) for s, layout in zip(results[outputs:], layouts, strict=False)]
        return (*given, *after)

    def sample(self, batch: int, frames: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Noise inputs, and states (B, *row); of one row where the model takes no more."""
        axes, noise = self.axes, Noise(self.flat, seed)
        drawn = zip(self.flat.inputs, axes.input_sizes(batch, frames), axes.input_batch, strict=True)
        like = ((noise.like(leaf.example, sizes), b) for leaf, sizes, b in drawn)
        inputs = [x if b is not None else x.unsqueeze(0) for x, b in like]
        return (*inputs, *draw_states(self.flat, axes.states, noise, 1 if axes.one_row else batch))

    def dynamic(self, time: bool) -> tuple[Any, ...]:
        """The axes of any size, as torch.export takes them: the batch, unless it is one row, and `time`."""
        axes = self.axes
        rows = [set() if axes.one_row else {b} for b in axes.rows_in]
        times = [{t} if time and t is not None else set() for t in (*axes.time_in, *(None for _ in axes.states))]
        return (tuple(dict.fromkeys(b | t, DYNAMIC) for b, t in zip(rows, times, strict=True)),)


@dataclass(frozen=True)
class Capture:
    """A graph (inputs..., states...) -> (outputs..., next states...) for any batch, of any length or of one chunk.

    `frames` is a length that the model was seen to take; `refusal` is why the graph is not the model's at all lengths,
    which counts where nothing else is wrong.
    """

    module: fx.GraphModule
    dynamic_time: bool
    notes: tuple[str, ...] = ()
    frames: int = 0
    refusal: LiftError | None = None


def capture(module: BatchFirst, chunk: int) -> Capture:
    """Export `module`, and roll up a Python loop over time; raises LiftError where neither can be."""
    axes = module.axes
    if not axes.has_time:
        return Capture(flat_graph(module, module.sample(3, 1), module.dynamic(False)), False)
    try:
        graph, frames = of_any_length(module)
        return Capture(graph, True, (), frames, _another_way(module, graph, frames))
    except FrozenAxis as error:
        if error.axis != dict(enumerate(axes.time_in)).get(error.port):
            raise
    for lengths in _unrollings(module, chunk):
        short = flat_graph(module, module.sample(3, lengths[0]), module.dynamic(False), False)
        place = f"{busiest_place(short)}: the model loops over time in Python, and"
        if irregular := _irregular(module, lengths):
            reason = cannot_roll(irregular)
            continue
        try:
            long = flat_graph(module, module.sample(3, lengths[1]), module.dynamic(False), False)
            samples = module.sample(3, lengths[0]), module.sample(3, lengths[1])
            rolled = roll(short, long, samples, lengths, _first_time(axes))
        except LiftError as error:
            reason = error
            continue
        fold(rolled)
        return Capture(rolled, True)
    if not axes.causal:
        raise LiftError(
            f"{place} an output depends on later frames (the loop runs backwards, or what it takes "
            "looks ahead), so it cannot stream."
        ) from reason
    if not axes.states or not _moves_alike(module):
        raise LiftError(f"{place} {reason} {KEEP_OUTSIDE}") from reason
    # One chunk of it is still a pure step.
    graph = flat_graph(module, module.sample(3, chunk), module.dynamic(False))
    return Capture(graph, False, (f"lifted for {chunk} frames at a time: {reason}",))


def _irregular(module: BatchFirst, lengths: tuple[int, int]) -> str:
    """What the loop does at some of many frames alone, that the two lengths may not reach; empty where nothing."""
    stride = lengths[1] - lengths[0]
    times = max(FAR // stride, 2)
    far = lengths[0] + times * stride
    few, more, many = (_operators(module, n) for n in (*lengths, far))
    odd = sorted(name for name in few | more | many if many[name] - few[name] != times * (more[name] - few[name]))
    return f"of {far} frames, not every one goes through the same operators ({', '.join(odd[:TRIES])})" if odd else ""


def _operators(module: BatchFirst, frames: int) -> Counter[str]:
    """How often each operator is called in a run of so many frames; raises LiftError where the model fails on them."""
    found = Counter[str]()

    class Counting(SeesOperators):
        def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            found[str(func)] += 1
            return func(*args, **kwargs)

    sample = module.sample(3, frames)
    try:
        with torch.no_grad(), Counting():
            module(*sample)
    except LiftError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise LiftError(
            f"the model loops over time in Python, and fails on {frames} frames{line_of(error)}: "
            f"{type(error).__name__}: {first_line(error)}. A stream has no end: let the code take any length."
        ) from error
    return found


def _moves_alike(module: BatchFirst) -> bool:
    """Whether frame after frame, with the states fed back, gives what a call of several gives, quiet or loud."""
    return all(_moves_alike_at(module, scale) for scale in SCALES)


def _moves_alike_at(module: BatchFirst, scale: float) -> bool:
    flat, drawn = module.flat, module.sample(2, 4)
    inputs, values = drawn[: len(flat.inputs)], drawn[len(flat.inputs) :]
    inputs = tuple(scale * x if x.is_floating_point() else x for x in inputs)
    states = [LiftedState(leaf.name, value[0], "argument", "") for leaf, value in zip(flat.states, values, strict=True)]
    spec = contract(flat, module.axes, Streamed(states, 0, [1] * len(flat.outputs)), None, 1, False)
    start = {leaf.name: value.numpy() for leaf, value in zip(flat.states, values, strict=True)}
    loop = ClosedLoop(spec, inputs_of(spec, inputs))
    whole, by_frame = (loop.run(torch_driver(spec, module, start), edges).outputs for edges in ((0, 4), range(5)))
    return all(np.allclose(by_frame[name], whole[name], CLOSED_LOOP.rtol, CLOSED_LOOP.atol) for name in whole)


def capture_sequence(module: BatchFirst, chunk: int) -> fx.GraphModule:
    """The model as it is, for whole sequences of any length; raises LiftError where it has states or no time axis."""
    if not module.axes.has_time:
        raise LiftError("sequence_only: the model takes one frame per call (no time axis was found). Leave it out.")
    if module.flat.states or chunk > 1:
        raise LiftError("sequence_only: whole sequences have neither states that are carried on nor chunks.")
    graph, frames = of_any_length(module)
    if refusal := _another_way(module, graph, frames):
        raise refusal
    return graph


def output_strides(graph: fx.GraphModule, module: BatchFirst) -> list[int]:
    """For how many frames of the input each output of whole sequences has one."""
    with torch.no_grad():
        results = [graph(*module.sample(1, n)) for n in (MANY_FRAMES, 2 * MANY_FRAMES)]
    times = module.axes.time_out
    grown = [1 if t is None else b.shape[t] - a.shape[t] for a, b, t in zip(*results, times, strict=True)]
    return [1 if g == 1 or not g else max(round(MANY_FRAMES / g), 1) for g in grown]


def of_any_length(module: BatchFirst) -> tuple[fx.GraphModule, int]:
    """The graph, exported at a length that is in no other size of the model, and that length; raises LiftError."""
    bounded, longest, reason = list[BoundedAxis](), 0, ""
    for frames in LENGTHS:
        if frames <= longest:
            continue
        inputs = module.sample(3, frames)
        try:
            with torch.no_grad():
                module(*inputs)
        except LiftError:
            raise
        except Exception as error:  # too short for a window of the model, or no multiple of its stride
            reason = f"{type(error).__name__}: {first_line(error)}"
            continue
        try:
            graph = flat_graph(module, inputs, module.dynamic(True))
            roll_operators(graph)
            port, axis = _first_time(module.axes)
            if not _holds_at_more(module, graph, frames):
                if bounded:
                    raise BoundedAxis(port, axis, frames, ELSE)
                raise FrozenAxis(f"the graph of {frames} frames gives something else for more of them.", port, axis)
            _refuse_end(module, graph, frames)
            return graph, frames
        except BoundedAxis as error:
            # A single frame between two windows is taken for one that is repeated: not so with more of them.
            bounded.append(error)
            longest = error.longest if (error.port, error.axis) == _first_time(module.axes) else longest
            if len(bounded) == TRIES:
                break
    if bounded:
        _refuse_ways_by_length(module, bounded)
        raise bounded[-1]
    raise LiftError(
        f"the model fails on sequences of each length tried, {', '.join(map(str, LENGTHS))} frames: {reason}. Where "
        "several inputs have time, all must have the same number of frames."
    )


def _refuse_end(module: BatchFirst, graph: fx.GraphModule, frames: int) -> None:
    """Raise BoundedAxis where a graph of `frames` frames is right at more of them, but not at many."""
    if _is_right(module, graph, MANY_FRAMES) is False:
        right = [n for n in LENGTHS if n < MANY_FRAMES and _is_right(module, graph, n)]
        port, axis = _first_time(module.axes)
        raise BoundedAxis(port, axis, max(frames, *right), ELSE)


def _another_way(module: BatchFirst, graph: fx.GraphModule, frames: int) -> LiftError | None:
    """The error where over fewer frames than `frames` the model gives something else than the graph of so many."""
    other = [n for n in LENGTHS if n < frames and _is_right(module, graph, n) is False]
    port, axis = _first_time(module.axes)
    if not other:
        return None
    return LiftError(
        f"axis {axis} of input {port}: the code goes another way over {max(other)} frames than over {frames} (a branch "
        "on the length, or numbers computed from it), but in a stream nobody knows how many will come. Let it go one "
        "way at all lengths."
    )


def _refuse_ways_by_length(module: BatchFirst, bounded: Sequence[BoundedAxis]) -> None:
    """Raise LiftError where what is done ends at another length for each length that it was exported at."""
    port, axis = _first_time(module.axes)
    ends = dict.fromkeys(error.longest for error in bounded if (error.port, error.axis) == (port, axis))
    if len(ends) > 1:
        raise LiftError(
            f"axis {axis} of input {port}: what the code does follows from the length, and changes beyond "
            f"{' and '.join(map(str, ends))} frames, as far as it was tried (by numbers computed from the length, such "
            "as padding that fills a last window up), but a stream has no length. Let the model take whole windows, "
            "and pad outside of it."
        )


def _first_time(axes: Axes) -> tuple[int, int]:
    """The first input with time, and its axis."""
    return next((i, t) for i, t in enumerate(axes.time_in) if t is not None)


def _holds_at_more(module: BatchFirst, graph: fx.GraphModule, frames: int) -> bool:
    """Whether a graph of any length is right at the next one: export may unroll a loop without a word."""
    known = (_is_right(module, graph, more) for more in LENGTHS if more > frames)
    return next((right for right in known if right is not None), True)


def _is_right(module: BatchFirst, graph: fx.GraphModule, frames: int) -> bool | None:
    """Whether a graph gives what the model does over `frames` frames; None where the model does not take them."""
    inputs = module.sample(2, frames)
    with torch.no_grad():
        try:
            want = module(*inputs)
        except Exception:  # a length that the model does not take may raise anything
            return None
        try:
            return all(same(a, b, INDEPENDENCE) for a, b in zip(graph(*inputs), want, strict=True))
        except Exception:  # sizes that do not fit
            return False


def _unrollings(module: BatchFirst, chunk: int) -> Iterator[tuple[int, int]]:
    """Pairs of lengths between which the model's own loop makes one iteration more, the shortest first.

    The next ones are multiples of the chunk, beyond the first iterations that go through other operators, and far
    beyond.
    """
    shortest = next((n for n in range(1, 257) if _runs(module, n)), None)
    if shortest is None:
        raise LiftError("the model loops over time in Python, and it runs on no sequence of up to 256 frames.")
    stride = _stride(module, shortest)
    least = -(-shortest // stride)
    first = (least + COPIES) * stride, (least + COPIES + 1) * stride
    yield first
    stride = math.lcm(stride, chunk)
    settled = _settled(module, -(-shortest // stride), stride)
    for more in (COPIES, COPIES + DEEP):
        if (lengths := ((settled + more) * stride, (settled + more + 1) * stride)) != first:
            yield lengths


def _settled(module: BatchFirst, least: int, stride: int) -> int:
    """From how many strides on one more of them goes through the same operators each time; `least` where from none."""

    def added(strides: int) -> Counter[str]:
        few, more = (_operators(module, n * stride) for n in (strides, strides + 1))
        return Counter({name: more[name] - few[name] for name in more | few})

    usual = added(least + DEEP)
    return next((n for n in range(least, least + DEEP) if added(n) == usual), least)


def _stride(module: BatchFirst, shortest: int) -> int:
    """How many frames more give one more frame of every output."""

    def lengths(frames: int) -> list[int]:
        with torch.no_grad():
            outputs = module(*module.sample(2, frames))
        return [y.shape[t] for y, t in zip(outputs, module.axes.time_out, strict=False) if t is not None]

    fewest = lengths(shortest)
    more = (n for n in range(1, 65) if _runs(module, shortest + n))
    found = (n for n in more if all(a > b for a, b in zip(lengths(shortest + n), fewest, strict=True)))
    return next(found, 1)


def fewest_frames(module: BatchFirst) -> int:
    """The shortest length that the model takes, of those that it is exported at."""
    return next((n for n in LENGTHS if _runs(module, n)), MANY_FRAMES) if module.axes.has_time else 1


def _runs(module: BatchFirst, frames: int) -> bool:
    try:
        with torch.no_grad():
            return all(t.numel() for t in module(*module.sample(2, frames)))
    except Exception:  # too short for a window of the model
        return False
