"""Integer counters in module state and in declared states: what they select, and where their values are not known."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
H = torch.zeros(1, 4)
COUNTED = {"h": H, "pos": 0}


def ring(function, n=4, **parts):
    torch.manual_seed(0)
    cells = nn.ModuleList(nn.GRUCell(4, 4) for _ in range(3))
    return Call(function, **{"lin": nn.Linear(4, 4), "buf": torch.zeros(1, n, 4), "cells": cells, "h": H, **parts})


def oldest(s, x):
    y = s.lin(s.buf[:, s.i])
    s.buf[:, s.i] = x
    s.i = (s.i + 1) % 4
    return y + x


def written(s, x):
    s.buf[:, s.i] = s.lin(x)
    s.i = (s.i + 1) % 4


def rolled(s, x):
    written(s, x)
    return (torch.roll(s.buf, -s.i, 1) * torch.arange(4.0)[:, None]).sum(1)


def rolled_by_int(s, x):
    written(s, x)
    return (torch.roll(s.buf, -int(s.i), 1) * torch.arange(4.0)[:, None]).sum(1)


def joined(s, x):
    s.buf[:, s.i] = s.lin(x)
    s.i = s.i + 1 if s.i < 3 else 0
    return torch.cat([s.buf[:, s.i :], s.buf[:, : s.i]], 1).cumsum(1)[:, 2]


def joined_by_int(s, x):
    written(s, x)
    return torch.cat([s.buf[:, s.i :], s.buf[:, : s.i]], 1).cumsum(1)[:, 2]


def back(s, x):
    s.buf[:, s.i] = s.lin(x)
    s.i = (s.i + 3) % 4
    return s.buf[:, s.i - 1] + s.buf[..., s.i, :]


def pairs(s, x):
    s.buf[:, s.i : s.i + 2] += x[:, None]
    y = s.buf[:, s.i + 1] * 0.5
    s.i = (s.i + 2) % 4
    return y


def chosen(s, x):
    s.h = s.cells[s.i % 3](x, s.h)
    s.i += 1
    return s.h


def chosen_as_values_go(s, x):
    s.h = s.cells[s.i](x, s.h)
    if x.sum() > 0:
        s.i = (s.i + 1) % 3
    return s.h


def chosen_for_long(s, x):
    """It picks the same part for hundreds of calls."""
    s.h = s.cells[s.i // 1000 % 3](x, s.h)
    s.i += 1
    return s.h


def delayed(s, x):
    y = 2 * s.past[s.i]
    s.past[s.i] = s.lin(x)
    s.i = (s.i + 1) % 3
    return y


def in_a_loop(s, x):
    ys = []
    for t in range(x.shape[1]):
        s.buf[:, s.i] = x[:, t]
        s.i = (s.i + 1) % 4
        ys.append(s.lin(s.buf.sum(1)))
    return torch.stack(ys, 1)


def only_counted(s, x):
    s.i += 1
    return s.lin(x)


def asked(s, x):
    s.i += 1
    return s.lin(x) * s.shown(s.i)


def to_the_end(s, x):
    s.buf[:, s.i] = x
    s.i += 1
    return s.lin(s.buf.sum(1))


def way_of_no_call(s, x):
    """A value that is put there by a way of the code that no call tried went."""
    s.h = s.cells[s.i](x, s.h)
    s.i = (s.i + 1) % 2
    if x.max() > 1e4:
        s.i = 2
    return s.h


class Pair(NamedTuple):
    h: torch.Tensor
    pos: int


@dataclass
class Record:
    h: torch.Tensor
    pos: int


def turned(h, pos):
    return h * torch.cos(torch.tensor(0.3) * pos)


def of_dict(s, x, state):
    h = s.cells[0](x, state["h"])
    return turned(h, state["pos"]), {"pos": state["pos"] + 1, "h": h}


def of_names(s, x, state):
    h = s.cells[0](x, state.h)
    return turned(h, state.pos), type(state)(h, state.pos + 1)


def of_lists(s, x, state):
    (h, pos), gain = state["layers"][0], state["gain"]
    h = s.cells[0](x, h)
    return gain * turned(h, pos), {"layers": [(h, pos + 1)], "gain": 0.9 * gain}


def of_a_number(s, x, state):
    return turned(s.lin(x), state), state + 1


def as_a_tensor(s, x, state):
    h = s.cells[0](x, state["h"])
    return turned(h, state["pos"]), {"h": h, "pos": torch.as_tensor(state["pos"]) + 1}


def by_flag(s, x, state):
    h = s.lin(x) if state["first"] else s.cells[0](x, state["h"])
    return h, {"h": h, "first": False}


def by_count(s, x, state):
    h = s.lin(x) if state["pos"] == 0 else s.cells[0](x, state["h"])
    return h, {"h": h, "pos": state["pos"] + 1}


def in_a_table(s, x, state):
    h = s.cells[0](x + s.buf[0, state["pos"] % 8], state["h"])
    return h, {"h": h, "pos": state["pos"] + 1}


def in_a_ring(s, x, state):
    cache = state["h"].clone()
    cache[:, state["pos"] % 3] = s.lin(x)
    return cache.sum(1), {"h": cache, "pos": state["pos"] + 1}


def in_a_list(s, x, state):
    angle = torch.tensor([state["pos"]], dtype=torch.float32)[:, None] * torch.arange(4)
    h = s.cells[0](x, state["h"])
    return h * angle.cos(), {"h": h, "pos": state["pos"] + 1}


def for_all_rows(s, x, state):
    pos = torch.full((x.shape[0],), state["pos"])
    h = s.cells[0](x + s.buf[0, pos % 8], state["h"])
    return h, {"h": h, "pos": state["pos"] + 1}


def sliced(s, x, state):
    """More entries than there may be ways."""
    pos = state["pos"]
    h = s.cells[0](x + s.buf.repeat(1, 8, 1)[0, pos : pos + 1], state["h"])
    return h, {"h": h, "pos": (pos + 1) % 40}


def sliced_to_the_end(s, x, state):
    h = s.cells[0](x + s.buf[0, state["pos"] : state["pos"] + 1], state["h"])
    return h, {"h": h, "pos": state["pos"] + 1}


def in_a_cache_that_grows(s, x, state):
    cache = torch.cat([state["h"], s.lin(x)[:, None]], 1)[:, -5:]
    return turned(cache.sum(1), state["pos"]), {"h": cache, "pos": state["pos"] + 1}


def left_as_they_are(s, x, state):
    h = s.cells[0](x, state["h"])
    return h * state["gain"], {"h": h, "gain": state["gain"], "mode": state["mode"]}


def with_a_word(**back):
    def forward(s, x, state):
        h = s.cells[0](x, state["h"])
        return h if state["mode"] == "a" else -h, {"h": h, **back}

    return declared(forward, {"h": H, "mode": "a"})


def computed_in_python(s, x, state):
    h = s.cells[0](x, state["h"])
    return h * math.cos(state["pos"]), {"h": h, "pos": state["pos"] + 1}


def from_nothing(s, x, state=None):
    return of_dict(s, x, {"h": torch.zeros(x.shape[0], 4), "pos": 0} if state is None else state)


def picks(function, *states, i=0, rows=1, **parts):
    """A row alone steps, and `i` is one of its states."""
    return case(ring(function, i=i, **parts), X).streams(
        holds=lambda lifted: lifted.spec.rows == rows and {"i", *states} <= {s.name for s in lifted.spec.states}
    )


TABLE_OF_8 = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(2))


def declared(function, state, n=None, **options):
    model = ring(function, buf=TABLE_OF_8 if n is None else torch.zeros(1, n, 4))
    return case(model, X, state, states={"state": 1}, time_axis=None, **options)


def of(function, state, *names, **options):
    names = {f"state{name}" for name in names or (".h", ".pos")}
    return declared(function, state, **options).streams(
        kinds={"argument"}, holds=lambda lifted: {s.name for s in lifted.spec.states} == names
    )


def starts_at(pos, **options):
    return declared(of_dict, {"h": H, "pos": 5}, **options).streams(
        holds=lambda lifted: int(lifted.initial["state.pos"]) == pos
    )


TABLE = {
    "a number in module state picks entries and parts": {
        "rolled_by_int": picks(rolled_by_int),
        "chosen": picks(chosen),
        "oldest": picks(oldest),
        "rolled": picks(rolled),
        "joined": picks(joined),
        "back": picks(back),
        "pairs": picks(pairs),
        "chosen as values go": picks(chosen_as_values_go),
        "chosen for long": picks(chosen_for_long),
        "in a buffer, rolled_by_int": picks(rolled_by_int, i=torch.tensor(0)),
        "in a buffer of one, joined by int": picks(joined_by_int, i=torch.tensor([0])),
        "of a list": picks(delayed, "past.0", "past.1", "past.2", past=[H.clone() for _ in range(3)]),
        "in a loop": case(ring(in_a_loop, i=0), torch.randn(1, 6, 4)).streams(),
    },
    "a number in a declared state is a state": {
        "of a cache that grows": of(
            in_a_cache_that_grows, {"h": torch.zeros(1, 0, 4), "pos": 0}, ".h", ".pos", "_count"
        ),
        "of a dict": of(of_dict, COUNTED),
        "of a named tuple": of(of_names, Pair(H, 0)),
        "of a dataclass": of(of_names, Record(H, 0)),
        "nested": of(of_lists, {"layers": [(H, 0)], "gain": 1.0}, ".layers.0.0", ".layers.0.1", ".gain"),
        "alone": of(of_a_number, 0, ""),
        "comes back as a tensor": of(as_a_tensor, COUNTED),
        "a flag": of(by_flag, {"h": H, "first": True}, ".h", ".first"),
        "compared": of(by_count, COUNTED),
        "picks of a table": of(in_a_table, COUNTED),
        "in a list": of(in_a_list, COUNTED),
        "for all rows": of(for_all_rows, COUNTED),
        "cuts a table": of(sliced, COUNTED),
        "writes into a ring": of(in_a_ring, {"h": torch.zeros(1, 3, 4), "pos": 0}),
        "as it went in is none": of(left_as_they_are, {"h": H, "gain": 0.5, "mode": "plain"}, ".h"),
        "starts as in the example": starts_at(5),
        "starts as is said": starts_at(2, initial={"state.pos": torch.tensor(2)}),
        "left out counts from nothing": case(ring(from_nothing), X, states={"state": 1}, time_axis=None).streams(
            holds=lambda lifted: int(lifted.initial["state.pos"]) == 0
        ),
    },
    "a number whose values are not known is refused": {
        "a table ends": case(ring(to_the_end, 300, i=0), X).refused("counter-beyond-table", "301", "300 of 300"),
        "a short table ends": case(ring(to_the_end, i=0), X).refused(
            "counted-call-fails", "5", "at counters.py", "index 4 is out"
        ),
        "a table that is cut ends": declared(sliced_to_the_end, COUNTED, 300).refused(
            "counter-beyond-table", "301", "300 of 300"
        ),
        "of what is fed": case(ring(lambda s, x: s.cells[int(x.argmax()) % 3](x, s.lin(x))), X).refused(
            "number-by-value", "it is not of numbers that calls count alone"
        ),
        "on a way that no call went": case(ring(way_of_no_call, i=0), X).refused(
            "decided-by-value", "counted otherwise in a way of the code that was not met"
        ),
        "computed with in Python": declared(computed_in_python, COUNTED).refused(
            "number-by-value", "counters.py", "state.pos: a number in a declared state"
        ),
        "divided": case(ring(asked, i=0, shown=lambda t: divmod(t, 500)[0]), X).refused("fails-on-noise"),
        "as a key": case(ring(asked, i=0, shown=lambda t: t in {400}), X).refused(
            "count-asked-as-object", "'i'", "hash"
        ),
        "as a text": case(ring(asked, i=0, shown=lambda t: str(t) == "400"), X).refused(
            "count-asked-as-object", "text"
        ),
        "as bits": case(ring(asked, i=0, shown=lambda t: t.bit_length() > 8), X).refused(
            "count-asked-as-object", "bit_length()"
        ),
        "of a range": case(ring(asked, i=0, shown=lambda t: range(9)[t // 500]), X).refused("number-by-value"),
    },
    "what is no number is no state": {
        "a word that changes": with_a_word(mode="b").refused(
            "state-part-not-numeric", "'state.mode'", "'a'", "comes back as 'b'"
        ),
        "a word that does not come back": with_a_word().refused(
            "state-part-not-numeric", "'state.mode'", "'a'", "does not come back"
        ),
        "a number that only counts": case(Call(only_counted, lin=nn.Linear(4, 4), i=0), X).streams(states=[]),
    },
}
