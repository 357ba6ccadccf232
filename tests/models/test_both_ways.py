"""Branches on values, computed on both sides: counts of calls, flags and thresholds, each of one stream."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call


class Counts(nn.Module):
    """Keeps numbers and flags in attributes; `forward` is a function of (self, x)."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **held: int | float | bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.GRUCell(3, 4), nn.GRUCell(3, 4)
        self.out = nn.Linear(4, 1)
        self.function = function
        self.register_buffer("h", torch.zeros(1, 4))
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


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


MODELS = {
    "every other call": (Counts(every_other, t=0), {"h", "t"}),
    "a period of 30": (Counts(starts_again, t=0), {"h", "t"}),
    "held": (Counts(held, t=0, y=torch.zeros(1, 4)), {"h", "t", "y"}),
    "a flag that turns": (Counts(in_turn, flip=False), {"h", "flip"}),
    "the first call": (Counts(first_call, begun=False), {"h", "begun"}),
    "a start from the first frame": (Counts(first_as_input, begun=False), {"h", "begun"}),
    "a count that loud frames reset": (Counts(since, n=0), {"h", "n"}),
    "a list of counts": (Counts(loud_ones, n=[0, 0]), {"h", "n.0", "n.1"}),
    "a threshold": (Counts(hangs_over, hang=0, noise=0.1), {"h", "hang", "noise"}),
}


@pytest.mark.parametrize(("model", "states"), MODELS.values(), ids=MODELS)
def test_decisions_are_computed_both_ways(model, states):
    lifted = lift(model.eval(), (torch.randn(1, 3),))
    assert lifted.spec.rows == 1
    assert {s.name for s in lifted.spec.states} == states
    assert lifted.spec.assumptions == ()
    own, after = copy.deepcopy(model), [lifted.initial[s.name][None] for s in lifted.spec.states]
    with torch.no_grad():
        for x in 2 * torch.randn(64, 1, 3, generator=torch.Generator().manual_seed(1)):
            y, *after = lifted.module(x, *after)
            torch.testing.assert_close(y, own(x))


def ways(s, x):
    for k in range(6):
        if s.t % 2**k == 0:
            s.h = s.first(x, s.h)
    s.t += 1
    return s.h


def test_too_many_ways_are_refused_as_the_decision():
    with raises("decided-by-value", "more than 32 ways"):
        lift(Counts(ways, t=0).eval(), (torch.randn(1, 3),))


def test_a_decision_that_noise_on_another_row_seldom_moves_is_of_one_row():
    def forward(s, x):
        x = s.linear(x)
        return torch.tanh(2 * x) if x.mean() > 0 else torch.tanh(x)

    linear = nn.Linear(3, 4)
    nn.init.constant_(linear.bias, -0.7)
    lifted = lift(Call(forward, linear=linear).eval(), (torch.randn(1, 3),), time_axis=None)
    assert lifted.spec.rows == 1


def test_rows_that_decide_for_each_other_are_refused_as_the_decision():
    with raises("decided-by-value"):
        lift(Call(lambda s, x: x if x.sum() > 0 else 2 * x), (torch.randn(2, 3),), time_axis=None)
