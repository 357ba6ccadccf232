"""Spectra and windows added up in the forms that users write, at lengths of every remainder of the hop."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

HANN, ONES = torch.hann_window(16), torch.ones(16)
HAMMING = {"window": torch.hamming_window(16), "center": False}
X = torch.randn(2, 96, generator=torch.Generator().manual_seed(0))  # (B, samples)
FRAMES = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))  # (B, C, T)
TURNED = torch.exp(1j * torch.arange(16.0) / 5)[:, None]
COMPLEX = {"onesided": False, "return_complex": True}


def spectrum(x, **options):
    return torch.stft(x, 16, 4, **{"window": HANN, "return_complex": True, **options})


def signal(spectrum, **options):
    return torch.istft(input=spectrum, n_fft=16, hop_length=4, **{"window": HANN, **options})


def aligned(x, size):
    window = torch.hann_window(size)
    return spectrum(x, win_length=size, window=window, center=False, align_to_window=True).abs()


def masked(s, x):
    values = spectrum(x)
    return signal(values * torch.sigmoid(s.g(values.abs().mT)[0]).mT, length=x.shape[-1])


def complex_back(x):
    return torch.view_as_real(signal(spectrum(x, onesided=False) * TURNED, length=x.shape[-1], **COMPLEX))


def complex_back_of_whole_windows(x):
    options = {"window": ONES, "center": False, "onesided": False}
    return torch.view_as_real(signal(spectrum(x, **options) * (0.5 + 0.1j), return_complex=True, **options))


def hop_by_default(x):
    short = {"win_length": 12, "window": HANN[:12]}
    return torch.istft(spectrum(x, **short) * 0.5, 16, length=x.shape[-1], **short)


def strided(x, size=16, separate=1):
    count = 1 + (x.size(1) - 16) // 4
    return x.as_strided((x.size(0), count, size), (x.stride(0), 4 * x.stride(1), separate * x.stride(1)))


def row_by_row(x):
    """As torchaudio.compliance.kaldi has it, on one row at a time."""
    return torch.stack([row.as_strided((1 + (row.size(0) - 16) // 4, 16), (4, 1)) for row in x])


def counted_rows(s, x):
    """`len` makes a number of the length, so that it is exported at two of them: 20 frames apart, for a hop of 20."""
    rows = [row.as_strided((1 + (len(row) - 50) // 20, 50), (20, 1)) for row in x]
    return torch.stack(rows).tanh().mean(-1)


def every_other(x, moved=lambda i: i):
    count = (x.shape[1] - 16) // 4 + 1
    return x[:, moved(4 * torch.arange(count)[:, None] + 2 * torch.arange(8))]


def added(frames):
    """(B, T, 16) every 4 samples: (B, samples)."""
    size = (frames.shape[1] - 1) * 4 + 16
    return F.fold(frames.transpose(1, 2), (1, size), (1, 16), stride=(1, 4))[:, 0, 0]


def weighed(x, rows=1):
    frames = x.unfold(1, 16, 4) * HANN
    return added(frames * HANN) / (added((HANN**2).expand(rows, *frames.shape[1:])) + 1e-2)


def head_of_vocos(s, x):
    """With `padding="same"`: windows added up, over the sum of their squares, which has no rows."""
    size, frames, pad = (x.shape[2] - 1) * 4 + 16, x.shape[2], 6
    magnitude, phase = s.out(x.transpose(1, 2)).transpose(1, 2).chunk(2, 1)
    spectra = torch.clip(torch.exp(magnitude), max=1e2) * (torch.cos(phase) + 1j * torch.sin(phase))
    windows = torch.fft.irfft(spectra, 16, dim=1, norm="backward") * HANN[None, :, None]
    y = F.fold(windows, (1, size), (1, 16), stride=(1, 4))[:, 0, 0, pad:-pad]
    squares = HANN.square().expand(1, frames, -1).transpose(1, 2)
    return y / F.fold(squares, (1, size), (1, 16), stride=(1, 4)).squeeze()[pad:-pad]


def filters_back(x):
    """As DCCRN has it: a transposed convolution over that of the squared windows."""
    filters = torch.eye(16)[:, None]
    y = F.conv_transpose1d(x[:, :1].expand(-1, 16, -1), filters, stride=4)
    windows = HANN[None, :, None].repeat(1, 1, x.shape[2]) ** 2
    return (y / (F.conv_transpose1d(windows, filters, stride=4) + 1e-2))[..., 12:-12]


def counted(x):
    ones = torch.ones(1, 1, x.shape[2])
    return F.avg_pool1d(F.pad(x, (2, 2)), 5, 1) / F.avg_pool1d(F.pad(ones, (2, 2)), 5, 1)


def counted_behind(x):
    """On fewer frames than the input has."""
    y = F.conv1d(x, torch.ones(5, 1, 5), groups=5)
    return y / F.conv1d(x.new_ones(y.shape[0], 1, y.shape[2]), torch.ones(1, 1, 5), padding=2)


def transposed_behind(x):
    y = F.conv1d(x, torch.ones(5, 1, 5), groups=5)
    ones = F.conv_transpose1d(torch.ones(1, 1, y.shape[2]), torch.ones(1, 1, 8), stride=4)
    return F.conv_transpose1d(y, torch.ones(5, 1, 8), stride=4, groups=5) / ones


def tapered_over_rows(x):
    """The batch stands last where they meet."""
    taper = F.pad(torch.ones(x.shape[2] - 4), (2, 2), value=0.5)
    return (x.permute(2, 1, 0) * taper[:, None, None]).permute(2, 1, 0)


def of_samples(function, example=X):
    model = Call(lambda s, x: function(x))
    return case(model, example, chunk=4, time_axis=1).streams(lengths=range(9, 48), atol=1e-5)


def rated(function, rate, **parts):
    return case(Call(function, **parts), X[:, :64], chunk=4).streams(output=("batch", *rate))


def of_features(function, **parts):
    return case(Call(function, **parts), FRAMES, time_axis=2).streams(lengths=range(5, 20), atol=1e-5)


def refused(function, *message):
    return case(Call(function), X, time_axis=1, chunk=4).refused(*message)


TABLE = {
    "spectra stream": {
        "a mask": rated(masked, ["time"], g=nn.GRU(9, 9, batch_first=True)),
        "aligned to an odd window": of_samples(lambda x: aligned(x, 11)),
        "aligned to its window": of_samples(lambda x: aligned(x, 12)),
        "whole windows": rated(lambda s, x: spectrum(x, center=False).abs(), [9, "time/4"]),
        "centred": rated(lambda s, x: spectrum(x).abs(), [9, "time/4"]),
    },
    "signals of spectra stream": {
        "there and back": rated(lambda s, x: signal(spectrum(x)), ["time"]),
        "a complex signal": of_samples(complex_back),
        "there and back, from whole windows": rated(
            lambda s, x: signal(spectrum(x, **HAMMING) * 0.5, **HAMMING), ["time"]
        ),
        "back of all frequencies": of_samples(
            lambda x: signal(spectrum(x, onesided=False) * 0.5, onesided=False, length=x.shape[-1])
        ),
        "a complex signal of whole windows": of_samples(complex_back_of_whole_windows),
        "hop by default, window shorter": of_samples(hop_by_default),
    },
    "windows of samples stream": {
        "strided": of_samples(strided),
        "added up without rows": of_samples(weighed),
        "strided behind padding": of_samples(lambda x: strided(F.pad(x, (12, 0)))),
        "strided, every other": of_samples(lambda x: strided(x, 8, 2)),
        "strided row by row": of_samples(row_by_row, X[:1]),
        "picked, every other": of_samples(every_other),
        "added up with rows": of_samples(lambda x: weighed(x, x.shape[0])),
        "lengths between, tried where there are many": case(
            Call(counted_rows), X[:1].repeat(1, 5), time_axis=1, chunk=20
        ).streams(
            lengths=range(50, 130, 3), holds=lambda lifted: lifted.spec.outputs[0].lengths == (-2,) * 10 + (-1,) * 10
        ),
    },
    "windows of samples that change far away are refused": {
        "all later ones": refused(lambda s, x: every_other(x, lambda i: i - (i >= 5000).long()), "positions-over-time"),
        "one of 7001": refused(
            lambda s, x: every_other(x, lambda i: i - (i % 7001 == 7000).long()), "positions-over-time"
        ),
    },
    "what is over a count of frames streams": {
        "the head of Vocos": of_features(head_of_vocos, out=nn.Linear(5, 18)),
        "over fewer frames": of_features(lambda s, x: counted_behind(x)),
        "filters back": of_features(lambda s, x: filters_back(x)),
        "a mean over what is there": of_features(lambda s, x: counted(x)),
        "transposed, over fewer": of_features(lambda s, x: transposed_behind(x)),
        "tapered ends": of_features(lambda s, x: x * F.pad(torch.ones(x.shape[2] - 4), (2, 2), value=0.5)),
        "tapered, rows last": of_features(lambda s, x: tapered_over_rows(x)),
    },
    "what follows from the length or from other rows is refused": {
        "a ramp": refused(lambda s, x: x * torch.linspace(0, 1, x.shape[1]), "length-used-as-value"),
        "rows that lie upon each other": refused(
            lambda s, x: x.as_strided((x.shape[0], 1 + (x.size(1) - 16) // 4, 16), (0, 4, 1)),
            "no-batch-axis",
            "the number of rows is used as a value",
        ),
    },
}
