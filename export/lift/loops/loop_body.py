"""The body of a loop as a graph of one frame, its inputs, and the module that runs it over the frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from rnn_export.export.lift.ir.fx_nodes import aten, placeholders
from rnn_export.export.lift.loops.align_traces import LoopResults, cannot_roll
from rnn_export.export.lift.loops.iteration_counters import TAKING, by_row
from rnn_export.export.lift.loops.loop_iterations import Join, Loop
from rnn_export.export.lift.loops.loop_operands import (
    BodyValue,
    Carry,
    Counted,
    Invariant,
    LiteralValue,
    Local,
    Operand,
    Scan,
)
from rnn_export.export.lift.loops.loop_prologue import Iteration, Taken, starts_otherwise
from rnn_export.export.lift.loops.value_references import Path, Ref, node_at, value_at

T = TypeVar("T")
# What a body has values of behind an iteration.
Made = BodyValue | Scan | Join
# The memory that counts the iterations of a loop whose first ones are unlike the others.
ITERATION = "iteration"
# That of one with a number that grows with the iterations.
COUNT = "count"


@dataclass(frozen=True)
class BodyInputs:
    """The inputs of a loop body; `memory` has the value of each state 1, 2, ... frames before the first.

    A start is None if nothing reads it: the first iterations do without.
    """

    invariants: Sequence[Ref]
    scans: Sequence[Scan]
    memory: Mapping[BodyValue | Scan, Sequence[Ref | None]]

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The arguments of the loop before its memory."""
        return (*self.invariants, *(scan.sequence for scan in self.scans))


def body_inputs(
    loop: Loop,
    same_value: Callable[[fx.Node, fx.Node], bool],
    iterations: Sequence[Iteration] = (),
    joins: Sequence[Join] = (),
) -> BodyInputs:
    """The inputs of the body and first `iterations` of `loop`, and the states that its `joins` need.

    Raises LiftError if one value starts differently in two places.
    """
    invariants: dict[Ref, None] = {}
    scans: dict[Scan, None] = {}
    memory: dict[BodyValue | Scan, list[Ref | None]] = {}

    def take(operand: Operand) -> None:
        match operand:
            case Invariant(ref):
                invariants[ref] = None
            case Scan():
                scans[operand] = None
            case Carry(value, depth, oldest_first):
                if isinstance(value, Scan):
                    scans[value] = None
                # The others are what the first iterations make.
                remember(value, depth, oldest_first, depth - loop.first)

    def remember(value: BodyValue | Scan, depth: int, starts: Sequence[Ref], oldest: int) -> None:
        known = memory.setdefault(value, [])
        known += [None] * (depth - len(known))
        for at, ref in zip(range(oldest - 1, -1, -1), starts, strict=False):
            start = known[at]
            if start is not None and (start.path != ref.path or not same_value(start.base, ref.base)):
                raise starts_otherwise()
            known[at] = start or ref

    for j, row in enumerate(loop.operands):
        for operand in row:
            # What is precomputed takes values of its own frame where it says those of the frame before.
            if not (isinstance(operand, Carry) and j in loop.precomputed):
                take(operand)
    for iteration in iterations:
        for operand, _ in (*(taken for row in iteration.operands for taken in row), *iteration.values.values()):
            take(operand)
    for join in joins:
        if isinstance(join.value, Carry):
            remember(join.value.value, join.depth, join.before[: join.depth], join.depth)
    return BodyInputs(list(invariants), list(scans), {value: tuple(starts) for value, starts in memory.items()})


def body_module(
    loop: Loop,
    inputs: BodyInputs,
    results: LoopResults,
    owner: nn.Module,
    iterations: Sequence[Iteration] = (),
    one_row: bool = False,
) -> RolledLoop:
    """`loop` as a module that takes `inputs.refs` and the memory; `owner` holds what the body's graph reads.

    `one_row`: the model takes a batch of one row alone.

    Raises LiftError if the results of the first iterations are unknown.
    """
    body = _Body(loop, inputs, one_row)
    values: list[Made] = [*results.joins, *results.last, *inputs.memory]
    after = {value: body.made(value) for value in values}
    if iterations:
        if any(value not in iteration.values for value in results.last for iteration in iterations):
            raise cannot_roll(
                "what its first iterations give as their last value is not known", id="loop-last-value-unknown"
            )
        firsts = body.first_values(iterations)
        after = {value: body.chosen(value, firsts, node) for value, node in after.items()}
    return body.module(after, results, owner)


class _Body:
    """The graph that every iteration runs."""

    def __init__(self, loop: Loop, inputs: BodyInputs, one_row: bool) -> None:
        self.loop, self.inputs, self.one_row, self.graph = loop, inputs, one_row, fx.Graph()
        graph = self.graph
        self.invariants = {ref: graph.placeholder(f"outside{i}") for i, ref in enumerate(inputs.invariants)}
        self.frames = {scan: graph.placeholder(f"frame{i}") for i, scan in enumerate(inputs.scans)}
        self.memory = {
            key: [graph.placeholder(f"memory{i}_{depth}") for depth in range(len(starts))]
            for i, (key, starts) in enumerate(inputs.memory.items())
        }
        self.iteration, self.count = graph.placeholder(ITERATION), graph.placeholder(COUNT)
        self.alike: dict[Any, fx.Node] = {}
        self.nodes: dict[int, fx.Node] = {}
        # What is precomputed for the next frame comes last.
        for j in sorted(range(len(loop.operands)), key=lambda j: j in loop.precomputed):
            node = loop.copies[1][j]
            assert node is not None
            leaves = [self._read(o, j in loop.precomputed, node) for o in loop.operands[j]]
            counts = any(isinstance(o, Counted) for o in loop.operands[j])
            self.nodes[j] = self._copy(node, leaves, TAKING[node.target] if counts else node.target)

    def made(self, value: Made | Carry) -> fx.Node:
        """The node of a body value, of a frame, of a state, or of what is joined."""
        if isinstance(value, Join):
            return self.made(value.value)
        if isinstance(value, Carry):
            return self.memory[value.value][value.depth - 1]
        return self.frames[value] if isinstance(value, Scan) else self._part(self.nodes[value.node], value.path)

    def _read(self, operand: Operand, precomputed: bool = False, reader: fx.Node | None = None) -> Any:
        match operand:
            case Counted():
                assert reader is not None
                return self._number(operand, reader)
            case LiteralValue(value):
                return value
            case Invariant(ref):
                return self.invariants[ref]
            case Scan():
                return self.frames[operand]
            case Carry(value, depth) if not precomputed:
                return self.memory[value][depth - 1]
            case Carry(value) | Local(value):
                return self.made(value)

    def _number(self, counted: Counted, reader: fx.Node) -> fx.Node:
        """`counted` in each row, as floats that broadcast with `reader`."""
        meta = {key: known for key, known in reader.meta.items() if key != "val"}
        count = self._by_row(self.count, reader.meta["val"].shape, "a number in it counts the iterations", meta)

        def call(target: Any, *args: Any) -> fx.Node:
            made = self.graph.call_function(target, args)
            made.meta = meta
            return made

        start = counted.of(-self.loop.first)
        if type(start) is float:
            count = call(aten.to.dtype, count, torch.float32)
        value = call(aten.add.Tensor, call(aten.mul.Tensor, count, counted.step), start)
        return value if type(start) is float else call(aten.to.dtype, value, torch.float32)

    def _by_row(self, memory: fx.Node, shape: Sequence[Any], what: str, meta: dict[str, Any]) -> fx.Node:
        """`memory` (batch, 1), reshaped to broadcast with a value of `shape`."""
        sizes = by_row(shape)
        if sizes is None or (-1 not in sizes and not self.one_row):
            raise cannot_roll(f"{what}, with values that have no batch axis", id="loop-values-without-batch")
        shaped = self.graph.call_function(aten.reshape.default, (memory, sizes))
        shaped.meta = meta
        return shaped

    def _copy(self, node: fx.Node, leaves: Sequence[Any], target: Any = None) -> fx.Node:
        """A copy of `node` with other arguments, or the equal one that is there already."""
        target = target or node.target
        _, tree = pytree.tree_flatten((node.args, node.kwargs), is_leaf=lambda x: x is None)
        args, kwargs = pytree.tree_unflatten(leaves, tree)
        key = (target, str(tree), tuple(x if isinstance(x, fx.Node) else repr(x) for x in leaves))
        if key not in self.alike:
            self.alike[key] = self.graph.create_node(node.op, target, args, kwargs)
            self.alike[key].meta = dict(node.meta)
        return self.alike[key]

    def _part(self, node: fx.Node, path: Path) -> fx.Node:
        if path and (node, path) not in self.alike:
            self.alike[node, path] = node_at(self.graph, node, path)
        return self.alike[node, path] if path else node

    # --- first iterations

    def first_values(self, iterations: Sequence[Iteration]) -> list[Mapping[Made, fx.Node]]:
        """The values of each first iteration in place of body values."""
        found: list[Mapping[Made, fx.Node]] = []
        for iteration in iterations:
            own: list[fx.Node] = []

            def taken(what: Taken, own: list[fx.Node] = own) -> Any:
                operand, path = what
                node = own[operand.value.node] if isinstance(operand, Local) else self._read(operand)
                return self._part(node, path) if path else node

            for node, row in zip(iteration.nodes, iteration.operands, strict=True):
                own.append(self._copy(node, [taken(what) for what in row]))
            found.append({value: taken(what) for value, what in iteration.values.items()})
        return found

    def chosen(self, value: Made, firsts: Sequence[Mapping[Made, fx.Node]], node: fx.Node) -> fx.Node:
        """`node` from the first copy on, and before it the values of the first iterations."""
        own = value.value if isinstance(value, Join) else value
        if not isinstance(own, BodyValue):
            return node
        last = node
        for k in reversed(range(len(firsts))):
            # A value that is not known of an iteration is taken of none.
            first = firsts[k].get(value) or firsts[k].get(own, last)
            if first is not last:
                node, last = self._where_before(k + 1, first, node, own), first
        return node

    def _where_before(self, iteration: int, first: fx.Node, node: fx.Node, value: BodyValue) -> fx.Node:
        origin = self.loop.copies[1][value.node]
        assert origin is not None
        shape = value_at(origin.meta["val"], value.path).shape
        meta = {key: known for key, known in origin.meta.items() if key != "val"}
        before = self.graph.call_function(aten.lt.Scalar, (self.iteration, float(iteration)))
        before.meta = meta
        before = self._by_row(before, shape, "its first iterations do something else", meta)
        chosen = self.graph.call_function(aten.where.self, (before, first, node))
        chosen.meta = meta
        return chosen

    # --- the whole

    def module(self, after: Mapping[Made, fx.Node], results: LoopResults, owner: nn.Module) -> RolledLoop:
        """The loop module, whose body gives `after` as its values."""
        memory = [after[key] if d == 0 else held[d - 1] for key, held in self.memory.items() for d in range(len(held))]
        if self.iteration.users:
            more = self.graph.call_function(aten.add.Tensor, (self.iteration, 1.0))
            memory.append(self.graph.call_function(aten.clamp.default, (more, None, float(self.loop.first))))
        else:
            self.graph.erase_node(self.iteration)
        if self.count.users:
            memory.append(self.graph.call_function(aten.add.Tensor, (self.count, 1)))
        else:
            self.graph.erase_node(self.count)
        self.graph.output((*memory, *(after[value] for value in (*results.joins, *results.last))))
        self.graph.eliminate_dead_code()
        scans = [scan.frame for scan in self.inputs.scans]
        return RolledLoop(fx.GraphModule(owner, self.graph), scans, len(memory), results.joins)


class RolledLoop(nn.Module):
    """forward(invariants..., sequences..., initial memory...) -> (joined frames..., last frame's values..., memory...).

    Attributes:
        body: (invariants..., frames..., memory...) -> (next memory..., values to join..., values of the last frame...).
        scans: for each sequence, the path of frame 0; its first part is along the axis of frames.
        memories: the number of tensors that the body carries.
        joins: the Join of each joined value.
    """

    def __init__(self, body: fx.GraphModule, scans: Sequence[Path], memories: int, joins: Sequence[Join]) -> None:
        super().__init__()
        self.body, self.scans, self.memories, self.joins = body, tuple(scans), memories, tuple(joins)

    def parts_of(self, args: Sequence[T]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
        """The invariants, the sequences and the memory among a call's arguments."""
        memory = len(args) - self.memories
        sequences = memory - len(self.scans)
        return args[:sequences], args[sequences:memory], args[memory:]

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        return self.driven(self.body, args)

    def driven(self, body: Callable[..., Any], args: Sequence[Any]) -> tuple[Any, ...]:
        """`forward(*args)`, with `body` in place of the loop's own."""
        invariants, sequences, memory = self.parts_of(args)
        by_frame: list[tuple[Any, ...]] = []
        for k in range(sequences[0].shape[self.scans[0][0].axis]):
            paths = [(first._replace(entry=k), *rest) for first, *rest in self.scans]
            frames = [value_at(x, path) for x, path in zip(sequences, paths, strict=True)]
            results = body(*invariants, *frames, *memory)
            memory = results[: self.memories]
            by_frame.append(results[self.memories :])
        joined = [j.join([frame[i] for frame in by_frame], j.dim) for i, j in enumerate(self.joins)]
        return (*joined, *by_frame[-1][len(self.joins) :], *memory)


def counts_iterations(module: fx.GraphModule) -> bool:
    """True if a loop of `module` takes its iteration number."""
    loops = (loop for loop in module.modules() if isinstance(loop, RolledLoop))
    return any(node.target == COUNT for loop in loops for node in placeholders(loop.body.graph))
