"""A time loop of the model's own, rolled up: one body, driven over the frames with its memory carried along."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError
from rnn_export.export.lift.loops.unrolled import Loop, Path, Ref, Slot, Unrolled, joined, only_takes, resolve, taken
from rnn_export.export.lift.program.fx import aten, placeholders, results


class RolledLoop(nn.Module):
    """forward(outside..., sequences..., first memory...) -> (joined frames..., values of the last frame...).

    `body` is (outside..., frames..., memory...) -> (next memory..., joined..., last...).
    """

    def __init__(
        self, body: fx.GraphModule, scans: Sequence[Path], memories: int, joins: Sequence[tuple[Any, int]]
    ) -> None:
        super().__init__()
        self.body, self.scans, self.memories, self.joins = body, tuple(scans), memories, tuple(joins)

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        scans, memories = len(self.scans), self.memories
        outside, sequences = args[: len(args) - scans - memories], args[len(args) - scans - memories :][:scans]
        memory = args[len(args) - memories :] if memories else ()
        kept: list[tuple[Tensor, ...]] = []
        for k in range(sequences[0].shape[self.scans[0][0][1]]):
            frames = [taken(x, ((*path[0][:2], k), *path[1:])) for x, path in zip(sequences, self.scans, strict=True)]
            given = self.body(*outside, *frames, *memory)
            memory = given[:memories]
            kept.append(given[memories:])
        joins = len(self.joins)
        joined = [join([g[i] for g in kept], dim) for i, (join, dim) in enumerate(self.joins)]
        return (*joined, *kept[-1][joins:], *memory)


@dataclass
class _Use:
    """What the rest of the graph takes from a loop, and which result of the call it is."""

    joins: dict[tuple[int, Path, Any, int], int] = field(default_factory=dict)
    last: dict[tuple[int, Path], int] = field(default_factory=dict)


def roll(
    short: fx.GraphModule,
    long: fx.GraphModule,
    samples: tuple[Sequence[Tensor], Sequence[Tensor]],
    lengths: tuple[int, int],
    clock: tuple[int, int],
) -> fx.GraphModule:
    """One graph for any length from the graphs of one model at two lengths.

    `clock` is the input, and its axis, whose size is the length. Raises LiftError where a loop cannot be rolled up.
    """
    # The first copy computes with a memory that may be constant: it is whole if that counts, and else lacks nodes.
    for constants, by_frame in ((True, False), (True, True), (False, False), (False, True)):
        graphs = [Unrolled(m, some, constants, by_frame) for m, some in zip((short, long), samples, strict=True)]
        try:
            return _Roller(graphs[0], graphs[1], lengths, clock).rolled()
        except LiftError as error:
            reason = error
    raise reason


def _cannot(reason: str) -> LiftError:
    return LiftError(f"its loop over time cannot be rolled up: {reason}.")


class _Roller:
    def __init__(self, short: Unrolled, long: Unrolled, lengths: tuple[int, int], clock: tuple[int, int]) -> None:
        self.short, self.long, self.lengths, self.clock = short, long, lengths, clock
        self.twins: dict[fx.Node, fx.Node] = {}  # of the nodes outside loops, short to long
        self.loops: list[Loop] = []
        self.owner: dict[fx.Node, tuple[int, int, int]] = {}  # loop, copy, node
        self.new, self.done = fx.Graph(), dict[fx.Node, fx.Node]()
        self.modules: dict[str, nn.Module] = {}
        self.calls: dict[int, fx.Node] = {}

    def rolled(self) -> fx.GraphModule:
        self._align()
        self.uses = [_Use() for _ in self.loops]
        for node in self.short.graph.nodes:
            if node not in self.owner:
                self._note(node)
        for loop in self.loops:
            for slot in (s for slots in loop.slots for s in slots if isinstance(s, Slot)):
                for ref in slot.refs:
                    self._note_last(ref)
        for node in placeholders(self.short.graph):
            self._emit(node)
        self.new.output(tuple(self._value(node) for node in results(self.short.graph)))
        root = nn.Module()
        root.__dict__.update(self.short.module.__dict__)
        root._modules = {**self.short.module._modules, **self.modules}
        module = fx.GraphModule(root, self.new)
        module.graph.lint()
        return module

    def _align(self) -> None:
        """Walk both graphs at once: a token begins a loop that has more copies in the long one, or is outside."""
        i = j = 0
        pairs: list[tuple[Loop, Loop]] = []
        short, long = self.short.tokens, self.long.tokens
        while i < len(short) or j < len(long):
            if (found := self._loop(i, j)) is not None:
                here, there = found
                pairs.append(found)
                for k, copy in enumerate(here.copies):
                    self.owner.update({n: (len(self.loops), k, m) for m, n in enumerate(copy) if n is not None})
                self.loops.append(here)
                i += sum(n is not None for copy in here.copies for n in copy)
                j += sum(n is not None for copy in there.copies for n in copy)
                continue
            if i >= len(short) or j >= len(long) or short[i].target is not long[j].target:
                raise _cannot("its frames are not computed alike")
            self.twins[short[i]] = long[j]
            i, j = i + 1, j + 1
        for a, b in list(self.twins.items()):
            self._pair_inputs(a, b)
        for here, there in pairs:
            for x, y in zip(here.copies[0], there.copies[0], strict=True):
                if x is not None and y is not None:
                    self._pair_inputs(x, y)

    def _pair_inputs(self, a: fx.Node, b: fx.Node) -> None:
        """What two nodes alike take are twins too, the numbers and constants among them."""
        for x, y in zip(a.all_input_nodes, b.all_input_nodes, strict=False):
            if x not in self.twins and x not in self.owner and x.target is y.target:
                self.twins[x] = y
                self._pair_inputs(x, y)

    def _loop(self, i: int, j: int) -> tuple[Loop, Loop] | None:
        if i >= len(self.short.tokens) or j >= len(self.long.tokens):
            return None
        more = self.lengths[1] - self.lengths[0]
        for here in self.short.loop_at(i):
            for there in self.long.loop_at(j):
                grown = len(there.copies) - len(here.copies)
                if len(here.copies[0]) == len(there.copies[0]) and grown > 0 and more % grown == 0:
                    return here, there
        return None

    # --- what is used of a loop

    def _note(self, node: fx.Node) -> None:
        if (joined := self._joined(node)) is not None:
            joins = self.uses[joined[0]].joins
            joins.setdefault(joined[1], len(joins))
        elif not only_takes(node):
            for leaf in node.all_input_nodes:
                self._note_last(resolve(leaf))

    def _note_last(self, ref: Ref) -> None:
        if ref.base in self.owner:
            loop, copy, inner = self.owner[ref.base]
            if copy != len(self.loops[loop].copies) - 1:
                raise _cannot("a single frame of it is used elsewhere")
            self.uses[loop].last.setdefault((inner, ref.path), len(self.uses[loop].last))

    def _joined(self, node: fx.Node) -> tuple[int, tuple[int, Path, Any, int]] | None:
        """The loop and the value that `node` joins over all frames, or None if it does something else."""
        for index, loop in enumerate(self.loops):
            place = {n: (k, j) for n, (i, k, j) in self.owner.items() if i == index}
            if (value := joined(node, place, len(loop.copies))) is not None:
                return index, value
        return None

    # --- the new graph

    def _value(self, node: fx.Node) -> fx.Node:
        """`node` of the short graph in the new one."""
        ref = resolve(node)
        if ref.base in self.owner:
            loop, _, inner = self.owner[ref.base]
            use = self.uses[loop]
            return self._item(self._call(loop), len(use.joins) + use.last[inner, ref.path], node)
        return self._emit(node)

    def _emit(self, node: fx.Node) -> fx.Node:
        if node not in self.done:
            if (joined := self._joined(node)) is not None:
                self.done[node] = self._item(self._call(joined[0]), self.uses[joined[0]].joins[joined[1]], node)
            else:
                args, kwargs = pytree.tree_map(self._argument, self._arguments(node), is_leaf=lambda x: x is None)
                self.done[node] = self.new.create_node(node.op, node.target, args, kwargs, node.name)
                self.done[node].meta = dict(node.meta)
        return self.done[node]

    def _argument(self, leaf: Any) -> Any:
        return leaf.node if isinstance(leaf, _New) else self._value(leaf) if isinstance(leaf, fx.Node) else leaf

    def _item(self, call: fx.Node, index: int, like: fx.Node) -> fx.Node:
        new = self.new.call_function(operator.getitem, (call, index))
        new.meta = dict(like.meta)
        return new

    def _arguments(self, node: fx.Node) -> tuple[Any, Any]:
        """The arguments of `node`, with the numbers that grow with the length as functions of it."""
        other = self.twins.get(node)
        if other is None:
            return node.args, node.kwargs
        here, tree = pytree.tree_flatten((node.args, node.kwargs), is_leaf=lambda x: x is None)
        there, other_tree = pytree.tree_flatten((other.args, other.kwargs), is_leaf=lambda x: x is None)
        if len(here) != len(there) or str(tree) != str(other_tree):
            raise _cannot("its frames are not computed alike")
        leaves = [self._number(a, b) for a, b in zip(here, there, strict=True)]
        args, kwargs = pytree.tree_unflatten(leaves, tree)
        return args, kwargs

    def _number(self, a: Any, b: Any) -> Any:
        if type(a) is not int or a == b:
            return a
        short, long = self.lengths
        # Between whole turns of the loop a size grows by a line through both.
        slope = Fraction(b - a, long - short)
        clock = self._emit(placeholders(self.short.graph)[self.clock[0]])
        grown = self.new.call_function(aten.sym_size.int, (clock, self.clock[1]))
        if slope.numerator != 1:
            grown = self.new.call_function(operator.mul, (grown, slope.numerator))
        if slope.denominator != 1:
            grown = self.new.call_function(operator.floordiv, (grown, slope.denominator))
        more = a - short * slope.numerator // slope.denominator
        # Lengths are marked, since nodes of the short graph stand in the same arguments.
        return _New(self.new.call_function(operator.add, (grown, more)) if more else grown)

    def _call(self, index: int) -> fx.Node:
        if index in self.calls:
            return self.calls[index]
        loop, use = self.loops[index], self.uses[index]
        body = _Body(loop, use, self.short.alike)
        if not body.sequences:
            raise _cannot("it takes no frames of an input")
        for ref, path in zip(body.sequences, body.scans, strict=True):
            if taken(self.short.values[ref.base], ref.path).shape[path[0][1]] != len(loop.copies):
                raise _cannot("it does not run over all frames")
        name = f"loop{index}"
        self.modules[name] = body.module(self.short.module)
        args = [self._taken_of(ref) for ref in (*body.outside, *body.sequences, *body.initial)]
        self.calls[index] = self.new.create_node("call_module", name, tuple(args))
        self.calls[index].meta = dict(next(n for n in loop.copies[0] if n is not None).meta)
        return self.calls[index]

    def _taken_of(self, ref: Ref) -> fx.Node:
        if ref.base in self.owner:
            loop, _, inner = self.owner[ref.base]
            use = self.uses[loop]
            return self._item(self._call(loop), len(use.joins) + use.last[inner, ref.path], ref.base)
        return _take(self.new, self._emit(ref.base), ref.path)


class _Body:
    """The graph of one frame of a loop."""

    def __init__(self, loop: Loop, use: _Use, alike: Callable[[fx.Node, fx.Node], bool]) -> None:
        self.loop, self.use, self.alike = loop, use, alike
        self.outside: list[Ref] = []
        self.sequences: list[Ref] = []
        self.scans: list[Path] = []
        # By value (of a node, or -1 - i for frame i): what its memory of 1, 2, ... frames ago starts from.
        self.memory: dict[tuple[int, Path], list[Ref]] = {}
        self.early = {j for j, node in enumerate(loop.copies[0]) if node is None}
        for j, slots in enumerate(loop.slots):
            for slot in slots:
                # What is made early takes values of its own frame where it says those of the frame before.
                if isinstance(slot, Slot) and not (j in self.early and slot.kind == "carry"):
                    self._note(slot)

    @property
    def initial(self) -> list[Ref]:
        return [ref for refs in self.memory.values() for ref in refs]

    def _note(self, slot: Slot) -> None:
        if slot.kind == "outside" and (ref := Ref(slot.refs[0].base, slot.path)) not in self.outside:
            self.outside.append(ref)
        elif slot.kind in ("frame", "before"):
            pair = (Ref(slot.refs[-1].base, slot.before), slot.path)
            if pair not in list(zip(self.sequences, self.scans, strict=True)):
                self.sequences.append(pair[0])
                self.scans.append(slot.path)
        if slot.kind in ("carry", "early", "before"):
            # Copy k takes the value of copy k - depth: what it was 1 frame before the first is with the last of them.
            starts = slot.refs[:-1][::-1] if slot.kind == "before" else slot.refs[::-1]
            known = self.memory.setdefault(self._key(slot), starts)
            for a, b in zip(known, starts, strict=False):
                if a.path != b.path or not self.alike(a.base, b.base):
                    raise _cannot("one value of it starts differently in two places")
            if len(starts) > len(known):
                self.memory[self._key(slot)] = starts

    def _key(self, slot: Slot) -> tuple[int, Path]:
        return (-1 - self._frame_index(slot), ()) if slot.kind == "before" else (slot.node, slot.path)

    def _frame_index(self, slot: Slot) -> int:
        pairs = list(zip(self.sequences, self.scans, strict=True))
        return pairs.index((Ref(slot.refs[-1].base, slot.before), slot.path))

    def module(self, owner: nn.Module) -> RolledLoop:
        self.graph = fx.Graph()
        outside = [self.graph.placeholder(f"outside{i}") for i in range(len(self.outside))]
        frames = [self.graph.placeholder(f"frame{i}") for i in range(len(self.sequences))]
        memory = {
            key: [self.graph.placeholder(f"memory{i}_{d}") for d in range(len(refs))]
            for i, (key, refs) in enumerate(self.memory.items())
        }
        nodes: dict[int, fx.Node] = {}

        def value(slot: Any, early: bool) -> Any:
            if not isinstance(slot, Slot):
                return slot
            if slot.kind == "outside":
                return outside[self.outside.index(Ref(slot.refs[0].base, slot.path))]
            if slot.kind == "frame":
                return frames[self._frame_index(slot)]
            if slot.kind in ("early", "before") or (slot.kind == "carry" and not early):
                return memory[self._key(slot)][max(slot.depth, 1) - 1]
            return _take(self.graph, nodes[slot.node], slot.path)

        order = sorted(range(len(self.loop.slots)), key=lambda j: j in self.early)
        for j in order:
            node = self.loop.copies[1][j]
            assert node is not None
            _, tree = pytree.tree_flatten((node.args, node.kwargs), is_leaf=lambda x: x is None)
            slots = [value(slot, j in self.early) for slot in self.loop.slots[j]]
            args, kwargs = pytree.tree_unflatten(slots, tree)
            nodes[j] = self.graph.create_node(node.op, node.target, args, kwargs)
            nodes[j].meta = dict(node.meta)
        nodes |= {-1 - i: frame for i, frame in enumerate(frames)}
        after = [
            _take(self.graph, nodes[key[0]], key[1]) if d == 0 else held[d - 1]
            for key, held in memory.items()
            for d in range(len(held))
        ]
        joined = [_take(self.graph, nodes[j], path) for j, path, _, _ in self.use.joins]
        last = [_take(self.graph, nodes[j], path) for j, path in self.use.last]
        self.graph.output((*after, *joined, *last))
        joins = [(join, dim) for _, _, join, dim in self.use.joins]
        return RolledLoop(fx.GraphModule(owner, self.graph), self.scans, len(after), joins)


class _New:
    """Marks a node that is of the new graph already."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node


def _take(graph: fx.Graph, value: fx.Node, path: Path) -> fx.Node:
    for kind, dim, index in path:
        meta = {key: known for key, known in value.meta.items() if key != "val"}
        if kind == "item":
            value = graph.call_function(operator.getitem, (value, index))
        elif kind == "select":
            value = graph.call_function(aten.select.int, (value, dim, index))
        else:
            value = graph.call_function(aten.slice.Tensor, (value, dim, index, index + 1))
        value.meta = meta
    return value
