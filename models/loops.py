"""A time loop of the model's own, unrolled by export, rolled up again.

Exported at two lengths, a Python loop over the frames stands in the graph as so many copies of its body, one more in
the longer graph. Copies that differ only in the frame that they take, and in taking the values of the copy before, are
one body; what the first copy takes in place of those values is where its memory starts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError
from rnn_export.models.program import Recorder, aten, depends_on, is_item, placeholders, results

Path = tuple[tuple[Any, ...], ...]
# Copies that must be seen in the shorter graph.
COPIES = 4
# Nodes that the first copy may lack.
MISSING = 16
JOINS = {aten.stack.default: torch.stack, aten.cat.default: torch.cat}


@dataclass(frozen=True)
class Ref:
    """A value: a node and how to get from it, by items, frames (select) and pieces of one frame (slice)."""

    base: fx.Node
    path: Path = ()


def _resolve(node: fx.Node) -> Ref:
    """Look through the nodes that only take a part."""
    if is_item(node):
        inner, index = node.args
        assert isinstance(inner, fx.Node)
        whole = _resolve(inner.args[0]) if inner.args and isinstance(inner.args[0], fx.Node) else None
        if inner.target is aten.unbind.int and whole:
            return Ref(whole.base, (*whole.path, ("select", _dim(inner, 1), index)))
        if inner.target is aten.split.Tensor and whole and inner.args[1] == 1:
            return Ref(whole.base, (*whole.path, ("slice", _dim(inner, 2), index)))
        return Ref(inner, (("item", 0, index),))
    if node.target is aten.select.int and isinstance(node.args[2], int):
        whole = _resolve(node.args[0])  # type: ignore[arg-type]
        return Ref(whole.base, (*whole.path, ("select", _axis(node, node.args[1]), node.args[2])))
    if node.target is aten.slice.Tensor and len(node.args) == 4 and all(isinstance(a, int) for a in node.args[1:]):
        _, dim, start, end = node.args
        if end - start == 1:  # type: ignore[operator]
            whole = _resolve(node.args[0])  # type: ignore[arg-type]
            return Ref(whole.base, (*whole.path, ("slice", _axis(node, dim), start)))
    return Ref(node)


def _dim(node: fx.Node, position: int) -> int:
    return _axis(node, node.args[position] if len(node.args) > position else 0)


def _axis(node: fx.Node, dim: Any) -> int:
    return int(dim) % len(node.args[0].meta["val"].shape)  # type: ignore[union-attr]


def _taken(value: Any, path: Path) -> Any:
    for kind, dim, index in path:
        if kind == "item":
            value = value[index]
        elif kind == "select":
            value = value.select(dim, index)
        else:
            value = value.narrow(dim, index, 1)
    return value


def _only_takes(node: fx.Node) -> bool:
    """Whether `node` needs no place in a body, since every use of it is looked through."""
    return _resolve(node).base is not node or (
        node.target in (aten.unbind.int, aten.split.Tensor) and all(_resolve(u).base is not node for u in node.users)
    )


# --- the body -----------------------------------------------------------------------------------------------------


@dataclass
class Slot:
    """What one argument of a body's node is in every copy.

    kind: "inner" (another node of the same copy), "carry" (a node `depth` copies before), "early" (a node of the same
    copy that the copy before can make), "frame" (the copy's own frame of something outside), "outside".
    """

    kind: str
    node: int = 0
    depth: int = 0
    path: Path = ()
    before: Path = ()
    refs: list[Ref] = field(default_factory=list)


@dataclass
class Loop:
    """`copies[k][j]` is node j of copy k (None where the last copy has no use for it), `slots[j]` its arguments."""

    copies: list[list[fx.Node | None]]
    slots: list[list[Any]]


class _Unrolled:
    """A graph in which loops are looked for."""

    def __init__(self, module: fx.GraphModule, sample: Sequence[Tensor], constants: bool) -> None:
        _join_written_frames(module.graph)
        self.module, self.graph = module, module.graph
        self.values = Recorder(module).values(sample)
        moving = depends_on(self.graph, placeholders(self.graph))
        self.tokens = [
            n
            for n in self.graph.nodes
            if n.op == "call_function" and not _only_takes(n) and (n in moving or (constants and self._is_computed(n)))
        ]
        self.at = {n: i for i, n in enumerate(self.tokens)}
        self.forms = [_form(n) for n in self.tokens]

    def _is_computed(self, node: fx.Node) -> bool:
        """Whether a constant is made of others."""
        made = isinstance(self.values[node], Tensor | tuple | list)
        return made and any(isinstance(self.values[n], Tensor) for n in node.all_input_nodes)

    def alike(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether two nodes outside a loop are the same value."""
        if a is b:
            return True
        if a in self.at or b in self.at or a.op == "placeholder" or b.op == "placeholder":
            return False
        x, y = self.values[a], self.values[b]
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x.shape == y.shape and x.dtype == y.dtype and torch.equal(x, y)
        return type(x) is type(y) and x == y

    def loop_at(self, start: int) -> Iterator[Loop]:
        """The loops that begin with token `start`, the shortest body first."""
        forms, most = self.forms, (len(self.tokens) - start) // (COPIES - 1) + 1
        for missing in range(MISSING + 1):
            for begun in range(1, most - missing + 1):
                second, size = start + begun, begun + missing
                body = forms[second : second + size]
                if len(body) < size or any(
                    forms[second + k * size : second + (k + 1) * size] != body for k in range(1, COPIES - 2)
                ):
                    continue
                if (copies := self._copies(start, begun, size)) and (slots := self._slots(copies)) is not None:
                    loop = Loop(copies, slots)
                    if self._is_left_well(loop):
                        yield loop

    def _is_left_well(self, loop: Loop) -> bool:
        """Whether all that is used of the loop is one value of every frame, or of the last."""
        place = {n: (k, j) for k, copy in enumerate(loop.copies) for j, n in enumerate(copy) if n is not None}
        left = [(node, user) for node in place for user in _users(node) if user not in place]
        last = len(loop.copies) - 1
        return all(place[node][0] == last or joined(user, place, last + 1) for node, user in left)

    def _copies(self, start: int, begun: int, size: int) -> list[list[fx.Node | None]] | None:
        """The copies of a body of `size` tokens, of which the first one has only `begun`."""
        at = start + begun
        body = self.tokens[at : at + size]
        first, used = self._copy(body, start)
        if used != begun or begun + sum(n is None for n in first) != size:
            return None
        copies = [first]
        while at < len(self.tokens):
            copy, used = self._copy(body, at)
            if not used:
                break
            copies.append(copy)
            at += used
            if None in copy:
                break
        return copies if len(copies) >= COPIES else None

    def _copy(self, body: Sequence[fx.Node], at: int) -> tuple[list[fx.Node | None], int]:
        """The tokens from `at` on that could be a copy, None for each that is not there, and how many they are."""
        copy: list[fx.Node | None] = []
        used = 0
        for node in body:
            there = at + used < len(self.tokens) and self.forms[at + used] == self.forms[self.at[node]]
            copy.append(self.tokens[at + used] if there else None)
            used += there
        return copy, used

    def _slots(self, copies: list[list[fx.Node | None]]) -> list[list[Any]] | None:
        place = {n: (k, j) for k, copy in enumerate(copies) for j, n in enumerate(copy) if n is not None}
        # What the first copy has not, since its memory is there already: made for the next frame, at the end of each.
        early = {j for j, node in enumerate(copies[0]) if node is None}
        slots = []
        for j in range(len(copies[0])):
            rows = [(k, _leaves(node)) for k, copy in enumerate(copies) if (node := copy[j]) is not None]
            merged = []
            for position in range(len(rows[0][1])):
                slot = self._slot([(k, leaves[position]) for k, leaves in rows], place, early)
                if slot is None or (j in early and not _is_early(slot[0], early)):
                    return None
                merged.append(slot[0])
            slots.append(merged)
        return slots

    def _slot(
        self, row: list[tuple[int, Any]], place: Mapping[fx.Node, tuple[int, int]], early: set[int]
    ) -> tuple[Any] | None:
        """What one argument is over the copies, in a tuple; None where they do not agree."""
        first = row[0][1]
        if not isinstance(first, fx.Node):
            return (first,) if all(type(v) is type(first) and v == first for _, v in row) else None
        refs = [(k, _resolve(v)) for k, v in row]
        inside = [(k, r, place.get(r.base)) for k, r in refs]
        tail = inside[1:]
        nodes = {w[1] if w is not None else None for _, _, w in tail}
        paths = {r.path for _, r, _ in tail}
        depths = {k - w[0] if w is not None else None for k, _, w in tail}
        if None not in depths and len(nodes) == len(paths) == len(depths) == 1:
            (node,), (path,), (depth,) = nodes, paths, depths
            k, ref, where = inside[0]
            if depth == 0 and node in early and k == 0 and where is None:
                return (Slot("early", node, path=path, refs=[ref]),)
            if where is not None and (k - where[0], where[1], ref.path) == (depth, node, path):
                return (Slot("inner" if depth == 0 else "carry", node, depth, path),)
        return self._outside_or_carry(inside)

    def _outside_or_carry(self, inside: list[tuple[int, Ref, tuple[int, int] | None]]) -> tuple[Any] | None:
        refs = [r for _, r, _ in inside]
        if all(w is None for _, _, w in inside):
            if not all(self.alike(refs[0].base, r.base) for r in refs):
                return None
            if len({r.path for r in refs}) == 1:
                return (Slot("outside", path=refs[0].path, refs=refs[:1]),)
            return self._frame(refs) if inside[0][0] == 0 else None
        head = [r for _, r, w in inside if w is None]
        depth = len(head)
        tail = [(k - w[0], w[1], r.path) for k, r, w in inside[depth:] if w is not None]
        if inside[0][0] != 0 or len(tail) != len(inside) - depth or len(tail) < 2 or len(set(tail)) != 1:
            return None
        if tail[0][0] != depth:
            return None
        return (Slot("carry", tail[0][1], depth, tail[0][2], refs=head),)

    def _frame(self, refs: list[Ref]) -> tuple[Slot] | None:
        paths = [r.path for r in refs]
        if len({len(p) for p in paths}) > 1:
            return None
        moving = [i for i in range(len(paths[0])) if len({p[i] for p in paths}) > 1]
        if len(moving) != 1:
            return None
        (i,) = moving
        if [p[i] for p in paths] != [(*paths[0][i][:2], k) for k in range(len(paths))] or paths[0][i][0] == "item":
            return None
        return (Slot("frame", path=paths[0][i:], before=paths[0][:i], refs=refs[:1]),)


def _is_early(slot: Any, early: set[int]) -> bool:
    """Whether an argument is there before the frame is."""
    if not isinstance(slot, Slot) or slot.kind == "outside":
        return True
    return (slot.kind == "carry" and slot.depth == 1) or (slot.kind == "inner" and slot.node in early)


def _form(node: fx.Node) -> tuple[Any, ...]:
    """What two copies of a node have in common at least."""
    leaves, tree = pytree.tree_flatten((node.args, node.kwargs))
    return node.target, str(tree), tuple("" if isinstance(x, fx.Node) else repr(x) for x in leaves)


def _leaves(node: fx.Node) -> list[Any]:
    return list(pytree.tree_leaves((node.args, node.kwargs), is_leaf=lambda x: x is None))


def _join_written_frames(graph: fx.Graph) -> None:
    """`out[:, t] = y` for every t of an empty `out` is a stack."""
    for last in [n for n in graph.nodes if n.target in (aten.select_scatter.default, aten.slice_scatter.default)]:
        if any(user.target is last.target and user.args[0] is last for user in last.users):
            continue
        frames: dict[int, Any] = {}
        node: Any = last
        dim = None
        while isinstance(node, fx.Node) and node.target is last.target:
            _, frame, axis, index, *end = node.args
            width = end[0] - index if end else 1  # type: ignore[operator]
            if width != 1 or dim not in (None, axis):
                break
            dim = axis
            frames.setdefault(index, frame)  # type: ignore[arg-type]
            node = node.args[0]
        if dim is None or sorted(frames) != list(range(last.meta["val"].shape[dim])):
            continue
        join = aten.stack.default if last.target is aten.select_scatter.default else aten.cat.default
        with graph.inserting_before(last):
            joined = graph.call_function(join, ([frames[i] for i in sorted(frames)], dim))
        joined.meta = dict(last.meta)
        last.replace_all_uses_with(joined)
    graph.eliminate_dead_code()


def _users(node: fx.Node) -> Iterator[fx.Node]:
    """The users of `node`, or of a part of it."""
    for user in node.users:
        if _only_takes(user):
            yield from _users(user)
        else:
            yield user


def joined(node: fx.Node, place: Mapping[fx.Node, tuple[int, int]], copies: int) -> tuple[int, Path, Any, int] | None:
    """The value that `node` joins over all copies, how and along which axis; None if it does something else."""
    if node.target not in JOINS or not isinstance(node.args[0], list | tuple):
        return None
    refs = [_resolve(n) for n in node.args[0] if isinstance(n, fx.Node)]
    where = [place.get(r.base) for r in refs]
    if not where or where[0] is None or len({r.path for r in refs}) > 1:
        return None
    if where != [(k, where[0][1]) for k in range(copies)]:
        return None
    dim = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[call-overload]
    return where[0][1], refs[0].path, JOINS[node.target], dim


# --- the rolled loop ----------------------------------------------------------------------------------------------


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
            frames = [_taken(x, ((*path[0][:2], k), *path[1:])) for x, path in zip(sequences, self.scans, strict=True)]
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
    for constants in (True, False):
        graphs = [_Unrolled(m, sample, constants) for m, sample in zip((short, long), samples, strict=True)]
        try:
            return _Roller(graphs[0], graphs[1], lengths, clock).rolled()
        except LiftError as error:
            reason = error
    raise reason


def _cannot(reason: str) -> LiftError:
    return LiftError(f"its loop over time cannot be rolled up: {reason}.")


class _Roller:
    def __init__(self, short: _Unrolled, long: _Unrolled, lengths: tuple[int, int], clock: tuple[int, int]) -> None:
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
        short, long = self.short.tokens, self.long.tokens
        while i < len(short) or j < len(long):
            if (found := self._loop(i, j)) is not None:
                here, there = found
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
        ours, theirs = (
            [n for n in u.graph.nodes if n not in u.at and not _only_takes(n)] for u in (self.short, self.long)
        )
        if [n.target for n in ours] == [n.target for n in theirs]:
            self.twins |= dict(zip(ours, theirs, strict=True))

    def _loop(self, i: int, j: int) -> tuple[Loop, Loop] | None:
        if i >= len(self.short.tokens) or j >= len(self.long.tokens):
            return None
        more = self.lengths[1] - self.lengths[0]
        for here in self.short.loop_at(i):
            for there in self.long.loop_at(j):
                if len(here.copies[0]) == len(there.copies[0]) and len(there.copies) == len(here.copies) + more:
                    return here, there
        return None

    # --- what is used of a loop

    def _note(self, node: fx.Node) -> None:
        if (joined := self._joined(node)) is not None:
            joins = self.uses[joined[0]].joins
            joins.setdefault(joined[1], len(joins))
        elif not _only_takes(node):
            for leaf in node.all_input_nodes:
                self._note_last(_resolve(leaf))

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
        ref = _resolve(node)
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
        slope, rest = divmod(b - a, long - short)
        if rest:
            raise _cannot(f"a size is {a} and {b} at {short} and {long} frames")
        clock = self._emit(placeholders(self.short.graph)[self.clock[0]])
        grown = self.new.call_function(aten.sym_size.int, (clock, self.clock[1]))
        grown = grown if slope == 1 else self.new.call_function(operator.mul, (grown, slope))
        more = a - slope * short
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
            if _taken(self.short.values[ref.base], ref.path).shape[path[0][1]] != len(loop.copies):
                raise _cannot("it does not run over all frames")
        name = f"loop{index}"
        self.modules[name] = body.module(self.short.module)
        args = [self._taken(ref) for ref in (*body.outside, *body.sequences, *body.initial)]
        self.calls[index] = self.new.create_node("call_module", name, tuple(args))
        self.calls[index].meta = dict(next(n for n in loop.copies[0] if n is not None).meta)
        return self.calls[index]

    def _taken(self, ref: Ref) -> fx.Node:
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
        # By value: what its memory of 1, 2, ... frames ago starts from.
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
        elif slot.kind == "frame":
            pair = (Ref(slot.refs[0].base, slot.before), slot.path)
            if pair not in list(zip(self.sequences, self.scans, strict=True)):
                self.sequences.append(pair[0])
                self.scans.append(slot.path)
        elif slot.kind in ("carry", "early"):
            # Copy k takes the value of copy k - depth: what it was 1 frame before the first is with the last of them.
            starts = slot.refs[::-1]
            known = self.memory.setdefault((slot.node, slot.path), starts)
            for a, b in zip(known, starts, strict=False):
                if a.path != b.path or not self.alike(a.base, b.base):
                    raise _cannot("one value of it starts differently in two places")
            if len(starts) > len(known):
                self.memory[slot.node, slot.path] = starts

    def module(self, owner: nn.Module) -> RolledLoop:
        self.graph = fx.Graph()
        outside = [self.graph.placeholder(f"outside{i}") for i in range(len(self.outside))]
        frames = [self.graph.placeholder(f"frame{i}") for i in range(len(self.sequences))]
        memory = {
            key: [self.graph.placeholder(f"memory{i}_{d}") for d in range(len(refs))]
            for i, (key, refs) in enumerate(self.memory.items())
        }
        nodes: dict[int, fx.Node] = {}
        pairs = list(zip(self.sequences, self.scans, strict=True))

        def value(slot: Any, early: bool) -> Any:
            if not isinstance(slot, Slot):
                return slot
            if slot.kind == "outside":
                return outside[self.outside.index(Ref(slot.refs[0].base, slot.path))]
            if slot.kind == "frame":
                return frames[pairs.index((Ref(slot.refs[0].base, slot.before), slot.path))]
            if slot.kind == "early" or (slot.kind == "carry" and not early):
                return memory[slot.node, slot.path][max(slot.depth, 1) - 1]
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
