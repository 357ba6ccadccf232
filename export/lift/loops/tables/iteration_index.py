"""Numbers that follow from the iteration, `1 / (t + 1)` and `0.9 ** t`, as frames of a sequence.

A trace has another number in each copy of the body. If the numbers follow a known function of t, they are read from
that function of `arange(T)`, for each row, and the copies are alike. A loop counts numbers in even steps itself, if
each iteration has them (`iteration_counters.py`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten, placeholders
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.loops.iteration_counters import TAKING, by_row
from rnn_export.export.lift.loops.unrolled_graph import COPIES

# What takes a tensor of one entry a row in the place of a number, its first or its second.
TAKERS = {
    **TAKING,
    aten.pow.Scalar: aten.pow.Tensor_Tensor,
    aten.eq.Scalar: aten.eq.Tensor,
    aten.ne.Scalar: aten.ne.Tensor,
}
NEAR = 1e-9


@dataclass(frozen=True)
class _Function:
    """start + step t, its inverse, or start * step ** t; 1 minus that if `from_one`."""

    kind: str
    start: float
    step: float
    from_one: bool = False

    def at(self, t: int) -> float:
        value = self.start * self.step**t if self.kind == "power" else self.start + self.step * t
        if self.kind == "inverse":
            value = 1 / value if value else math.inf
        return 1 - value if self.from_one else value


LINE = _Function("line", 0, 1)


def count_iterations(module: fx.GraphModule, frames: int, rows: int, time: tuple[int, int]) -> bool:
    """Let calls with such numbers read frames of sequences, in place, in a graph of `frames`; True if any do.

    `time` is an input, and its axis of frames; `rows` is its axis of rows.
    """
    graph, write = module.graph, NodeWriter(module, "number")
    sequences: dict[_Function, fx.Node] = {}
    changed = False
    for calls, place in _groups(graph):
        for part in _one_a_frame(calls, frames):
            values = [float(args_of(call)[place]) for call in part]
            before = frames - len(part)
            function = _function(values, before)
            if function is None or any(_rows_of(call, place) is None for call in part):
                continue
            if function not in sequences:
                sequences[function] = sequence_of(write, function, frames, rows, time)
            for k, call in enumerate(part):
                _read(write, call, place, sequences[function], before + k)
            changed = True
    if changed:
        graph.lint()
        module.recompile()
    return changed


def _groups(graph: fx.Graph) -> Iterator[tuple[list[fx.Node], int]]:
    """Calls of one operator that take a number in one place, in order."""
    found: dict[Any, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        for place, value in enumerate(node.args[:2]):
            if node.target in TAKERS and type(value) in (int, float) and len(node.args) == 2:
                shape = [str(n) for n in node.meta["val"].shape]
                found[node.target, place, tuple(shape)].append(node)
    for (_, place, _), calls in found.items():
        yield calls, place


def _one_a_frame(calls: Sequence[fx.Node], frames: int) -> Iterator[Sequence[fx.Node]]:
    """Groups of one call for each frame, or each but the first: of several loops, or of several calls in a body."""
    for each in (frames, frames - 1):
        count, rest = divmod(len(calls), each) if each >= COPIES - 1 else (0, 1)
        if rest or not count:
            continue
        iterations = [calls[i::count] for i in range(count)]
        if count == 1 or all(_is_one_function(part, frames) for part in iterations):
            yield from iterations
        else:
            yield from (calls[i * each : (i + 1) * each] for i in range(count))
        return


def _is_one_function(part: Sequence[fx.Node], frames: int) -> bool:
    values = [float(next(a for a in args_of(call)[:2] if type(a) in (int, float))) for call in part]
    return len({*values}) == 1 or _function(values, frames - len(part)) is not None


def _function(values: Sequence[float], first: int) -> _Function | None:
    """The function with `values` at `first`, first + 1, ...; None if values repeat or none is known."""
    if len(values) < COPIES - 1 or len({*values}) < len(values):
        return None
    for from_one in (False, True):
        given = [1 - v for v in values] if from_one else list(values)
        for kind, (start, step) in _candidates(given, first):
            function = _Function(kind, start, step, from_one)
            if all(abs(function.at(first + k) - v) <= NEAR * (1 + abs(v)) for k, v in enumerate(values)):
                return function
    return None


def _candidates(values: Sequence[float], first: int) -> Iterator[tuple[str, tuple[float, float]]]:
    a, b = values[:2]
    yield "line", _line(a, b, first)
    if a and b:
        yield "inverse", _line(1 / a, 1 / b, first)
        yield "power", (_plain(a / (b / a) ** first), _plain(b / a))


def _line(a: float, b: float, first: int) -> tuple[float, float]:
    return _plain(a - (b - a) * first), _plain(b - a)


def _plain(value: float) -> float:
    """The short number that a rounded one was meant to be."""
    return float(f"{value:.12g}")


def _rows_of(call: fx.Node, place: int) -> list[int] | None:
    """The shape of one number for each row beside the argument of `call`; None if unknown."""
    other = call.args[1 - place]
    value = other.meta.get("val") if isinstance(other, fx.Node) else None
    return by_row(value.shape) if isinstance(value, Tensor) and value.dim() else None


def sequence_of(write: NodeWriter, function: _Function, frames: int, rows: int, time: tuple[int, int]) -> fx.Node:
    """(B, T): the function of each frame's index."""
    (source, axis), call = time, write.call
    fed = write.at = placeholders(write.graph)[source]
    others = [a for a in range(fed.meta["val"].dim()) if a not in (rows, axis)]
    with write.graph.inserting_before(next(n for n in write.graph.nodes if n.op not in ("placeholder", "get_attr"))):
        value = fed
        for other in reversed(others):
            value = call(aten.select.int, value, other, 0)
        value = call(aten.transpose.int, value, 0, 1) if rows > axis else value
        value = call(aten.zeros_like.default, value, dtype=torch.float32)
        value = call(aten.add.Tensor, value, call(aten.arange.default, frames))
        if function.kind == "power":
            value = call(aten.mul.Tensor, call(aten.pow.Scalar, function.step, value), function.start)
        else:
            value = call(aten.add.Tensor, call(aten.mul.Tensor, value, function.step), function.start)
        if function.kind == "inverse":
            value = call(aten.reciprocal.default, value)
        return call(aten.rsub.Scalar, value, 1) if function.from_one else value


def _read(write: NodeWriter, call: fx.Node, place: int, sequence: fx.Node, frame: int) -> None:
    """Let `call` take a frame of a sequence in the place of a number."""
    write.at = call
    with write.graph.inserting_before(call):
        number = write.call(aten.select.int, sequence, 1, frame)
        call.update_arg(place, write.call(aten.reshape.default, number, _rows_of(call, place)))
    call.target = TAKERS[call.target]
