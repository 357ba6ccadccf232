"""Alignment of one model's graphs at two lengths: a loop has more copies in the longer graph, the rest is alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.fx_nodes import results
from rnn_export.export.lift.loops.loop_iterations import Join, Loop, loops_at
from rnn_export.export.lift.loops.loop_operands import BodyValue, sources_of
from rnn_export.export.lift.loops.unrolled_graph import Unrolled
from rnn_export.export.lift.loops.value_references import Ref, only_takes, resolve


@dataclass(frozen=True)
class Alignment:
    """The loops of the shorter of two graphs in order, the loop that owns each node, and the nodes' counterparts.

    `counterparts` maps each node outside loops to the node of the longer graph that does the same, which has `longer`.
    """

    loops: Sequence[Loop]
    longer: Sequence[Loop]
    owners: Mapping[fx.Node, int]
    counterparts: Mapping[fx.Node, fx.Node]

    def value_of(self, ref: Ref) -> tuple[int, BodyValue] | None:
        """The index of the loop that makes `ref`, and the body value that it is; None outside loops."""
        loop = self.owners.get(ref.base)
        return None if loop is None else (loop, BodyValue(self.loops[loop].places[ref.base].node, ref.path))

    def join_of(self, node: fx.Node) -> tuple[int, Join] | None:
        """The loop index and the value that `node` joins over all frames; None if it does something else."""
        joins = ((i, loop.join_of(node)) for i, loop in enumerate(self.loops))
        found = next(((i, join) for i, join in joins if join is not None), None)
        if found is None or not found[1].skipped:
            return found
        # The last frames alone are as many of a longer sequence.
        there = self.longer[found[0]].join_of(self.counterparts[node]) if node in self.counterparts else None
        return found if there is not None and there.skipped == found[1].skipped else None


def cannot_roll(reason: str, *, id: str) -> LiftError:
    return LiftError(f"its loop over time cannot be rolled up: {reason}.", id=id)


def unlike_frames(numbered: str = "") -> LiftError:
    return cannot_roll(f"its frames are not computed alike{numbered}", id="loop-frames-unlike")


def align(short: Unrolled, long: Unrolled, lengths: tuple[int, int]) -> Alignment:
    """Walk both graphs at once: a token begins a loop that has more copies in `long`, or is outside loops.

    Raises LiftError if the two graphs do not do the same.
    """
    counterparts: dict[fx.Node, fx.Node] = {}
    pairs: list[tuple[Loop, Loop]] = []
    owners: dict[fx.Node, int] = {}
    i = j = 0
    while i < len(short.tokens) or j < len(long.tokens):
        if (found := _loops(short, long, (i, j), lengths[1] - lengths[0])) is not None:
            owners.update(dict.fromkeys(found[0].places, len(pairs)))
            pairs.append(found)
            i, j = i + found[0].size, j + found[1].size
            continue
        if i >= len(short.tokens) or j >= len(long.tokens) or short.tokens[i].target is not long.tokens[j].target:
            numbered = (
                f": a number in it is another one at each iteration ({numbers}), and not by even steps. Let the loop "
                "carry their number as a tensor (batch, 1), one more in each, and compute it from that"
                if (numbers := short.numbered)
                else ""
            )
            raise unlike_frames(numbered)
        counterparts[short.tokens[i]] = long.tokens[j]
        i, j = i + 1, j + 1
    alike = list(counterparts.items())
    for here, there in pairs:
        first = zip(here.copies[0], there.copies[0], strict=True)
        alike += [(a, b) for a, b in first if a is not None and b is not None]
    for a, b in alike:
        _pair_inputs(a, b, counterparts, owners)
    _pair(results(short.graph), results(long.graph), counterparts, owners)
    return Alignment([loop for loop, _ in pairs], [loop for _, loop in pairs], owners, counterparts)


def align_between(short: Unrolled, other: Unrolled, known: Alignment) -> Mapping[fx.Node, fx.Node]:
    """Map each node of `short` outside its loops to the node of another length's graph that does the same.

    Raises LiftError if the two graphs do not do the same.
    """
    begins = {next(i for i in map(short.index.get, loop.copies[0]) if i is not None): loop for loop in known.loops}
    counterparts: dict[fx.Node, fx.Node] = {}
    i = j = 0
    while i < len(short.tokens) or j < len(other.tokens):
        if (loop := begins.get(i)) is not None:
            there = next((at for at in loops_at(other, j) if len(at.copies[0]) == len(loop.copies[0])), None)
            if there is None:
                raise unlike_frames()
            i, j = i + loop.size, j + there.size
            continue
        if i >= len(short.tokens) or j >= len(other.tokens) or short.tokens[i].target is not other.tokens[j].target:
            raise unlike_frames()
        counterparts[short.tokens[i]] = other.tokens[j]
        i, j = i + 1, j + 1
    for a, b in list(counterparts.items()):
        _pair_inputs(a, b, counterparts, known.owners)
    _pair(results(short.graph), results(other.graph), counterparts, known.owners)
    return counterparts


def _loops(short: Unrolled, long: Unrolled, start: tuple[int, int], frames: int) -> tuple[Loop, Loop] | None:
    """The loop that begins at a token of each graph, and makes more iterations over `frames` more frames.

    A loop with a whole number of frames per iteration, or of iterations per frame, comes before others. A loop whose
    frames are made at another rate has neither.
    """
    if start[0] >= len(short.tokens) or start[1] >= len(long.tokens):
        return None
    pairs = [(a, b) for a in loops_at(short, start[0]) for b in loops_at(long, start[1])]
    alike = [(a, b) for a, b in pairs if len(a.copies[0]) == len(b.copies[0]) and len(b.copies) > len(a.copies)]

    def is_whole(pair: tuple[Loop, Loop]) -> bool:
        iterations = len(pair[1].copies) - len(pair[0].copies)
        return frames % iterations == 0 or iterations % frames == 0

    return next(filter(is_whole, alike), next(iter(alike), None))


def _pair_inputs(a: fx.Node, b: fx.Node, counterparts: dict[fx.Node, fx.Node], owners: Mapping[fx.Node, int]) -> None:
    """Pair the inputs of two counterparts, numbers and constants among them."""
    _pair(a.all_input_nodes, b.all_input_nodes, counterparts, owners)


def _pair(
    here: Sequence[fx.Node],
    there: Sequence[fx.Node],
    counterparts: dict[fx.Node, fx.Node],
    owners: Mapping[fx.Node, int],
) -> None:
    for x, y in zip(here, there, strict=False):
        if x not in counterparts and x not in owners and x.target == y.target:
            counterparts[x] = y
            _pair_inputs(x, y, counterparts, owners)


# --- what is used of each loop ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoopResults:
    """The results of a loop that the graph takes: joined values of all frames, and values of the last frame."""

    joins: Sequence[Join]
    last: Sequence[BodyValue]

    def index(self, result: Join | BodyValue) -> int:
        """The result's index in the loop's call."""
        return self.joins.index(result) if isinstance(result, Join) else len(self.joins) + self.last.index(result)


def results_of(graph: fx.Graph, alignment: Alignment) -> list[LoopResults]:
    """The results that are taken of each loop; raises LiftError for a single frame other than the last."""
    # Dicts, since the same may be taken in several places.
    found: list[dict[Join | BodyValue, None]] = [{} for _ in alignment.loops]

    def take(ref: Ref) -> None:
        if (source := alignment.value_of(ref)) is not None:
            loop, value = source
            if alignment.loops[loop].places[ref.base].copy != len(alignment.loops[loop].copies) - 1:
                raise cannot_roll("a single frame of it is used elsewhere", id="loop-frame-used-elsewhere")
            found[loop][value] = None

    for node in graph.nodes:
        if node in alignment.owners:
            continue
        if (join := alignment.join_of(node)) is not None:
            found[join[0]][join[1]] = None
        elif not only_takes(node):
            for argument in node.all_input_nodes:
                take(resolve(argument))
    for ref in [ref for loop in alignment.loops for row in loop.operands for o in row for ref in sources_of(o)]:
        take(ref)
    for ref in [ref for taken in found for result in taken if isinstance(result, Join) for ref in result.before]:
        take(ref)
    return [
        LoopResults([r for r in taken if isinstance(r, Join)], [r for r in taken if isinstance(r, BodyValue)])
        for taken in found
    ]
