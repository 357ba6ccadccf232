"""Values that a call keeps in buffers, attributes and objects are states; those without a fixed shape are refused."""

import itertools
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models import nets  # noqa: TID252
from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(1, 7, 4, generator=torch.Generator().manual_seed(0))
FRAME, ROWS = X[:, 0], torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
RING, ZERO = torch.zeros(1, 3, 4), torch.zeros(1, 4)


def leaky(s, x):
    s.h = 0.5 * s.h + x
    return 2 * s.h


def counted(s, x):
    s.n += 1
    return x / s.n


def of_another_name(s, x):
    s.a.mul_(0.5).add_(x)
    return s.b + x


def exchanged(s, x):
    s.old, s.new = s.new, x
    return x - s.old


def under_no_grad(s, x):
    with torch.no_grad():
        s.level.lerp_(x.abs(), 0.1)
    return x / (s.level + 0.1)


def written_where_an_integer_says(s, x):
    here = torch.arange(3) == s.at
    s.ring = torch.where(here[..., None], x[:, None], s.ring)
    s.at = (s.at + 1) % 3
    return s.ring.sum(1)


def cached(s, x):
    s.seen = x.shape  # an attribute that changes nothing
    s.calls = getattr(s, "calls", 0) + 1
    return leaky(s, x)


def along(s, x):
    """A buffer that every frame of a piece moves."""
    levels = []
    for frame in x.unbind(1):
        s.level = 0.9 * s.level + 0.1 * frame
        levels.append(s.level)
    return torch.stack(levels, 1)


def with_one_level(s, x, g):
    return leaky(s, x) + g, 0.5 * g + x


def gru(size=4):
    return nn.GRU(4, size, batch_first=True)


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


def created_as_ones(s, x):
    s.h = torch.ones_like(x) if s.h is None else s.h * 0.5 + x
    return s.h + x


def created_after_a_flag(s, x):
    if not s.started:
        s.h, s.started = torch.full_like(x, 0.5), True
    return leaky(s, x)


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


def in_a_dict_with_a_count(s, x):
    s.kept["n"] += 1
    s.kept["h"] = [x if s.kept["h"][0] is None else s.kept["h"][0] + x]
    return s.kept["h"][0] / s.kept["n"]


def in_an_empty_buffer(s, x):
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


@dataclass(frozen=True, slots=True)
class Slotted:
    level: Any = None


def in_a_frozen_object(s, x):
    s.kept = replace(s.kept, level=0.5 * s.kept.level + x)
    return s.kept.level


def late_in_a_slot(s, x):
    object.__setattr__(s.kept, "level", s.kept.level + 1)
    return x * (2 if s.kept.level > 400 else 1)


@dataclass
class Holder:
    """An object of a user's, passed along."""

    level: Any
    name: str = "level"


def in_an_object(s, x):
    s.kept.level = 0.5 * s.kept.level + x
    return s.kept.level + 1


def leak(s, x):
    """A buffer, and a tensor that the first call makes."""
    s.seen = x if s.seen is None else 0.5 * s.seen + x
    s.level = 0.9 * s.level + s.seen
    return s.level


LEAK = Call(leak, level=ZERO, seen=None)


def through(s, x):
    for part in s.parts_of_it:
        x = part(x)
    return x + 1


def unread(s, x):
    s.last, s.calls = x, s.calls + 1
    return leaky(s, x)


def unread_numbers(s, x):
    s.calls += 1
    s.seen = s.seen + x.shape[1]
    s.last = s.calls * 2
    return s.gru(x)[0]


def under_any_name(name):
    """Beside states that streaming adds."""

    def forward(s, x):
        y, kept, ys = s.conv(x.mT).mT, getattr(s, name), []
        for t in range(x.shape[1]):
            kept = 0.9 * kept + x[:, t]
            ys.append(kept)
        setattr(s, name, kept)
        return y.cumsum(1) + torch.arange(y.shape[1])[:, None], torch.stack(ys, 1) - x[:, :1]

    def holds(lifted):
        names = [s.name for s in lifted.spec.states]
        return len({*names}) == len(names) and ("x.kept" if name == "x" else name) in names

    model = Call(forward, conv=nn.Conv1d(4, 4, 3), **{name: ZERO})
    return case(model, X).streams(holds=holds, end=False, atol=1e-5)


def as_a_state_of_streaming(s, frame):
    return s.gru(frame)[0] + torch.arange(frame.shape[1])[:, None]


def written_at(s, x):
    s.ring[:, s.at] = x
    s.at = (s.at + 1) % 3
    return s.ring.cumsum(1).flatten(1)


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


def from_the_input(s, x):
    before, s.h = x if s.h is None else s.h, x
    return x - before


def by_a_word(s, x):
    y, s.mode = (x, "b") if s.mode == "a" else (-x, "a")
    return y


def zeros(*names):
    return [(name, (4,), "zeros") for name in names]


def kept(model, states, x=FRAME, kinds=("buffer",), **parts):
    """`states` are (name, row, initial); a function of (self, x) is a model with `parts`."""
    return case(Call(model, **parts) if parts else model, x).streams(states=states, kinds={*kinds}, end=False)


def nested(depth):
    kept = Holder(0)
    for _ in range(depth):
        kept = Holder(kept)
    return kept


def innermost(kept):
    while isinstance(kept.level, Holder):
        kept = kept.level
    kept.level += 1
    return kept.level


def one_more(held):
    held.append(1)
    return len(held)


def along_a_list(held):
    held.insert(0, True)
    held.pop()
    return 401 if held[400] else 0


TOLD = {"n": 0}


def one_more_outside(held):
    TOLD["n"] += 1
    return TOLD["n"]


def closed_over():
    n = 0

    def count(held):
        nonlocal n
        n += 1
        return n

    return count


def late_by(count, held, name="'held'"):
    """Something else after 400 calls, which `count(held)` counts."""

    def forward(s, x):
        return leaky(s, x) * (2 if count(s.held) > 400 else 1)

    return refused(forward, "memory-in-python-objects", name, h=ZERO, held=held)


def as_text(s, x):
    s.held += "."
    return leaky(s, x) * (2 if len(s.held) > 400 else 1)


def attribute(model, states, **parts):
    return kept(model, states, kinds=["attribute"], **parts)


def refused(model, *message, x=FRAME, **parts):
    return case(Call(model, **parts) if parts else model, x).refused(*message)


def partly_written(s, x):
    (h,) = s.held
    h[:, :2] = x[:, :2]
    y = s.o(h)
    h.copy_(x)
    return y


TABLE = {
    "a buffer that a call changes is a state": {
        "copied into": kept(nets.CopiedInto, [("h", (5,), "zeros"), ("c", (5,), "zeros")]),
        "without a batch axis": kept(leaky, zeros("h"), h=torch.zeros(4)),
        "in nested modules": kept(nets.NestedMemory, zeros("front.1.last", "back.last")),
        "of a layer, over time": kept(nets.BufferOverTime, [("hidden", (2, 5), "zeros")], X),
        "under two names": kept(of_another_name, zeros("a"), a=(one := torch.zeros(1, 4)), b=one),
        "exchanged": kept(exchanged, zeros("new", "old"), new=ZERO.clone(), old=ZERO.clone()),
        "made by the first call": kept(nets.CreatedInTheFirstCall, [("h", (5,), "zeros")], ROWS),
        "not from zero": kept(nets.NotFromZero, [("mean", (4,), "stored"), ("peak", (4,), "stored")]),
        "a scalar counter": kept(nets.RunningMean, [("count", (), "zeros"), ("mean", (4,), "zeros")]),
        "a counter of one": kept(counted, [("n", (1,), "stored")], ROWS, n=torch.ones(1)),
        "a batch of three": kept(leaky, [("h", (4,), "stored")], ROWS, h=torch.ones(3, 4)),
        "an integer": kept(
            Call(written_where_an_integer_says, ring=RING, at=torch.zeros(1, 1, dtype=torch.long)),
            [("ring", (3, 4), "zeros"), ("at", (1,), "zeros")],
        ),
        "under no_grad": kept(under_no_grad, zeros("level"), level=ZERO),
        "next to what changes nothing": kept(cached, zeros("h"), h=ZERO),
        "empty": kept(in_an_empty_buffer, zeros("mem"), mem=torch.zeros(0)),
        "behind declared states": case(Call(with_one_level, h=ZERO), FRAME, FRAME, states={"g": 1}).streams(
            states=["g", "h"]
        ),
        "before those of layers": case(
            Call(lambda s, x: s.smooth(s.gru(x)[0]), gru=gru(), smooth=Call(along, level=ZERO)), X
        ).streams(states=["smooth.level", "gru.l0.h"], end=False),
        "once per call, with nothing else over time": case(Call(leaky, h=torch.zeros(1, 7, 4)), X).streams(
            input=("batch", 7, 4)
        ),
    },
    "what a call keeps in an attribute is a state": {
        "a list": attribute(
            plain("past", [ZERO] * 2, lambda old, x: [*old[1:], x]), zeros("part.past.0", "part.past.1")
        ),
        "None until the first call": attribute(created, zeros("h"), h=None),
        "a tensor": attribute(plain("memory", ZERO, lambda old, x: 0.5 * old + x), zeros("part.memory")),
        "a dict": attribute(
            plain("cache", {"h": torch.ones(1, 4)}, lambda old, x: {"h": old["h"] + x}),
            [("part.cache.h", (4,), "stored")],
        ),
        "a deque": attribute(
            plain("past", deque([ZERO] * 2, 2), lambda old, x: deque([*old, x], 2)), zeros("part.past.0", "part.past.1")
        ),
        "a tensor that a call writes in part, and then reads": attribute(
            partly_written, zeros("held.0"), held=[ZERO.clone()], o=nn.Linear(4, 4)
        ),
        "a line that only its end reads": attribute(delayed, zeros("line.0", "line.1"), line=[ZERO] * 2),
        "a line longer than the calls that are tried": attribute(
            delayed, zeros(*(f"line.{i}" for i in range(12))), line=[ZERO] * 12
        ),
        "a line whose end noise does not reach": attribute(
            lambda s, x: delayed(s, x).clamp(min=1e4) + x, zeros("line.0", "line.1"), line=[ZERO] * 2
        ),
        "an object": attribute(in_an_object, zeros("kept.level"), kept=Holder(ZERO)),
        "an object with slots": attribute(in_a_frozen_object, zeros("kept.level"), kept=Slotted(ZERO)),
        "a count in a slot": attribute(late_in_a_slot, [("kept.level", (), "zeros")], kept=Slotted(0)),
        "modules in a list": attribute(
            Call(through, parts_of_it=[LEAK, nn.Identity()]),
            zeros("parts_of_it.0.level", "parts_of_it.0.seen"),
        ),
        "a module in an object": attribute(
            Call(lambda s, x: s.kept["leak"].level(x), kept={"leak": Holder(LEAK)}),
            zeros("kept.leak.level.level", "kept.leak.level.seen"),
        ),
        "a number": attribute(counted, [("n", (), "zeros")], n=0),
        "a fraction": attribute(annealed, [("rate", (), "stored")], rate=1.0),
        "None, then from a quarter": attribute(created_at_a_quarter, [("h", (4,), "stored")], h=None),
        "not there until the first call": attribute(Call(late), zeros("seen")),
        "a layer's own, from None": attribute(
            of_a_layer, [("hc.0", (1, 5), "zeros"), ("hc.1", (1, 5), "zeros")], lstm=nn.LSTM(4, 5), hc=None
        ),
        "a tensor that counts the calls": attribute(counting, [("n", (1,), "zeros")], n=None),
        "an empty dict": attribute(in_a_dict, zeros("cache.h"), cache={}),
        "a count with a state that the first call makes": attribute(
            in_a_dict_with_a_count, [("kept.h.0", (4,), "zeros"), ("kept.n", (), "zeros")], kept={"h": [None], "n": 0}
        ),
        "a flag that the first call sets is none": attribute(
            created_after_a_flag, [("h", (4,), "stored")], started=False, h=None
        ),
    },
    "what no later call reads is no state": {
        "a tensor and a number": kept(unread, zeros("h"), h=ZERO, calls=0),
        "numbers in buffers": case(
            Call(unread_numbers, gru=gru(5), calls=torch.tensor(0), seen=torch.zeros(1), last=torch.tensor(0)), X
        ).streams(
            states=["gru.l0.h"], notes=["'calls', 'seen', 'last': changed by calls, and read by nothing, so no state"]
        ),
    },
    "what is kept may have any name": {
        **{name: under_any_name(name) for name in ("x", "first", "warm_up", "frame", "past_end")},
        "an argument": case(Call(as_a_state_of_streaming, gru=gru(5)), X).streams(
            holds=lambda lifted: {s.name for s in lifted.spec.states} == {"gru.l0.h", "call1.frame"}
        ),
    },
    "a number that says where to write is one for all rows": {
        "in a buffer": case(Call(written_at, ring=RING, at=torch.zeros((), dtype=torch.long)), FRAME).streams(
            notes=["one stream at a time, since there is no batch axis in at ()"], holds=lambda lifted: lifted.spec.rows
        ),
    },
    "what cannot be a state is refused": {
        "what grows": refused(grown, "state-shape-changes", "buffer 'seen'", seen=RING[:, :1]),
        "a list that grows": refused(
            plain("past", [ZERO], lambda old, x: [*old, x]), "memory-grows-with-calls", "'part.past'"
        ),
        "set to None": refused(forgotten, "state-set-to-none", "buffer 'h'", h=torch.ones(1, 4)),
        "other values per row": refused(
            leaky, "initial-rows-differ", "'h'", x=ROWS, h=torch.arange(12.0).reshape(3, 4)
        ),
        "another shape at each call": refused(
            plain("past", RING[:, :1], lambda old, x: torch.cat([old, x[:, None]], 1)),
            *("state-shape-changes", "attribute 'part.past'", "(1, 2, 4)", "(1, 3, 4)"),
        ),
        "what is empty and fills up": refused(
            lambda s, x: setattr(s, "past", torch.cat([s.past, x[None]])[-2:]) or s.past.sum(0),
            *("state-shape-changes", "'past'"),
            past=torch.zeros(0, 1, 4),
        ),
        "what starts from the input": refused(from_the_input, "first-call-sets-state", "'h'", h=None),
        "a buffer that starts from ones": refused(created_as_ones, "first-call-sets-state", "'h'", h=None),
        "a word that chooses": refused(by_a_word, "state-drawn-at-random", "'mode'", mode="a"),
        "a count in a list's length": late_by(one_more, []),
        "in flags that move along a list": late_by(along_a_list, [False] * 500),
        "in a bytearray": late_by(one_more, bytearray()),
        "in a set": late_by(lambda held: held.add(len(held)) or len(held), set()),
        "in a counter": late_by(next, itertools.count()),
        "in an iterator": late_by(next, iter(range(10**6))),
        "deep in objects": late_by(innermost, nested(7)),
        "in an array of numpy": late_by(lambda held: held.__iadd__(1)[0], np.zeros(1)),
        "in a global": late_by(one_more_outside, None, "'TOLD'"),
        "in a closure": late_by(closed_over(), None, "a variable of a closure"),
        "in a text": refused(as_text, "memory-in-python-objects", "'held'", h=ZERO, held=""),
        "random numbers": case(Call(lambda s, x: x + torch.rand_like(x)), FRAME).refused(
            "state-drawn-at-random", "it draws random numbers"
        ),
        "once per call": refused(per_call, "state-moves-by-call", "'h'", "time_axis=None", x=X, gru=gru(), h=ZERO),
    },
}
