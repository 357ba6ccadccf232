"""Finds the copies of one loop body in an unrolled graph.

At a fixed length, export unrolls a Python loop over the frames into copies of its body. Copies that differ only in the
frame that they take, and in taking the values of the copy before, are one body. The values that the first copy takes
instead are the initial memory. If the first iterations of a loop do something else, the first copy is a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten
from rnn_export.export.lift.loops.iteration_counters import counted, takes_counts
from rnn_export.export.lift.loops.loop_operands import (
    Argument,
    BodyValue,
    Carry,
    LiteralValue,
    Operand,
    Place,
    classify,
    consecutive,
    is_known_early,
)
from rnn_export.export.lift.loops.unrolled_graph import COPIES, Unrolled
from rnn_export.export.lift.loops.value_references import Ref, resolve, value_at

# Nodes that the first copy may lack.
MISSING = 16
# Bodies that are tried for each token: where copies follow each other and none is one, there are hundreds for each.
TRIED = 16
JOINS = {aten.stack.default: torch.stack, aten.cat.default: torch.cat}

Copy = list[fx.Node | None]


@dataclass(frozen=True)
class Join:
    """A value of every copy, behind the earlier values `before`, joined by `torch.stack` or `torch.cat`.

    A Carry is the value of `depth` iterations before, and `before` begins with its initial values. The `skipped` first
    entries along `dim` are not joined.
    """

    value: BodyValue | Carry
    join: Callable[..., Any]
    dim: int
    before: tuple[Ref, ...] = ()
    skipped: int = 0

    @property
    def depth(self) -> int:
        """The delay of the joined value, in iterations."""
        return self.value.depth if isinstance(self.value, Carry) else 0


@dataclass(frozen=True, eq=False)
class Loop:
    """A body and its copies: `copies[k][j]` is node j of copy k, and `operands[j]` are its arguments.

    A node is None if the first copy needs none, since its memory is there already, or the last copies do not use it.
    Before the first copy the loop makes `first` iterations of another kind.
    """

    copies: list[Copy]
    operands: list[list[Operand]] = field(default_factory=list)
    first: int = 0

    @cached_property
    def places(self) -> Mapping[fx.Node, Place]:
        """The place of each node of the graph in the loop."""
        return {n: Place(k, j) for k, copy in enumerate(self.copies) for j, n in enumerate(copy) if n is not None}

    @cached_property
    def size(self) -> int:
        """The number of tokens in all copies, which are consecutive."""
        return sum(len(copy) - copy.count(None) for copy in self.copies)

    @cached_property
    def precomputed(self) -> frozenset[int]:
        """The nodes that the first copy lacks: each copy makes them for the next."""
        return frozenset(j for j, node in enumerate(self.copies[0]) if node is None)

    def join_of(self, node: fx.Node) -> Join | None:
        """The value that `node` joins over all iterations; None if it does something else."""
        if node.target not in JOINS or not isinstance(args_of(node)[0], list | tuple):
            return None
        joined = [resolve(n) for n in args_of(node)[0] if isinstance(n, fx.Node)]
        places = [self.places.get(ref.base) for ref in joined]
        count = self.first + len(self.copies)
        if len(joined) > count or not joined or (last := places[-1]) is None:
            return None
        join, dim = JOINS[node.target], int(args_of(node)[1]) if len(node.args) > 1 else 0
        if skipped := count - len(joined):
            late = [Place(k, last.node) for k in range(len(self.copies))][-len(joined) :]
            if len(joined) < 2 or places != late or len({ref.path for ref in joined}) > 1:
                return None
            size = 1 if join is torch.stack else value_at(joined[-1].base.meta["val"], joined[-1].path).shape[dim]
            return Join(BodyValue(last.node, joined[-1].path), join, dim, (), skipped * size)
        # A list that began with some values may be joined without its last ones.
        depth = len(self.copies) - 1 - last.copy
        before, refs = joined[: self.first + depth], joined[self.first + depth :]
        if len(refs) < 2 or len({ref.path for ref in refs}) > 1:
            return None
        if places[len(before) :] != [Place(k, last.node) for k in range(len(refs))]:
            return None
        if any(place is not None for place in places[: len(before)]):
            return None
        value = BodyValue(last.node, refs[-1].path)
        return Join(Carry(value, depth, ()) if depth else value, join, dim, tuple(before))


def loops_at(graph: Unrolled, start: int) -> Iterator[Loop]:
    """The loops whose copies begin with token `start`, the shortest body first."""
    forms, longest = graph.forms, (len(graph.tokens) - start) // (COPIES - 1) + 1
    # What the first copy lacks makes it an iteration of another kind.
    for missing in range(1 if graph.with_first_iterations else MISSING + 1):
        for first_size in range(1, longest - missing + 1):
            second, size = start + first_size, first_size + missing
            if forms[second : second + 1] != forms[second + size : second + size + 1]:
                continue
            body = forms[second : second + size]
            complete = forms[start : start + size] == body
            if len(body) < size or complete == bool(missing):
                continue
            if any(forms[second + k * size : second + (k + 1) * size] != body for k in range(1, COPIES - 2)):
                continue
            if graph.tried > TRIED * len(graph.tokens):
                return
            graph.tried += 1
            for copies in _copies(graph, start, first_size, size):
                loop = Loop(copies, first=_iterations_before(graph, copies))
                if _gives_frames_or_last(graph, loop) and (operands := _operands(graph, loop)) is not None:
                    yield replace(loop, operands=operands)


def _gives_frames_or_last(graph: Unrolled, loop: Loop) -> bool:
    """True if only joins over all frames and values of the last frame are used."""
    whole = [node for copy in loop.copies[:-1] for node in copy if node is not None]
    ours = range(graph.index[whole[0]], graph.index[whole[0]] + loop.size)
    return all(graph.index.get(user, -1) in ours or loop.join_of(user) for node in whole for user in graph.users[node])


def _copies(graph: Unrolled, start: int, first_size: int, size: int) -> Iterator[list[Copy]]:
    """The copies of a body of `size` tokens, of which the first one has only `first_size`.

    The last copies lack nodes that only later copies use. Nodes behind a loop may look like the beginning of another
    copy, so lists with and without such copies are given.
    """
    at = start + first_size
    body = graph.tokens[at : at + size]
    first, used = _copy(graph, body, start)
    if used != first_size or first_size + first.count(None) != size:
        return
    copies = [first]
    while at < len(graph.tokens):
        copy, used = _copy(graph, body, at, is_later=True)
        if not used or (not _lacks(copies[-1]) <= _lacks(copy) and len(copies) > 1):
            break
        copies.append(copy)
        at += used
    complete = sum(None not in copy for copy in copies[1:])
    for count in range(len(copies), max(complete, COPIES - 1), -1):
        yield copies[:count]


def _lacks(copy: Copy) -> set[int]:
    return {j for j, node in enumerate(copy) if node is None}


def _copy(graph: Unrolled, body: Sequence[fx.Node], at: int, is_later: bool = False) -> tuple[Copy, int]:
    """The tokens from `at` on that could be a copy, None for each missing one, and their number.

    In a copy that `is_later` than the first, each node that is there has all of its arguments.
    """
    form = [graph.forms[graph.index[node]] for node in body]
    whole = graph.tokens[at : at + len(body)]
    if graph.forms[at : at + len(body)] == form and (not is_later or _takes_itself(graph, body, whole)):
        return [*whole], len(body)
    copy: Copy = []
    used = 0
    ours: dict[fx.Node, fx.Node | None] = {}
    for node, wanted in zip(body, form, strict=True):
        there = at + used < len(graph.tokens) and graph.forms[at + used] == wanted
        if there and is_later:
            there = _takes_alike(graph, ours, node, graph.tokens[at + used])
        copy.append(graph.tokens[at + used] if there else None)
        ours[node] = copy[-1]
        used += there
    return copy, used


def _takes_itself(graph: Unrolled, body: Sequence[fx.Node], copy: Sequence[fx.Node]) -> bool:
    """True if the arguments within a copy match those within the body."""
    ours = dict(zip(body, copy, strict=True))
    return all(
        ours.get(wanted.base, taken.base) is taken.base
        for node, other in ours.items()
        for wanted, taken in zip(graph.arguments[node], graph.arguments[other], strict=True)
        if isinstance(wanted, Ref) and isinstance(taken, Ref)
    )


def _takes_alike(graph: Unrolled, ours: Mapping[fx.Node, fx.Node | None], node: fx.Node, token: fx.Node) -> bool:
    """True if the arguments of `token` match those of body node `node`; `ours` maps body nodes to the copy's."""
    for wanted, taken in zip(graph.arguments[node], graph.arguments[token], strict=True):
        if isinstance(wanted, Ref) and isinstance(taken, Ref):
            if ours.get(wanted.base) is not taken.base and (wanted.base in ours or taken.base in ours.values()):
                return False
            outside = wanted.base not in graph.index and taken.base not in graph.index
            if outside and not graph.same_value(wanted.base, taken.base):
                return False
    return True


def _iterations_before(graph: Unrolled, copies: list[Copy]) -> int:
    """The number of iterations before `copies`, by the frames that they leave out."""
    if not graph.with_first_iterations:
        return 0
    complete = (nodes for nodes in zip(*copies, strict=True) if None not in nodes)
    for nodes in complete:
        for refs in zip(*(graph.arguments[node] for node in nodes if node is not None), strict=True):
            if (
                all(isinstance(ref, Ref) for ref in refs)
                and all(graph.same_value(refs[0].base, ref.base) for ref in refs)
                and (found := consecutive(refs))
            ):
                sequence = value_at(graph.values[found[0].sequence.base], found[0].sequence.path)
                return max(int(sequence.shape[found[0].axis]) - len(copies), 0)
    return 0


def _operands(graph: Unrolled, loop: Loop) -> list[list[Operand]] | None:
    """The arguments of every node of the body; None if the copies are not of one body."""
    operands = []
    for j in range(len(loop.copies[0])):
        nodes = {k: node for k, copy in enumerate(loop.copies) if (node := copy[j]) is not None}
        row = []
        for leaves in zip(*(graph.arguments[n] for n in nodes.values()), strict=True):
            operand = _operand(graph, loop, nodes, leaves)
            if operand is None or (j in loop.precomputed and not is_known_early(operand, loop.precomputed)):
                return None
            row.append(operand)
        operands.append(row)
    return operands


def _operand(graph: Unrolled, loop: Loop, nodes: Mapping[int, fx.Node], leaves: tuple[Any, ...]) -> Operand | None:
    first, copies = leaves[0], tuple(nodes)
    counts = len(copies) == len(loop.copies) and takes_counts(nodes[0])
    if not isinstance(first, Ref):
        if all(type(v) is type(first) and v == first for v in leaves):
            return LiteralValue(first)
        return counted(leaves) if counts else None
    numbers = graph.numbers(leaves) if counts and first == graph.arguments[nodes[0]][1] else None
    if numbers and (found := counted(numbers)) is not None:
        return found
    places = tuple(loop.places.get(ref.base) for ref in leaves)
    operand = classify(Argument(copies, leaves, places, loop.precomputed, graph.same_value, loop.first))
    return operand if operand is None or _starts_alike(loop, operand) else None


def _starts_alike(loop: Loop, operand: Operand) -> bool:
    """True if a carried value has the sizes of its initial values, or these broadcast to it."""
    if not isinstance(operand, Carry) or not isinstance(operand.value, BodyValue) or not operand.initial:
        return True
    node = loop.copies[1][operand.value.node]
    assert node is not None
    shape = _sizes(Ref(node, operand.value.path))
    for start in map(_sizes, operand.initial):
        may_repeat = not loop.first
        if len(start) > len(shape) or (len(start) < len(shape) and not may_repeat):
            return False
        pairs = zip(reversed(start), reversed(shape), strict=False)
        if any(a != b and not (may_repeat and a == "1") for a, b in pairs):
            return False
    return True


def _sizes(ref: Ref) -> list[str]:
    value = value_at(ref.base.meta["val"], ref.path)
    return [str(n) for n in getattr(value, "shape", ())]
