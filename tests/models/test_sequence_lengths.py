"""Arguments with sequence lengths, and packed rows: a stream has none, and every row has all of its frames."""

import pytest
import torch
from torch import nn
from torch.nn.utils import rnn

from rnn_export.export.lift.layers import packed_sequences
from rnn_export.export.lift.model.call.length_arguments import WithLengths

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.recurrent_layers import PROJECTED, X, both, called  # noqa: TID252
from .streams import Call, stepped

FULL = torch.tensor([7, 7])


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


@pytest.mark.parametrize(
    ("forward", "example", "axis"),
    [
        (lambda s, x, n: packed(s, x, n.cpu()), (X, FULL), 1),
        (masked, (X, FULL), 1),
        (packed, (X, [7, 7]), 1),
        (relative, (X, torch.ones(2)), 1),
        (first_time, (X.transpose(0, 1), FULL), 0),
    ],
    ids=["of another name", "masked, and given back", "a list", "of the longest", "time first"],
)
def test_every_row_has_all_frames(forward, example, axis):
    model = Call(forward, layer=nn.GRU(4, 5, batch_first=axis == 1))
    lifted = lift(model, example)
    assert ([t.name for t in lifted.spec.inputs], [t.name for t in lifted.spec.outputs]) == (["x"], ["output"])
    assert any("lengths, which no stream has" in note for note in lifted.notes)
    outputs, _ = stepped(lifted, example[0])
    with torch.no_grad():
        want = model(*example)
    torch.testing.assert_close(torch.cat([y for (y,) in outputs], axis), want[0] if isinstance(want, tuple) else want)


@pytest.mark.parametrize(
    ("example", "options"),
    [
        ((X, torch.tensor([7, 3])), {}),
        ((torch.randn(7, 7, 4), torch.full((7,), 7)), {}),
        ((X, torch.tensor([6, 6])), {}),
        ((X, FULL), {"states": {"x_lens": None}}),
    ],
    ids=["shorter rows", "batch or time", "no size", "said to be an input"],
)
def test_what_may_be_something_else_stays_an_input(example, options):
    model = called(lambda s, x, x_lens: s.layer(x)[0] * x_lens[:, None, None])()
    lifted = lift(model, example, time_axis={"x": 1}, **options)
    assert [t.name for t in lifted.spec.inputs] == ["x", "x_lens"]
    assert not isinstance(lifted.original.model, WithLengths)


def sorted_and_dropped(s, x, h):
    rows = rnn.pack_padded_sequence(x.transpose(0, 1), torch.full((2,), x.shape[1]), enforce_sorted=False)
    rows = rnn.PackedSequence(torch.tanh(rows.data), rows.batch_sizes, rows.sorted_indices, rows.unsorted_indices)
    y, h = s.layer(rows, h)
    return rnn.pad_packed_sequence(y)[0].transpose(0, 1), h


def test_packed_rows_with_a_declared_state():
    model = Call(sorted_and_dropped, layer=nn.GRU(4, 5))
    lifted = lift(model, (X, torch.zeros(1, 2, 5)), states={"h": 1})
    with torch.no_grad():
        h, held = torch.zeros(1, 2, 5), torch.zeros(2, 1, 5)
        for frame in X.split(1, 1):
            want, h = model(frame, h)
            y, held = lifted.module(frame, held)
            torch.testing.assert_close(y, want)


def test_lengths_that_are_an_input_are_refused():
    def forward(s, x, sizes):
        rows = rnn.pack_padded_sequence(x, sizes, batch_first=True)
        return rnn.pad_packed_sequence(s.layer(rows)[0], batch_first=True)[0]

    model = called(forward)()
    with raises("unequal-packed-lengths"):
        lift(model, (X, FULL), states={"sizes": None})
    assert model(X, torch.tensor([7, 3]))[1, 3:].abs().sum() == 0  # torch's own again


def test_one_row_that_is_shorter_than_the_others_is_refused():
    with raises("unequal-packed-lengths"):
        packed_sequences._packed(torch.zeros(7, 2, 4), [7, 3])


def test_a_function_of_both_directions_is_exported_for_whole_sequences():
    model = called(both, bidirectional=True)().eval()
    whole = lift(model, (X,), sequence_only=True)
    with torch.no_grad():
        torch.testing.assert_close(whole.module(X)[0], model(X))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_function_with_a_projection_streams():
    PROJECTED.check()
