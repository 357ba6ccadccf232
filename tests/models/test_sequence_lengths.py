"""Arguments with sequence lengths: a stream has none, and every row has all of its frames."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import rnn

from rnn_export.export.lift.model.call.length_arguments import WithLengths

from ..lifting import lift  # noqa: TID252
from .streams import Call, stepped

FRAMES, FULL = torch.randn(2, 7, 4), torch.tensor([7, 7])


def masked(s, x, x_lens):
    """Frames behind the end of a row are 0; the lengths come back."""
    longest = int(torch.max(x_lens).item())
    mask = torch.arange(longest)[None] < x_lens[:, None]
    return s.layer(x * mask[..., None])[0], x_lens


def relative(s, x, wav_lens):
    return s.layer(x * wav_lens[:, None, None])[0]


def first_time(s, x, lengths):
    padding = torch.arange(0, x.shape[0]).unsqueeze(1).expand(-1, x.shape[1]) >= lengths.long()
    return s.layer(x.masked_fill(padding[..., None], 0))[0]


def packed(s, x, lengths):
    rows = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return rnn.pad_packed_sequence(s.layer(rows)[0], batch_first=True, total_length=x.size(1))[0]


def packed_by(s, x, n):
    return packed(s, x, n.cpu())


@pytest.mark.parametrize(
    ("forward", "example", "layer", "axis"),
    [
        (packed_by, (FRAMES, FULL), nn.GRU(4, 5, batch_first=True), 1),
        (packed, (FRAMES, [7, 7]), nn.GRU(4, 5, batch_first=True), 1),
        (masked, (FRAMES, FULL), nn.GRU(4, 5, batch_first=True), 1),
        (relative, (FRAMES, torch.ones(2)), nn.GRU(4, 5, batch_first=True), 1),
        (first_time, (FRAMES.transpose(0, 1), FULL), nn.GRU(4, 5), 0),
    ],
    ids=["of another name", "a list", "masked, and given back", "of the longest", "time first"],
)
def test_every_row_has_all_frames(forward, example, layer, axis):
    model = Call(forward, layer=layer)
    lifted = lift(model, example)
    assert [t.name for t in lifted.spec.inputs] == ["x"]
    assert [t.name for t in lifted.spec.outputs] == ["output"]
    assert any("lengths, which no stream has" in note for note in lifted.notes)
    outputs, _ = stepped(lifted, example[0])
    with torch.no_grad():
        want = model(*example)
    torch.testing.assert_close(torch.cat([y for (y,) in outputs], axis), want[0] if isinstance(want, tuple) else want)


@pytest.mark.parametrize(
    ("example", "options"),
    [
        ((FRAMES, torch.tensor([7, 3])), {}),
        ((FRAMES, torch.tensor([6, 6])), {}),
        ((torch.randn(7, 7, 4), torch.full((7,), 7)), {}),
        ((FRAMES, FULL), {"states": {"x_lens": None}}),
    ],
    ids=["shorter rows", "no size", "batch or time", "said to be an input"],
)
def test_what_may_be_something_else_stays_an_input(example, options):
    def forward(s, x, x_lens):
        return s.layer(x)[0] * x_lens[:, None, None]

    lifted = lift(Call(forward, layer=nn.GRU(4, 5, batch_first=True)), example, time_axis={"x": 1}, **options)
    assert [t.name for t in lifted.spec.inputs] == ["x", "x_lens"]
    assert not isinstance(lifted.original.model, WithLengths)
