"""Runs are no longer than a model needs; what mixes rows is named wherever it is seen."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case


def over_frequency(s, x):
    """Strides of 2 over frequency, six on one path and six beside it; none over time."""
    a = b = x
    for one, other in zip(s.one, s.other, strict=True):
        a, b = one(F.pad(a, (0, 0, 1, 0))), other(F.pad(b, (0, 0, 1, 0)))
    return s.gru((a + b)[:, 0])[0]


def strides():
    return nn.ModuleList(nn.Conv2d(1, 1, (2, 3), (1, 2), (0, 1)) for _ in range(6))


def spectrum(s, x):
    return torch.stft(x, 64, 32, window=s.window, center=False, return_complex=True)


def logarithm(s, x):
    """Small magnitudes, in another order of sums than torch.stft's."""
    return s.out(s.gru((spectrum(s, x).abs() + 1e-3).log().mT)[0])


def in_decibels(s, x):
    y = torch.log(x.unfold(-1, 400, 160).square().mean(-1, keepdim=True) + 1)
    shape = y.shape
    y = y.reshape(-1, 1, shape[-3], *shape[-2:])
    return torch.max(y, y.amax((-3, -2, -1), keepdim=True) - 80).reshape(shape)


def gru(inputs, size=4, **options):
    return nn.GRU(inputs, size, batch_first=True, **options)


HANN = torch.hann_window(64)
PEAK = ("rows-depend", "(probing.py", "): amax: rows of the batch depend on each other")
TABLE = {
    "runs are no longer than strides over time ask": {
        # They made a sequence of 4096 times the frames, and with parallel paths of 16 million times.
        "with strides over other axes": case(
            lambda: Call(over_frequency, one=strides(), other=strides(), gru=gru(2)),
            torch.randn(1, 1, 20, 128),
            time_axis=2,
        ).streams(input=("batch", 1, "time", 128), end=False, holds=lambda lifted: lifted.spec.states[-1].row == (4,)),
        # torch makes a number of the one window that 120 frames are, and sympy finds no length that has it.
        "with a size that is rounded twice": case(
            lambda: nn.Sequential(nn.Conv1d(4, 4, 10, 5), nn.Conv1d(4, 4, 8, 4), nn.Conv1d(4, 3, 4, 2)),
            torch.randn(1, 4, 400),
            chunk=40,
        ).streams(every=40, end=False),
    },
    "a graph may round as the model does over many frames": {
        "the log of a spectrum": case(
            lambda: Call(logarithm, window=HANN, gru=gru(33, 32), out=nn.Linear(32, 2)), torch.randn(2, 640), chunk=32
        ).streams(delay=32, atol=1e-5),
    },
    "padding by the length": {
        # As codecs do it: it is 0 in whole steps.
        "may fill the last window up": case(
            lambda: Call(lambda s, x: s.conv(F.pad(x, (2, -x.shape[-1] % 2))), conv=nn.Conv1d(1, 8, 4, 2)),
            torch.randn(1, 1, 40),
            chunk=2,
        ).streams(
            delay=0,
            states=[("past_end", (1,), "zeros"), ("conv.frames", (1, 2), "zeros")],
            holds=lambda lifted: lifted.spec.outputs[0].lengths == (0, 1),
        ),
        "may not grow with it": case(
            Call(lambda s, x: s.conv(F.pad(x, (x.shape[-1], 0))), conv=nn.Conv1d(1, 8, 3)), torch.randn(1, 1, 40)
        ).refused("padding-by-length"),
    },
    "what mixes rows behind a threshold is named": {
        "in a stream": case(Call(in_decibels), torch.randn(2, 4000), chunk=160).refused(*PEAK),
        "where no axis can be the batch": case(
            lambda: Call(lambda s, x: s.gru(x / (1 + x.abs().amax(0)))[0], gru=gru(4)), torch.randn(2, 9, 4)
        ).refused("no-batch-axis", "Where rows meet", "(probing.py", "): amax"),
        # A graph of a single window is not taken for one of all.
        "in whole sequences": case(Call(in_decibels), torch.randn(2, 4000), sequence_only=True).refused(*PEAK),
    },
}
