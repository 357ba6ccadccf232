"""Frames that are joined, split or upsampled, and layers that run over them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))  # (B, T, C)


def smoothed(x: Tensor) -> Tensor:
    """By a loop of the model's own: (B, C, T)."""
    h, frames = torch.zeros_like(x[..., 0]), []
    for frame in x.unbind(-1):
        h = 0.5 * h + torch.tanh(frame)
        frames.append(h)
    return torch.stack(frames, -1)


def between(s: nn.Module, x: Tensor) -> Tensor:
    """A loop over frames that an interpolation makes."""
    return smoothed(F.interpolate(s.mix(x).mT, scale_factor=2, mode="linear")).mT


def to_size(s: nn.Module, x: Tensor) -> Tensor:
    """The same where it makes so many."""
    return smoothed(F.interpolate(s.mix(x).mT, size=3 * x.shape[1])).mT


def mirrored(s: nn.Module, x: Tensor) -> Tensor:
    """Mirrors of frames that are several of one."""
    return s.conv(F.pad(x.mT.repeat_interleave(2, -1), (2, 2), mode="reflect")).mT


def overlapped(s: nn.Module, x: Tensor) -> Tensor:
    """A loop behind windows that are added up, whose number is a step of the length."""
    windows = F.pad(s.mix(x).mT, (2, 1), mode="reflect").unfold(2, 4, 2)
    whole = F.fold(windows.mT.flatten(1, 2), (1, 2 * windows.shape[2] + 2), (1, 4), stride=(1, 2))
    return smoothed(whole[:, :, 0]).mT


def completed(s: nn.Module, x: Tensor) -> Tensor:
    """A loop behind windows of which the last one is filled up, by as many frames as the length says."""
    return smoothed(s.conv(F.pad(x.mT, (1, -x.shape[1] % 3)))).mT


def of_one_signal(s: nn.Module, x: Tensor) -> Tensor:
    """Samples (B, 1, T) as frames of four."""
    signal = s.mix(x)[..., :1].mT
    return s.small(signal.reshape(signal.shape[0], -1, 4))[0]


def of_one_signal_separately(s: nn.Module, x: Tensor) -> Tensor:
    """Samples (B, T) as frames (B, 1, T / 4, 4)."""
    signal = s.mix(x)[..., 0]
    return s.small(signal.view(signal.shape[0], 1, -1, 4)[:, 0])[0]


def pyramid(s: nn.Module, x: Tensor) -> Tensor:
    """Every four frames as one; those that fill no four are left out."""
    count = x.shape[1] // 4
    return s.gru(x[:, : 4 * count].reshape(x.shape[0], count, -1))[0]


def filled(s: nn.Module, x: Tensor) -> Tensor:
    """Every four frames as one; the last ones are filled up."""
    return s.gru(F.pad(x, (0, 0, 0, -x.shape[1] % 4)).reshape(x.shape[0], -1, 12))[0]


def blocks(s: nn.Module, x: Tensor) -> Tensor:
    """Attention within blocks of four frames."""
    q, k, v = s.mix(x).unflatten(1, (-1, 4)).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v).flatten(1, 2)


def gru() -> nn.GRU:
    return nn.GRU(12, 4, batch_first=True)


def signal() -> dict[str, nn.Module]:
    return {"mix": nn.Linear(3, 1), "small": nn.GRU(4, 3, batch_first=True)}


# By name: the model, its options, its delay and tail, and the lengths that it takes.
MODELS = {
    "a loop over more frames": (Call(between, mix=nn.Linear(3, 3)), {}, (1, 2), None),
    "a loop over frames of a size": (Call(to_size, mix=nn.Linear(3, 3)), {}, (0, 0), None),
    "a loop over windows": (Call(overlapped, mix=nn.Linear(3, 3)), {"chunk": 2}, (2, 6), None),
    "a loop over windows that are filled up": (
        Call(completed, conv=nn.Conv1d(3, 4, 4, stride=3)),
        {"chunk": 3},
        (0, 1),
        None,
    ),
    "a mirror of repeated frames": (Call(mirrored, conv=nn.Conv1d(3, 4, 3)), {}, (1, 4), None),
    "a pyramid": (Call(pyramid, gru=gru()), {"chunk": 4}, (0, 0), range(4, 13)),
    "a pyramid, filled up": (Call(filled, gru=gru()), {"chunk": 4}, (0, 1), None),
    "samples as frames": (Call(lambda s, x: x.unflatten(1, (-1, 4)).mean(2)), {"chunk": 4}, (0, 0), range(4, 17, 4)),
    "one signal as frames": (Call(of_one_signal, **signal()), {"chunk": 4}, (0, 0), range(4, 17, 4)),
    "one signal as frames, apart": (Call(of_one_signal_separately, **signal()), {"chunk": 4}, (0, 0), range(4, 17, 4)),
    "attention in blocks": (Call(blocks, mix=nn.Linear(3, 9)), {"chunk": 4}, (0, 0), range(4, 17, 4)),
}


@pytest.mark.parametrize(("model", "options", "ends", "lengths"), MODELS.values(), ids=MODELS)
def test_frames_that_are_joined_or_split_are_streamed_to_the_end(model, options, ends, lengths):
    spec = assert_whole(model, X, time_axis=1, lengths=lengths, **options).spec
    assert (spec.delay, spec.tail) == ends
