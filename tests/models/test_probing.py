"""The length of runs, by the graph of a model, and layers that stand in for torch's."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.errors import LiftError
from rnn_export.export.lift.layers.layer_replacement import replace_recurrent
from rnn_export.export.lift.rewrite.flat_graph import flat_graph
from rnn_export.export.lift.streaming import recorded_runs
from rnn_export.export.lift.streaming.rule_context import receptive_field
from rnn_export.export.lift.streaming.rules import RULES
from rnn_export.export.lift.trace.tracing import DYNAMIC

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.probing import HANN, gru, spectrum  # noqa: TID252
from ..zoo.refusals import X, tagger  # noqa: TID252
from .streams import Call


def test_an_export_under_autocast_is_refused():
    with torch.autocast("cpu", torch.bfloat16), raises("export-under-autocast"):
        lift(tagger(), (X,))


def frames_followed(model: nn.Module, x: torch.Tensor) -> int:
    """Over how many frames the graph of `model` is recorded."""
    _, field = receptive_field(flat_graph(model, (x,), ({0: DYNAMIC, 2: DYNAMIC},)).graph, RULES)
    return field


# What operators do along the 64 bands of x (2, 3, T, 64), and a window of two frames.
ALONG_BANDS = {
    "convolved": lambda s, x: s.window(s.down(s.down(x))),
    "taken apart in windows": lambda s, x: s.window(x.unfold(3, 16, 8).flatten(3)),
    "cut": lambda s, x: s.window(x[..., 1:60:4]),
    "joined": lambda s, x: s.window(torch.cat([x, torch.zeros_like(x)], 3)),
    "joined channels": lambda s, x: s.window(torch.cat([x[:, :1], x[:, 1:]], 1)),
    "padded": lambda s, x: s.window(F.pad(x, (40, 40))),
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
    assert frames_followed(Call(forward, **parts), torch.randn(2, 3, 11, 64)) == 2


def test_what_is_done_along_time_needs_as_many_frames_as_it_takes():
    model = Call(lambda s, x: F.pad(x, (0, 0, 5, 0))[:, :, 1:].unfold(2, 4, 2).flatten(3))
    assert frames_followed(model, torch.randn(2, 3, 11, 4)) == 1 + 5 + 1 + 4
    # What a frame is made into counts in frames of its own: 8 windows of the overlap, not 320 frames.
    coded = nn.Sequential(nn.Conv1d(1, 2, 40, 40), nn.ConvTranspose1d(2, 1, 320, 40)).eval()
    assert frames_followed(coded, torch.randn(2, 1, 4000)) == 1 + 39 + 8 * 40


def test_a_context_that_no_memory_holds_is_said(monkeypatch):
    monkeypatch.setattr(recorded_runs, "MOST", 2**20)
    model = Call(lambda s, x: s.conv(F.pad(x, (20_000, 0))), conv=nn.Conv1d(1, 1, 2, dilation=20_000))
    with raises("receptive-field-too-long", "the values of a run take more than 0.0 GiB"):
        lift(model, (torch.randn(1, 1, 100),), time_axis=2)


def test_runs_have_a_length_that_the_model_takes():
    """Shorter ones would fail at a length that nobody chose."""

    def row_by_row(s, x):
        return s.gru(torch.view_as_real(spectrum(s, x)).flatten(2).mT.reshape(x.shape[0], -1, 66))[0]

    with raises("chunk-not-of-strides", "1", "32", "32", "chunk=32", kind=LiftError):
        lift(Call(row_by_row, window=HANN, gru=gru(66)), (torch.randn(1, 640),), time_axis=1, chunk=1)


def test_whole_sequences_are_no_shorter_than_windows():
    model = Call(lambda s, x: s.gru(x.unfold(-1, 400, 160))[0], gru=gru(400, 2, bidirectional=True))
    lifted = lift(model, (torch.randn(2, 4000),), sequence_only=True)
    assert lifted.spec.outputs[0].every == 160
    assert lifted.shortest >= 400


@pytest.mark.parametrize("layer", [nn.GRU(4, 3, 2, bidirectional=True), nn.LSTM(4, 3, proj_size=2), nn.RNN(4, 3)])
def test_what_stands_in_for_a_layer_is_copied_and_computes_in_float64(layer):
    stand_in = replace_recurrent(nn.Sequential(copy.deepcopy(layer)))
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(copy.deepcopy(stand_in).double()(x)[0], copy.deepcopy(layer).double()(x)[0])
    assert stand_in(x.float())[0].dtype == torch.float32
