"""Code that pads a last window only if it is partial: one stream for all lengths."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))  # (B, C, T)
LENGTHS = range(16, 60, 3)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def coded(s: nn.Module, x: Tensor) -> Tensor:
    return s.decoder(torch.relu(s.encoder(x)))


def padded(s: nn.Module, x: Tensor) -> Tensor:
    frames = x.shape[-1]
    if frames % 8:
        x = F.pad(x, (0, 8 - frames % 8))
    return coded(s, x)[..., :frames]


def joined(s: nn.Module, x: Tensor) -> Tensor:
    """As torchaudio's Conv-TasNet does."""
    frames = x.shape[-1]
    left = frames - frames // 8 * 8
    if left == 0:
        return coded(s, x)
    more = 8 - left
    return coded(s, torch.cat([x, torch.zeros(x.shape[0], x.shape[1], more)], 2))[..., :-more]


def with_odd_frame(s: nn.Module, x: Tensor) -> Tensor:
    """Windows of 8 behind one frame."""
    rest = (x.shape[-1] - 1) % 8
    if rest > 0:
        x = F.pad(x, (0, 8 - rest))
    return s.odd(x)


def put_together(s: nn.Module, x: Tensor) -> Tensor:
    missing = 4 - x.shape[-1] % 4
    if missing < 4:
        x = F.pad(x, (0, missing))
    return s.gru(x.reshape(x.shape[0], -1, 4))[0]


def model(forward: Callable[[nn.Module, Tensor], Tensor]) -> Call:
    return Call(
        forward,
        encoder=nn.Conv1d(1, 4, 16, 8),
        decoder=nn.ConvTranspose1d(4, 1, 16, 8),
        odd=nn.Conv1d(1, 4, 9, 8),
        gru=nn.GRU(4, 3, batch_first=True),
    )


@pytest.mark.parametrize("forward", [padded, joined, with_odd_frame, put_together])
def test_whole_windows_get_nothing_and_others_are_filled_up(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    lifted = assert_whole(model(forward), X, chunk=8, lengths=LENGTHS, time_axis=2)
    assert lifted.spec.chunk == 8


def dilated(s: nn.Module, x: Tensor) -> Tensor:
    """Every second, then every fourth frame by itself, as rows: what fills the last of them up is cut off again."""
    x = x.permute(2, 0, 1)  # (T, B, C)
    for rnn, rate in ((s.first, 2), (s.second, 4)):
        frames = len(x)
        if frames % rate != 0:
            x = torch.cat([x, torch.zeros((frames // rate + 1) * rate - x.size(0), x.size(1), x.size(2))])
        y, _ = rnn(torch.cat([x[i::rate, :, :] for i in range(rate)], 1))
        rows = y.size(1) // rate
        y = torch.stack([y[:, i * rows : (i + 1) * rows, :] for i in range(rate)]).transpose(1, 0)
        x = y.reshape(y.size(0) * rate, rows, 4)[:frames]
    return x.transpose(0, 1)


def test_what_is_cut_off_again_is_no_end():
    model = Call(dilated, first=nn.GRU(1, 4), second=nn.GRU(4, 4))
    lifted = assert_whole(model, X, chunk=4, lengths=range(24, 44))
    assert lifted.spec.outputs[0].lengths == (0, 1, 2, 3)
