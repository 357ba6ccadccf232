"""Branches on values, computed both ways, stream: counts of calls, flags and thresholds, each of one stream."""

import copy

import torch
from torch import nn

from ..models.streams import Call  # noqa: TID252
from .case import case


def every_other(s, x):
    s.h = s.first(x, s.h) if s.t % 2 == 0 else s.second(x, s.h)
    s.t += 1
    return s.h


def starts_again(s, x):
    if s.t % 30 == 29:
        s.h = torch.zeros_like(s.h)
    s.t += 1
    s.h = s.first(x, s.h)
    return s.h


def held(s, x):
    """Every fourth frame moves what is put out, which is held between."""
    s.t += 1
    s.h = s.first(x, s.h)
    if s.t == 4:
        s.y, s.t = s.second(x, s.h), 0
    return s.y


def in_turn(s, x):
    s.h = s.first(x, s.h) if s.flip else s.second(x, s.h)
    s.flip = not s.flip
    return s.h


def first_call(s, x):
    if not s.begun:
        s.h, s.begun = s.second(x, s.h), True
    s.h = s.first(x, s.h)
    return s.h


def first_as_input(s, x):
    if s.begun:
        s.h = 0.9 * s.h + 0.1 * s.first(x, s.h)
    else:
        s.h, s.begun = s.second(x, torch.ones_like(s.h)), True
    return s.h


def hangs_over(s, x):
    """A voice activity that is held for some frames, and noise that is followed in between."""
    s.h = s.first(x, s.h)
    p = torch.sigmoid(4 * s.out(s.h))
    if p > 0.5:
        s.hang = 3
    elif s.hang > 0:
        s.hang -= 1
    else:
        s.noise = 0.9 * s.noise + 0.1 * x.abs().mean()
    return p * s.noise if s.hang else p


def since(s, x):
    """Frames since a loud one."""
    s.n += 1
    if x.abs().max() > 3:
        s.n = 0
    s.h = s.first(x, s.h)
    return s.h * (s.n > 4)


def loud_ones(s, x):
    s.n[0] += 1
    if x.abs().max() > 3:
        s.n[1] += 1
    s.h = s.first(x, s.h)
    return s.h + s.n[1] + s.n[0] % 3


def ways(s, x):
    for k in range(6):
        if s.t % 2**k == 0:
            s.h = s.first(x, s.h)
    s.t += 1
    return s.h


def by_mean(s, x):
    x = s.moved(x)
    return torch.tanh(2 * x) if x.mean() > 0 else torch.tanh(x)


X = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))


def counts(forward, **held):
    """It keeps numbers and flags in attributes, beside h."""

    def make():
        first, second, moved = nn.GRUCell(3, 4), nn.GRUCell(3, 4), nn.Linear(3, 4)
        nn.init.constant_(moved.bias, -0.7)
        return Call(forward, first=first, second=second, moved=moved, out=nn.Linear(4, 1), h=torch.zeros(1, 4), **held)

    return case(make, X, time_axis=None)


def streams(forward, *states, **held):
    """One stream, of h and these states, with no assumption, held to calls of which some are loud."""

    def holds(lifted):
        own, after = copy.deepcopy(lifted.original.model), [lifted.initial[s.name][None] for s in lifted.spec.states]
        with torch.no_grad():
            for x in 2 * torch.randn(64, 1, 3, generator=torch.Generator().manual_seed(1)):
                y, *after = lifted.module(x, *after)
                torch.testing.assert_close(y, own(x))
        assert {s.name for s in lifted.spec.states} == {*states}
        return lifted.spec.rows == 1 and lifted.spec.assumptions == ()

    return counts(forward, **held).streams(holds=holds)


def shortcut(s, x):
    """A way for silence, which noise does not tell from the other: a threshold far above it stands there."""
    s.h = s.first(x, s.h)
    return s.h if (x[..., 0] == 0).all() else s.h + torch.relu(x[..., 1:2] - 2e4)


TABLE = {
    "a decision on values is computed both ways": {
        "a count that loud frames reset": streams(since, "h", "n", n=0),
        "a threshold": streams(hangs_over, "h", "hang", "noise", hang=0, noise=0.1),
        "every other call": streams(every_other, "h", "t", t=0),
        "a period of 30": streams(starts_again, "h", "t", t=0),
        "held": streams(held, "h", "t", "y", t=0, y=torch.zeros(1, 4)),
        "a flag that turns": streams(in_turn, "h", "flip", flip=False),
        "the first call": streams(first_call, "h", "begun", begun=False),
        "a start from the first frame": streams(first_as_input, "h", "begun", begun=False),
        "a list of counts": streams(loud_ones, "h", "n.0", "n.1", n=[0, 0]),
        "of a row that noise on another seldom moves": streams(by_mean),
        "ways that only a loud entry tells apart": streams(shortcut, "h"),
    },
    "a decision of too many ways, or of rows for each other, is refused": {
        "64 ways": counts(ways, t=0).refused("decided-by-value", "more than 32 ways"),
        "rows": case(Call(lambda s, x: x if x.sum() > 0 else 2 * x), torch.randn(2, 3), time_axis=None).refused(
            "decided-by-value"
        ),
    },
}
