"""Segments of several frames that a loop takes of a value, with or without some of the frames around them.

    for start in range(0, x.shape[1], 4):
        piece, seen = x[:, start : start + 4], x[:, max(start - 8, 0) : start + 4]

The segments become windows of the value, padded at both ends: segment k is window k. If the loop carries no state,
segments at the ends, which have fewer frames beside them, are computed like those between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import END, args_of, aten
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.takes import takes_of

# Of nodes: whose frames are filled up along the axis that is noted; which are cut along it, with the frames of a
# period; which window one is, by number.
FILLED, CUT, SEGMENT = "rnn_export.filled", "rnn_export.cut", "rnn_export.piece"


@dataclass(frozen=True)
class Window:
    """`period` frames of `source` along `axis`, with `behind` frames before and `ahead` after.

    The source may have `more` frames than the sequence. Unless it `is_filled` up at both ends, windows are those that
    fit into it, and begin -`behind` frames after its start.
    """

    source: fx.Node
    axis: int
    period: int
    behind: int = 0
    ahead: int = 0
    more: int = 0
    is_filled: bool = True

    @property
    def size(self) -> int:
        return self.behind + self.period + self.ahead

    def range_of(self, number: int, length: int) -> tuple[int, int]:
        """The bounds of segment `number` in a source of `length` frames."""
        start = number * self.period
        return max(start - self.behind, 0), min(start + self.period + self.ahead, length)

    def is_whole(self, number: int, length: int) -> bool:
        start, end = self.range_of(number, length)
        return end - start == self.size

    def of(self, write: NodeWriter, value: fx.Node, axis: int) -> fx.Node:
        """(..., segments, ..., size): the windows of a value with the source's frames along `axis`, zero-padded."""
        right = self.ahead - self.more
        write.at = frames = value
        with value.graph.inserting_after(value):
            if not self.is_filled:
                frames = write.call(aten.slice.Tensor, value, axis, -self.behind, END)
            elif self.period > 1 or self.behind or right:
                others = [0, 0] * (write.value_of(value).dim() - axis - 1)
                frames = write.call(aten.pad.default, value, [*others, self.behind, right])
                frames.meta[FILLED] = axis, self.period, self.more, right
        with value.graph.inserting_after(frames):
            return write.call(aten.unfold.default, frames, axis, self.size, self.period)


class Taken(NamedTuple):
    """Frames that a node takes along an axis, which it drops if it takes one alone."""

    node: fx.Node
    start: int
    end: int
    drops_axis: bool

    def is_part_of(self, period: int) -> bool:
        return self.end - self.start < max(period, 2)


def take_segments(write: NodeWriter, node: fx.Node, frames: int, period: int) -> bool:
    """Replace the segments taken of `node` by its windows, in place; True if some at the ends are left as they are.

    `frames` is the length of the sequence, whole periods.
    """
    is_left = False
    for axis, taken in taken_of(node).items():
        length = node.meta["val"].shape[axis]
        for window, numbers in _windows(node, axis, {(t.start, t.end) for t in taken}, (frames, length, period)):
            mine = [(t, numbers[t.start, t.end]) for t in taken if (t.start, t.end) in numbers]
            taken = [t for t in taken if (t.start, t.end) not in numbers]
            if mine:
                _take(write, window, mine)
                if window.is_filled and len(numbers) < frames // period:
                    is_left = True
                    _take_by_frame(write, window, taken)
    return is_left


def taken_of(node: fx.Node) -> dict[int, list[Taken]]:
    """By axis of a known size, the frames that nodes take of `node` from one number to another."""
    shape = getattr(node.meta.get("val"), "shape", ())
    found: dict[int, list[Taken]] = {}
    for user, take in takes_of(node):
        size = shape[take.axis]
        if isinstance(size, int) and take.bounds is not None:
            start = take.start + size if take.start < 0 else take.start
            end = start + 1 if take.drops_axis else min(take.end, size)
            found.setdefault(take.axis, []).append(Taken(user, start, end, take.drops_axis))
    return found


def _windows(
    node: fx.Node, axis: int, ranges: set[tuple[int, int]], sizes: tuple[int, int, int]
) -> Iterator[tuple[Window, Mapping[tuple[int, int], int]]]:
    """The windows of which every segment is taken, those of the fewest frames first, and their numbers by bounds.

    They are filled up at both ends, or they are those that fit into the source.
    """
    frames, length, period = sizes
    if not isinstance(length, int) or length < frames:
        return
    tried = {(k * period - start, end - (k + 1) * period) for k in range(frames // period) for start, end in ranges}
    for behind, ahead in sorted(tried, key=lambda pair: (sum(pair), pair[1])):
        window = Window(node, axis, period, behind, ahead, length - frames)
        fitting = range(0, length + behind - window.size + 1, period)
        # Single frames from the first one on are a sequence as they are.
        if window.size < 1 or len(fitting) < 2 or (window.size == 1 and (0, 1) in ranges):
            continue
        if min(behind, ahead) >= 0 and ahead >= length - frames:
            bounds = [window.range_of(k, length) for k in range(frames // period)]
            if all(found in ranges for found in bounds):
                yield window, {found: k for k, found in enumerate(bounds) if window.is_whole(k, length)}
                continue
        bounds = [(start - behind, start - behind + window.size) for start in fitting]
        if behind <= 0 and (window.size > period or period == 1) and all(found in ranges for found in bounds):
            yield replace(window, is_filled=False), {found: k for k, found in enumerate(bounds)}


def _take(write: NodeWriter, window: Window, taken: Sequence[tuple[Taken, int]]) -> None:
    node, axis = window.source, window.axis
    windows, rank = window.of(write, node, axis), len(node.meta["val"].shape)
    order, places = [*range(axis), rank - 1, *range(axis, rank - 1)], {n: i for i, n in enumerate(node.graph.nodes)}
    for (user, _, _, drops_axis), number in taken:
        write.at = user
        # Where all of them are taken at once, each belongs to the turn that uses it.
        with node.graph.inserting_before(min(user.users, key=lambda n: places.get(n, 0), default=user)):
            new = write.call(aten.select.int, windows, axis, number)
            if drops_axis:
                new = write.call(aten.select.int, new, rank - 1, 0)
            else:
                new = write.call(aten.permute.default, new, order)
        new.meta[SEGMENT] = window, number
        user.replace_all_uses_with(new)


def _take_by_frame(write: NodeWriter, window: Window, taken: Sequence[Taken]) -> None:
    """Take the first frames of a loop that goes by single frames one by one, where they are fewer than a window."""
    for user, start, end, _ in taken if window.period == 1 else ():
        if end <= window.behind and end - start > 1:
            write.at = user
            with user.graph.inserting_before(user):
                frames = [
                    write.call(aten.slice.Tensor, window.source, window.axis, n, n + 1) for n in range(start, end)
                ]
                user.replace_all_uses_with(write.call(aten.cat.default, frames, window.axis))


def joins_segments(node: fx.Node, frames: int, period: int) -> bool:
    """True if a node joins one segment for each period."""
    if node.target is not aten.cat.default or period == 1 or len(args_of(node)[0]) != frames // period:
        return False
    dim = [*args_of(node), 0][1]
    values = [segment.meta.get("val") for segment in args_of(node)[0] if isinstance(segment, fx.Node)]
    return all(isinstance(v, Tensor) and v.shape[dim] == period for v in values)


def cut(write: NodeWriter, node: fx.Node) -> fx.Node:
    """Mark the frames that `node` joins to be cut where the sequence ends; return the node to cut."""
    dim, value = [*args_of(node), 0][1] % len(node.meta["val"].shape), node.meta["val"]
    write.at = node
    with node.graph.inserting_after(node):
        sizes = [n if isinstance(n, int) else write.call(aten.sym_size.int, node, a) for a, n in enumerate(value.shape)]
    with node.graph.inserting_after(([node, *(n for n in sizes if isinstance(n, fx.Node))])[-1]):
        whole = write.call(aten.reshape.default, node, [*sizes[:dim], -1, *sizes[dim + 1 :]])
    whole.meta[CUT] = dim, value.shape[dim] // len(args_of(node)[0])
    node.replace_all_uses_with(whole, lambda user: user is not whole and user.target is not aten.sym_size.int)
    return whole


def numbers_of(graph: fx.Graph) -> dict[fx.Node, set[int]]:
    """By node, the numbers of the segments that it depends on, up to the node that joins them."""
    found: dict[fx.Node, set[int]] = {}
    for node in graph.nodes:
        if SEGMENT in node.meta:
            found[node] = {node.meta[SEGMENT][1]}
        elif CUT not in node.meta:
            found[node] = set().union(*(found.get(n, set()) for n in node.all_input_nodes))
    return found


def computed_alike(graph: fx.Graph, joins: Sequence[fx.Node]) -> None:
    """Compute segments at the ends, of other sizes, like one between, in place, unless the loop carries state."""
    numbers = numbers_of(graph)
    for join in joins:
        segments = list(args_of(join)[0])
        taken = [_windows_in(segment) if numbers[segment] == {k} else None for k, segment in enumerate(segments)]
        usual = [k for k, windows in enumerate(taken) if windows]
        if not usual:
            continue
        model = max(usual, key=lambda k: taken.count(taken[k]))
        for k, segment in enumerate(segments):
            if taken[k] != taken[model]:
                segments[k] = _copied(graph, segments[model], (segment, k), numbers)
        join.update_arg(0, segments)


def _windows_in(segment: fx.Node) -> list[Window] | None:
    """The windows that `segment` is made of; None if it depends on other frames too."""
    waiting, seen, found = [segment], set[fx.Node](), list[Window]()
    while waiting:
        node = waiting.pop()
        if node in seen or node.target is aten.sym_size.int:
            continue
        seen.add(node)
        if node.op == "placeholder" or CUT in node.meta:
            return None
        if SEGMENT in node.meta:
            found.append(node.meta[SEGMENT][0])
        else:
            waiting += node.all_input_nodes
    return found


def _copied(graph: fx.Graph, model: fx.Node, place: tuple[fx.Node, int], numbers: dict[fx.Node, set[int]]) -> fx.Node:
    """A copy of `model` for another segment, behind that segment's own node."""
    after, number = place
    made: dict[fx.Node, fx.Node] = {}

    def copy(node: fx.Node) -> fx.Node:
        if not numbers.get(node):
            return node
        if node not in made:
            if SEGMENT in node.meta:
                taken = node.all_input_nodes[0]
                new = graph.node_copy(taken, lambda n: n)
                new.update_arg(2, number)
                made[node] = graph.node_copy(node, lambda n: new)
                made[node].meta = {**node.meta, SEGMENT: (node.meta[SEGMENT][0], number)}
            else:
                for before in node.all_input_nodes:
                    copy(before)
                made[node] = graph.node_copy(node, copy)
        return made[node]

    with graph.inserting_before(after.next):
        return copy(model)
