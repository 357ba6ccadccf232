"""Arguments and results of a model: states by the paths of layers or as declared, and arguments that are refused."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rnn_export.models import CustomGRU

from ..models.nets import Dict, Explicit, Named, Tagger, Tuple  # noqa: TID252
from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
FRAME, H, ZERO = X[:, 0], torch.zeros(2, 5), torch.zeros(1, 4)
PAIR, RING = torch.zeros(2, 2, 5), torch.zeros(1, 3, 4)
KEPT = {"states": {"h": 1}}


def gru(size=4, **options):
    return nn.GRU(4, size, batch_first=True, **options)


class OwnCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.of_x, self.of_h = nn.Linear(4, 5), nn.Linear(5, 5)

    def forward(self, x, h):
        return torch.tanh(self.of_x(x) + self.of_h(h))


@dataclass
class Answer:
    y: Tensor
    h: Tensor | None = None


def into_a_dataclass(s, x, h):
    h = s.cell(x, h)
    return Answer(2 * h, h)


def keyword_state(s, x, *, h=None):
    h = s.cell(x, h)
    return 2 * h, h


def learned_unless_given(s, x, h=None):
    h = s.cell(x, s.h0.expand(len(x), 5) if h is None else h)
    return 2 * h, h


def shown_late(s, x, h=None):
    y, h = s.gru(x, s.h0.expand(1, x.shape[0], -1).contiguous() if h is None else h)
    return y * x[..., :1], h


def starred(s, x, *caches):
    h = s.cell(x, caches[0])
    return 2 * h, h, caches[1] + 1


def starred_list(s, x, *caches):
    h = s.cell(x, caches[0])
    return 2 * h, [h, caches[1] + 1]


def policy(s, inputs):
    h = s.cell(inputs["obs"], inputs["memory"][0])
    return 2 * h, (h,)


def with_an_empty_part(s, x, kept):
    """As an encoder without look-ahead keeps of what it looks ahead at."""
    h, ahead = kept
    new = s.cell(x, h) + ahead.sum(0)
    return new, [new, ahead]


def with_a_part_that_grows(s, x, kept):
    new = s.cell(x, kept[0])
    return new, [new, new[None]]


def gated(s, x, gate, h):
    """An input that comes back in its own shape, but is no state."""
    return x * gate, s.cell(x, h)


def asking(s, x):
    """It asks its layers for their sizes and weights."""
    s.rnn.flatten_parameters()
    zeros = torch.zeros(s.rnn.num_layers, x.shape[0], s.rnn.hidden_size)
    return s.rnn(x, (zeros, zeros))[0] * s.cell.hidden_size * s.rnn.weight_hh_l0.sum()


def into(s, x, ring):
    ring.copy_(torch.roll(ring, -1, 1))
    ring[:, -1] = x
    return ring.mean(1)


def loudness(s, x, power):
    """Noise as the power would give NaN; so would it as probabilities below."""
    power = 0.9 * power + x * x
    return x / torch.sqrt(power), power


def filtered(s, x, p):
    p = torch.softmax(torch.log(p) + x, -1)
    return 2 * p, p


CELL, SHARED, EMPTY = nn.GRUCell(4, 5), gru(), [H, torch.zeros(0, 1, 5)]
OWN, STARS = {"cell": OwnCell()}, (FRAME, H, torch.zeros(2, 1))
POLICY = ({"obs": FRAME, "memory": (H,)},)


def named(model, *names, x=X):
    return case(model, x).streams(
        lengths=range(1, 5),
        states=names,
        holds=lambda lifted: [s.output for s in lifted.spec.states] == [f"{n}.next" for n in names],
    )


def declared(model, *example, states, names, outputs=None, **options):
    def holds(lifted):
        return outputs in (None, [t.name for t in lifted.spec.outputs])

    return case(model, *example, states=states, **options).streams(states=names, holds=holds)


def refused(model, *message, x=(X,), **options):
    return case(model, *x, **options).refused(*message)


def returned(function, *message, x=(H, H), states=KEPT["states"], **parts):
    return case(Call(function, **parts), *x, states=states).refused(*message)


TABLE = {
    "states are named by the path of their layer": {
        "called twice": named(
            Call(lambda s, x: s.a(s.a(x)[0])[0], a=gru(num_layers=2)),
            "a.l0.h",
            "a.l1.h",
            "a.call1.l0.h",
            "a.call1.l1.h",
        ),
        "nested": named(
            Call(lambda s, x: s.a[1]["b"](x)[0], a=nn.ModuleList([nn.ReLU(), nn.ModuleDict({"b": gru()})])),
            "a.1.b.l0.h",
        ),
        "bare layer": named(nn.LSTM(4, 5, 2), "l0.h", "l0.c", "l1.h", "l1.c"),
        "bare layer of ours": named(CustomGRU(4, 5, 2), "l0.h", "l1.h"),
        "inside a model": named(Tagger(nn.LSTM), "rnn.l0.h", "rnn.l0.c"),
        "under two names": named(Call(lambda s, x: s.b(s.a(x)[0])[0], a=SHARED, b=SHARED), "a.l0.h", "b.l0.h"),
        "in two parents": named(
            Call(lambda s, x: s.b.gru(s.a.gru(x)[0])[0], a=Call(None, gru=SHARED), b=Call(None, gru=SHARED)),
            *("a.gru.l0.h", "b.gru.l0.h"),
        ),
        "a subclass": named(Call(lambda s, x: s.a(x)[0], a=type("Mine", (nn.GRU,), {})(4, 5)), "a.l0.h"),
        "a parametrised layer": named(
            Call(lambda s, x: s.a(x)[0], a=nn.utils.parametrizations.weight_norm(gru(), "weight_hh_l0")), "a.l0.h"
        ),
        "layers that are asked": named(
            Call(asking, rnn=nn.LSTM(4, 5, 2, batch_first=True), cell=nn.GRUCell(5, 5)),
            *("rnn.l0.h", "rnn.l0.c", "rnn.l1.h", "rnn.l1.c"),
        ),
    },
    "declared states are paired with outputs": {
        "a tree, by name": declared(
            Dict,
            FRAME,
            dict.fromkeys("hcg", H),
            states={"memory": "next"},
            names=["memory.h", "memory.c", "memory.g"],
            outputs=["sum", "both"],
        ),
        "batch behind layers": declared(
            Explicit,
            X,
            PAIR,
            PAIR,
            states={"h": 1, "c": -1},
            names=[("h", (2, 5), "zeros"), ("c", (2, 5), "zeros")],
            outputs=["output"],
        ),
        "those of a bare layer": case(nn.LSTM(4, 5, 2), X, (torch.zeros(2, 7, 5),) * 2).streams(states=["h", "c"]),
        "those of a bare layer in a list": case(nn.LSTM(4, 5, 2), X, [torch.zeros(2, 7, 5)] * 2).streams(
            states=[("h", (2, 5), "zeros"), ("c", (2, 5), "zeros")]
        ),
        "a tuple": declared(Tuple, X, (PAIR[:1],) * 2, states={"hx": 1}, names=["hx.0", "hx.1"]),
        "a named tuple, by name": declared(Named, FRAME, H, states={"h": "h"}, names=["h"], outputs=["y"]),
        "a named tuple, by number": declared(Named, FRAME, H + 1, states={"h": -1}, names=[("h", (5,), "zeros")]),
        "a dataclass": declared(
            Call(into_a_dataclass, cell=CELL), FRAME, H, states={"h": "h"}, names=["h"], outputs=["y"]
        ),
        "one that the model makes itself": declared(
            Call(keyword_state, cell=CELL), FRAME, **KEPT, names=[("h", (5,), "zeros")]
        ),
        "with a weight of its name": declared(Call(keyword_state, cell=CELL, h=H[0]), FRAME, **KEPT, names=["h"]),
        "one that starts elsewhere": declared(
            Call(learned_unless_given, cell=CELL, h0=nn.Parameter(H[0] + 1)),
            FRAME,
            **KEPT,
            initial={"h": H[0] + 1},
            names=[("h", (5,), "stored")],
        ),
        "a cell's only output": declared(OwnCell, FRAME, H, states={"h": "output"}, names=["h"]),
        "a cell's output by number": declared(OwnCell, FRAME, H, states={"h": -1}, names=["h"]),
        "no state after all": declared(OwnCell, FRAME, H, states={"h": None}, names=[]),
        "none but another": declared(
            Call(gated, cell=CELL), FRAME, FRAME, H, states={"gate": None, "h": 1}, names=["h"]
        ),
        "what a star takes": declared(
            Call(starred, **OWN), *STARS, states={"caches.0": 1, "caches.1": 2}, names=["caches.0", "caches.1"]
        ),
        "what a star takes, as one": declared(
            Call(starred_list, **OWN), *STARS, states={"caches": 1}, names=["caches.0", "caches.1"]
        ),
        "next to data in one argument": declared(
            Call(policy, **OWN), *POLICY, states={"inputs.memory": 1}, names=["inputs.memory.0"]
        ),
        "an empty part": declared(
            Call(with_an_empty_part, cell=CELL), FRAME, EMPTY, states={"kept": 1}, time_axis=None, names=["kept.0"]
        ),
        "written to and returned": declared(
            Call(lambda s, x, ring: (into(s, x, ring), ring)), FRAME[:1], RING, states={"ring": 1}, names=["ring"]
        ),
        "written to": declared(Call(into), FRAME[:1], RING, states={"ring": "ring"}, names=["ring"]),
        "a power": declared(Call(loudness), FRAME[:1], ZERO, states={"power": 1}, time_axis=None, names=["power"]),
        "probabilities": declared(
            Call(filtered), FRAME[:1], ZERO + 0.25, states={"p": 1}, initial={"p": ZERO + 0.25}, names=["p"]
        ),
    },
    "an input that comes back is asked about": {
        "by name": refused(
            Named,
            "input-comes-back",
            "'h' (2, 5)",
            "output 'y' or 'h'",
            "states={'h': 'h'}",
            "If it is none, ",
            x=(FRAME, H),
        ),
        "a pair, advice tried": case(Explicit, X, PAIR, PAIR).refused(
            "input-comes-back", "'h'", "output 1 or 2", "states={'h': 1, 'c': 2}", "If it is none", advice=True
        ),
        "a tuple": refused(
            Tuple, "input-comes-back", "'hx.0'", "output 1:", "states={'hx': 1} (--state hx=1)", x=(X, (PAIR[:1],) * 2)
        ),
        "a cell's only output": refused(
            OwnCell, "input-comes-back", "'h' (2, 5)", "most likely states={'h': 'output'}", x=(FRAME, H)
        ),
        "a star": refused(Call(starred_list, **OWN), "input-comes-back", "most likely states={'caches': 1}", x=STARS),
        "part of an argument": refused(
            Call(policy, **OWN), "input-comes-back", "most likely states={'inputs.memory': 1}", x=POLICY
        ),
        "next to a declared one": refused(
            Explicit, "input-comes-back", "'c'", "output 2:", x=(X, PAIR, PAIR), states={"h": 1}
        ),
        "written to": refused(Call(into), "input-written-to", "'ring'", "states={'ring': 'ring'}", x=(FRAME[:1], RING)),
    },
    "a declared state that does not fit is refused": {
        "unknown": refused(Named, "state-names-no-argument", "'g'", "['x', 'h']", x=(FRAME, H), states={"g": 1}),
        "unknown output": refused(
            Named, "state-output-missing", "'h'", "'g'", "keys ['y', 'h']", x=(FRAME, H), states={"h": "g"}
        ),
        "unknown part": refused(
            Call(policy, **OWN), "state-names-no-argument", "'inputs.other'", x=POLICY, states={"inputs.other": 1}
        ),
        "output out of range": refused(
            Explicit, "state-output-missing", "output 3", "3 values", x=(X, PAIR, PAIR), states={"h": 3, "c": 2}
        ),
        "one tensor": returned(lambda s, x, h: x + h, "state-output-missing", "output 1", "one tensor"),
        "one output twice": returned(
            lambda s, x, h, c: (x + h + c, h),
            *("output-of-two-states", "output -1", "'h' and 'c'"),
            x=(H, H, H),
            states={"h": 1, "c": -1},
        ),
        "another shape": returned(
            lambda s, x, h: (x, torch.cat([h, h], 1)),
            *("state-comes-back-otherwise", "'h'", "float32 (2, 5)", "float32 (2, 10)"),
        ),
        "another dtype": returned(lambda s, x, h: (x, h.double()), "state-comes-back-otherwise", "float64 (2, 5)"),
        "another count": returned(
            lambda s, x, h: (x, s.cell(x, (h, h))),
            *("state-comes-back-otherwise", "float32 (2, 5)", "float32 (2, 5), float32 (2, 5)"),
            x=(FRAME, H),
            cell=nn.LSTMCell(4, 5),
        ),
        "an empty part that fills up": returned(
            with_a_part_that_grows,
            *("state-comes-back-otherwise", "'kept'", "float32 (2, 5)", "1, 2, 5"),
            x=(FRAME, EMPTY),
            states={"kept": 1},
            cell=CELL,
        ),
        "another start": returned(
            learned_unless_given,
            "omitted-state-starts-otherwise",
            "'h'",
            x=(FRAME,),
            cell=CELL,
            h0=nn.Parameter(H[0] + 1),
        ),
        "another start that shows late": returned(
            shown_late, "omitted-state-starts-otherwise", "'h'", x=(0 * X,), gru=gru(5), h0=nn.Parameter(H[0] + 1)
        ),
        "initial of another shape": refused(
            Named, "initial-shapes-unfit", "'h'", "(6,)", "(5,)", x=(FRAME, H), **KEPT, initial={"h": torch.zeros(6)}
        ),
        "initial of several rows": refused(
            Named, "initial-shapes-unfit", "'h'", "(2, 5)", x=(FRAME, H), **KEPT, initial={"h": H}
        ),
        "initial of no state": refused(
            Named, "initial-names-unknown", "['c']", "['h']", x=(FRAME, H), **KEPT, initial={"c": H[0]}
        ),
    },
}
