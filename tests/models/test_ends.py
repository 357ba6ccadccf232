"""Sequences that end: padding on the right, overlaps behind the last frame, and steps that the end cuts."""

import math
import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.export.lift.rewrite.flat_graph import flat_graph
from rnn_export.export.lift.streaming.frame_counts import Lengths
from rnn_export.export.lift.trace.tracing import DYNAMIC

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call, stepped
from .whole_streams import assert_whole

X = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))  # (B, C, T)
KERNEL = torch.tensor([[[0.1, -0.3, 0.6, 0.5]]])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def conv(size: int = 3, **options) -> nn.Conv1d:
    return nn.Conv1d(4, 4, size, **options)


def up(size: int = 4, **options) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(4, 4, size, 2, **options)


def gru() -> nn.GRU:
    return nn.GRU(4, 4, batch_first=True)


def filled_up(s, x):
    rest = -x.shape[-1] % 4
    return s.c(F.pad(x, (2, rest)))


# By name: the model, its options, and the delay and tail that it has.
MODELS = {
    "padding": (Call(lambda s, x: s.c(x), c=conv(padding=1)), {}, (1, 1)),
    "same": (Call(lambda s, x: s.c(x), c=conv(5, padding="same")), {}, (2, 2)),
    "two paddings": (Call(lambda s, x: s.c(torch.relu(s.d(x))), c=conv(padding=1), d=conv(5, padding=2)), {}, (3, 3)),
    "a value beside": (Call(lambda s, x: s.c(F.pad(x, (0, 2), value=1.5)), c=conv()), {}, (2, 2)),
    "joined behind": (Call(lambda s, x: s.c(torch.cat([x, torch.zeros_like(x[..., :2])], 2)), c=conv()), {}, (2, 2)),
    "a residual": (Call(lambda s, x: x + s.c(x), c=conv(padding=1)), {}, (1, 1)),
    "a cut behind": (Call(lambda s, x: s.c(x)[..., :-2], c=conv(padding=2)), {}, (0, 0)),
    "before a GRU": (
        Call(lambda s, x: s.g(s.c(x).mT)[0].mT, c=conv(padding=1), g=gru()),
        {},
        (1, 1),
    ),
    "a stride": (Call(lambda s, x: s.c(x), c=conv(stride=2, padding=1)), {"chunk": 2}, (0, 1)),
    "a GRU between strides": (
        Call(lambda s, x: s.u(s.g(s.c(x).mT)[0].mT), c=conv(stride=2, padding=1), g=gru(), u=up(padding=1)),
        {"chunk": 2},
        (1, 3),
    ),
    "the last window filled up": (Call(filled_up, c=conv(6, stride=4)), {"chunk": 4}, (0, 1)),
    "the last window filled up by its mirror": (
        Call(lambda s, x: s.c(F.pad(x, (2, -x.shape[-1] % 4), "reflect")), c=conv(6, stride=4)),
        {"chunk": 4},
        (0, 1),
    ),
    "mirrored before, and nothing cut": (
        Call(lambda s, x: s.c(F.pad(x, (2, 0), "reflect")[..., : x.shape[-1] + 2]), c=conv()),
        {},
        (2, 2),
    ),
    "an overlap of whole windows, cut": (
        Call(
            lambda s, x: s.u(s.c(F.pad(x, (4, 0))).relu())[..., : x.shape[-1]],
            c=conv(8, stride=4),
            u=nn.ConvTranspose1d(4, 4, 8, 4),
        ),
        {"chunk": 4},
        (0, 3),
    ),
    "frames repeated, smoothed and cut": (
        Call(
            lambda s, x: s.d(F.pad(s.c(F.pad(x, (2, 1))).repeat_interleave(3, 2), (2, 2)))[..., : x.shape[-1]],
            c=conv(3, stride=3),
            d=conv(5),
        ),
        {"chunk": 3},
        (2, 4),
    ),
    "two frames for one": (Call(lambda s, x: s.u(x), u=up()), {}, (0, 2)),
    "a chunk of a causal model": (Call(lambda s, x: s.g(x.mT)[0].mT, g=gru()), {"chunk": 5}, (0, 4)),
    "two axes": (
        Call(lambda s, x: s.c(x[:, None]).flatten(1, 2), c=nn.Conv2d(1, 2, (3, 5), padding=(1, 2))),
        {"time_axis": 2},
        (2, 2),
    ),
    "reflect": (Call(lambda s, x: s.c(F.pad(x, (1, 1), "reflect")), c=conv()), {}, (1, 1)),
    "reflect far": (Call(lambda s, x: s.c(F.pad(x, (4, 3), "reflect")), c=conv()), {}, (4, 9)),
    "replicate": (Call(lambda s, x: s.c(F.pad(x, (2, 2), "replicate")), c=conv(5)), {}, (2, 2)),
    "as a layer pads": (Call(lambda s, x: s.c(x), c=conv(5, padding=2, padding_mode="reflect")), {"chunk": 3}, (2, 4)),
    "reflect alone": (Call(lambda s, x: F.pad(x, (2, 1), "reflect")), {}, (2, 5)),
    "reflect and a stride": (
        Call(lambda s, x: s.c(F.pad(x, (3, 3), "reflect")), c=conv(6, stride=2)),
        {"chunk": 2},
        (2, 2),
    ),
    "reflect, changed frame by frame": (
        Call(lambda s, x: s.c(F.pad(x, (2, 2), "reflect").relu()), c=conv(5)),
        {},
        (2, 2),
    ),
    "reflect late frames": (Call(lambda s, x: s.c(F.pad(s.d(x), (2, 2), "reflect")), c=conv(5), d=conv(3)), {}, (4, 2)),
    "a mean": (Call(lambda s, x: F.avg_pool1d(x, 3, 1, 1)), {}, (1, 1)),
    "a mean without padding": (Call(lambda s, x: F.avg_pool1d(x, 5, 1, 2, count_include_pad=False)), {}, (2, 2)),
    "a maximum": (Call(lambda s, x: F.max_pool1d(s.c(x), 3, 2, 1), c=conv()), {"chunk": 2}, (2, 1)),
    "a mean over both axes": (
        Call(lambda s, x: F.avg_pool2d(x[:, None], 3, 1, 1, count_include_pad=False).flatten(1, 2)),
        {"time_axis": 2},
        (1, 1),
    ),
    "rows and bands in one axis": (
        Call(lambda s, x: s.c(x.reshape(-1, 1, x.shape[2])).reshape(x.shape), c=nn.Conv1d(1, 1, 3, padding=1)),
        {},
        (1, 1),
    ),
}

# Rates above one, and transforms: of samples, by (B, L).
HANN = torch.hann_window(16)
HAMMING = {"window": torch.hamming_window(16)}
RATES = {
    "every frame twice": (Call(lambda s, x: s.c(x).repeat_interleave(2, 2), c=conv()), X, {}, ["time*2"]),
    "nearest": (Call(lambda s, x: F.interpolate(s.c(x), scale_factor=3), c=conv()), X, {}, ["time*3"]),
    "linear": (Call(lambda s, x: F.interpolate(s.c(x), scale_factor=2, mode="linear"), c=conv()), X, {}, ["time*2"]),
    "shuffled": (
        Call(lambda s, x: s.c(x).reshape(x.shape[0], 2, 2, -1).permute(0, 1, 3, 2).flatten(2), c=conv()),
        X,
        {},
        ["time*2"],
    ),
    "two thirds": (Call(lambda s, x: s.c(s.u(x)), c=conv(stride=3), u=up(2)), X, {"chunk": 3}, ["time*2/3"]),
    "two rates": (
        Call(lambda s, x: (s.u(x), s.c(x)), c=conv(stride=2, padding=1), u=up(2)),
        X,
        {"chunk": 2},
        ["time*2", "time/2"],
    ),
    "down, up and cut": (
        Call(lambda s, x: F.interpolate(s.c(x), scale_factor=2)[..., : x.shape[2]], c=conv(stride=2, padding=1)),
        X,
        {"chunk": 2},
        ["time"],
    ),
    "linear by three": (
        Call(lambda s, x: F.interpolate(s.c(x), scale_factor=3, mode="linear"), c=conv(stride=2)),
        X,
        {"chunk": 2},
        ["time*3/2"],
    ),
    "cut, and in windows that overlap": (
        Call(lambda s, x: overlapped(x + s.u(s.c(x))[..., : x.shape[2]]), c=conv(stride=2, padding=1), u=up(padding=1)),
        X,
        {"chunk": 2},
        ["time"],
    ),
    "a spectrum": (Call(lambda s, x: spectrum(x, center=False).abs()), X[:, 0].repeat(1, 4), {"chunk": 4}, ["time/4"]),
    "a centred spectrum": (Call(lambda s, x: spectrum(x).abs()), X[:, 0].repeat(1, 4), {"chunk": 4}, ["time/4"]),
    "there and back": (Call(lambda s, x: signal(spectrum(x))), X[:, 0].repeat(1, 4), {"chunk": 4}, ["time"]),
    "twice as many, of fewer than there were": (
        Call(lambda s, x: s.c(x + F.pad(x, (-2, 2))).repeat_interleave(2, 2), c=conv()),
        X,
        {},
        ["time*2"],
    ),
    "there and back, from whole windows": (
        Call(lambda s, x: signal(spectrum(x, center=False, **HAMMING) * 0.5, center=False, **HAMMING)),
        X[:, 0].repeat(1, 4),
        {"chunk": 4},
        ["time"],
    ),
    "a masked spectrum": (
        Call(lambda s, x: masked(s, x), g=nn.GRU(9, 9, batch_first=True)),
        X[:, 0].repeat(1, 4),
        {"chunk": 4},
        ["time"],
    ),
}


def spectrum(x, **options):
    return torch.stft(x, 16, 4, **{"window": HANN, "return_complex": True, **options})


def overlapped(x):
    windows = x.unfold(2, 4, 2).sin()
    columns, size = windows.transpose(2, 3).flatten(1, 2), 2 * windows.shape[2] + 2
    return F.fold(columns, (1, size), (1, 4), stride=(1, 2))[:, :, 0]


def signal(spectrum, **options):
    return torch.istft(input=spectrum, n_fft=16, hop_length=4, **{"window": HANN, **options})


def masked(s, x):
    values = spectrum(x)
    return signal(values * torch.sigmoid(s.g(values.abs().mT)[0]).mT, length=x.shape[-1])


@pytest.mark.parametrize(("model", "example", "options", "rates"), RATES.values(), ids=RATES)
def test_frames_faster_and_slower(model, example, options, rates):
    spec = assert_whole(model, example, **options).spec
    assert [t.shape[t.axis("time")] for t in spec.outputs] == rates


def test_lengths_are_found_by_running_where_torch_has_no_expression_for_them(monkeypatch):
    """The last frame comes of samples that no whole step has."""
    monkeypatch.setattr(Lengths, "_size", lambda *_: None)

    def forward(s, x):
        spectrum = torch.stft(x, 40, 32, window=torch.ones(40), center=False, return_complex=True)
        return s.g(spectrum.abs().mT)[0]

    model = Call(forward, g=nn.GRU(21, 3, batch_first=True))
    spec = assert_whole(model, torch.randn(2, 400), chunk=32, lengths=range(40, 150, 7)).spec
    assert (spec.delay, spec.tail) == (32, 1)


@pytest.mark.parametrize(("model", "options", "ends"), MODELS.values(), ids=MODELS)
def test_a_stream_and_its_end_are_the_whole(model, options, ends):
    spec = assert_whole(model, X, **options).spec
    assert (spec.delay, spec.tail) == ends


def test_the_last_of_frames_that_were_channels_is_known_with_the_last_of_the_input():
    def forward(s, x):
        y = s.c(x)
        y = y.reshape(y.shape[0], y.shape[1] // 3, 3, y.shape[2]).transpose(2, 3).flatten(2)
        return y, y[..., -1]

    example = torch.randn(2, 4, 9)
    lifted = lift(Call(forward, c=nn.Conv1d(4, 6, 1)), (example,))
    (frames, last), *_ = stepped(lifted, example)[0]
    assert frames.shape == (2, 2, 3)
    assert torch.equal(last, frames[..., -1])


@pytest.mark.parametrize("last", [lambda s, x: s.c(x)[..., -1], lambda s, x: s.g(s.c(x).mT)[1][0]], ids=["cut", "GRU"])
def test_the_last_frame_of_what_looks_ahead_is_no_output_of_a_stream(last):
    """Every frame is; and so is the last one of what looks back alone."""
    model = Call(lambda s, x: (s.c(x), last(s, x)), c=conv(padding=1), g=gru())
    with raises("last-frame-looks-ahead"):
        lift(model, (X,), time_axis=2)
    back = Call(lambda s, x: last(s, x), c=conv(), g=gru())
    assert lift(back, (X,), time_axis=2).spec.delay == 2


def test_a_length_with_a_floor_is_that_of_longer_sequences():
    """As Demucs pads: to what its strides divide, and for a single window at least."""

    def forward(s, x):
        length = max(math.ceil((x.shape[-1] - 8) / 4) + 1, 1)
        length = max(math.ceil((length - 8) / 4) + 1, 1)
        for _ in range(2):
            length = (length - 1) * 4 + 8
        padded = F.pad(x, (0, length - x.shape[-1]))
        return s.up_one(s.up_two(s.two(s.one(padded))))[..., : x.shape[-1]]

    parts = {"one": nn.Conv1d(1, 3, 8, 4), "two": nn.Conv1d(3, 3, 8, 4)}
    parts |= {"up_two": nn.ConvTranspose1d(3, 3, 8, 4), "up_one": nn.ConvTranspose1d(3, 1, 8, 4)}
    model = Call(forward, **parts)
    lifted = assert_whole(model, torch.randn(1, 1, 400), lengths=range(21, 60), chunk=16)
    assert lifted.shortest == 21
    assert any("over fewer than 21 frames the code goes another way" in note for note in lifted.notes)


def test_what_is_padded_where_it_is_too_short_to_be_mirrored():
    """As EnCodec pads."""

    def forward(s, x):
        extra = 7 - x.shape[-1] if x.shape[-1] <= 6 else 0
        padded = F.pad(F.pad(x, (0, extra)), (6, 0), "reflect")
        return s.c(padded[..., : padded.shape[-1] - extra])

    assert assert_whole(Call(forward, c=conv(7)), X, lengths=range(7, 16)).shortest == 7


def test_a_length_that_is_rounded_again_and_again():
    """As Demucs with its resampling: rounded where it is whole, halved, and written into reshapes beside a -1."""

    def up(x):
        *other, time = x.shape
        between = F.conv1d(x.view(-1, 1, time), KERNEL, padding=2)[..., 1:].view(*other, time)
        return torch.stack([x, between], -1).view(*other, -1)

    def down(x):
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        odd = x[..., 1::2]
        *other, time = odd.shape
        between = F.conv1d(odd.view(-1, 1, time), KERNEL, padding=2)[..., :-1].view(*other, time)
        return (x[..., ::2] + between).view(*other, -1) / 2

    def forward(s, x):
        length = math.ceil(x.shape[-1] * 2)
        for _ in range(2):
            length = max(math.ceil((length - 8) / 4) + 1, 1)
        for _ in range(2):
            length = (length - 1) * 4 + 8
        padded = up(F.pad(x, (0, math.ceil(length / 2) - x.shape[-1])))
        return down(s.up_one(s.up_two(s.two(s.one(padded)))))[..., : x.shape[-1]]

    parts = {"one": nn.Conv1d(1, 3, 8, 4), "two": nn.Conv1d(3, 3, 8, 4)}
    parts |= {"up_two": nn.ConvTranspose1d(3, 3, 8, 4), "up_one": nn.ConvTranspose1d(3, 1, 8, 4)}
    model = Call(forward, **parts)
    assert_whole(model, torch.randn(1, 1, 200), lengths=(21, 40, 41, 47, 96), chunk=8)


def test_a_size_is_not_rounded():
    """ONNX has Ceil of floats alone."""

    class Padded(nn.Module):
        def forward(self, x):
            whole, half = math.ceil(2 * x.shape[-1]), math.ceil(x.shape[-1] / 2)
            return F.pad(x, (0, math.floor(whole) - half))

    graph = flat_graph(Padded(), (torch.randn(1, 1, 8),), ({2: DYNAMIC},)).graph
    assert not any(node.target in (math.ceil, math.floor, operator.truediv) for node in graph.nodes)
