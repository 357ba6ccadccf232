"""Values made of the first frames and common to all: a state keeps them, and a layer may start from them."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

X, BANDS = torch.randn(2, 12, 4), torch.randn(2, 3, 12, 4)


def centred(x):
    return F.conv1d(x.mT, torch.linspace(-1, 1, 3).expand(4, 1, 3), padding=1, groups=4).mT


def of_rows(s, x):
    """Each band of each stream is a row that starts from its own first frame."""
    rows = x.flatten(0, 1)
    return s.g(rows, rows[:, 0].tanh()[None])[0].unflatten(0, (-1, 3))


def looped(s, x):
    h, frames = s.a(x[:, 0]).tanh(), []
    for t in range(x.shape[1]):
        h = s.c(x[:, t], h)
        frames.append(h)
    return torch.stack(frames, 1)


PARTS = {
    "g": nn.GRU(4, 4, batch_first=True),
    "l": nn.LSTM(4, 4, batch_first=True),
    "a": nn.Linear(4, 4),
    "c": nn.GRUCell(4, 4),
    "e": nn.Embedding(9, 4),
}


def late_start(s, x):
    return s.g(centred(x), x[:, 2].tanh()[None])[0]


def first(least, function, example=X, **options):
    """Sequences of `least` frames at least; where they are there in time nothing waits."""
    options = {"time_axis": 1, **options}
    return case(Call(function, **PARTS), example, **options).streams(
        lengths=range(least, least + 7),
        holds=lambda lifted: (
            any("first" in s.name for s in lifted.spec.states)
            and (lifted.spec.delay >= least - 1 or len(options) > 1 or options["time_axis"] > 1)
        ),
    )


def refused(function, *message):
    return case(Call(function), X, time_axis=1).refused(*message)


TABLE = {
    "the first frames are a state": {
        "difference": first(1, lambda s, x: s.g(x - x[:, :1])[0]),
        "mean of some": first(4, lambda s, x: x - x[:, 1:4].mean(1, keepdim=True), chunk=2),
        "gain": first(1, lambda s, x: x * s.a(x[:, 0]).sigmoid()[:, None]),
        "extra": first(3, lambda s, x: torch.cat([x, x[:, 2:3].expand(-1, x.shape[1], -1)], -1)),
        "of a late value": first(1, lambda s, x: centred(x) - centred(x)[:, :1]),
        "ahead of time": first(2, lambda s, x: x * F.pad(x, (0, 0, 2, 0))[:, 1:4].sum(1, keepdim=True)),
        "every other": first(3, lambda s, x: (lambda y: y - y[:, :2].mean(1, keepdim=True))(x[:, ::2]), chunk=2),
        "more frames": first(2, lambda s, x: (lambda y: y - y[:, 2:3])(x.repeat_interleave(2, 1))),
        "of itself": first(3, lambda s, x: (lambda y: y * y[:, 1:3].sum(1, keepdim=True))(x - x[:, :1])),
        "numbers": first(1, lambda s, x: s.e(x) * (x == x[:, :1])[..., None], torch.randint(9, (2, 12))),
        "product": first(4, lambda s, x: x @ x[:, :4]),
    },
    "a layer or a loop starts from the first frames": {
        "start": first(1, lambda s, x: s.g(x, x[:, 0].tanh()[None])[0]),
        "late start": first(3, late_start, chunk=4),
        "start of rows": first(1, of_rows, BANDS, time_axis=2),
        # A state from frame 0, and one from frame 1.
        "two starts": first(2, lambda s, x: s.l(x, (s.a(x[:, 1])[None], s.a(x[:, 0])[None]))[0]),
        "loop": first(1, looped),
    },
    "what would come before the first frames is refused": {
        "an output of one": refused(lambda s, x: (x, x[:, 1]), "output-of-first-frames"),
        "the last and one of them": refused(lambda s, x: x[:, -1] - x[:, 1], "last-meets-first-frames"),
        "a frame before all": refused(
            lambda s, x: torch.cat([x[:, 1:2] * 2, x], 1), "not-frame-local", "it mixes frames over time"
        ),
    },
}
