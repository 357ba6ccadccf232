"""A model that can be read in several ways is refused with the message of the reading that got farthest."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case, gru

X = torch.randn(2, 12, 4)


def gain_before_circular(s, x):
    if x.mean() > 0:
        x = x * 0.5
    return s.conv(F.pad(x, (2, 0), mode="circular"))


def count_of_calls_with_rates(s, audio, video):
    s.calls = s.calls + 1
    return s.out(torch.cat([s.conv(audio).transpose(1, 2), video], -1)) * torch.cos(s.calls)


def gain_behind_the_mean_of_a_batch(s, x):
    x = x - x.mean(0)
    if x.abs().max() > 1:
        x = x / 2
    return s.rnn(x)[0]


def holes_with_a_state(s, x, h):
    y, h = s.rnn(s.down(x).permute(2, 0, 1), h)
    return s.up(y.permute(1, 2, 0)), h


def smoothing_of_centred_rows(s, x):
    x = x - x.mean(0, keepdim=True)
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = 0.9 * h + 0.1 * x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def frames_of_a_centred_batch(s, x):
    h = s.linear(x)
    return torch.relu((h - h.mean(0)) / (h.std(0) + 0.001))


# By the reading that gave up last, whose message was shown before.
TABLE = {
    "the refusal is that of the likeliest reading, not that there are several axes": {
        "a count of calls with rates": case(
            Call(count_of_calls_with_rates, conv=nn.Conv1d(1, 8, 4, 4), out=nn.Linear(13, 8), calls=torch.zeros(1)),
            torch.randn(2, 1, 32),
            torch.randn(2, 8, 5),
        ).refused("state-moves-by-call", "state 'calls' moves once per call"),
        "a bidirectional video": case(
            Call(
                lambda s, audio, video: torch.cat([s.a(audio)[0], s.b(video)[0].repeat_interleave(4, 1)], -1),
                a=gru(3, 8),
                b=gru(5, 8, bidirectional=True),
            ),
            torch.randn(2, 32, 3),
            torch.randn(2, 8, 5),
        ).refused("bidirectional-layer", "b: the GRU is bidirectional", "sequence_only=True (--sequence-only)"),
        "the norm of a picture": case(
            Call(
                lambda s, x: s.conv(F.pad(s.norm(x), (2, 0))),
                norm=nn.InstanceNorm2d(1),
                conv=nn.Conv2d(1, 4, (3, 3), padding=(1, 0)),
            ),
            torch.randn(2, 1, 16, 12),
        ).refused("not-frame-local", "it normalises over time", advice=True),
        "a speaker without a batch": case(
            Call(
                lambda s, x, speaker: s.rnn(torch.cat([x, speaker.expand(*x.shape[:2], 4)], -1))[0],
                rnn=gru(8, 4, bidirectional=True),
            ),
            X,
            torch.randn(4),
        ).refused("no-batch-axis", "no batch axis found", "speaker (4,)", advice=True),
    },
    "the refusal is that of the likeliest reading, not that it decides by value": {
        "a gain behind the mean of a batch": case(Call(gain_behind_the_mean_of_a_batch, rnn=gru(4, 4)), X).refused(
            "no-batch-axis", "Where rows meet: ", "mean: rows of the batch depend on each other", advice=True
        ),
        "a gain before circular padding": case(
            Call(gain_before_circular, conv=nn.Conv1d(4, 4, 3)), torch.randn(2, 4, 12)
        ).refused("circular-padding", "padding over time by circular", advice=True),
    },
    "the refusal is that of the likeliest reading, not that of its axes": {
        "frames of a centred batch": case(
            Call(frames_of_a_centred_batch, linear=nn.Linear(6, 8)), torch.randn(3, 12, 6)
        ).refused(
            "not-frame-local",
            "statistics over time",
            "That is with time along axis 0 of 'x', batch along axis 1 of 'x'",
        ),
        "holes with a state": case(
            Call(holes_with_a_state, down=nn.Conv1d(1, 4, 4, 4), up=nn.ConvTranspose1d(4, 1, 2, 4), rnn=nn.GRU(4, 4)),
            torch.randn(2, 1, 32),
            torch.zeros(1, 2, 4),
            states={"h": 1},
        ).refused("window-below-stride", "its window of 2 frames is smaller than its stride of 4"),
        "a smoothing of centred rows": case(Call(smoothing_of_centred_rows), torch.randn(3, 12, 6)).refused(
            "unusual-axis-order",
            "Look for what mixes rows along axis 0",
            "Where rows meet: ",
            "mean: rows of the batch depend",
        ),
    },
}
