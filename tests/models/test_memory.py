"""Module state: buffers and attributes become states; those without a fixed shape are refused."""

from collections import deque
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .nets import (
    BufferOverTime,
    CopiedInto,
    CreatedInTheFirstCall,
    NestedMemory,
    NotFromZero,
    Reassigned,
    RunningMean,
)
from .streams import Call, assert_streams

X = torch.randn(1, 7, 4, generator=torch.Generator().manual_seed(0))
FRAME = X[:, 0]
ROWS = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def leaky(s, x):
    s.h = 0.5 * s.h + x
    return 2 * s.h


def counted(s, x):
    s.n += 1
    return x / s.n


class Aliased(nn.Module):
    """One buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("a", torch.zeros(1, 4))
        self.register_buffer("b", self.a)

    def forward(self, x: Tensor) -> Tensor:
        self.a.mul_(0.5).add_(x)
        return self.b + x


class Passing(nn.Module):
    """Two buffers that take each other's value."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("new", torch.zeros(1, 4), persistent=False)
        self.register_buffer("old", torch.zeros(1, 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.old, self.new = self.new, x
        return x - self.old


class NoGrad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.level.lerp_(x.abs(), 0.1)
        return x / (self.level + 0.1)


class Ring(nn.Module):
    """A ring of 3 frames, written where an integer says."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ring", torch.zeros(1, 3, 4))
        self.register_buffer("at", torch.zeros(1, 1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        here = torch.arange(3) == self.at
        self.ring = torch.where(here[..., None], x[:, None], self.ring)
        self.at = (self.at + 1) % 3
        return self.ring.sum(1)


def cached(s, x):
    s.seen = x.shape  # an attribute that changes nothing
    s.calls = getattr(s, "calls", 0) + 1
    return leaky(s, x)


# By model, example and (name, row, initial) of each state.
KEPT = {
    "reassigned": (Reassigned(), FRAME, [("h", (5,), "zeros")]),
    "copied into": (CopiedInto(), FRAME, [("h", (5,), "zeros"), ("c", (5,), "zeros")]),
    "in nested modules": (NestedMemory(), FRAME, [("front.1.last", (4,), "zeros"), ("back.last", (4,), "zeros")]),
    "of a layer, over time": (BufferOverTime(), X, [("hidden", (2, 5), "zeros")]),
    "aliased": (Aliased(), FRAME, [("a", (4,), "zeros")]),
    "not persistent, passed on": (Passing(), FRAME, [("new", (4,), "zeros"), ("old", (4,), "zeros")]),
    "born in the first call": (CreatedInTheFirstCall(), ROWS, [("h", (5,), "zeros")]),
    "not from zero": (NotFromZero(), FRAME, [("mean", (4,), "stored"), ("peak", (4,), "stored")]),
    "a scalar counter": (RunningMean(), FRAME, [("count", (), "zeros"), ("mean", (4,), "zeros")]),
    "a counter of one": (Call(counted, n=torch.ones(1)), ROWS, [("n", (1,), "stored")]),
    "without a batch axis": (Call(leaky, h=torch.zeros(4)), FRAME, [("h", (4,), "zeros")]),
    "a batch of three": (Call(leaky, h=torch.ones(3, 4)), ROWS, [("h", (4,), "stored")]),
    "an integer": (Ring(), FRAME, [("ring", (3, 4), "zeros"), ("at", (1,), "zeros")]),
    "under no_grad": (NoGrad(), FRAME, [("level", (4,), "zeros")]),
    "beside a cache that changes nothing": (Call(cached, h=torch.zeros(1, 4)), FRAME, [("h", (4,), "zeros")]),
}


@pytest.mark.parametrize(("model", "example", "states"), KEPT.values(), ids=KEPT)
def test_a_buffer_that_a_call_changes_is_a_state(model, example, states):
    lifted = assert_streams(model.eval(), example)
    assert [(s.name, s.row, s.initial) for s in lifted.spec.states] == states
    assert {o.kind for o in lifted.origins} == {"buffer"}
    assert lifted.spec.has_time == (example is X)


def test_a_buffer_starts_from_what_it_holds_unless_said():
    model = Call(leaky, h=torch.full((1, 4), 3.0))
    lifted = lift(model, (FRAME,))
    assert torch.equal(lifted.initial["h"], torch.full((4,), 3.0))
    lifted = lift(model, (FRAME,), initial={"h": torch.arange(4.0)})
    assert torch.equal(lifted.initial["h"], torch.arange(4.0))
    assert torch.equal(model.h, torch.full((1, 4), 3.0))  # the user's own is left alone


def test_buffers_stand_behind_declared_states_and_before_those_of_layers():
    model = Call(lambda s, x, g: (leaky(s, x) + g, 0.5 * g + x), h=torch.zeros(1, 4))
    spec = lift(model, (FRAME, FRAME), states={"g": 1}).spec
    assert [s.name for s in spec.states] == ["g", "h"]
    spec = lift(Call(lambda s, x: s.smooth(s.gru(x)[0]), gru=gru(), smooth=Along()), (X,)).spec
    assert [s.name for s in spec.states] == ["smooth.level", "gru.l0.h"]


def gru() -> nn.GRU:
    return nn.GRU(4, 4, batch_first=True)


class Along(nn.Module):
    """A buffer that every frame of a piece moves."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for frame in x.unbind(1):
            self.level = 0.9 * self.level + 0.1 * frame
            levels.append(self.level)
        return torch.stack(levels, 1)


# --- plain attributes ---------------------------------------------------------------------------------------------


def plain(name, start, remember):
    """A model that keeps what `remember(old, x)` gives in an attribute."""

    def forward(s, x):
        part = s.part
        setattr(part, name, remember(getattr(part, name), x))
        kept = getattr(part, name)
        return x + sum(kept.values() if isinstance(kept, dict) else kept if not isinstance(kept, Tensor) else [kept])

    model = Call(forward, part=nn.Identity())
    setattr(model.part, name, start)
    return model


def created(s, x):
    if s.h is None:
        s.h = torch.zeros_like(x)
    s.h = torch.tanh(s.h + x)
    return 2 * s.h


def created_at_a_quarter(s, x):
    h = torch.full_like(x, 0.25) if s.h is None else s.h
    s.h = torch.tanh(h - x)
    return s.h


def late(s, x):
    s.seen = 0.5 * getattr(s, "seen", 0) + x
    return s.seen + 1


def of_a_layer(s, x):
    y, s.hc = s.lstm(x[None], s.hc)
    return y[0]


def in_a_dict(s, x):
    h = s.cache.get("h")
    s.cache["h"] = x if h is None else h + x
    return 3 * s.cache["h"]


def placeholder(s, x):
    if not s.mem.numel():
        s.mem = torch.zeros_like(x)
    s.mem = 0.9 * s.mem + x
    fired = (s.mem > 1).to(x)
    s.mem = s.mem - fired
    return fired + s.mem


def delayed(s, x):
    y = s.line[0] + x
    s.line = [*s.line[1:], x]
    return y


def annealed(s, x):
    s.rate *= 0.9
    return s.rate * x


def counting(s, x):
    s.n = (torch.zeros(x.shape[0], 1) if s.n is None else s.n) + 1
    return x / s.n


@dataclass
class Holder:
    """An object of a user's, passed along."""

    level: Tensor
    name: str = "level"


def in_an_object(s, x):
    s.kept.level = 0.5 * s.kept.level + x
    return s.kept.level + 1


class Leak(nn.Module):
    """A neuron without parameters: a buffer, and a tensor that the first call makes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = None
        self.register_buffer("level", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x if self.seen is None else 0.5 * self.seen + x
        self.level = 0.9 * self.level + self.seen
        return self.level


def through(s, x):
    for part in s.parts_of_it:
        x = part(x)
    return x + 1


def by_name(s, x):
    return s.kept["leak"].level(x)


def zeros(*names):
    return [(name, (4,), "zeros") for name in names]


ATTRIBUTES = {
    "a tensor": (plain("memory", torch.zeros(1, 4), lambda old, x: 0.5 * old + x), zeros("part.memory")),
    "a dict": (
        plain("cache", {"h": torch.ones(1, 4)}, lambda old, x: {"h": old["h"] + x}),
        [("part.cache.h", (4,), "stored")],
    ),
    "a list": (
        plain("past", [torch.zeros(1, 4)] * 2, lambda old, x: [*old[1:], x]),
        zeros("part.past.0", "part.past.1"),
    ),
    "a deque": (
        plain("past", deque([torch.zeros(1, 4)] * 2, 2), lambda old, x: deque([*old, x], 2)),
        zeros("part.past.0", "part.past.1"),
    ),
    "a line that only its end reads": (
        Call(delayed, line=[torch.zeros(1, 4)] * 2),
        zeros("line.0", "line.1"),
    ),
    "an object": (Call(in_an_object, kept=Holder(torch.zeros(1, 4))), zeros("kept.level")),
    "modules in a list": (
        Call(through, parts_of_it=[Leak(), nn.Identity()]),
        zeros("parts_of_it.0.level", "parts_of_it.0.seen"),
    ),
    "a module in an object": (
        Call(by_name, kept={"leak": Holder(Leak())}),
        zeros("kept.leak.level.level", "kept.leak.level.seen"),
    ),
    "a number": (Call(counted, n=0), [("n", (), "zeros")]),
    "a fraction": (Call(annealed, rate=1.0), [("rate", (), "stored")]),
    "None until the first call": (Call(created, h=None), [("h", (4,), "zeros")]),
    "None, then from a quarter": (Call(created_at_a_quarter, h=None), [("h", (4,), "stored")]),
    "not there until the first call": (Call(late), zeros("seen")),
    "a layer's own, from None": (
        Call(of_a_layer, lstm=nn.LSTM(4, 5), hc=None),
        [("hc.0", (1, 5), "zeros"), ("hc.1", (1, 5), "zeros")],
    ),
    "a tensor that counts the calls": (Call(counting, n=None), [("n", (1,), "zeros")]),
    "an empty dict": (Call(in_a_dict, cache={}), zeros("cache.h")),
    "an empty buffer": (Call(placeholder, mem=torch.zeros(0)), zeros("mem")),
}


@pytest.mark.parametrize(("model", "states"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_what_a_call_keeps_in_an_attribute_is_a_state(model, states):
    lifted = assert_streams(model.eval(), FRAME)
    assert [(s.name, s.row, s.initial) for s in lifted.spec.states] == states
    assert {o.kind for o in lifted.origins} <= {"attribute", "buffer"}


def test_a_flag_that_the_first_call_sets_is_no_state():
    def forward(s, x):
        if not s.started:
            s.h, s.started = torch.full_like(x, 0.5), True
        return leaky(s, x)

    lifted = assert_streams(Call(forward, started=False, h=None), FRAME)
    assert [(s.name, s.row, s.initial) for s in lifted.spec.states] == [("h", (4,), "stored")]


def test_what_no_later_call_reads_is_no_state():
    def forward(s, x):
        s.last, s.calls = x, s.calls + 1
        return leaky(s, x)

    assert [s.name for s in lift(Call(forward, h=torch.zeros(1, 4), calls=0), (FRAME,)).spec.states] == ["h"]


# --- arguments that a call writes to, and the values that states have ------------------------------------------------


def into(s, x, ring):
    ring.copy_(torch.roll(ring, -1, 1))
    ring[:, -1] = x
    return ring.mean(1)


RING = torch.zeros(1, 3, 4)


def test_a_state_may_be_written_to_in_place():
    returned = Call(lambda s, x, ring: (into(s, x, ring), ring))
    for model, states in ((returned, {"ring": 1}), (Call(into), {"ring": "ring"})):
        lifted = lift(model, (FRAME, RING), states=states)
        assert [(s.name, s.row) for s in lifted.spec.states] == [("ring", (3, 4))]
        y, ring = lifted.module(torch.ones(2, 4), torch.zeros(2, 3, 4))
        assert torch.equal(y, torch.full((2, 4), 1 / 3))
        assert torch.equal(ring[:, -1], torch.ones(2, 4))
    assert not RING.any()


def test_what_is_written_to_and_not_declared_is_asked_for():
    with raises("input-written-to", "'ring'", "states={'ring': 'ring'}"):
        lift(Call(into), (FRAME, RING))


def test_states_are_tried_with_values_that_they_have():
    """The root of a mean of squares, the logarithm of probabilities: noise of any kind would give NaN."""

    def loudness(s, x, power):
        power = 0.9 * power + x * x
        return x / torch.sqrt(power), power

    def filtered(s, x, p):
        p = torch.softmax(torch.log(p) + x, -1)
        return 2 * p, p

    assert lift(Call(loudness), (FRAME, torch.zeros(1, 4)), states={"power": 1}, time_axis=None).spec.states
    quarter = torch.full((1, 4), 0.25)
    assert lift(Call(filtered), (FRAME, quarter), states={"p": 1}, initial={"p": quarter}).spec.states


# --- refusals -----------------------------------------------------------------------------------------------------


def grown(s, x):
    s.seen = torch.cat([s.seen, x[:, None]], 1)
    return s.seen.sum(1)


def forgotten(s, x):
    y = x if s.h is None else x + s.h
    s.h = None
    return y


def per_call(s, x):
    y = s.gru(x)[0] + s.h[:, None]
    s.h = 0.5 * s.h + x[:, -1]
    return y


def created_as_ones(s, x):
    s.h = torch.ones_like(x) if s.h is None else s.h * 0.5 + x
    return s.h + x


REFUSED = {
    "grows": (Call(grown, seen=torch.zeros(1, 1, 4)), FRAME, ("state-shape-changes", "buffer 'seen'")),
    "set to None": (Call(forgotten, h=torch.ones(1, 4)), FRAME, ("state-set-to-none", "buffer 'h'")),
    "other values per row": (
        Call(leaky, h=torch.arange(12.0).reshape(3, 4)),
        ROWS,
        ("initial-rows-differ", "'h'"),
    ),
    "a list that grows": (
        plain("past", [torch.zeros(1, 4)], lambda old, x: [*old, x]),
        FRAME,
        ("memory-grows-with-calls", "'part.past'"),
    ),
    "an attribute of another shape at each call": (
        plain("past", torch.zeros(1, 1, 4), lambda old, x: torch.cat([old, x[:, None]], 1)),
        FRAME,
        ("state-shape-changes", "attribute 'part.past'", "(1, 2, 4)", "(1, 3, 4)"),
    ),
    "what starts from the input": (
        Call(lambda s, x: (x - (x if s.h is None else s.h), setattr(s, "h", x))[0], h=None),
        FRAME,
        ("first-call-sets-state", "'h'"),
    ),
    "a word that chooses": (
        Call(
            lambda s, x: ((x if s.mode == "a" else -x), setattr(s, "mode", "b" if s.mode == "a" else "a"))[0], mode="a"
        ),
        FRAME,
        ("state-drawn-at-random", "'mode'"),
    ),
    "probability": (
        Call(lambda s, x: x + torch.rand_like(x)),
        FRAME,
        ("state-drawn-at-random", "it draws random numbers"),
    ),
    "once per call": (
        Call(per_call, gru=gru(), h=torch.zeros(1, 4)),
        X,
        ("state-moves-by-call", "'h'", "time_axis=None"),
    ),
}


@pytest.mark.parametrize(("model", "example", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_a_state_is_refused(model, example, message):
    with raises(*message):
        lift(model, (example,))


def test_a_counter_with_a_state_that_the_first_call_makes():
    """In one dict: what stands beside a state is put back with it, and counts all the same."""

    def mean_so_far(s, x):
        s.kept["n"] += 1
        s.kept["h"] = [x if s.kept["h"][0] is None else s.kept["h"][0] + x]
        return s.kept["h"][0] / s.kept["n"]

    lifted = assert_streams(Call(mean_so_far, kept={"h": [None], "n": 0}), FRAME)
    assert [(s.name, s.initial) for s in lifted.spec.states] == [("kept.h.0", "zeros"), ("kept.n", "zeros")]


def test_a_buffer_that_the_first_call_makes_starts_from_zeros():
    model = Call(created_as_ones)
    model.register_buffer("h", None)
    with raises("first-call-sets-state", "'h'"):
        lift(model, (FRAME,))


def test_a_buffer_that_moves_once_per_call_says_that_a_call_is_a_frame():
    """Nothing else remembers: what looked like time is an axis of the frame."""
    lifted = assert_streams(Call(lambda s, x: leaky(s, x), h=torch.zeros(1, 7, 4)), X)
    assert lifted.spec.inputs[0].shape == ("batch", 7, 4)


def written_at(s, x):
    s.ring[:, s.at] = x
    s.at = (s.at + 1) % 3
    return s.ring.cumsum(1).flatten(1)


def test_rows_that_write_into_each_other_are_no_batch():
    """A number that says where to write is one for all rows: with one for each, every row writes into every row."""
    model = Call(written_at, ring=torch.zeros(1, 3, 4), at=torch.zeros((), dtype=torch.long))
    lifted = lift(model, (FRAME,))
    assert lifted.spec.rows == 1
    assert "one stream at a time, since there is no batch axis in at ()" in " ".join(lifted.notes)


def test_numbers_that_nothing_reads_are_no_states():
    def forward(s, x):
        s.calls += 1
        s.seen = s.seen + x.shape[1]
        s.last = s.calls * 2
        return s.gru(x)[0]

    model = Call(
        forward, gru=nn.GRU(4, 5, batch_first=True), calls=torch.tensor(0), seen=torch.zeros(1), last=torch.tensor(0)
    )
    lifted = assert_streams(model, X)
    assert [s.name for s in lifted.spec.states] == ["gru.l0.h"]
    assert "'calls', 'seen', 'last': changed by calls, and read by nothing, so no state" in " ".join(lifted.notes)


@pytest.mark.parametrize("name", ["x", "first", "warm_up", "frame", "past_end"])
def test_what_is_kept_may_have_any_name(name):
    """That of an argument, or of an added state."""

    def forward(s, x):
        y, kept = s.conv(x.transpose(1, 2)).transpose(1, 2), getattr(s, name)
        ys = []
        for t in range(x.shape[1]):
            kept = 0.9 * kept + x[:, t]
            ys.append(kept)
        setattr(s, name, kept)
        return y.cumsum(1) + torch.arange(y.shape[1])[:, None], torch.stack(ys, 1) - x[:, :1]

    lifted = lift(Call(forward, conv=nn.Conv1d(4, 4, 3), **{name: torch.zeros(1, 4)}), (X,))
    names = [s.name for s in lifted.spec.states]
    assert len(set(names)) == len(names)
    assert ("x.kept" if name == "x" else name) in names


def test_an_argument_may_be_named_as_a_state_of_streaming():
    def forward(s, frame):
        return s.gru(frame)[0] + torch.arange(frame.shape[1])[:, None]

    lifted = lift(Call(forward, gru=nn.GRU(4, 5, batch_first=True)), (X,))
    assert {s.name for s in lifted.spec.states} == {"gru.l0.h", "call1.frame"}
