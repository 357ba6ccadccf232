"""Pools over time with a last window that the end may cut (`ceil_mode`), and the divisor of a mean."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))  # (B, C, T)
IMAGE = torch.randn(2, 2, 16, 5, generator=torch.Generator().manual_seed(1))  # (B, C, T, F)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def of(pool):
    return Call(lambda s, x: pool(x))


def before_attention(pool):
    """A mask from the length of a pooled value."""

    def forward(s, x):
        x = pool(x).mT
        later = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        return F.scaled_dot_product_attention(x, x, x, attn_mask=(later >= 0) & (later <= 2)).mT

    return Call(forward)


def late(pool):
    """On frames that arrive in order, some frames late."""
    return Call(lambda s, x: pool(s.c(x)), c=nn.Conv1d(4, 4, 3, padding=1))


# By name: the model, an example, its chunk, and the most frames that its end gives.
POOLS = {
    "max": (of(nn.MaxPool1d(3, 2, ceil_mode=True)), X, 2, 1),
    "max, padded": (late(nn.MaxPool1d(4, 3, 1, ceil_mode=True)), X, 3, 2),
    "max, dilated": (of(nn.MaxPool1d(3, 2, 1, dilation=2, ceil_mode=True)), X, 2, 1),
    "max, a stride over the window": (of(nn.MaxPool1d(2, 3, 1, ceil_mode=True)), X, 3, 1),
    "max, dilated, without ceil_mode": (of(nn.MaxPool1d(3, 2, 1, dilation=2)), X, 2, 1),
    "mean": (of(nn.AvgPool1d(3, 2, ceil_mode=True)), X, 2, 1),
    "mean, a window a frame": (of(nn.AvgPool1d(3, 1, ceil_mode=True)), X, 1, 0),
    "mean, padding counted": (late(nn.AvgPool1d(4, 3, 2, ceil_mode=True)), X, 3, 3),
    "mean, padding not counted": (of(nn.AvgPool1d(4, 3, 2, ceil_mode=True, count_include_pad=False)), X, 3, 2),
    "before attention": (before_attention(nn.MaxPool1d(3, 2, 1, ceil_mode=True)), X, 2, 1),
    "before attention, padding not counted": (
        before_attention(nn.AvgPool1d(2, 2, 1, ceil_mode=True, count_include_pad=False)), X, 2, 1,
    ),
    "power": (of(nn.LPPool1d(2, 3, 2, ceil_mode=True)), X, 2, 1),
    "power, whole windows": (of(nn.LPPool1d(2, 3, 2)), X, 2, 1),
    "max over both axes": (of(nn.MaxPool2d((3, 4), (2, 3), (1, 2), ceil_mode=True)), IMAGE, 2, 1),
    "mean over both axes": (of(nn.AvgPool2d((3, 4), (2, 3), (1, 2), ceil_mode=True)), IMAGE, 2, 1),
    "mean over both axes, padding not counted": (
        of(nn.AvgPool2d((3, 4), (2, 3), (1, 1), ceil_mode=True, count_include_pad=False)), IMAGE, 2, 1,
    ),
    "sum over both axes": (of(nn.AvgPool2d((3, 2), (2, 2), 1, ceil_mode=True, divisor_override=1)), IMAGE, 2, 1),
    "sum over both axes, whole windows": (of(nn.AvgPool2d((3, 2), (2, 2), 1, divisor_override=1)), IMAGE, 2, 1),
    "three axes": (of(lambda x: F.avg_pool3d(x[:, None], 2, 2, 1, ceil_mode=True)), IMAGE, 2, 1),
}  # fmt: skip


@pytest.mark.parametrize(("model", "example", "chunk", "tail"), POOLS.values(), ids=POOLS)
def test_the_last_window_of_a_pool_is_given_at_the_end(model, example, chunk, tail):
    lengths = range(3, 3 + 3 * chunk + 6)
    lifted = assert_whole(model, example, time_axis=2, chunk=chunk, lengths=lengths, atol=1e-5)
    assert lifted.spec.tail == tail
