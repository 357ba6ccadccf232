"""Loops that compute with their iteration number, a counter in each stream."""

import pytest
import torch
from torch import Tensor, nn

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def growing(s: nn.Module, x: Tensor) -> Tensor:
    h, given = x.new_zeros(x.shape[0], 4), []
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        given.append(h * t / 100)
    return torch.stack(given, 1)


def mean(s: nn.Module, x: Tensor) -> Tensor:
    """Welford's."""
    mean, given = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        mean = mean + (x[:, t] - mean) / (t + 1)
        given.append(mean)
    return torch.stack(given, 1)


def mean_by_shares(s: nn.Module, x: Tensor) -> Tensor:
    mean, given = torch.zeros_like(x[:, 0]), []
    for t, frame in enumerate(x.unbind(1), 1):
        share = 1 / t
        mean = (1 - share) * mean + share * frame
        given.append(mean)
    return torch.stack(given, 1)


def mean_of_sum(s: nn.Module, x: Tensor) -> Tensor:
    total, given = 0, []
    for t in range(x.shape[1]):
        total = total + x[:, t]
        given.append(total / (t + 1))
    return torch.stack(given, 1)


def mean_from_the_first(s: nn.Module, x: Tensor) -> Tensor:
    mean, given = None, []
    for t, frame in enumerate(x.unbind(1)):
        mean = frame if mean is None else mean + (frame - mean) / (t + 1)
        given.append(mean)
    return torch.stack(given, 1)


def fading(s: nn.Module, x: Tensor) -> Tensor:
    h, given = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = h + 0.9**t * x[:, t]
        given.append(h)
    return torch.stack(given, 1)


def without_bias(s: nn.Module, x: Tensor) -> Tensor:
    """A moving mean as Adam corrects it."""
    mean, given = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        mean = 0.9 * mean + 0.1 * x[:, t]
        given.append(mean / (1 - 0.9 ** (t + 1)))
    return torch.stack(given, 1)


def of_two_layers(s: nn.Module, x: Tensor) -> Tensor:
    """Two numbers in one body, by one operator."""
    a = b = torch.zeros_like(x[:, 0])
    given = []
    for t in range(x.shape[1]):
        a = a + (x[:, t] - a) / (t + 1)
        b = b + (a - b) / (2 * t + 3)
        given.append(b)
    return torch.stack(given, 1)


def one_behind_the_other(s: nn.Module, x: Tensor) -> Tensor:
    return mean(s, torch.tanh(mean(s, x)))


def time_first(s: nn.Module, x: Tensor) -> Tensor:
    x = x.transpose(0, 1)
    h, given = x.new_zeros(x.shape[1], 4), []
    for t in range(len(x)):
        h = s.cell(x[t], h)
        given.append(h / (1 + t))
    return torch.stack(given).transpose(0, 1)


LOOPS = [
    growing,
    mean,
    mean_by_shares,
    mean_of_sum,
    mean_from_the_first,
    fading,
    without_bias,
    of_two_layers,
    one_behind_the_other,
    time_first,
]


@pytest.mark.parametrize("loop", LOOPS)
def test_the_number_of_an_iteration_is_counted(loop) -> None:
    lifted = assert_whole(Call(loop, cell=nn.GRUCell(4, 4)), X, lengths=[1, 2, 3, 12, 300])
    assert (lifted.spec.delay, lifted.spec.tail) == (0, 0)


def test_a_number_that_goes_on_in_no_known_way_is_refused() -> None:
    def forward(s, x):
        h, given = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = s.cell(x[:, t], h)
            given.append(h * (t * t % 7))
        return torch.stack(given, 1)

    with raises("loop-frames-unlike"):
        lift(Call(forward, cell=nn.GRUCell(4, 4)), (X,))
