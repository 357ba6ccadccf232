"""The dependence of one operator along an axis, and the memory of a model that noise does not move."""

import copy
from collections import deque

import pytest
import torch
from torch import Tensor, fx, nn

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, Dependence
from rnn_export.export.lift.ir.dependence.operator_dependence import IndicesMixed, NotDecided, Operators
from rnn_export.export.lift.ir.fx_nodes import aten, recorded

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.dependence import FRAME, gated, loud  # noqa: TID252
from .streams import Call


def latched(s, x):
    s.seen = torch.where(x > 20, x, s.seen)
    return x + s.seen


def listed(s, x):
    s.past = [*s.past[1:], loud(x)]
    return x + s.past[0]


def written_out(s, x):
    old = s.seen.clone()
    torch.clamp(x, min=20, out=s.seen)
    return x + old - 20


def latched_in_place(s, x):
    s.seen.copy_(torch.where(x > 20, x, s.seen))
    return x + s.seen


def every_tenth(s, x):
    s.calls = (s.calls + 1) % 10
    return 2 * x if s.calls == 0 else x


def in_a_list(s, x):
    s.calls[0] += 1
    return x + loud(x) if s.calls[0] > 20 else x


def first_alone(s, x):
    first, s.first = s.first, False
    return x + loud(x) if first else x


def queued(s, x):
    s.past.append(x)
    return x + s.past.popleft() if len(s.past) == 8 else x


def attributes(function, **held) -> nn.Module:
    """A model that holds tensors in plain attributes."""
    model = Call(function)
    for name, value in held.items():
        object.__setattr__(model, name, value)
    return model


KEPT = {
    "a latch": (attributes(latched, seen=torch.zeros(1, 8)), ["seen"]),
    "a buffer": (Call(latched_in_place, seen=torch.zeros(1, 8)), ["seen"]),
    "a list": (attributes(listed, past=[torch.zeros(1, 1)] * 3), ["past.0", "past.1", "past.2"]),
    "every tenth call": (attributes(every_tenth, calls=0), ["calls"]),
    "a number in a list": (attributes(in_a_list, calls=[0]), ["calls.0"]),
    "the first call": (attributes(first_alone, first=True), ["first"]),
    "by out=": (attributes(written_out, seen=torch.full((1, 8), 20.0)), ["seen"]),
}


@pytest.mark.parametrize(("model", "states"), KEPT.values(), ids=KEPT)
def test_a_memory_that_noise_does_not_move_is_a_state(model, states):
    """Loud frames come out of it, one call later or all calls after."""
    lifted = lift(model, (FRAME,), time_axis=None)
    assert [s.name for s in lifted.spec.states] == states
    own, after = copy.deepcopy(model), [lifted.initial[s.name][None] for s in lifted.spec.states]
    for x in 30 * torch.randn(20, 1, 8, generator=torch.Generator().manual_seed(0)):
        y, *after = lifted.module(x, *after)
        torch.testing.assert_close(y, own(x))


def test_a_queue_that_noise_does_not_move_is_seen():
    with raises("memory-grows-with-calls", "'past'"):
        lift(attributes(queued, past=deque()), (FRAME,))


def swapped(x):
    """The frames 0 and 1 exchanged, of a sequence of any length."""
    at = torch.arange(x.shape[1])
    return x.index_select(1, torch.where(at < 2, 1 - at, at))


def test_two_frames_exchanged_behind_a_gate_are_refused_with_their_place():
    row = gated(lambda x: swapped(loud(x)))
    with raises("positions-over-time", "dependence.py:", kind=LiftError):
        lift(row.built(), row.example)


# --- one operator -------------------------------------------------------------------------------------------------


def asked(operator, *args, x=None) -> list:
    """The dependences of `operator` on x (2, 9, 3), or another tensor, along axis 1, 10 long in another run."""
    graph = fx.Graph()
    node = graph.call_function(operator, (given := graph.placeholder("x"), *args))
    graph.output((node,))
    module = fx.GraphModule(nn.Module(), graph)
    few = torch.zeros(2, 9, 3) if x is None else x
    more = torch.cat([few, few[:, :1]], 1)
    runs = [recorded(module, [t]) for t in (few, more)]
    return Operators(*runs, lambda n: False).dependences(node, {given: AxisLayout(1)})


MIXED = {
    "max of all": lambda x: x.amax(1, keepdim=True).expand_as(x),
    "place of the largest": lambda x: x.argmax(1),
    "any": lambda x: (x > 0).any(1, keepdim=True).expand_as(x),
    "the first two exchanged": lambda x: x[:, [1, 0, *range(2, x.shape[1])]],
    "the last frame moved ahead": lambda x: torch.cat([x[:, -1:], x[:, :-1]], 1),
    "the one before": lambda x: torch.cat([x[:, :1], x[:, :-1]], 1),
    "flipped": lambda x: x.flip(1),
    "sorted": lambda x: x.sort(1).values,
    "median": lambda x: x.median(1, keepdim=True).values.expand_as(x),
    "norm": lambda x: x.norm(dim=1, keepdim=True).expand_as(x),
    "statistics": lambda x: x / (1 + x.std(1, keepdim=True)),
    "a norm with a bound": lambda x: torch.renorm(x, 2, 2, 2e4),
    "a norm with a far bound": lambda x: torch.renorm(x, 1, 2, 1e25),
    "the loudest, from a size on": lambda x: torch.where(x.amax(1, keepdim=True) > 1e12, x.mean(1, keepdim=True), x),
    "the quietest, from a size on": lambda x: torch.where(x.amin(1, keepdim=True) > 1e12, x.mean(1, keepdim=True), x),
}


@pytest.mark.parametrize("operator", MIXED.values(), ids=MIXED)
def test_an_operator_that_mixes_cells_does_so_on_values_drawn_for_it(operator):
    with pytest.raises(IndicesMixed):
        asked(operator)


def test_an_operator_that_works_entry_by_entry_is_known_by_name():
    assert asked(aten.relu.default) == asked(aten.gt.Scalar, 1e9) == [AxisLayout(1)]
    assert asked(lambda x: x @ torch.ones(3, 5)) == [AxisLayout(1)]
    assert asked(lambda x: x[:, -1] * 0 + x[:, -1]) == [Dependence.LAST]
    assert asked(lambda x: torch.renorm(x.flatten(0, 1), 2, 0, 2e4).view_as(x)) == [AxisLayout(1)]


def test_loud_values_that_an_operator_does_not_take_tell_nothing():
    assert asked(lambda x: x.sin() if x.abs().max() < 1e6 else x[20]) == [AxisLayout(1)]


def test_numbers_are_drawn_in_their_range():
    picked = torch.zeros(2, 9, dtype=torch.long)
    assert asked(lambda i: torch.arange(4.0)[i], x=picked) == [AxisLayout(1)]
    assert asked(lambda i: torch.nn.functional.one_hot(i.clamp(0, 3), 4), x=picked) == [AxisLayout(1)]


def test_an_operator_that_takes_nothing_drawn_is_not_decided():
    def picky(x: Tensor) -> Tensor:
        if bool(x.any()):
            raise ValueError("only zeros, please\nno more")
        return x

    with pytest.raises(NotDecided, match=r"^only zeros, please$"):
        asked(picky)
