"""Folds a model's own time loop, which export unrolled at two lengths, into one graph for any length."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.fx_nodes import END, aten, placeholders, results
from rnn_export.export.lift.loops.align_traces import (
    Alignment,
    align,
    align_between,
    cannot_roll,
    results_of,
    unlike_frames,
)
from rnn_export.export.lift.loops.folded_sizes import by_steps
from rnn_export.export.lift.loops.loop_body import COUNT, ITERATION, body_inputs, body_module
from rnn_export.export.lift.loops.loop_iterations import Join, Loop
from rnn_export.export.lift.loops.loop_operands import BodyValue, Scan
from rnn_export.export.lift.loops.loop_prologue import first_iterations
from rnn_export.export.lift.loops.unrolled_graph import Unrolled
from rnn_export.export.lift.loops.value_references import Ref, node_at, resolve, value_at

# What counts the iterations of a loop, by name.
COUNTERS = {ITERATION: torch.float32, COUNT: torch.int64}


def roll(
    short: fx.GraphModule,
    long: fx.GraphModule,
    samples: tuple[Sequence[Tensor], Sequence[Tensor]],
    lengths: tuple[int, int],
    length_input: tuple[int, int],
    between: Sequence[tuple[fx.GraphModule, Sequence[Tensor]]] = (),
) -> fx.GraphModule:
    """One graph for any length, from one model's graphs at two `lengths` and `samples` of the inputs of both.

    In `long` the loop makes at least one iteration more. `length_input` is an input, and its axis whose size is the
    length. `between` has the graph and samples of each length between the two, at which numbers that grow by steps are
    right then. Raises LiftError if a loop cannot be rolled up.
    """
    # The first copy computes with a memory that may be constant: it is whole if that counts, and else lacks nodes.
    for unlike, constants, by_frame in itertools.product((False, True), (True, False), (False, True)):
        here, there = (
            Unrolled(module, sample, constants, by_frame, unlike)
            for module, sample in zip((short, long), samples, strict=True)
        )
        try:
            alignment = align(here, there, lengths)
            others = (Unrolled(module, sample, constants, by_frame, unlike) for module, sample in between)
            steps = [align_between(here, other, alignment) for other in others]
            return _Emitter(here, there, alignment, lengths, length_input, steps).emit()
        except LiftError as error:
            reason = error
    raise reason


@dataclass(frozen=True)
class _Emitted:
    """A node of the new graph among arguments that are nodes of the old one."""

    node: fx.Node


class _Emitter:
    """Writes the new graph: every node outside loops as it is, every loop as one call."""

    def __init__(
        self,
        graph: Unrolled,
        longer: Unrolled,
        alignment: Alignment,
        lengths: tuple[int, int],
        length_input: tuple[int, int],
        between: Sequence[Mapping[fx.Node, fx.Node]] = (),
    ) -> None:
        self.between = between
        self.old, self.longer = graph, longer
        self.alignment, self.used = alignment, results_of(graph.graph, alignment)
        self.lengths, self.length_input = lengths, length_input
        self.new = fx.Graph()
        self.emitted: dict[fx.Node, fx.Node] = {}
        self.calls: dict[int, fx.Node] = {}
        self.bodies: dict[str, nn.Module] = {}

    def emit(self) -> fx.GraphModule:
        for node in placeholders(self.old.graph):
            self._node(node)
        self.new.output(tuple(self._value(node) for node in results(self.old.graph)))
        root = nn.Module()
        root.__dict__.update(self.old.module.__dict__)
        root._modules = {**self.old.module._modules, **self.bodies}
        module = fx.GraphModule(root, self.new)
        module.graph.lint()
        return module

    def _value(self, node: fx.Node) -> fx.Node:
        """`node` of the old graph in the new one."""
        return self._last(resolve(node), node) or self._node(node)

    def _node(self, node: fx.Node) -> fx.Node:
        if node not in self.emitted:
            if (join := self.alignment.join_of(node)) is not None:
                made = self._result(*join, node)
                skip = (made, join[1].dim, join[1].skipped, END)
                self.emitted[node] = self.new.call_function(aten.slice.Tensor, skip) if join[1].skipped else made
            else:
                self._refuse_another(node)
                args, kwargs = pytree.tree_map(self._argument, self._arguments(node), is_leaf=lambda x: x is None)
                self.emitted[node] = self.new.create_node(node.op, node.target, args, kwargs, node.name)
                self.emitted[node].meta = dict(node.meta)
        return self.emitted[node]

    def _refuse_another(self, node: fx.Node) -> None:
        """Raise LiftError if a constant has another shape at the other length."""
        other = self.alignment.counterparts.get(node) if node.op == "get_attr" else None
        here, there = self.old.values[node], None if other is None else self.longer.values[other]
        if isinstance(here, Tensor) and isinstance(there, Tensor) and here.shape != there.shape:
            raise cannot_roll(
                f"it makes a table of the length (of {len(here)} rows, then of {len(there)}), whose entries neither "
                "follow from how far two frames are apart nor come back every few frames",
                id="loop-table-of-length",
            )

    def _argument(self, leaf: Any) -> Any:
        return leaf.node if isinstance(leaf, _Emitted) else self._value(leaf) if isinstance(leaf, fx.Node) else leaf

    # --- numbers

    def _arguments(self, node: fx.Node) -> tuple[Any, Any]:
        """The arguments of `node`, with the numbers that grow with the length as functions of it."""
        other = self.alignment.counterparts.get(node)
        if other is None:
            return node.args, node.kwargs
        here, tree = pytree.tree_flatten((node.args, node.kwargs), is_leaf=lambda x: x is None)
        there, other_tree = pytree.tree_flatten((other.args, other.kwargs), is_leaf=lambda x: x is None)
        if len(here) != len(there) or str(tree) != str(other_tree):
            raise unlike_frames()
        steps = self._between(node, len(here))
        columns = zip(here, there, *steps, strict=True)
        numbers = [self._number(a, b, (node, other), [a, *c, b] if c else ()) for a, b, *c in columns]
        args, kwargs = pytree.tree_unflatten(numbers, tree)
        return args, kwargs

    def _between(self, node: fx.Node, count: int) -> list[list[Any]]:
        """The arguments of `node`, one by one, at each length between the two; empty if they are unknown."""
        others = [found.get(node) for found in self.between]
        leaves = [pytree.tree_leaves((n.args, n.kwargs), is_leaf=lambda x: x is None) for n in others if n is not None]
        fits = len(leaves) == len(self.between) and all(len(found) == count for found in leaves)
        return leaves if fits else []

    def _number(self, a: Any, b: Any, at: tuple[fx.Node, fx.Node], steps: Sequence[Any] = ()) -> Any:
        """A number that is `a` at one length and `b` at the other: `a` if they are equal, else a size or a line.

        A size of an argument of the nodes `at` is right at the lengths between, where strided windows make steps of the
        line. So are `steps`, the numbers at every length from one to the other.
        """
        if type(a) is int and any(n != a for n in steps) and all(type(n) is int for n in steps):
            return self._by_steps(steps)
        if type(a) is not int or a == b:
            if type(a) in (bool, float) and a != b:
                raise cannot_roll("a number in it depends on the length of the sequence", id="loop-number-of-length")
            return a
        if (size := self._size_of_taken(a, b, at)) is not None:
            return size
        short, long = self.lengths
        slope = Fraction(b - a, long - short)
        source, axis = self.length_input
        grown = self.new.call_function(aten.sym_size.int, (self._node(placeholders(self.old.graph)[source]), axis))
        if slope.numerator != 1:
            grown = self.new.call_function(operator.mul, (grown, slope.numerator))
        if slope.denominator != 1:
            grown = self.new.call_function(operator.floordiv, (grown, slope.denominator))
        more = a - short * slope.numerator // slope.denominator
        return _Emitted(self.new.call_function(operator.add, (grown, more)) if more else grown)

    def _by_steps(self, numbers: Sequence[int]) -> _Emitted:
        """The number that is `numbers` from the shorter length to the longer, and continues so."""
        source, axis = self.length_input
        length = self.new.call_function(aten.sym_size.int, (self._node(placeholders(self.old.graph)[source]), axis))
        return _Emitted(by_steps(self.new, length, numbers, self.lengths[0]))

    def _size_of_taken(self, a: int, b: int, at: tuple[fx.Node, fx.Node]) -> _Emitted | None:
        """An argument's size plus a constant that is `a` and `b` at the two lengths; None if there is none."""
        found: list[tuple[int, fx.Node, int]] = []
        for node, other in zip(*(n.all_input_nodes for n in at), strict=True):
            here, there = self.old.values.get(node), self.longer.values.get(other)
            if isinstance(here, Tensor) and isinstance(there, Tensor):
                for axis, (few, more) in enumerate(zip(here.shape, there.shape, strict=True)):
                    if few != more and a - few == b - more:
                        found.append((a - few, node, axis))
        if not found:
            return None
        more, node, axis = min(found, key=lambda size: abs(size[0]))
        size = self.new.call_function(aten.sym_size.int, (self._value(node), axis))
        return _Emitted(self.new.call_function(operator.add, (size, more)) if more else size)

    # --- loops

    def _last(self, ref: Ref, like: fx.Node) -> fx.Node | None:
        """The loop value that `ref` is, as of the last frame; None for a value outside loops."""
        source = self.alignment.value_of(ref)
        return None if source is None else self._result(*source, like)

    def _result(self, loop: int, value: Join | BodyValue, like: fx.Node) -> fx.Node:
        index = self.used[loop].index(value)
        new = self.new.call_function(operator.getitem, (self._call(loop), index))
        new.meta = dict(like.meta)
        return new

    def _call(self, index: int) -> fx.Node:
        if index not in self.calls:
            loop = self.alignment.loops[index]
            joins = self.used[index].joins
            iterations = first_iterations(loop, joins, self._grows)
            inputs = body_inputs(loop, self.old.same_value, iterations, joins)
            if not inputs.scans:
                raise cannot_roll("it takes no frames of an input", id="loop-without-frames")
            for scan in inputs.scans:
                sequence = value_at(self.old.values[scan.sequence.base], scan.sequence.path)
                if sequence.shape[scan.axis] != loop.first + len(loop.copies):
                    raise cannot_roll("it does not run over all frames", id="loop-over-part")
            body = body_module(
                loop, inputs, self.used[index], self.old.module, iterations, isinstance(self._batch(), int)
            )
            self.bodies[f"loop{index}"] = body
            args = [self._outside(ref) for ref in inputs.refs]
            for value, starts in inputs.memory.items():
                args += [self._outside(ref) if ref else self._zeros(*_kind_of(loop, value)) for ref in starts]
            for counter in placeholders(body.body.graph)[len(args) :]:
                args.append(self._zeros((self._batch(), 1), COUNTERS[str(counter.target)]))
            self.calls[index] = self.new.create_node("call_module", f"loop{index}", tuple(args))
            self.calls[index].meta = dict(next(n for n in loop.copies[0] if n is not None).meta)
        return self.calls[index]

    def _outside(self, ref: Ref) -> fx.Node:
        return self._last(ref, ref.base) or node_at(self.new, self._node(ref.base), ref.path)

    def _batch(self) -> int | torch.SymInt:
        sizes = (n for fed in placeholders(self.old.graph) for n in fed.meta["val"].shape)
        return next((n for n in sizes if isinstance(n, torch.SymInt)), 1)

    def _zeros(self, shape: Sequence[int | torch.SymInt], dtype: torch.dtype) -> fx.Node:
        """Zeros, sized by the inputs: the start of a memory that the first iterations do not read."""
        sizes: list[Any] = []
        for size in shape:
            if isinstance(size, int):
                sizes.append(size)
                continue
            fed = (n for n in placeholders(self.old.graph) if str(size) in map(str, n.meta["val"].shape))
            if (source := next(fed, None)) is None:
                raise cannot_roll(
                    "its first iterations do something else, with values that merge the batch with another axis",
                    id="loop-start-merges-batch",
                )
            axis = [str(n) for n in source.meta["val"].shape].index(str(size))
            sizes.append(self.new.call_function(aten.sym_size.int, (self._node(source), axis)))
        return self.new.call_function(aten.full.default, (sizes, 0), {"dtype": dtype})

    def _grows(self, ref: Ref, axis: int) -> bool:
        """True if an axis of a value is longer in the longer graph."""
        fed = dict(zip(placeholders(self.old.graph), placeholders(self.longer.graph), strict=True))
        other = fed.get(ref.base) or self.alignment.counterparts.get(ref.base)
        if other is None:
            return False
        here, there = (value_at(g.values[n], ref.path) for g, n in ((self.old, ref.base), (self.longer, other)))
        return bool(here.shape[axis] != there.shape[axis])


def _kind_of(loop: Loop, value: BodyValue | Scan) -> tuple[Sequence[int | torch.SymInt], torch.dtype]:
    """The shape and dtype of a body value or of a frame."""
    if isinstance(value, Scan):
        fake = value_at(value.sequence.base.meta["val"], (*value.sequence.path, *value.frame))
    else:
        node = loop.copies[1][value.node]
        assert node is not None
        fake = value_at(node.meta["val"], value.path)
    return fake.shape, fake.dtype
