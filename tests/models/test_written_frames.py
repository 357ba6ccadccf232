"""Loops that write their frames into a tensor, along any axis, and code that reads its last ones."""

import pytest
import torch
from torch import Tensor, nn

from .streams import Call, assert_streams
from .whole_streams import assert_whole

X = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def into_rows(s: nn.Module, x: Tensor) -> Tensor:
    h, out = x.new_zeros(x.shape[0], 4), x.new_zeros(x.shape)
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        out[:, t] = 2 * h
    return out


def into_first_axis(s: nn.Module, x: Tensor) -> Tensor:
    h, out = x.new_zeros(x.shape[0], 4), x.new_empty(x.shape[1], x.shape[0], 4)
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        out[t] = 2 * h
    return out.transpose(0, 1)


def into_last_axis(s: nn.Module, x: Tensor) -> Tensor:
    h, out = x.new_zeros(x.shape[0], 4), torch.zeros(x.shape[0], 4, x.shape[1])
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        out[..., t] = 2 * h
    return out.mT


def into_pieces(s: nn.Module, x: Tensor) -> Tensor:
    h, out = x.new_zeros(x.shape[0], 4), x.new_zeros(x.shape)
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        out[:, t : t + 1, :] = 2 * h[:, None]
    return out


LOOPS = [into_rows, into_first_axis, into_last_axis, into_pieces]


def model(loop, read) -> Call:
    def forward(s, x):
        y = loop(s, x)
        return y, read(y)

    return Call(forward, cell=nn.GRUCell(4, 4))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("read", [lambda y: y[:, -1], lambda y: y[:, -1:, :1].squeeze(1)], ids=["frame", "piece"])
def test_the_last_frame_that_was_written_is_the_last_one(loop, read) -> None:
    """It was taken for what stood there before any was written."""
    assert_streams(model(loop, read), X)


@pytest.mark.parametrize("loop", LOOPS)
def test_frames_up_to_one_before_the_end_are_those_that_were_written(loop) -> None:
    def forward(s, x):
        y = loop(s, x)
        return y[:, :-1] + y[:, 1:]

    assert_whole(Call(forward, cell=nn.GRUCell(4, 4)), X)
