"""The body of a loop as a graph of one frame, what it takes, and the module that drives it over the frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from rnn_export.export.lift.loops.copies import Join, Loop
from rnn_export.export.lift.loops.operands import BodyValue, Carry, Invariant, LiteralValue, Local, Operand, Scan
from rnn_export.export.lift.loops.references import Path, Ref, node_at, value_at
from rnn_export.export.lift.loops.two_lengths import LoopResults, cannot_roll

T = TypeVar("T")


@dataclass(frozen=True)
class BodyInputs:
    """What the body of a loop takes; `memory` says what each value was 1, 2, ... frames before the first."""

    invariants: Sequence[Ref]
    scans: Sequence[Scan]
    memory: Mapping[BodyValue | Scan, Sequence[Ref]]

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The arguments of the loop as a whole."""
        initial = (ref for refs in self.memory.values() for ref in refs)
        return (*self.invariants, *(scan.sequence for scan in self.scans), *initial)


def body_inputs(loop: Loop, same_value: Callable[[fx.Node, fx.Node], bool]) -> BodyInputs:
    """What the body of `loop` takes; raises LiftError where one value starts differently in two places."""
    invariants: dict[Ref, None] = {}
    scans: dict[Scan, None] = {}
    memory: dict[BodyValue | Scan, Sequence[Ref]] = {}
    for j, row in enumerate(loop.operands):
        for operand in row:
            match operand:
                case Invariant(ref):
                    invariants[ref] = None
                case Scan():
                    scans[operand] = None
                # What is precomputed takes values of its own frame where it says those of the frame before.
                case Carry(value, _, oldest_first) if j not in loop.precomputed:
                    if isinstance(value, Scan):
                        scans[value] = None
                    initial = oldest_first[::-1]
                    known = memory.setdefault(value, initial)
                    for a, b in zip(known, initial, strict=False):
                        if a.path != b.path or not same_value(a.base, b.base):
                            raise cannot_roll("one value of it starts differently in two places")
                    memory[value] = max(known, initial, key=len)
    return BodyInputs(list(invariants), list(scans), memory)


def body_module(loop: Loop, inputs: BodyInputs, results: LoopResults, owner: nn.Module) -> RolledLoop:
    """`loop` as a module that takes `inputs.refs`; `owner` has what the body's graph reads."""
    graph = fx.Graph()
    invariants = {ref: graph.placeholder(f"outside{i}") for i, ref in enumerate(inputs.invariants)}
    frames = {scan: graph.placeholder(f"frame{i}") for i, scan in enumerate(inputs.scans)}
    memory = {
        key: [graph.placeholder(f"memory{i}_{depth}") for depth in range(len(initial))]
        for i, (key, initial) in enumerate(inputs.memory.items())
    }
    nodes: dict[int, fx.Node] = {}

    def made(value: BodyValue | Scan) -> fx.Node:
        return frames[value] if isinstance(value, Scan) else node_at(graph, nodes[value.node], value.path)

    def read(operand: Operand, precomputed: bool) -> Any:
        match operand:
            case LiteralValue(value):
                return value
            case Invariant(ref):
                return invariants[ref]
            case Scan():
                return frames[operand]
            case Carry(value, depth) if not precomputed:
                return memory[value][depth - 1]
            case Carry(value) | Local(value):
                return made(value)

    # What is precomputed for the next frame comes last.
    for j in sorted(range(len(loop.operands)), key=lambda j: j in loop.precomputed):
        node = loop.copies[1][j]
        assert node is not None
        _, tree = pytree.tree_flatten((node.args, node.kwargs), is_leaf=lambda x: x is None)
        leaves = [read(operand, j in loop.precomputed) for operand in loop.operands[j]]
        args, kwargs = pytree.tree_unflatten(leaves, tree)
        nodes[j] = graph.create_node(node.op, node.target, args, kwargs)
        nodes[j].meta = dict(node.meta)
    after = [made(key) if d == 0 else held[d - 1] for key, held in memory.items() for d in range(len(held))]
    joined = [made(join.value) for join in results.joins]
    last = [made(value) for value in results.last]
    graph.output((*after, *joined, *last))
    return RolledLoop(fx.GraphModule(owner, graph), [scan.frame for scan in inputs.scans], len(after), results.joins)


class RolledLoop(nn.Module):
    """forward(invariants..., sequences..., initial memory...) -> (joined frames..., last frame's values..., memory...).

    Attributes:
        body: (invariants..., frames..., memory...) -> (next memory..., values to join..., values of the last frame...).
        scans: for each sequence, how frame 0 is taken of it; the first part is along the axis of frames.
        memories: how many tensors the body carries from frame to frame.
        joins: how each of the values to join is joined.
    """

    def __init__(self, body: fx.GraphModule, scans: Sequence[Path], memories: int, joins: Sequence[Join]) -> None:
        super().__init__()
        self.body, self.scans, self.memories, self.joins = body, tuple(scans), memories, tuple(joins)

    def parts_of(self, args: Sequence[T]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
        """Of the arguments of a call, the invariants, the sequences and the memory."""
        memory = len(args) - self.memories
        sequences = memory - len(self.scans)
        return args[:sequences], args[sequences:memory], args[memory:]

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        invariants, sequences, memory = self.parts_of(args)
        by_frame: list[tuple[Tensor, ...]] = []
        for k in range(sequences[0].shape[self.scans[0][0].axis]):
            paths = [(first._replace(entry=k), *rest) for first, *rest in self.scans]
            frames = [value_at(x, path) for x, path in zip(sequences, paths, strict=True)]
            results = self.body(*invariants, *frames, *memory)
            memory = results[: self.memories]
            by_frame.append(results[self.memories :])
        joined = [j.join([frame[i] for frame in by_frame], j.dim) for i, j in enumerate(self.joins)]
        return (*joined, *by_frame[-1][len(self.joins) :], *memory)
