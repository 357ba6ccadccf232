"""A model that can be read in several ways is refused with the message of the reading that got farthest."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rnn_export.errors import LiftError

from ..lifting import lift  # noqa: TID252
from .streams import Call


def table_of_one_recording(self, x):
    return self.rnn(x + self.table[: x.shape[0]])[0]


def gain_before_circular(self, x):
    if x.mean() > 0:
        x = x * 0.5
    return self.conv(F.pad(x, (2, 0), mode="circular"))


def count_of_calls_with_rates(self, audio, video):
    self.calls = self.calls + 1
    return self.out(torch.cat([self.conv(audio).transpose(1, 2), video], -1)) * torch.cos(self.calls)


def norm_of_a_picture(self, x):
    return self.conv(F.pad(self.norm(x), (2, 0)))


def speaker_without_batch(self, x, speaker):
    return self.rnn(torch.cat([x, speaker.expand(*x.shape[:2], 4)], -1))[0]


def gain_behind_the_mean_of_a_batch(self, x):
    x = x - x.mean(0)
    if x.abs().max() > 1:
        x = x / 2
    return self.rnn(x)[0]


def stride_with_a_state(self, x, h):
    return self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2), h)


def holes_with_a_state(self, x, h):
    y, h = self.rnn(self.down(x).permute(2, 0, 1), h)
    return self.up(y.permute(1, 2, 0)), h


def smoothing_of_centred_rows(self, x):
    x = x - x.mean(0, keepdim=True)
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = 0.9 * h + 0.1 * x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def frames_of_a_centred_batch(self, x):
    h = self.linear(x)
    return torch.relu((h - h.mean(0)) / (h.std(0) + 0.001))


def bidirectional_video(self, audio, video):
    return torch.cat([self.a(audio)[0], self.b(video)[0].repeat_interleave(4, 1)], -1)


def gru(*sizes, **options):
    return nn.GRU(*sizes, batch_first=True, **options)


X, H, CALLS = torch.randn(2, 12, 4), torch.zeros(1, 2, 4), torch.zeros(1)
CASES = [
    (
        Call(table_of_one_recording, rnn=nn.GRU(4, 4), table=nn.Parameter(torch.randn(20, 4))),
        ((torch.randn(12, 4),), {}),
        ("may only be up to 20 long", "max_frames=20 (--max-frames 20)"),
        "no batch axis",
    ),
    (
        Call(gain_before_circular, conv=nn.Conv1d(4, 4, 3)),
        ((torch.randn(2, 4, 12),), {}),
        ("padding over time by circular",),
        "data-dependent",
    ),
    (
        Call(count_of_calls_with_rates, conv=nn.Conv1d(1, 8, 4, 4), out=nn.Linear(13, 8), calls=CALLS),
        ((torch.randn(2, 1, 32), torch.randn(2, 8, 5)), {}),
        ("state 'calls' moves once per call", "Other readings were refused too: ", "one frame a call"),
        "more than one axis",
    ),
    (
        Call(norm_of_a_picture, norm=nn.InstanceNorm2d(1), conv=nn.Conv2d(1, 4, (3, 3), padding=(1, 0))),
        ((torch.randn(2, 1, 16, 12),), {}),
        ("it normalises over time",),
        "more than one axis",
    ),
    (
        Call(speaker_without_batch, rnn=gru(8, 4, bidirectional=True)),
        ((X, torch.randn(4)), {}),
        ("no batch axis found", "speaker (4,)"),
        "more than one axis",
    ),
    (
        Call(gain_behind_the_mean_of_a_batch, rnn=gru(4, 4)),
        ((X,), {}),
        ("Where rows meet: ", "mean: rows of the batch depend on each other"),
        "data-dependent",
    ),
    (
        Call(stride_with_a_state, conv=nn.Conv1d(4, 4, 4, 4), rnn=gru(4, 4)),
        ((X, H), {"states": {"h": 1}, "chunk": 3}),
        ("a step must have a multiple of 4. Say chunk=12 (--chunk 12)",),
        "time_axis=None",
    ),
    (
        Call(holes_with_a_state, down=nn.Conv1d(1, 4, 4, 4), up=nn.ConvTranspose1d(4, 1, 2, 4), rnn=nn.GRU(4, 4)),
        ((torch.randn(2, 1, 32), H), {"states": {"h": 1}}),
        ("its window of 2 frames is smaller than its stride of 4",),
        "That is along",
    ),
    (
        Call(smoothing_of_centred_rows),
        ((torch.randn(3, 12, 6),), {}),
        ("Look for what mixes rows along axis 0", "Where rows meet: ", "mean: rows of the batch depend"),
        "states=",
    ),
    (
        Call(frames_of_a_centred_batch, linear=nn.Linear(6, 8)),
        ((torch.randn(3, 12, 6),), {}),
        ("statistics over time", "That is with time along axis 0 of 'x', batch along axis 1 of 'x'"),
        "Other readings",
    ),
    (
        Call(bidirectional_video, a=gru(3, 8), b=gru(5, 8, bidirectional=True)),
        ((torch.randn(2, 32, 3), torch.randn(2, 8, 5)), {}),
        ("b: the GRU is bidirectional", "sequence_only=True (--sequence-only)"),
        "more than one axis",
    ),
]


@pytest.mark.parametrize(
    ("model", "call", "words", "other"), CASES, ids=[type(model).forward.__name__ for model, *_ in CASES]
)
def test_the_refusal_is_that_of_the_likeliest_reading(model, call, words, other):
    """`other` stood in the message of the last reading that gave up, which was shown before."""
    example, options = call
    with pytest.raises(LiftError) as refused:
        lift(model, example, **options)
    assert [word for word in words if word not in str(refused.value)] == []
    assert other not in str(refused.value)
