"""Packed rows of full length stream as without the packing, also with states passed in and out."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call, assert_streams

FRAMES = torch.randn(2, 7, 4)


def full(x):
    return torch.full((x.shape[0],), x.shape[1])


def whole(s, x):
    rows = pack_padded_sequence(x, full(x), batch_first=True)
    return pad_packed_sequence(s.layer(rows)[0], batch_first=True, total_length=x.shape[1])[0]


def sorted_and_dropped(s, x, h):
    rows = nn.utils.rnn.pack_padded_sequence(x.transpose(0, 1), full(x), enforce_sorted=False)
    rows = PackedSequence(torch.tanh(rows.data), rows.batch_sizes, rows.sorted_indices, rows.unsorted_indices)
    y, h = s.layer(rows, h)
    return nn.utils.rnn.pad_packed_sequence(y)[0].transpose(0, 1), h


def test_packed_rows_are_a_stream():
    assert len(assert_streams(Call(whole, layer=nn.LSTM(4, 5, batch_first=True)), FRAMES).spec.states) == 2


def test_packed_rows_with_a_declared_state():
    model = Call(sorted_and_dropped, layer=nn.GRU(4, 5))
    lifted = lift(model, (FRAMES, torch.zeros(1, 2, 5)), states={"h": 1})
    with torch.no_grad():
        h, held = torch.zeros(1, 2, 5), torch.zeros(2, 1, 5)
        for frame in FRAMES.split(1, 1):
            want, h = model(frame, h)
            y, held = lifted.module(frame, held)
            torch.testing.assert_close(y, want)


def test_lengths_that_are_an_input_are_refused():
    def forward(s, x, sizes):
        return pad_packed_sequence(s.layer(pack_padded_sequence(x, sizes, batch_first=True))[0], batch_first=True)[0]

    model = Call(forward, layer=nn.GRU(4, 5, batch_first=True))
    with raises("unequal-packed-lengths"):
        lift(model, (FRAMES, full(FRAMES)), states={"sizes": None})
    assert model(FRAMES, torch.tensor([7, 3]))[1, 3:].abs().sum() == 0  # torch's own again
