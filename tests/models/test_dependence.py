"""The dependences of a stream follow from the operators, never from the response to ordinary noise."""

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
from .streams import Call, assert_streams

X = torch.zeros(1, 6, 8)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def loud(x: Tensor) -> Tensor:
    """Zero for all that noise is."""
    return torch.relu(x[..., :1] - 20)


def behind_a_gate(mix) -> nn.Module:
    return Call(lambda s, x: s.gru(x)[0] + mix(s, x), gru=nn.GRU(8, 4, batch_first=True)).eval()


OVER_TIME = {
    "flip": lambda s, x: loud(x).flip(1),
    "roll": lambda s, x: loud(x).roll(1, 1),
    "max": lambda s, x: loud(x).amax(1, keepdim=True),
    "sort": lambda s, x: loud(x).sort(1).values,
    "median": lambda s, x: loud(x).median(1, keepdim=True).values,
    "any": lambda s, x: (x[..., :1] > 20).any(1, keepdim=True).float(),
    "product": lambda s, x: loud(x) * (loud(x).mT @ loud(x)),
    "two frames exchanged": lambda s, x: swapped(loud(x)),
    "peak as index": lambda s, x: x.gather(1, loud(x).argmax(1, keepdim=True).expand(-1, -1, 4)),
    "softmax": lambda s, x: torch.softmax(loud(x), 1) - torch.softmax(torch.zeros_like(loud(x)), 1),
    "norm": lambda s, x: loud(x).norm(dim=1, keepdim=True),
    "rolled by many": lambda s, x: loud(x).roll(72, 1),
    "how many": lambda s, x: loud(x) * torch.full((1, 1, 1), x.shape[1]),
    "their number as a float": lambda s, x: loud(x) * float(x.shape[1]),
    "as many as fit": lambda s, x: loud(x) * (x.shape[1] // 100 + 1),
    "the last number": lambda s, x: loud(x) * torch.arange(x.shape[1] - 1, x.shape[1])[:, None, None],
}


def swapped(x: Tensor) -> Tensor:
    """The frames 0 and 1 exchanged, of a sequence of any length."""
    at = torch.arange(x.shape[1])
    return x.index_select(1, torch.where(at < 2, 1 - at, at))


@pytest.mark.parametrize("mix", OVER_TIME.values(), ids=OVER_TIME)
def test_what_moves_over_time_behind_a_gate_is_refused_with_its_place(mix):
    with pytest.raises(LiftError) as refused:
        lift(behind_a_gate(mix), (X,))
    assert refused.value.id in {
        "not-frame-local",
        "length-used-as-value",
        "positions-over-time",
        "loop-number-of-length",
    }
    assert "test_dependence.py:" in str(refused.value)


def pairs(x: Tensor) -> Tensor:
    """The sum over all pairs of rows of (T, B, 1): (T, B)."""
    return (x @ x.mT).sum(2)


def ones_from_the_fifth(count) -> Tensor:
    return nn.functional.pad(torch.ones(count), (4, 0))[:count, None, None]


OVER_ROWS = {
    "mean": lambda s, x: loud(x).mean(0, keepdim=True),
    "roll": lambda s, x: loud(x).roll(1, 0),
    "flip": lambda s, x: loud(x).flip(0),
    "max": lambda s, x: loud(x).amax(0, keepdim=True),
    "any": lambda s, x: (x[..., :1] > 20).any(0, keepdim=True).float(),
    "all others": lambda s, x: pairs(loud(x).transpose(0, 1)).mT[..., None],
    "their number": lambda s, x: loud(x) / x.shape[0],
    "the number of each": lambda s, x: loud(x) * torch.arange(x.shape[0])[:, None, None],
    "how many": lambda s, x: loud(x) * torch.ones(x.shape[0]).sum(),
    "filled with their number": lambda s, x: loud(x) * torch.full((x.shape[0], 1, 1), x.shape[0]),
    "from the fifth on": lambda s, x: loud(x) * (torch.arange(x.shape[0]) >= 4)[:, None, None],
    "as many as fit": lambda s, x: loud(x) * (x.shape[0] // 4 + 1),
    "one for all from the fourth on": lambda s, x: loud(x)[torch.arange(x.shape[0]).clamp(max=3)],
    "ones behind others": lambda s, x: (
        loud(x) * nn.functional.pad(torch.ones(x.shape[0]), (4, 0))[: x.shape[0], None, None]
    ),
    "all but one": lambda s, x: loud(x) * torch.ones(x.shape[0] - 1).sum(),
    "rolled by two": lambda s, x: loud(x).roll(2, 0),
    "in a loop": lambda s, x: looped(x, lambda frame, h: 0.5 * h + loud(frame) + loud(h).mean(0, keepdim=True)),
    "late in a loop": lambda s, x: looped(x, aged),
}


def aged(frame: Tensor, h: Tensor) -> Tensor:
    """A memory of four frames, of which the oldest is another row's."""
    return torch.cat([loud(frame), h[:, :-2], h[:, -2:-1].flip(0)], 1)


def looped(x: Tensor, step) -> Tensor:
    """Python's loop over time, with a memory of 4."""
    h, ys = x.new_zeros(x.shape[0], 4), []
    for frame in x.unbind(1):
        h = step(frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize("mix", OVER_ROWS.values(), ids=OVER_ROWS)
def test_rows_that_hear_each_other_behind_a_gate_are_refused_with_their_place(mix):
    with raises("rows-depend", "test_dependence.py"):
        lift(behind_a_gate(mix), (torch.cat([X, X]),))


LATE = {
    "reset at frame 20": (lambda t, h, ys: h * 0 if t == 20 else h, ("loop-frames-unlike",)),
    "from frame 30 on": (lambda t, h, ys: h + 1 if t >= 30 else h, ("loop-body-unlike", "(aten")),
}


@pytest.mark.parametrize(("late", "message"), LATE.values(), ids=LATE)
def test_a_loop_that_does_something_else_later_is_refused(late, message):
    def forward(s, x):
        h, ys = x.new_zeros(x.shape[0], 8), []
        for t in range(x.shape[1]):
            h = late(t, torch.tanh(s.o(x[:, t]) + h), ys)
            ys.append(h)
        return torch.stack(ys, 1)

    with raises(*message):
        lift(Call(forward, o=nn.Linear(8, 8)), (X,))


def test_rows_of_a_one_frame_model_and_of_whole_sequences():
    message = (
        "rows-depend",
        "mean: rows of the batch depend on each other, so streams that are computed in one batch would hear",
    )
    with raises(*message):
        lift(Call(lambda s, x: x + loud(x).mean(0, keepdim=True)), (X[:, 0],), time_axis=None)
    both = Call(lambda s, x: s.gru(x)[0] + loud(x).mean(1, keepdim=True), gru=nn.GRU(8, 4, bidirectional=True))
    with raises(*message):
        lift(both, (torch.zeros(6, 1, 8),), sequence_only=True)


def test_rows_may_be_picked_by_their_number_each_from_itself():
    def chosen(s, x, index):
        y = s.o(x)
        return y, y[torch.arange(x.shape[0]), index]

    lift(Call(chosen, o=nn.Linear(8, 4)), (X[:, 0], torch.full((1,), 3)), time_axis=None)


def dead(head) -> nn.Module:
    model = Call(lambda s, x: head(s, s.o(s.gru(x)[0])), gru=nn.GRU(8, 4, batch_first=True), o=nn.Linear(4, 3))
    nn.init.zeros_(model.o.weight)
    return model


DEAD = {
    "a head at zero": dead(lambda s, y: y),
    "a threshold": dead(lambda s, y: y > 0.9),
    "where noise never is": dead(lambda s, y: y.clamp(5, 6)),
    "gated": dead(lambda s, y: torch.relu(y - 30)),
}


@pytest.mark.parametrize("model", DEAD.values(), ids=DEAD)
@pytest.mark.parametrize("batch_first", [True, False])
def test_axes_that_noise_does_not_move_are_told_by_the_graph(model, batch_first):
    model.gru.batch_first = batch_first
    x = X if batch_first else torch.zeros(6, 1, 8)
    spec = lift(model, (x,)).spec
    assert spec.inputs[0].shape == (("batch", "time", 8) if batch_first else ("time", "batch", 8))
    assert [s.row for s in spec.states] == [(4,)]


def test_a_deep_contraction_has_a_batch():
    assert_streams(nn.LSTM(8, 16, 12, batch_first=True).eval(), X)


def test_a_second_axis_with_a_memory_behind_a_gate_must_be_named():
    def along_the_last(s, x):
        rows = nn.functional.pad(x.reshape(-1, 1, x.shape[2]), (1, 0))
        return nn.functional.conv1d(rows, s.w).reshape(x.shape)

    def both(s, x):
        return along_the_last(s, x) + s.gate(x).cumsum(1)

    model = Call(both, w=torch.randn(1, 1, 2), gate=nn.Hardshrink(20.0))
    x = torch.zeros(1, 5, 6)
    with raises("rival-time-axes", "time_axis={'x': 2}", "1} (--time-axis x=1", kind=LiftError):
        lift(model, (x,))
    # The other axis may be taken entry by entry.
    alone = Call(along_the_last, w=model.w)
    assert lift(alone, (x,)).spec.inputs[0].shape == ("batch", 5, "time")


# --- what a call leaves behind ------------------------------------------------------------------------------------


def latched(s, x):
    s.seen = torch.where(x > 20, x, s.seen)
    return x + s.seen


def listed(s, x):
    s.past = [*s.past[1:], loud(x)]
    return x + s.past[0]


def counted(s, x):
    s.calls += 1
    return x + loud(x) * s.calls


def in_an_object(s, x):
    held = s.box.held
    s.box.held = loud(x)
    return x + (0 if held is None else held)


def written_out(s, x):
    old = s.seen.clone()
    torch.clamp(x, min=20, out=s.seen)
    return x + old - 20


class Box:
    held = None


def attributes(function, **held) -> nn.Module:
    model = Call(function)
    for name, value in held.items():
        object.__setattr__(model, name, value)
    return model


def every_tenth(s, x):
    s.calls = (s.calls + 1) % 10
    return 2 * x if s.calls == 0 else x


def in_a_list(s, x):
    s.calls[0] += 1
    return x + loud(x) if s.calls[0] > 20 else x


def queued(s, x):
    s.past.append(x)
    return x + s.past.popleft() if len(s.past) == 8 else x


def first_alone(s, x):
    first, s.first = s.first, False
    return x + loud(x) if first else x


HIDDEN = {"a queue": (attributes(queued, past=deque()), ("memory-grows-with-calls", "'past'"))}


@pytest.mark.parametrize(("model", "message"), HIDDEN.values(), ids=HIDDEN)
def test_a_memory_that_noise_does_not_move_is_seen(model, message):
    with raises(*message):
        lift(model, (X[:, 0],))


KEPT = {
    "a latch": (attributes(latched, seen=torch.zeros(1, 8)), ["seen"]),
    "a list": (attributes(listed, past=[torch.zeros(1, 1)] * 3), ["past.0", "past.1", "past.2"]),
    "a counter": (attributes(counted, calls=0), ["calls"]),
    "every tenth call": (attributes(every_tenth, calls=0), ["calls"]),
    "a number in a list": (attributes(in_a_list, calls=[0]), ["calls.0"]),
    "the first call": (attributes(first_alone, first=True), ["first"]),
    "by out=": (attributes(written_out, seen=torch.full((1, 8), 20.0)), ["seen"]),
    "an object": (attributes(in_an_object, box=Box()), ["box.held"]),
}


@pytest.mark.parametrize(("model", "states"), KEPT.values(), ids=KEPT)
def test_a_memory_that_noise_does_not_move_is_a_state(model, states):
    """Loud frames come out of it, one call later or all calls after."""
    lifted = lift(model, (X[:, 0],), time_axis=None)
    assert [s.name for s in lifted.spec.states] == states
    own, after = copy.deepcopy(model), [lifted.initial[s.name][None] for s in lifted.spec.states]
    for x in 30 * torch.randn(20, 1, 8, generator=torch.Generator().manual_seed(0)):
        y, *after = lifted.module(x, *after)
        torch.testing.assert_close(y, own(x))


def test_what_is_written_and_never_read_is_no_memory():
    def watched(s, x):
        s.seen, s.calls = s.o(x), s.calls + 1
        return torch.tanh(s.seen)

    model = Call(watched, o=nn.Linear(8, 3))
    model.calls = 0
    assert lift(model, (X[:, 0],)).spec.states == ()


def test_a_table_made_by_the_first_call_is_no_memory():
    def table_products(s, x):
        if s.table is None:
            object.__setattr__(s, "table", torch.arange(8.0))
        return x * s.table

    model = Call(table_products)
    object.__setattr__(model, "table", None)
    assert lift(model, (X[:, 0],)).spec.states == ()


def test_a_state_that_only_calls_move_is_told_by_the_graph():
    def per_call(s, x):
        y = s.gru(x)[0] + s.level[:, None]
        s.level = s.level + loud(x[:, -1])
        return y

    model = Call(per_call, gru=nn.GRU(8, 4, batch_first=True), level=torch.zeros(1, 1))
    with raises("state-moves-by-call", "'level'"):
        lift(model, (X,))


BY_CALL = {
    "read before it moves": lambda s, x: (s.gru(x)[0] + s.level[:, None], setattr(s, "level", s.gru(x)[0][:, -1]))[0],
    "bounded": lambda s, x: bounded(s, x),
}


def bounded(s, x):
    y, h = s.gru(x, s.level[None])
    s.level = h[0].clamp(-2.5, 2.5)
    return y + s.gru(x)[0]


@pytest.mark.parametrize("forward", BY_CALL.values(), ids=BY_CALL)
def test_a_state_that_frames_see_as_of_the_call_is_told_by_the_graph(forward):
    model = Call(forward, gru=nn.GRU(8, 4, batch_first=True), level=torch.zeros(1, 4))
    with raises("state-moves-by-call", "'level'"):
        lift(model, (X,))


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
    "sorted": lambda x: x.sort(1).values,
    "statistics": lambda x: x / (1 + x.std(1, keepdim=True)),
}


@pytest.mark.parametrize("operator", MIXED.values(), ids=MIXED)
def test_an_operator_that_mixes_cells_does_so_on_values_drawn_for_it(operator):
    with pytest.raises(IndicesMixed):
        asked(operator)


def test_an_operator_that_works_entry_by_entry_is_known_by_name():
    assert asked(aten.relu.default) == asked(aten.gt.Scalar, 1e9) == [AxisLayout(1)]
    assert asked(lambda x: x @ torch.ones(3, 5)) == [AxisLayout(1)]
    assert asked(lambda x: x[:, -1] * 0 + x[:, -1]) == [Dependence.LAST]


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
