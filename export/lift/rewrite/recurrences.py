"""Detects linear recurrences that code computes in passes or running sums over the sequence, by their values.

Doubling code (Hillis and Steele, Blelloch) has other operators at each length, and sums of logarithms (F. Heinsen,
2023) overflow in a stream, so their graphs are no step. Their values tell what they compute: if
h[t] = a[t] h[t - 1] + x[t] for tensors h, a and x of the graph, or for their exponentials, one operator replaces what
lies between them. The factors are numbers, real or complex, or matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.compare import SCANS, same
from rnn_export.export.lift.ir.fx_nodes import aten, depends_on, recorded, sources_of
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.recurrence_operators import LINEAR, LOG_LINEAR, LOUD, MATRIX

# Operators that code for any length makes a recurrence of.
RUNNING = (aten.cumsum.default, aten.cumprod.default, aten.logcumsumexp.default)
# How far values may be from a recurrence, and how much of one must not be its newest term, relative to the largest.
NEAR, SEEN = 1e-5, 1e-2
# Values of a graph and entries of each that are looked through, and the fewest frames that tell.
MOST, ENTRIES, FEWEST = 512, 256, 4
# Factors that one is tried with, beside its own: the greater ones, and the least. Products of such show their limits.
GREAT, FAINT = 4.0, 0.05


@dataclass(frozen=True)
class Row:
    """A node as a candidate: its value, or with a `sign` the exponential of it or of its negative."""

    node: fx.Node
    value: Tensor
    sign: int = 0

    def numbers(self, shape: Sequence[int], axis: int) -> Tensor:
        """The numbers, expanded to `shape`, of axes (frames, entries); a frame that is lacking at the front is 0."""
        wide = self.value.to(torch.complex128 if self.value.is_complex() else torch.float64)
        wide = ((self.sign * wide).exp() if self.sign else wide).movedim(axis, 0)
        wide = torch.cat([torch.zeros_like(wide[:1]), wide]) if len(wide) < shape[axis] else wide
        return wide.expand(shape[axis], *shape[:axis], *shape[axis + 1 :]).unsqueeze(-1).flatten(1)

    def times(self, scale: float) -> Tensor:
        return self.value + self.sign * math.log(scale) if self.sign else self.value * scale

    def faint(self) -> Tensor:
        drawn = FAINT * (1 + torch.rand(self.value.shape, generator=torch.Generator().manual_seed(0)))
        return (self.sign * drawn.log() if self.sign else drawn).to(self.value.dtype)


@dataclass(frozen=True)
class Recurrence:
    """`h` as `target` of `a` and `x` along `axis`; `a` may begin a frame late, since its first one is not used."""

    target: Any
    h: fx.Node
    a: Row
    x: Row
    axis: int

    def computed(self, call: Callable[..., Any], a: Any, x: Any) -> Any:
        """The result, by `call` (operator, arguments), from the values of `a` and `x` or from their nodes."""
        a, x = (call(aten.neg.default, n) if row.sign < 0 else n for n, row in ((a, self.a), (x, self.x)))
        if self.target is not LOG_LINEAR:
            a, x = (call(aten.exp.default, n) if row.sign else n for n, row in ((a, self.a), (x, self.x)))
        if self.a.value.shape[self.axis] < self.x.value.shape[self.axis]:
            a = call(aten.constant_pad_nd.default, a, [0, 0] * (self.a.value.dim() - 1 - self.axis) + [1, 0], 0.0)
        if self.target is not MATRIX or self.a.value.dim() == self.x.value.dim():
            return call(self.target, a, x, self.axis)
        # A vector is a matrix of one column.
        return call(aten.squeeze.dim, call(self.target, a, call(aten.unsqueeze.default, x, -1), self.axis), -1)


def has_running(graph: fx.Graph) -> bool:
    """True if a graph has several running sums, products or logarithms of sums, which may make a recurrence."""
    return sum(node.target in RUNNING for node in graph.nodes) > 1


@torch.no_grad()
def find_recurrences(module: fx.GraphModule, sample: Sequence[Tensor], frames: int | None = None) -> None:
    """Let each linear recurrence be one operator, in place.

    `frames` are those of `sample` where the graph has that length alone; else symbolic axes are time.
    """
    search, write = _Search(module, sample), NodeWriter(module, "recurrence")
    for h, value in reversed([*search.values.items()]):
        axis = _time_axis(h, value, frames)
        if axis is None or h.target in RUNNING or not _is_used(h):
            continue
        found = next(filter(search.is_one, search.recurrences(h, axis)), None)
        if found is not None:
            write.at = h
            with module.graph.inserting_before(h):
                new = found.computed(write.call, found.a.node, found.x.node)
            h.replace_all_uses_with(new)
    module.graph.eliminate_dead_code()
    module.recompile()


def _time_axis(node: fx.Node, value: Tensor, frames: int | None) -> int | None:
    """The one axis of `frames` frames or one more, or of a symbolic size; None if there is none, or several."""
    if frames is None:
        sizes = zip(node.meta["val"].shape, value.shape, strict=True) if "val" in node.meta else ()
        found = [i for i, (size, n) in enumerate(sizes) if isinstance(size, torch.SymInt) and n >= FEWEST]
    else:
        found = [i for i, n in enumerate(value.shape) if n in (frames, frames + 1)]
    return found[0] if len(found) == 1 else None


def _is_used(node: fx.Node) -> bool:
    """True if an output uses `node`."""
    return any(n.op == "output" for n in sources_of(node, lambda n: [*n.users]))


class _Search:
    """The values of a graph in one run, and the recurrences among them."""

    def __init__(self, module: fx.GraphModule, sample: Sequence[Tensor]) -> None:
        self.module, self.run = module, recorded(module, sample)
        self.at = {node: i for i, node in enumerate(module.graph.nodes)}
        self.values: dict[fx.Node, Tensor] = {
            n: v for n, v in self.run.items() if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())
        }
        self.rows = cache(self._rows)
        # The first node of those that are equal calls of equal arguments.
        self.first: dict[fx.Node, fx.Node] = {}
        made: dict[Any, fx.Node] = {}
        for node in self.at:
            given = str(fx.node.map_arg((node.args, node.kwargs), lambda n: self.first[n]))
            key = (node.target, given) if node.op == "call_function" else node
            self.first[node] = made.setdefault(key, node)

    def _rows(self, shape: tuple[int, ...], axis: int) -> tuple[list[Row], Tensor]:
        """The factors and terms that values of `shape` may have, and some numbers of each: (rows, frames, entries)."""

        def fits(own: Sequence[int]) -> bool:
            sizes = enumerate(zip(own, shape, strict=True)) if len(own) == len(shape) else [(axis, (0, 2))]
            return all(n in (size, size - 1) if i == axis else n in (1, size) for i, (n, size) in sizes)

        fitting = [n for n in self.values if fits(self.values[n].shape)][-MOST:]
        rows = [Row(n, self.values[n], sign) for n in fitting for sign in (0, 1, -1)]
        entries = math.prod(shape) // shape[axis]
        picks = torch.arange(0, entries, -(-entries // ENTRIES))
        return rows, torch.stack([row.numbers(shape, axis)[:, picks] for row in rows])

    def recurrences(self, h: fx.Node, axis: int) -> Iterator[Recurrence]:
        """Yield those that the values of `h` may be, of the terms next to it first."""
        value = self.values[h]
        shape = value.shape
        rows, numbers = self.rows(tuple(shape), axis)
        before = torch.tensor([self.at[row.node] < self.at[h] for row in rows])
        for own in (i for i, row in enumerate(rows) if row.node is h and row.sign >= 0):
            is_log, h_numbers = rows[own].sign > 0, numbers[own]
            near = NEAR * float(h_numbers.abs().max())
            if not 0 < near < math.inf:
                continue
            starts = before & ((numbers[:, 0] - h_numbers[0]).abs().amax(1) <= near)
            for i in reversed(starts.nonzero().flatten().tolist()):
                x, rest = rows[i], h_numbers[1:] - numbers[i, 1:]
                if x.value.shape != shape or x.value.dtype != value.dtype or is_log > abs(x.sign):
                    continue
                if not float(rest.abs().max()) >= near * SEEN / NEAR:
                    continue
                # Most are told by one frame.
                likely = before & ((rest[0] - numbers[:, 1] * h_numbers[0]).abs().amax(1) <= near)
                for a in reversed(likely.nonzero().flatten().tolist()):
                    factor = numbers[a, 1:]
                    off = float((rest - factor * h_numbers[:-1]).abs().max())
                    if off <= near and is_log <= abs(rows[a].sign) and not bool((factor == 1).all()):
                        yield Recurrence(LOG_LINEAR if is_log else LINEAR, h, rows[a], x, axis)
                if not is_log and not x.sign:
                    yield from self._of_matrices(h, x, axis)

    def _of_matrices(self, h: fx.Node, x: Row, axis: int) -> Iterator[Recurrence]:
        value = self.values[h]
        for node, factor in self.values.items():
            columns = value if factor.dim() == value.dim() else value[..., None]
            if self.at[node] >= self.at[h] or factor.dim() != columns.dim() or not axis < columns.dim() - 2:
                continue
            *outer, rows, size = factor.shape
            fitting = all(n in (1, m) for n, m in zip(outer, columns.shape, strict=False)) and outer[axis] != 1
            if rows == size == columns.shape[-2] and rows > 1 and fitting and factor.dtype == value.dtype:
                a, own, term = (v.movedim(axis, 0) for v in (factor, columns, x.value.reshape(columns.shape)))
                off = own[1:] - a[1:] @ own[:-1] - term[1:]
                if float(off.abs().max()) <= NEAR * float(own.abs().max()):
                    yield Recurrence(MATRIX, h, Row(node, factor), x, axis)

    def is_one(self, found: Recurrence) -> bool:
        """True if what lies between is the recurrence of loud terms and of faint factors, too: it has no limit."""
        a, x = found.a, found.x
        same_as_a, same_as_x = ({n for n in self.at if self.first[n] is self.first[r.node]} for r in (a, x))
        stops = same_as_a | same_as_x
        inside = sources_of(found.h, lambda n: [] if n in stops else n.all_input_nodes)
        inside &= depends_on(self.module.graph, [*stops]) - stops
        loud = [(a.value, x.times(n)) for n in (1.0, *LOUD)]
        for factor, term in [*loud, (a.times(GREAT), x.value), (a.faint(), x.value)]:
            run = fx.Interpreter(self.module)
            run.env = {**self.run, **dict.fromkeys(same_as_a, factor), **dict.fromkeys(same_as_x, term)}
            for node in self.at:
                if node in inside:
                    run.env[node] = run.run_node(node)
            want = found.computed(lambda target, *args: target(*args), factor, term)
            if not same(run.env[found.h], want, SCANS):
                return False
        return True
