"""Boundary padding and windows of a sequence, as code writes them without an operator for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_export.errors import LiftError

from ..lifting import lift  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))  # (B, T, C)
KERNEL = torch.tensor([0.1, -0.3, 0.6, 0.5, -0.2])


def emphasised(s: nn.Module, x: Tensor) -> Tensor:
    """The first frame as it is, the others less the one before."""
    return torch.cat([x[:, :1], x[:, 1:] - 0.9 * x[:, :-1]], 1)


def repeated(s: nn.Module, x: Tensor) -> Tensor:
    ends = x[:, :1].expand(-1, 2, -1), x[:, -1:].repeat(1, 2, 1)
    return F.conv1d(torch.cat([ends[0], x, ends[1]], 1).mT, KERNEL.expand(3, 1, -1), groups=3).mT


def reflected(s: nn.Module, x: Tensor) -> Tensor:
    whole = torch.cat([x[:, 1:3].flip(1), x, x[:, -3:-1].flip(1)], 1)
    return F.conv1d(whole.mT, KERNEL.expand(3, 1, -1), groups=3).mT


def rest_left_out(s: nn.Module, x: Tensor) -> Tensor:
    """Frames that fill no three are left out, if there are any."""
    rest = x.shape[1] % 3
    if rest:
        x = x[:, :-rest]
    return x.reshape(x.shape[0], -1, 9)


def stuffed(s: nn.Module, x: Tensor) -> Tensor:
    """A zero behind each frame."""
    y = torch.zeros(x.shape[0], 2 * x.shape[1], x.shape[2])
    y[:, ::2] = x
    return F.conv1d(F.pad(y, (0, 0, 4, 0)).mT, KERNEL.expand(3, 1, -1), groups=3).mT


def spliced(s: nn.Module, x: Tensor) -> Tensor:
    """The frames around each, by their numbers."""
    around = torch.arange(x.shape[1])[:, None] + torch.arange(-2, 3)
    return x[:, around.clamp(0, x.shape[1] - 1)].flatten(2)


def gathered(s: nn.Module, x: Tensor) -> Tensor:
    """Windows of 6 frames every other, two apart, by their numbers."""
    count = (x.shape[1] - 6) // 2 + 1
    return x[:, torch.arange(count)[:, None] * 2 + torch.arange(0, 6, 2)].flatten(2)


def turned_into_more(s: nn.Module, x: Tensor) -> Tensor:
    """Both ends mirrored, and then three of each frame, none of them read by a window of more than one."""
    return F.pad(x.mT, (2, 1), "reflect").mT.repeat_interleave(3, 1)


def more_of_mirrored(s: nn.Module, x: Tensor) -> Tensor:
    """A mean over as many as four entries of what two were made of each mirrored frame."""
    y = torch.stack([x, -x], 2)
    y = F.pad(y.flatten(2).mT, (3, 3), "replicate").mT.unflatten(2, (2, 3)).flatten(1, 2)
    return F.avg_pool1d(y.mT, 4, 2).mT


def before(s: nn.Module, x: Tensor) -> Tensor:
    return x[:, (torch.arange(x.shape[1]) - 1).clamp(min=0)]


def chosen(s: nn.Module, x: Tensor) -> Tensor:
    """Row masks, all true or all false at every call, choose the padding before the first frame."""
    first, ended = torch.ones(x.shape[0], dtype=torch.bool), torch.zeros(x.shape[0], dtype=torch.bool)
    front = torch.zeros(x.shape[0], 4, 3)
    front[:] = torch.where((first & ~ended).view(-1, 1, 1), x[:, :1], front)
    front = torch.where((ended | ended)[:, None, None], front + 1, front)
    return F.conv1d(torch.cat([front, x], 1).mT, KERNEL.expand(3, 1, -1), groups=3).mT


def folded(s: nn.Module, x: Tensor) -> Tensor:
    """A first state folded into the first frame, before a running sum; the frames stand first."""
    gain, y = torch.sigmoid(x).transpose(0, 1), x.transpose(0, 1).clone()
    y[0] = y[0] + gain[0] * KERNEL[:3]
    z = x.clone()
    z[:, :1] *= 2
    return y.cumsum(0).transpose(0, 1) + z


# By name: the model, its options, its delay and tail.
MODELS = {
    "a first frame of its own": (Call(emphasised), {}, (0, 0)),
    "ends repeated": (Call(repeated), {}, (2, 2)),
    "an end chosen by masks": (Call(chosen), {}, (0, 0)),
    "ends reflected": (Call(reflected), {}, (2, 2)),
    "the frame before": (Call(lambda s, x: torch.cat([x[:, :1], x[:, :-1]], 1)), {}, (0, 0)),
    "a start in the first frame": (Call(folded), {}, (0, 0)),
    "zeros by a product": (Call(lambda s, x: torch.cat([0 * x[:, :2], x[:, :-2]], 1) + x), {}, (0, 0)),
    "the next frame": (Call(lambda s, x: torch.cat([x[:, 1:], x[:, -1:]], 1) - x), {}, (1, 1)),
    "a difference": (Call(lambda s, x: torch.diff(x, dim=1, prepend=torch.zeros_like(x[:, :1]))), {}, (0, 0)),
    "a difference at the end": (Call(lambda s, x: torch.diff(x, dim=1, append=x[:, -1:])), {}, (1, 1)),
    "slopes": (Call(lambda s, x: torch.gradient(x, dim=1)[0]), {}, (1, 1)),
    "slopes to the end": (Call(lambda s, x: torch.gradient(x, spacing=0.5, dim=(1,), edge_order=2)[0]), {}, (3, 3)),
    "a rest left out": (Call(rest_left_out), {"chunk": 3}, (0, 0)),
    "zeros between": (Call(stuffed), {}, (0, 0)),
    "frames around by number": (Call(spliced), {}, (2, 2)),
    "windows by number": (Call(gathered), {"chunk": 2}, (4, 0)),
    "the frame before by number": (Call(before), {}, (0, 0)),
    "mirrors turned into more": (Call(turned_into_more), {}, (2, 15)),
    "more made of mirrors": (Call(more_of_mirrored), {}, (1, 6)),
}


@pytest.mark.parametrize(("model", "options", "ends"), MODELS.values(), ids=MODELS)
def test_edges_written_by_hand_are_streamed_to_the_end(model, options, ends):
    spec = assert_whole(model, X, time_axis=1, **options).spec
    assert (spec.delay, spec.tail) == ends


def scrambled(s: nn.Module, x: Tensor) -> Tensor:
    """Frames picked in no even steps."""
    return x[:, (torch.arange(x.shape[1]) ** 2).clamp(max=x.shape[1] - 1)]


@pytest.mark.parametrize(
    "model",
    [
        Call(scrambled),
        Call(lambda s, x: torch.cat([x[:, -1:], x], 1)),
        Call(lambda s, x: torch.cat([x[:, 2:4].flip(1), x], 1)),
    ],
    ids=["frames picked unevenly", "the last frame first", "a mirror beside the edge"],
)
def test_what_no_stream_knows_is_refused(model):
    with pytest.raises(LiftError):
        lift(model, (X,), time_axis=1)
