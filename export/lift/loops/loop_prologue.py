"""The prologue of a loop: its first iterations, if they do something else, each computed from its own frame.

A previous value that is None at first, or a branch like `t - d < 0`, makes them unlike the body. The value that such an
iteration gives in place of a body value is known if the loop joins it, or a later iteration takes it. Where the two are
not the same, the loop joins a value of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import fx
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError
from rnn_export.export.lift.loops.align_traces import cannot_roll
from rnn_export.export.lift.loops.loop_iterations import Join, Loop
from rnn_export.export.lift.loops.loop_operands import BodyValue, Carry, Invariant, LiteralValue, Local, Operand, Scan
from rnn_export.export.lift.loops.value_references import Path, Ref, resolve

# What an iteration takes: an operand, and the part of it.
Taken = tuple[Operand, Path]


@dataclass(frozen=True)
class Iteration:
    """One of the first iterations: its own nodes in order, their arguments, and its values in place of body values.

    A Local names one of these nodes, and a Carry a body value as of some iterations before. A value by Join is what the
    iteration gives in its place to that join alone.
    """

    nodes: Sequence[fx.Node]
    operands: Sequence[Sequence[Taken]]
    values: Mapping[BodyValue | Join, Taken]


def starts_otherwise() -> LiftError:
    """A loop is none whose memory would have two values."""
    return cannot_roll("one value of it starts differently in two places", id="loop-starts-otherwise")


def first_iterations(loop: Loop, joins: Sequence[Join], grows: Callable[[Ref, int], bool]) -> list[Iteration]:
    """The iterations of `loop` before its first copy; `grows` is True for an axis of frames of a value.

    Raises LiftError if one takes later frames, or gives two things for one value.
    """
    given: list[dict[BodyValue | Join, Ref]] = [{} for _ in range(loop.first)]
    depths: dict[BodyValue, int] = {}
    for operand in [o for row in loop.operands for o in row]:
        if isinstance(operand, Carry) and isinstance(value := operand.value, BodyValue):
            depths[value] = max(depths.get(value, 0), operand.depth)
            for iteration, ref in enumerate(operand.initial, loop.first - operand.depth):
                if iteration >= 0 and given[iteration].setdefault(value, ref) != ref:
                    raise starts_otherwise()
    for join in joins:
        value = join.value.value if isinstance(join.value, Carry) else join.value
        assert isinstance(value, BodyValue)
        depths[value] = max(depths.get(value, 0), join.depth)
        for k, ref in enumerate(join.before[join.depth :]):
            if given[k].setdefault(value, ref) != ref:
                if join.depth:
                    raise starts_otherwise()
                # It gives something else than what it carries on.
                given[k][join] = ref
    return [_Reader(loop, given, depths, grows, k).iteration() for k in range(loop.first)]


class _Reader:
    """Reads iteration `number` back from its values."""

    def __init__(
        self,
        loop: Loop,
        given: Sequence[Mapping[BodyValue | Join, Ref]],
        depths: Mapping[BodyValue, int],
        grows: Callable[[Ref, int], bool],
        number: int,
    ) -> None:
        self.loop, self.given, self.depths, self.grows, self.number = loop, given, depths, grows, number
        self.nodes: dict[fx.Node, int] = {}
        self.operands: list[list[Taken]] = []
        self._of_frames: dict[fx.Node, bool] = {}

    def iteration(self) -> Iteration:
        values = {value: self._taken(ref) for value, ref in self.given[self.number].items()}
        return Iteration(list(self.nodes), self.operands, values)

    def _taken(self, ref: Ref) -> Taken:
        if (known := self._given_before(ref) or self._frame(ref)) is not None:
            return known
        if ref.base in self.loop.places:
            raise cannot_roll("its first iterations take what later iterations make", id="loop-start-takes-later")
        if self._is_of_frames(ref.base):
            return Local(BodyValue(self._own(ref.base))), ref.path
        return Invariant(ref), ()

    def _own(self, node: fx.Node) -> int:
        """The index of `node` among the nodes of the iteration."""
        if node not in self.nodes:
            leaves = pytree.tree_leaves((node.args, node.kwargs), is_leaf=lambda x: x is None)
            row = [self._taken(resolve(x)) if isinstance(x, fx.Node) else (LiteralValue(x), ()) for x in leaves]
            self.nodes[node] = len(self.nodes)
            self.operands.append(row)
        return self.nodes[node]

    def _given_before(self, ref: Ref) -> Taken | None:
        """A body value of an earlier iteration that is carried anyway."""
        for before in range(1, self.number + 1):
            for value, given in self.given[self.number - before].items():
                inside = given.base is ref.base and ref.path[: len(given.path)] == given.path
                if inside and isinstance(value, BodyValue) and self.depths.get(value, 0) >= before:
                    return Carry(value, before, ()), ref.path[len(given.path) :]
        return None

    def _frame(self, ref: Ref) -> Taken | None:
        """The frame that `ref` takes of a sequence, or None if it takes none."""
        for i, part in enumerate(ref.path):
            if part.kind != "item" and self.grows(Ref(ref.base, ref.path[:i]), part.axis):
                scan = Scan(Ref(ref.base, ref.path[:i]), (part._replace(entry=0), *ref.path[i + 1 :]))
                before = self.number - part.entry
                if before < 0:
                    raise cannot_roll("its first iterations take later frames", id="loop-start-looks-ahead")
                return (Carry(scan, before, ()) if before else scan), ()
        return None

    def _is_of_frames(self, node: fx.Node) -> bool:
        """True if `node` is computed from single frames."""
        if node not in self._of_frames:
            refs = [resolve(n) for n in node.all_input_nodes]
            self._of_frames[node] = any(
                any(p.kind != "item" and self.grows(Ref(r.base, r.path[:i]), p.axis) for i, p in enumerate(r.path))
                or self._is_of_frames(r.base)
                for r in refs
            )
        return self._of_frames[node]
