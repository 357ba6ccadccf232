"""States packed into one tensor, and equal states kept once."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.nets import LearnedStart  # noqa: TID252
from ..models.streams import Call  # noqa: TID252
from .case import case, conv

X = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))  # (B, C, T)


def ahead():
    """Windows and waiting frames, a count of frames until the context is full, an end, and an LSTM."""
    layers = {"c": conv(padding=1), "d": conv(), "r": nn.LSTM(4, 4, 2, batch_first=True)}
    return Call(lambda s, x: s.r(s.c(s.d(x)).mT)[0].mT + x[..., 2:], **layers)


def gated():
    """Both convolutions of a gate keep the same frames."""
    return Call(lambda s, x: s.a(F.pad(x, (2, 0))).tanh() * s.b(F.pad(x, (2, 0))).sigmoid(), a=conv(), b=conv())


def otherwise():
    """States that start alike, and go on otherwise."""
    a, b = (nn.GRU(4, 4, batch_first=True) for _ in range(2))
    return Call(lambda s, x: s.a(s.a(x.mT)[0])[0] + s.a(x.mT)[0] + s.b(x.mT)[0], a=a, b=b)


def laid_out(lifted):
    """One state of float32 values, its parts one behind the other; counts and the end stay as they are."""
    (state, *separate), plain = lifted.spec.states, lifted.unpacked.spec
    ends = [sum(p.size for p in state.parts[:n]) for n in range(len(state.parts) + 1)]
    assert separate == [s for s in plain.states if s.name in ("warm_up", "past_end")]
    assert [p.name for p in state.parts] == [s.name for s in plain.states if s not in separate]
    assert [p.offset for p in state.parts] == ends[:-1]
    return (state.shape, lifted.spec.end) == (("batch", ends[-1]), "past_end") and plain.digest != lifted.spec.digest


def start_is_packed(lifted):
    (state,), plain = lifted.spec.states, lifted.unpacked
    packed = torch.cat([plain.initial[p.name].flatten() for p in state.parts])
    return state.initial == "stored" and torch.equal(lifted.initial[state.name].flatten(), packed)


def of_rows():
    return Call(lambda s, x: torch.stack([s.r(row)[0] for row in x]), r=nn.LSTM(4, 3, 2, batch_first=True))


TABLE = {
    "a stream with packed states is the model": {
        "to its end": case(ahead, X, pack_states=True).streams(
            states=["states", "past_end", "warm_up"], holds=laid_out
        ),
        "from a stored start": case(LearnedStart, torch.randn(2, 5, 4), pack_states=True).streams(
            holds=start_is_packed
        ),
        "of one stream": case(of_rows, X[:1].mT[None], pack_states=True, time_axis=2).streams(
            holds=lambda lifted: lifted.spec.rows == 1 and [len(s.parts) for s in lifted.spec.states] == [4]
        ),
        "but of one state": case(lambda: nn.GRU(4, 3, batch_first=True), X.mT, pack_states=True).streams(
            notes=["pack_states: of 1 states 1 could be packed (float32, no count), so none is"],
            holds=lambda lifted: [s.parts for s in lifted.spec.states] == [()],
        ),
    },
    "equal states are one": {
        "frames of a gate": case(gated, X).streams(
            states=["a.frames"], holds=lambda lifted: lifted.origins[0].why.endswith("kept once for 2 places")
        ),
        "but not those that start alike": case(otherwise, X).streams(states=["a.l0.h", "a.call1.l0.h", "b.l0.h"]),
        "outputs that wait": case(
            lambda: Call(lambda s, x: (s.a(x) + x, s.b(x) * x), a=conv(padding=1), b=conv(padding=1)), X
        ).streams(states=["past_end", "a.frames", "delay"]),
    },
}
