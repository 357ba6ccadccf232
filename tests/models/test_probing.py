"""Unsupported models are named before they are probed, and probes stay small."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnn_export.errors import LiftError
from rnn_export.export.lift.layers.layer_replacement import replace_recurrent
from rnn_export.export.lift.rewrite.flat_graph import flat_graph
from rnn_export.export.lift.streaming import recorded_runs
from rnn_export.export.lift.streaming.rule_context import receptive_field
from rnn_export.export.lift.streaming.rules import RULES
from rnn_export.export.lift.trace.tracing import DYNAMIC

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))


def tagger(**others) -> nn.Module:
    torch.manual_seed(0)
    parts = {"gru": nn.GRU(4, 5, batch_first=True), "out": nn.Linear(5, 3), **others}
    return Call(lambda s, x: s.out(s.gru(x)[0]), **parts).eval()


def autocast(s, x):
    with torch.autocast("cpu", torch.bfloat16):
        return s.out(s.gru(x)[0]).float()


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(tagger(), {nn.Linear}, torch.qint8)


def packed(s, x, h):
    rows = pack_padded_sequence(x, [x.shape[1], *[x.shape[1] - 1] * (x.shape[0] - 1)], batch_first=True)
    y, h = s.gru(rows, h)
    return pad_packed_sequence(y, batch_first=True)[0], h


NAMED = {
    "half": (lambda: tagger().half(), (X.half(),), ("tensor-not-float32", "'gru.weight_ih_l0' is float16")),
    "bfloat16": (
        lambda: tagger().bfloat16(),
        (X.bfloat16(),),
        ("tensor-not-float32", "'gru.weight_ih_l0' is bfloat16"),
    ),
    "an example alone": (tagger, (X.half(),), ("tensor-not-float32", "'example_inputs[0]' is float16")),
    "autocast inside": (
        lambda: Call(autocast, **dict(tagger().named_children())),
        (X,),
        ("narrow-inside-forward", "in bfloat16"),
    ),
    "half inside": (
        lambda: Call(lambda s, x: s.out(s.gru(x)[0].half().float()), **dict(tagger().named_children())),
        (X,),
        ("narrow-inside-forward", "in float16"),
    ),
    "quantised": (quantised, (X,), ("quantised-weights", "out (Linear)", "--precision int8")),
    "packed": (
        lambda: Call(packed, gru=nn.GRU(4, 5, batch_first=True)),
        (torch.cat([X, X]), torch.zeros(1, 2, 5)),
        ("unequal-lengths-inside", "gru (GRU)"),
    ),
}


@pytest.mark.parametrize(("make", "example", "message"), NAMED.values(), ids=NAMED)
def test_it_is_named_before_anything_else(make, example, message):
    with raises(*message):
        lift(make().eval(), example, states={"h": 1} if len(example) > 1 else None)


def test_under_autocast():
    with (
        torch.autocast("cpu", torch.bfloat16),
        raises("export-under-autocast"),
    ):
        lift(tagger(), (X,))


class OverFrequency(nn.Module):
    """Strides of 2 over frequency, six on one path and six beside it; none over time."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (
            nn.ModuleList(nn.Conv2d(1, 1, (2, 3), (1, 2), (0, 1)) for _ in range(6)) for _ in range(2)
        )
        self.gru = nn.GRU(2, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        a = b = x
        for one, other in zip(self.one, self.other, strict=True):
            a, b = one(F.pad(a, (0, 0, 1, 0))), other(F.pad(b, (0, 0, 1, 0)))
        return self.gru((a + b)[:, 0])[0]


def test_strides_over_other_axes_make_no_sequence_long():
    """They made one of 4096 times the frames, and with parallel paths of 16 million times."""
    torch.manual_seed(0)
    model = OverFrequency().eval()
    x = torch.randn(1, 1, 20, 128, generator=torch.Generator().manual_seed(0))
    lifted = lift(model, (x,), time_axis=2)
    assert [s.row for s in lifted.spec.states][-1] == (4,)
    assert lifted.spec.inputs[0].shape == ("batch", 1, "time", 128)


def test_padding_that_fills_the_last_window_up_is_none_in_whole_steps():
    """As codecs do it: how much is computed from the length, and 0 where that is a multiple of the stride."""
    torch.manual_seed(0)
    model = Call(lambda s, x: s.conv(F.pad(x, (2, -x.shape[-1] % 2))), conv=nn.Conv1d(1, 8, 4, 2))
    lifted = assert_whole(model.eval(), torch.randn(1, 1, 40), chunk=2)
    assert [(s.name, s.row) for s in lifted.spec.states] == [("past_end", (1,)), ("conv.frames", (1, 2))]
    assert (lifted.spec.delay, lifted.spec.outputs[0].lengths) == (0, (0, 1))


def test_padding_that_grows_with_the_sequence():
    model = Call(lambda s, x: s.conv(F.pad(x, (x.shape[-1], 0))), conv=nn.Conv1d(1, 8, 3))
    with raises("padding-by-length"):
        lift(model.eval(), torch.randn(1, 1, 40))


def frames_followed(model: nn.Module, x: Tensor, time: int) -> int:
    """Over how many frames the graph of `model` is recorded."""
    graph = flat_graph(model.eval(), (x,), ({0: DYNAMIC, time: DYNAMIC},)).graph
    _, field = receptive_field(graph, RULES)
    return field


# What operators do along the 64 bands of x (2, 3, T, 64), and a window of two frames.
ALONG_BANDS = {
    "cut": lambda s, x: s.window(x[..., 1:60:4]),
    "joined": lambda s, x: s.window(torch.cat([x, torch.zeros_like(x)], 3)),
    "joined channels": lambda s, x: s.window(torch.cat([x[:, :1], x[:, 1:]], 1)),
    "padded": lambda s, x: s.window(F.pad(x, (40, 40))),
    "taken apart in windows": lambda s, x: s.window(x.unfold(3, 16, 8).flatten(3)),
    "convolved": lambda s, x: s.window(s.down(s.down(x))),
    "convolved back": lambda s, x: s.window(s.up(x)),
}


@pytest.mark.parametrize("forward", ALONG_BANDS.values(), ids=ALONG_BANDS)
def test_what_is_done_along_another_axis_needs_no_longer_sequences(forward):
    """Else the frames multiply with each stride over bands, until no memory holds them."""
    parts = {
        "window": nn.Conv2d(3, 3, (2, 1)),
        "down": nn.Conv2d(3, 3, (1, 9), (1, 3), (0, 4)),
        "up": nn.ConvTranspose2d(3, 3, (1, 9), (1, 3)),
    }
    assert frames_followed(Call(forward, **parts), torch.randn(2, 3, 11, 64), 2) == 2


def test_the_same_along_time_does():
    model = Call(lambda s, x: F.pad(x, (0, 0, 5, 0))[:, :, 1:].unfold(2, 4, 2).flatten(3))
    assert frames_followed(model, torch.randn(2, 3, 11, 4), 2) == 1 + 5 + 1 + 4


def test_what_a_frame_is_made_into_counts_in_frames_of_its_own():
    """As in a model with an encoder and a decoder of samples: 8 windows of the decoder's overlap, not 320 frames."""
    model = Call(lambda s, x: s.up(s.down(x)), down=nn.Conv1d(1, 2, 40, 40), up=nn.ConvTranspose1d(2, 1, 320, 40))
    assert frames_followed(model, torch.randn(2, 1, 4000), 2) == 1 + 39 + 8 * 40


def test_a_context_that_no_memory_holds_is_said(monkeypatch):
    monkeypatch.setattr(recorded_runs, "MOST", 2**20)
    model = Call(lambda s, x: s.conv(F.pad(x, (20_000, 0))), conv=nn.Conv1d(1, 1, 2, dilation=20_000)).eval()
    with raises("receptive-field-too-long", "the values of a run take more than 0.0 GiB"):
        lift(model, (torch.randn(1, 1, 100),), time_axis=2)


def test_runs_have_a_length_that_the_model_takes():
    """Shorter ones would fail at a length that nobody chose."""

    def forward(s, x):
        y = torch.stft(x, 64, 32, window=s.window, center=False, return_complex=True)
        return s.gru(torch.view_as_real(y).flatten(2).mT.reshape(x.shape[0], -1, 66))[0]

    model = Call(forward, window=torch.hann_window(64), gru=nn.GRU(66, 4, batch_first=True))
    with raises("chunk-not-of-strides", "1", "32", "32", "chunk=32", kind=LiftError):
        lift(model.eval(), (torch.randn(1, 640),), time_axis=1, chunk=1)


@pytest.mark.parametrize("layer", [nn.GRU(4, 3, 2, bidirectional=True), nn.LSTM(4, 3, proj_size=2), nn.RNN(4, 3)])
def test_what_stands_in_for_a_layer_is_copied_and_computes_in_float64(layer):
    stand_in = replace_recurrent(nn.Sequential(copy.deepcopy(layer)))
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(copy.deepcopy(stand_in).double()(x)[0], copy.deepcopy(layer).double()(x)[0])
    assert stand_in(x.float())[0].dtype == torch.float32


def test_a_graph_may_round_as_the_model_does_over_many_frames():
    """The log of small magnitudes, in another order of sums than torch.stft's."""

    def forward(s, x):
        spectrum = torch.stft(x, 64, 32, window=s.window, center=False, return_complex=True)
        return s.out(s.gru((spectrum.abs() + 1e-3).log().mT)[0])

    for seed in range(3):
        torch.manual_seed(seed)
        parts = {"gru": nn.GRU(33, 32, batch_first=True), "out": nn.Linear(32, 2), "window": torch.hann_window(64)}
        assert lift(Call(forward, **parts), (torch.randn(2, 640),), chunk=32).spec.delay == 32


def test_a_size_that_is_rounded_twice_is_another_one_at_another_length():
    """torch makes a number of the one window that 120 frames are, and sympy finds no length that has it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(4, 4, 10, 5), nn.Conv1d(4, 4, 8, 4), nn.Conv1d(4, 3, 4, 2)).eval()
    assert lift(net, (torch.randn(1, 4, 400),), chunk=40).spec.outputs[0].every == 40


def in_decibels(s, x):
    y = torch.log(x.unfold(-1, 400, 160).square().mean(-1, keepdim=True) + 1)
    shape = y.shape
    y = y.reshape(-1, 1, shape[-3], *shape[-2:])
    return torch.max(y, y.amax((-3, -2, -1), keepdim=True) - 80).reshape(shape)


@pytest.mark.parametrize("options", [{"chunk": 160}, {"sequence_only": True}], ids=["a stream", "whole sequences"])
def test_what_mixes_rows_behind_a_threshold_is_named(options):
    """And a graph of a single window is not taken for one of all."""
    with raises("rows-depend", "(test_probing.py", "): amax: rows of the batch depend on each other"):
        lift(Call(in_decibels), (torch.randn(2, 4000),), **options)


def test_what_mixes_rows_is_named_where_no_axis_can_be_the_batch():
    model = Call(lambda s, x: s.gru(x / (1 + x.abs().amax(0)))[0], gru=nn.GRU(4, 5, batch_first=True))
    with raises("no-batch-axis", "Where rows meet", "(test_probing.py", "): amax"):
        lift(model, (torch.randn(2, 9, 4),))


def test_whole_sequences_are_no_shorter_than_windows():
    model = Call(
        lambda s, x: s.gru(x.unfold(-1, 400, 160))[0], gru=nn.GRU(400, 2, batch_first=True, bidirectional=True)
    )
    lifted = lift(model, (torch.randn(2, 4000),), sequence_only=True)
    assert lifted.spec.outputs[0].every == 160
    assert lifted.shortest >= 400
