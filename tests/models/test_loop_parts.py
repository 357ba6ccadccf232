"""The parts of rolling a loop up, each alone: references, operands of a body, counts, two lengths compared."""

import pytest
import torch
from torch import Tensor, fx, nn

from rnn_export.errors import LiftError
from rnn_export.export.lift import stages
from rnn_export.export.lift.ir.fx_nodes import aten, placeholders, results
from rnn_export.export.lift.loops.align_traces import align, results_of
from rnn_export.export.lift.loops.iteration_counters import counted
from rnn_export.export.lift.loops.loop_body import body_inputs, body_module
from rnn_export.export.lift.loops.loop_folding import roll
from rnn_export.export.lift.loops.loop_iterations import Loop, loops_at
from rnn_export.export.lift.loops.loop_operands import (
    Argument,
    BodyValue,
    Carry,
    Counted,
    Invariant,
    LiteralValue,
    Local,
    Place,
    Scan,
    classify,
    is_known_early,
    sources_of,
)
from rnn_export.export.lift.loops.unrolled_graph import Unrolled
from rnn_export.export.lift.loops.value_references import Part, Ref, node_at, resolve, value_at
from rnn_export.export.lift.rewrite.flat_graph import flat_graph

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.periods import PARTS, another_cell  # noqa: TID252
from ..zoo.periods import X as ONE_ROW  # noqa: TID252
from .streams import Call

GRAPH = fx.Graph()
X, Y, HIDDEN, START, OLDER = (GRAPH.placeholder(name) for name in ("x", "y", "hidden", "start", "older"))


def frame(k: int, base: fx.Node = X) -> Ref:
    return Ref(base).part("select", 1, k)


def argument(refs: list[Ref], places: list[Place | None] | None = None, first: int = 0, early: tuple[int, ...] = ()):
    """An argument of copies `first`, `first` + 1, ... of a node."""
    return Argument(
        tuple(range(first, first + len(refs))),
        tuple(refs),
        tuple(places or [None] * len(refs)),
        frozenset(early),
        lambda a, b: a is b,
    )


def places(*copies: int | None, node: int = 3) -> list[Place | None]:
    """A node, by the copies in which it stands."""
    return [None if k is None else Place(k, node) for k in copies]


VALUE = BodyValue(3)
OWN, START_REF, OLDER_REF = Ref(HIDDEN), Ref(START), Ref(OLDER)
FRAME = Part("select", 1, 0)
OPERANDS = {
    "a value of the same copy": (argument([OWN] * 4, places(0, 1, 2, 3)), Local(VALUE)),
    "part of one": (
        argument([frame(2, HIDDEN)] * 4, places(0, 1, 2, 3)),
        Local(BodyValue(3, (Part("select", 1, 2),))),
    ),
    "of the copy before": (
        argument([START_REF, *[OWN] * 3], places(None, 0, 1, 2)),
        Carry(VALUE, 1, (START_REF,)),
    ),
    "of two copies before": (
        argument([OLDER_REF, START_REF, OWN, OWN], places(None, None, 0, 1)),
        Carry(VALUE, 2, (OLDER_REF, START_REF)),
    ),
    "of the copy before, where the first copy lacks the node": (
        argument([OWN] * 3, places(0, 1, 2), first=1),
        Carry(VALUE, 1, ()),
    ),
    "made by the copy before": (
        argument([START_REF, *[OWN] * 3], places(None, 1, 2, 3), early=(3,)),
        Carry(VALUE, 1, (START_REF,)),
    ),
    "one from outside": (argument([START_REF] * 4), Invariant(START_REF)),
    "one frame from outside": (argument([frame(2)] * 4), Invariant(frame(2))),
    "the frame": (argument([frame(k) for k in range(4)]), Scan(Ref(X), (FRAME,))),
    "part of the frame": (
        argument([frame(k).part("select", 0, 1) for k in range(4)]),
        Scan(Ref(X), (FRAME, Part("select", 0, 1))),
    ),
    "the frame of a part": (
        argument([Ref(X).part("item", 0, 1).part("slice", 1, k) for k in range(4)]),
        Scan(Ref(X, (Part("item", 0, 1),)), (Part("slice", 1, 0),)),
    ),
    "the frame before": (
        argument([START_REF, *(frame(k) for k in range(3))]),
        Carry(Scan(Ref(X), (FRAME,)), 1, (START_REF,)),
    ),
    "another value in one copy": (argument([OWN] * 4, [Place(k, 3 + (k == 2)) for k in range(4)]), None),
    "a start that is not of the first copy": (argument([START_REF, OWN, OWN], places(None, 1, 2), first=1), None),
    "two starts, one copy before": (argument([OLDER_REF, START_REF, OWN, OWN], places(None, None, 1, 2)), None),
    "frames from the second on": (argument([frame(k + 1) for k in range(4)]), None),
    "every other frame": (argument([frame(2 * k) for k in range(4)]), None),
    "items": (argument([Ref(X).part("item", 0, k) for k in range(4)]), None),
    "frames of two axes at once": (argument([frame(k).part("select", 0, k) for k in range(4)]), None),
    "frames, but not in the first copy": (argument([frame(k) for k in range(3)], first=1), None),
    "frames of two values in turn": (argument([frame(k, (X, Y)[k % 2]) for k in range(6)]), None),
}


@pytest.mark.parametrize(("given", "operand"), OPERANDS.values(), ids=OPERANDS)
def test_what_an_argument_is(given, operand):
    assert classify(given) == operand


def test_what_an_operand_reads_from_outside():
    scan = Scan(Ref(X), (FRAME,))
    assert sources_of(Carry(VALUE, 2, (OLDER_REF, START_REF))) == (OLDER_REF, START_REF)
    assert sources_of(scan) == (Ref(X),)
    assert sources_of(Carry(scan, 1, (START_REF,))) == (START_REF, Ref(X))
    assert sources_of(Invariant(frame(2))) == (frame(2),)
    assert sources_of(LiteralValue(None)) == sources_of(Local(VALUE)) == ()


def test_what_the_copy_before_has():
    early = frozenset({3})
    known = [LiteralValue(1), Invariant(START_REF), Carry(VALUE, 1, ()), Local(VALUE)]
    later = [Carry(VALUE, 2, ()), Local(BodyValue(4)), Scan(Ref(X), (FRAME,))]
    assert [is_known_early(o, early) for o in (*known, *later)] == [True] * 4 + [False] * 3


# --- graphs of real loops -----------------------------------------------------------------------------------------


def graph(forward, frames: int, **parts) -> Unrolled:
    """`forward` as export unrolls it."""
    sample = torch.randn(2, frames, 4, generator=torch.Generator().manual_seed(0))
    return Unrolled(flat_graph(Call(forward, **parts), (sample,), ({},), False), (sample,), True, False)


def leaky(s, x):
    return one_alone(s, x, alone=False)


def summed(s, x):
    return leaky(s, x).relu() + leaky(s, -x)


def one_alone(s, x, alone=True):
    h, ys = x.new_zeros(2, 4), []
    for frame in x.unbind(1):
        h = torch.tanh(frame + 0.5 * h)
        ys.append(h)
    return torch.stack(ys, 1) + ys[2][:, None] if alone else torch.stack(ys, 1)


def of_one_frame(s, x):
    h, ys = x.new_zeros(2, 4), []
    for _ in range(x.shape[1]):
        h = torch.tanh(x[:, 0] + 0.5 * h)
        ys.append(h)
    return torch.stack(ys, 1)


def rolled(forward, frames: tuple[int, int] = (6, 7)) -> fx.GraphModule:
    short, long = (graph(forward, n) for n in frames)
    return roll(short.module, long.module, tuple((torch.zeros(2, n, 4),) for n in frames), frames, (0, 1))


def the_loop(unrolled: Unrolled) -> Loop:
    return next(loop for i in range(len(unrolled.tokens)) for loop in loops_at(unrolled, i))


def test_a_value_is_seen_through_what_takes_its_parts():
    g = fx.Graph()
    x = g.placeholder("x")
    x.meta["val"] = torch.arange(24.0).reshape(2, 3, 4)
    path = (Part("select", 1, 2), Part("slice", 1, 3))
    y = node_at(g, x, path)
    y.args[0].meta["val"] = x.meta["val"].select(1, 2)
    assert resolve(y) == Ref(x, path)
    assert value_at(x.meta["val"], path).tolist() == [[11.0], [23.0]]
    wide = g.call_function(aten.slice.Tensor, (x, 1, 0, 2))
    assert resolve(wide) == Ref(wide)


def test_the_copies_of_a_loop_and_what_it_gives():
    found = graph(leaky, 6)
    loop = the_loop(found)
    joins = [node for node in found.graph.nodes if loop.join_of(node)]
    assert (len(loop.copies), [node.target for node in joins]) == (6, [aten.stack.default])
    assert loop.join_of(joins[0]).dim == 1
    inputs = body_inputs(loop, found.same_value)
    assert [scan.axis for scan in inputs.scans] == [1]
    assert [len(starts) for starts in inputs.memory.values()] == [1]


def test_two_lengths_side_by_side():
    short, long = graph(summed, 6), graph(summed, 7)
    found = align(short, long, (6, 7))
    assert [len(loop.copies) for loop in found.loops] == [6, 6]
    assert all(a.target == b.target for a, b in found.counterparts.items())
    assert not found.owners.keys() & found.counterparts.keys()
    assert [len(used.joins) for used in results_of(short.graph, found)] == [1, 1]
    with raises("loop-frames-unlike"):
        align(short, graph(leaky, 7), (6, 7))


def test_a_body_as_a_module():
    unrolled = graph(leaky, 6)
    loop = the_loop(unrolled)
    used = results_of(unrolled.graph, align(unrolled, graph(leaky, 7), (6, 7)))[0]
    inputs = body_inputs(loop, unrolled.same_value)
    module = body_module(loop, inputs, used, nn.Module())
    x, start = torch.randn(2, 9, 4), torch.randn(2, 4)
    expected, h = [], start
    for t in range(9):
        h = torch.tanh(x[:, t] + 0.5 * h)
        expected.append(h)
    joined, last = module(x, start)
    torch.testing.assert_close((joined, last), (torch.stack(expected, 1), h))


@pytest.mark.parametrize("forward", [leaky, summed], ids=["one loop", "two loops"])
def test_a_rolled_graph_takes_any_length(forward):
    module = rolled(forward)
    assert sum(node.op == "call_module" for node in module.graph.nodes) == (1 if forward is leaky else 2)
    x = torch.randn(2, 11, 4)
    (y,) = module(x)
    torch.testing.assert_close(y, forward(None, x))
    assert len(placeholders(module.graph)) == len(results(module.graph)) == 1


NOT_ROLLED = {one_alone: "loop-frames-unlike", of_one_frame: "loop-without-frames"}


@pytest.mark.parametrize(("forward", "name"), NOT_ROLLED.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_what_cannot_be_rolled_says_why(forward, name):
    with raises(name):
        rolled(forward)


def test_one_value_starts_once():
    """A memory that two arguments read starts from one value; the one that looks further back says more."""
    one, two = Carry(VALUE, 1, (START_REF,)), Carry(VALUE, 2, (OLDER_REF, START_REF))
    same = Loop([[HIDDEN]], [[one, two, one]])
    assert body_inputs(same, lambda a, b: a is b).memory == {VALUE: (START_REF, OLDER_REF)}
    other = Loop([[HIDDEN]], [[one, Carry(VALUE, 1, (OLDER_REF,))]])
    with raises("loop-starts-otherwise"):
        body_inputs(other, lambda a, b: a is b)


def test_a_value_is_the_same_in_two_places_only_where_it_is_computed_of_constants():
    g = graph(leaky, 6)
    zeros = [n for n in g.graph.nodes if isinstance(g.values[n], Tensor) and n not in g.index and n.op != "placeholder"]
    assert all(g.same_value(node, node) for node in g.graph.nodes)
    assert not any(g.same_value(placeholders(g.graph)[0], node) for node in zeros)


def test_what_counts():
    assert counted([3, 5, 7, 9]) == Counted(3, 2)
    assert counted([0.0, 0.1, 0.2, 0.30000000000000004]) is not None
    infinite = [0.0, 1.0, 2.0, float("inf")]
    for numbers in ([1, 2, 3], [2, 2, 2, 2], [1, 2, 4, 8], [1, 2.0, 3, 4], [True, 2, 3, 4], infinite):
        assert counted(numbers) is None


def test_a_step_of_less_than_a_period_is_refused(monkeypatch):
    monkeypatch.setattr(stages, "with_tried_advice", lambda error, options, attempt: error)
    with raises("chunk-not-of-strides", "2", "2 (--chunk 2)", kind=LiftError):
        lift(Call(another_cell, **PARTS), (ONE_ROW,), chunk=1)
