"""A time loop of the model's own, unrolled by export, rolled up again.

Exported at two lengths, a Python loop over the frames stands in the graph as so many copies of its body, one more in
the longer graph. Copies that differ only in the frame that they take, and in taking the values of the copy before, are
one body; what the first copy takes in place of those values is where its memory starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rnn_export.export.lift.program.fx import Recorder, args_of, aten, depends_on, is_item, placeholders

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


def resolve(node: fx.Node) -> Ref:
    """Look through the nodes that only take a part."""
    if is_item(node):
        inner, index = args_of(node)
        assert isinstance(inner, fx.Node)
        whole = resolve(inner.args[0]) if inner.args and isinstance(inner.args[0], fx.Node) else None
        if inner.target is aten.unbind.int and whole:
            return Ref(whole.base, (*whole.path, ("select", _dim(inner, 1), index)))
        if inner.target is aten.split.Tensor and whole and inner.args[1] == 1:
            return Ref(whole.base, (*whole.path, ("slice", _dim(inner, 2), index)))
        return Ref(inner, (("item", 0, index),))
    if node.target is aten.select.int and isinstance(args_of(node)[2], int):
        whole = resolve(args_of(node)[0])
        return Ref(whole.base, (*whole.path, ("select", _axis(node, args_of(node)[1]), args_of(node)[2])))
    if node.target is aten.slice.Tensor and len(node.args) == 4 and all(isinstance(a, int) for a in args_of(node)[1:]):
        _, dim, start, end = args_of(node)
        if end - start == 1:
            whole = resolve(args_of(node)[0])
            return Ref(whole.base, (*whole.path, ("slice", _axis(node, dim), start)))
    return Ref(node)


def _dim(node: fx.Node, position: int) -> int:
    return _axis(node, args_of(node)[position] if len(node.args) > position else 0)


def _axis(node: fx.Node, dim: Any) -> int:
    return int(dim) % len(args_of(node)[0].meta["val"].shape)


def taken(value: Any, path: Path) -> Any:
    for kind, dim, index in path:
        if kind == "item":
            value = value[index]
        elif kind == "select":
            value = value.select(dim, index)
        else:
            value = value.narrow(dim, index, 1)
    return value


def only_takes(node: fx.Node) -> bool:
    """Whether `node` needs no place in a body, since every use of it is looked through."""
    return resolve(node).base is not node or (
        node.target in (aten.unbind.int, aten.split.Tensor) and all(resolve(u).base is not node for u in node.users)
    )


# --- the body -----------------------------------------------------------------------------------------------------


@dataclass
class Slot:
    """What one argument of a body's node is in every copy.

    kind: "inner" (another node of the same copy), "carry" (a node `depth` copies before), "early" (a node of the same
    copy that the copy before can make), "frame" (the copy's own frame of something outside), "before" (the frame of
    `depth` copies before), "outside".
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


class Unrolled:
    """A graph in which loops are looked for."""

    def __init__(self, module: fx.GraphModule, sample: Sequence[Tensor], constants: bool, by_frame: bool) -> None:
        _join_written_frames(module.graph)
        self.module, self.graph = module, module.graph
        self.values = Recorder(module).values(sample)
        moving = depends_on(self.graph, placeholders(self.graph))
        self.tokens = [
            n
            for n in self.graph.nodes
            if n.op == "call_function" and not only_takes(n) and (n in moving or (constants and self._is_computed(n)))
        ]
        if by_frame:
            self._sort_by_frame(moving)
        self.at = {n: i for i, n in enumerate(self.tokens)}
        self.forms = [_form(n) for n in self.tokens]

    def _sort_by_frame(self, moving: set[fx.Node]) -> None:
        """Put what is done to each frame behind a loop, in a list of its own, into the copy of that frame."""
        newest: dict[fx.Node, int] = {}
        for node in self.graph.nodes:
            refs = [resolve(n) for n in node.all_input_nodes]
            taken = [_frame_of(r) for r in refs]
            newest[node] = max([-1, *taken, *(newest.get(r.base, -1) for r in refs)])
        for node in reversed(self.graph.nodes):
            if node not in moving:
                # A constant belongs where it is used first.
                newest[node] = min((newest[user] for user in node.users), default=-1)
        self.tokens.sort(key=lambda n: newest[n])

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
                for copies in self._copies(start, begun, size):
                    slots = self._slots(copies)
                    if slots is not None and self._is_left_well(loop := Loop(copies, slots)):
                        yield loop

    def _is_left_well(self, loop: Loop) -> bool:
        """Whether all that is used of the loop is one value of every frame, or of the last."""
        place = {n: (k, j) for k, copy in enumerate(loop.copies) for j, n in enumerate(copy) if n is not None}
        left = [(node, user) for node in place for user in _users(node) if user not in place]
        last = len(loop.copies) - 1
        return all(place[node][0] == last or joined(user, place, last + 1) for node, user in left)

    def _copies(self, start: int, begun: int, size: int) -> Iterator[list[list[fx.Node | None]]]:
        """The copies of a body of `size` tokens, of which the first one has only `begun`.

        What follows a loop may look like the beginning of one more: so with the last one, and without it.
        """
        at = start + begun
        body = self.tokens[at : at + size]
        first, used = self._copy(body, start)
        if used != begun or begun + sum(n is None for n in first) != size:
            return
        copies = [first]
        while at < len(self.tokens):
            copy, used = self._copy(body, at)
            if not used:
                break
            copies.append(copy)
            at += used
            if None in copy:
                break
        if len(copies) >= COPIES:
            yield copies
        if len(copies) > COPIES and None in copies[-1]:
            yield copies[:-1]

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
            rows = [(k, leaves_of(node)) for k, copy in enumerate(copies) if (node := copy[j]) is not None]
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
        refs = [(k, resolve(v)) for k, v in row]
        inside = [(k, r, place.get(r.base)) for k, r in refs]
        tail = inside[1:]
        nodes = {w[1] if w is not None else None for _, _, w in tail}
        paths = {r.path for _, r, _ in tail}
        depths = {k - w[0] if w is not None else None for k, _, w in tail}
        if None not in depths and len(nodes) == len(paths) == len(depths) == 1:
            node, path, depth = nodes.pop() or 0, paths.pop(), depths.pop() or 0
            k, ref, where = inside[0]
            if depth == 0 and node in early and k == 0 and where is None:
                return (Slot("early", node, path=path, refs=[ref]),)
            if where is not None and (k - where[0], where[1], ref.path) == (depth, node, path):
                return (Slot("inner" if depth == 0 else "carry", node, depth, path),)
        return self._outside_or_carry(inside)

    def _outside_or_carry(self, inside: list[tuple[int, Ref, tuple[int, int] | None]]) -> tuple[Any] | None:
        refs = [r for _, r, _ in inside]
        if all(w is None for _, _, w in inside):
            alike = all(self.alike(refs[0].base, r.base) for r in refs)
            if alike and len({r.path for r in refs}) == 1:
                return (Slot("outside", path=refs[0].path, refs=refs[:1]),)
            if inside[0][0] != 0:
                return None
            return self._frame(refs) if alike else self._frame_before(refs)
        head = [r for _, r, w in inside if w is None]
        depth = len(head)
        tail = [(k - w[0], w[1], r.path) for k, r, w in inside[depth:] if w is not None]
        if inside[0][0] != 0 or len(tail) != len(inside) - depth or len(tail) < 2 or len(set(tail)) != 1:
            return None
        if tail[0][0] != depth:
            return None
        return (Slot("carry", tail[0][1], depth, tail[0][2], refs=head),)

    def _frame_before(self, refs: list[Ref]) -> tuple[Slot] | None:
        """The frame `depth` frames ago, in the first copies something else from outside."""
        for depth in range(1, len(refs) - 2):
            found = self._frame(refs[depth:]) if len({r.base for r in refs[depth:]}) == 1 else None
            if found is not None:
                (slot,) = found
                return (replace(slot, kind="before", depth=depth, refs=[*refs[:depth], *slot.refs]),)
        return None

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


def _frame_of(ref: Ref) -> int:
    """The latest frame that a reference takes, of an axis long enough to be one of frames."""
    value = ref.base.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else ()
    for kind, axis, index in ref.path[:1]:
        if kind != "item" and len(shape) > axis and shape[axis] > COPIES:
            return int(index)
    return -1


def _is_early(slot: Any, early: set[int]) -> bool:
    """Whether an argument is there before the frame is."""
    if not isinstance(slot, Slot) or slot.kind == "outside":
        return True
    return (slot.kind == "carry" and slot.depth == 1) or (slot.kind == "inner" and slot.node in early)


def _form(node: fx.Node) -> tuple[Any, ...]:
    """What two copies of a node have in common at least."""
    leaves, tree = pytree.tree_flatten((node.args, node.kwargs))
    return node.target, str(tree), tuple("" if isinstance(x, fx.Node) else repr(x) for x in leaves)


def leaves_of(node: fx.Node) -> list[Any]:
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
            _, frame, axis, index, *end = args_of(node)
            width = end[0] - index if end else 1
            if width != 1 or dim not in (None, axis):
                break
            dim = axis
            frames.setdefault(index, frame)
            node = args_of(node)[0]
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
        if only_takes(user):
            yield from _users(user)
        else:
            yield user


def joined(node: fx.Node, place: Mapping[fx.Node, tuple[int, int]], copies: int) -> tuple[int, Path, Any, int] | None:
    """The value that `node` joins over all copies, how and along which axis; None if it does something else."""
    if node.target not in JOINS or not isinstance(args_of(node)[0], list | tuple):
        return None
    refs = [resolve(n) for n in args_of(node)[0] if isinstance(n, fx.Node)]
    where = [place.get(r.base) for r in refs]
    if not where or where[0] is None or len({r.path for r in refs}) > 1:
        return None
    if where != [(k, where[0][1]) for k in range(copies)]:
        return None
    dim = int(args_of(node)[1]) if len(node.args) > 1 else 0
    return where[0][1], refs[0].path, JOINS[node.target], dim
