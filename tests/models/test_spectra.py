"""Spectra and windows added up in the forms that users write, at lengths of every remainder of the hop."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.export import export
from rnn_export.runtime.replay.ends import lengths_tried
from tests.models.whole_streams import assert_whole

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252

HANN, ONES = torch.hann_window(16), torch.ones(16)
X = torch.randn(2, 96, generator=torch.Generator().manual_seed(0))
TURNED = torch.exp(1j * torch.arange(16.0) / 5)[:, None]


class Call(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.call = forward

    def forward(self, x):
        return self.call(x)


def spectrum(x, **options):
    return torch.stft(x, 16, 4, **{"window": HANN, "return_complex": True, **options})


def aligned(x, size):
    window = torch.hann_window(size)
    return spectrum(x, win_length=size, window=window, center=False, align_to_window=True).abs()


def back_of_all(x):
    return torch.istft(spectrum(x, onesided=False) * 0.5, 16, 4, window=HANN, onesided=False, length=x.shape[-1])


def complex_back(x):
    turned, options = spectrum(x, onesided=False) * TURNED, {"onesided": False, "return_complex": True}
    return torch.view_as_real(torch.istft(turned, 16, 4, window=HANN, length=x.shape[-1], **options))


def complex_back_of_whole_windows(x):
    options = {"window": ONES, "center": False, "onesided": False}
    spectra = spectrum(x, **options) * (0.5 + 0.1j)
    return torch.view_as_real(torch.istft(spectra, 16, 4, return_complex=True, **options))


def strided(x, size=16, separate=1):
    count = 1 + (x.size(1) - 16) // 4
    return x.as_strided((x.size(0), count, size), (x.stride(0), 4 * x.stride(1), separate * x.stride(1)))


def row_by_row(x):
    """As torchaudio.compliance.kaldi has it, on one row at a time."""
    return torch.stack([row.as_strided((1 + (row.size(0) - 16) // 4, 16), (4, 1)) for row in x])


def every_other(x):
    count = (x.shape[1] - 16) // 4 + 1
    return x[:, 4 * torch.arange(count)[:, None] + 2 * torch.arange(8)]


def added(frames):
    """(B, T, 16) every 4 samples: (B, samples)."""
    size = (frames.shape[1] - 1) * 4 + 16
    return F.fold(frames.transpose(1, 2), (1, size), (1, 16), stride=(1, 4))[:, 0, 0]


def weighed(x):
    frames = x.unfold(1, 16, 4) * HANN
    return added(frames * HANN) / (added((HANN**2).expand(1, frames.shape[1], 16)) + 1e-2)


def weighed_by_rows(x):
    frames = x.unfold(1, 16, 4) * HANN
    return added(frames * HANN) / (added((HANN**2).expand(*frames.shape)) + 1e-2)


SAMPLES = {
    "aligned to its window": lambda x: aligned(x, 12),
    "aligned to an odd window": lambda x: aligned(x, 11),
    "back of all frequencies": back_of_all,
    "a complex signal": complex_back,
    "a complex signal of whole windows": complex_back_of_whole_windows,
    "hop by default, window shorter": lambda x: torch.istft(
        spectrum(x, win_length=12, window=HANN[:12]) * 0.5, 16, win_length=12, window=HANN[:12], length=x.shape[-1]
    ),
    "strided": strided,
    "strided behind padding": lambda x: strided(F.pad(x, (12, 0))),
    "strided, every other": lambda x: strided(x, 8, 2),
    "strided row by row": row_by_row,
    "picked, every other": every_other,
    "windows added up without rows": weighed,
    "windows added up with rows": weighed_by_rows,
}


@pytest.mark.parametrize("forward", SAMPLES.values(), ids=SAMPLES)
def test_samples(forward):
    x = X[:1] if forward is row_by_row else X
    assert_whole(Call(forward).eval(), x, chunk=4, time_axis=1, lengths=range(9, 48), atol=1e-5)


class SameHead(nn.Module):
    """The end of Vocos with `padding="same"`: windows added up, over the sum of their squares, which has no rows."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(5, 18)

    def forward(self, x):
        size, frames, pad = (x.shape[2] - 1) * 4 + 16, x.shape[2], 6
        magnitude, phase = self.out(x.transpose(1, 2)).transpose(1, 2).chunk(2, 1)
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


def tapered(x):
    return x * F.pad(torch.ones(x.shape[2] - 4), (2, 2), value=0.5)


def tapered_over_rows(x):
    """The batch stands last where they meet."""
    taper = F.pad(torch.ones(x.shape[2] - 4), (2, 2), value=0.5)
    return (x.permute(2, 1, 0) * taper[:, None, None]).permute(2, 1, 0)


FEATURES = {
    "the head of Vocos": SameHead(),
    "filters back": Call(filters_back),
    "a mean over what is there": Call(counted),
    "over fewer frames": Call(counted_behind),
    "transposed, over fewer": Call(transposed_behind),
    "tapered ends": Call(tapered),
    "tapered, rows last": Call(tapered_over_rows),
}


@pytest.mark.parametrize("model", FEATURES.values(), ids=FEATURES)
def test_features(model):
    assert_whole(model.eval(), torch.randn(2, 5, 24), time_axis=2, lengths=range(5, 20), atol=1e-5)


REFUSED = {
    "a ramp": (lambda x: x * torch.linspace(0, 1, x.shape[1]), ("length-used-as-value",)),
    "rows that lie upon each other": (
        lambda x: x.as_strided((x.shape[0], 1 + (x.size(1) - 16) // 4, 16), (0, 4, 1)),
        ("no-batch-axis", "the number of rows is used as a value"),
    ),
}


@pytest.mark.parametrize(("forward", "why"), REFUSED.values(), ids=REFUSED)
def test_what_follows_from_the_length_or_from_other_rows_is_refused(forward, why):
    with raises(*why):
        lift(Call(forward).eval(), (X,), time_axis=1, chunk=4)


class Counted(nn.Module):
    """`len` makes a number of the length, so that it is exported at two of them: 20 frames apart, for a hop of 20."""

    def forward(self, x):
        rows = [row.as_strided((1 + (len(row) - 50) // 20, 50), (20, 1)) for row in x]
        return torch.stack(rows).tanh().mean(-1)


def test_lengths_between_are_tried_where_there_are_many():
    spec = assert_whole(Counted().eval(), X[:1].repeat(1, 5), time_axis=1, chunk=20, lengths=range(50, 130, 3)).spec
    assert spec.outputs[0].lengths == (-2,) * 10 + (-1,) * 10


def test_ends_are_verified_beyond_the_fewest_frames():
    spec = lift(Call(lambda x: x.unfold(1, 8, 4).mean(-1)).eval(), (X,), time_axis=1, chunk=4).spec
    assert lengths_tried(spec, 100) == [1, 2, 3, 4, 5, 12, 13, 14, 15]
    assert lengths_tried(spec, 100, shortest=21) == [24, 25, 26, 27]
    assert lengths_tried(spec, 26, shortest=21) == [24, 25, 26]


@pytest.mark.parametrize("name", ["head", "strided", "complex"])
def test_as_onnx_and_as_c(name, tmp_path):
    model, x, options = {
        "head": (SameHead(), torch.randn(1, 5, 24), {"time_axis": 2}),
        "strided": (Call(lambda x: torch.fft.rfft(strided(x) * HANN).abs()), X[:1], {"time_axis": 1, "chunk": 4}),
        "complex": (Call(complex_back), X[:1], {"time_axis": 1, "chunk": 4}),
    }[name]
    bundle = export(model.eval(), (x,), tmp_path / "it.rnnx", targets=("onnx", "c"), steps=24, **options)
    assert [t.shape for t in bundle.spec.outputs] == [
        {"head": ("batch", "time*4"), "strided": ("batch", "time/4", 9), "complex": ("batch", "time", 2)}[name]
    ]
