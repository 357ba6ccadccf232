"""Loops whose body varies from frame to frame, with a fixed period."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)
EVERY = (1, 2, 4)


def another_cell(s: nn.Module, x: Tensor) -> Tensor:
    h, given = x.new_zeros(len(x), 6), []
    for t in range(x.shape[1]):
        h = s.first(x[:, t], h) * 0.9 if t % 2 == 0 else s.second(x[:, t], h)
        given.append(h)
    return torch.stack(given, 1)


def a_layer_now_and_then(s: nn.Module, x: Tensor) -> Tensor:
    h = slow = x.new_zeros(len(x), 6)
    given = torch.empty(len(x), x.shape[1], 6)
    for t, frame in enumerate(x.unbind(1)):
        h = s.first(frame, h)
        if t % 3 == 0:
            slow = s.over(h, slow)
        given[:, t] = h + slow
    return given


def clockwork(s: nn.Module, x: Tensor) -> Tensor:
    parts, given = [x.new_zeros(len(x), 6)] * 3, []
    for t in range(x.shape[1]):
        known = torch.cat([x[:, t], *parts], 1)
        parts = [
            p if t % every else layer(known).tanh() for p, layer, every in zip(parts, s.layers, EVERY, strict=True)
        ]
        given.append(torch.cat(parts, 1))
    return torch.stack(given, 1)


def some_frames(s: nn.Module, x: Tensor) -> Tensor:
    h, given = x.new_zeros(len(x), 6), []
    for t in range(x.shape[1]):
        h = s.first(x[:, t], h)
        if t % 3 == 2:
            given.append(h)
    return torch.stack(given, 1)


def behind_another_loop(s: nn.Module, x: Tensor) -> Tensor:
    h, given = x.new_zeros(len(x), 4), []
    for frame in x.unbind(1):
        h = s.before(frame, h)
        given.append(h)
    return another_cell(s, torch.stack(given, 1))


def behind_a_window(s: nn.Module, x: Tensor) -> Tensor:
    """On fewer frames than the input has."""
    return another_cell(s, s.window(x.mT).mT)


def of_half_the_frames(s: nn.Module, x: Tensor) -> Tensor:
    return another_cell(s, s.stride(x.mT).mT)


def model(forward: Callable[[nn.Module, Tensor], Tensor]) -> Call:
    torch.manual_seed(0)
    cells = {
        "first": nn.GRUCell(4, 6),
        "second": nn.GRUCell(4, 6),
        "over": nn.GRUCell(6, 6),
        "before": nn.GRUCell(4, 4),
        "layer": nn.GRU(4, 6, batch_first=True),
    }
    convolutions = {"window": nn.Conv1d(4, 4, 2), "stride": nn.Conv1d(4, 4, 3, stride=2, padding=1)}
    return Call(forward, **cells, **convolutions, layers=nn.ModuleList(nn.Linear(22, 6) for _ in range(3))).eval()


def pieces_split(s: nn.Module, x: Tensor) -> Tensor:
    h, given = None, []
    for piece in x.split(4, 1):
        y, h = s.layer(piece, h)
        given.append(y)
    return torch.cat(given, 1)


def pieces_cut(s: nn.Module, x: Tensor) -> Tensor:
    """Each begins with what a cell makes of the last frame of the one before."""
    h, given = x.new_zeros(1, len(x), 6), []
    for start in range(0, x.shape[1], 3):
        y, _ = s.layer(x[:, start : start + 3], h)
        h = s.over(y[:, -1], h[0])[None]
        given.append(y.cumsum(1))
    return torch.cat(given, 1)


MODELS = [
    (another_cell, 2), (a_layer_now_and_then, 3), (clockwork, 4), (some_frames, 3), (pieces_split, 4), (pieces_cut, 3),
]  # fmt: skip


@pytest.mark.parametrize(("forward", "period"), MODELS)
def test_a_step_takes_whole_periods(forward, period):
    """The end of a sequence gives what its last frames give, which are no whole period."""
    lifted = assert_whole(model(forward), X, chunk=period, lengths=range(1, 14))
    assert lifted.spec.delay == 0
    assert lifted.spec.tail == (0 if forward is some_frames else period - 1)


@pytest.mark.parametrize(
    ("forward", "period"), [(behind_another_loop, 2), (behind_a_window, 2), (of_half_the_frames, 4)]
)
def test_periods_behind_what_else_is_over_time(forward, period):
    assert_whole(model(forward), X, chunk=period, lengths=range(2, 14))


def test_a_step_of_less_is_refused():
    with raises("chunk-not-of-strides", "2", "2 (--chunk 2)", kind=LiftError):
        lift(model(another_cell), (X,), chunk=1)


def test_what_is_as_of_the_last_frame_is_refused():
    def both(s: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        y = another_cell(s, x)
        return y, s.over(y[:, -1])

    with raises("last-frame-looks-ahead"):
        lift(model(both), (X,), chunk=2)


def test_other_weights_at_a_frame_far_away_are_seen():
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        h, given = x.new_zeros(len(x), 6), []
        for t, frame in enumerate(x.unbind(1)):
            h = s.second(frame, h) if t == 100 else s.first(frame, h)
            given.append(h)
        return torch.stack(given, 1)

    with raises("loop-body-unlike", "not every one goes through the same operators", "with second"):
        lift(model(forward), (X,))
