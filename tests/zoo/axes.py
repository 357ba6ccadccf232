"""The axes of time and batch: found at any size of the example, said, asked for, or refused."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.nets import Ids, LastFrame, Several, Tagger  # noqa: TID252
from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)
LONG, IMAGES = X.repeat(1, 3, 1)[:1, :16], torch.randn(2, 2, 9, 5)
BTC = ("batch", "time", 4)
SIZES = [(1, 1), (4, 4), (2, 7), (1, 7), (2, 1)]
NOTE = (
    "'output': the answer at each frame, as no output has a time axis; for one window per call say time_axis=None "
    "(--time-axis none)"
)


def one_frame(x, model, **options):
    """A call is one frame, and keeps no state."""
    return case(model, x, **options).streams(
        input=("batch", *x.shape[1:]), states=[], holds=lambda lifted: not lifted.spec.has_time
    )


def recurrent(kind, head):
    return Call(lambda s, x: s.linear(head(s.rnn(x))), rnn=kind(4, 5, batch_first=True), linear=nn.Linear(5, 3))


def causal(head, padding=4):
    def forward(s, x):
        y = torch.relu(s.conv(F.pad(x.transpose(1, 2), (padding, 0))))
        return head(s.linear(y.transpose(1, 2)))

    return Call(forward, conv=nn.Conv1d(4, 5, 3, dilation=2), linear=nn.Linear(5, 3))


def windowed(s, x):
    frames = torch.arange(x.shape[1])
    ago = frames[:, None] - frames
    q, k, v = s.linear(x).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(ago >= 0) & (ago < 3))[:, -1]


def deep(s, x):
    y = x.transpose(1, 2)
    for i, conv in enumerate(s.convs):
        y = torch.tanh(conv(F.pad(y, (2 * 2**i, 0))))
    return y[..., -1]


LAST = {
    "lstm, a frame": recurrent(nn.LSTM, lambda given: given[0][:, -1:]),
    "convolution": causal(lambda y: y[:, -1]),
    "gru": recurrent(nn.GRU, lambda given: given[0].select(1, -1)),
    "lstm, its state": recurrent(nn.LSTM, lambda given: given[1][0][-1]),
    "attention": Call(windowed, linear=nn.Linear(4, 12)),
    "far back": Call(deep, convs=nn.ModuleList(nn.Conv1d(4, 4, 3, dilation=2**i) for i in range(6))),
}


def remembered(s, x):
    """A frame a call, of which the last features alone are read."""
    s.h = 0.5 * s.h + x[:, -2:].sum(1, keepdim=True)
    return s.h


def levelled(s, x):
    """Each frame relative to a maximum over its features that decays."""
    s.most = torch.maximum(0.99 * s.most, x.abs().amax(-1, keepdim=True))
    return x / s.most


FEATURES, DOUBLED = nn.GRU(4, 5), Call(lambda s, x: 2 * x)
LEVELLED = Call(levelled, most=torch.full((1, 1), 1e-3))
TURNED = Call(lambda s, x: s.linear((x + x[:1]).transpose(1, 2).flatten(2)), linear=nn.Linear(10, 3))
BANDS = Call(
    lambda s, x: s.rnn(s.conv(x).mean(2).transpose(1, 2))[0][:, -1],
    conv=nn.Conv2d(1, 4, (3, 1), padding=(1, 0)),
    rnn=nn.GRU(4, 5, batch_first=True),
)
BOTH = nn.GRU(4, 5, bidirectional=True, batch_first=True)
SCALED = Call(lambda s, x, scale: s.gru(x)[0] * scale, gru=nn.GRU(4, 8, batch_first=True))
MIXED = Call(lambda s, x: s.linear(x - x.mean(0)), linear=nn.Linear(4, 4))

TABLE = {
    "batch and time are found at every size": {
        **{
            f"batch first, {batch} x {time}": case(Tagger, torch.randn(batch, time, 4)).streams(
                input=BTC, output=("batch", "time", 3)
            )
            for batch, time in SIZES
        },
        "not contiguous": case(Tagger, torch.randn(4, 7, 2).permute(2, 1, 0)).streams(input=BTC),
    },
    "time and batch are found at every size": {
        f"time major, {batch} x {time}": case(lambda: Tagger(batch_first=False), torch.randn(time, batch, 4)).streams(
            input=("time", "batch", 4), output=("time", "batch", 3)
        )
        for batch, time in SIZES
    },
    "axes of other inputs are found": {
        "features before time": case(
            Call(lambda s, x: s.gru(x.permute(2, 0, 1))[0].permute(1, 2, 0), gru=FEATURES), X.mT
        ).streams(input=("batch", 4, "time"), output=("batch", 5, "time")),
        "no time": case(Several, X, torch.randn(2, 7, 3), torch.randn(2, 2)).streams(
            holds=lambda lifted: [t.shape for t in lifted.spec.inputs] == [BTC, ("batch", "time", 3), ("batch", 2)]
        ),
        "ids": case(Ids, torch.zeros(2, 7, dtype=torch.long)).streams(
            input=("batch", "time"), output=("batch", "time", 11)
        ),
    },
    "time is said": {
        "by name": case(Tagger, X, time_axis={"x": -2}).streams(input=BTC),
        "none by name": one_frame(X, Tagger, time_axis={"x": None}),
        "by number": case(Tagger, X, time_axis=-2).streams(input=BTC),
        "none by an empty dict": one_frame(X, Tagger, time_axis={}),
        "none": one_frame(X, Tagger, time_axis=None),
        "one of two that could be it": case(DOUBLED, X, time_axis={"x": 2}).streams(input=("batch", 7, "time")),
        "before the batch": case(TURNED, IMAGES, time_axis={"x": 0}).streams(input=("time", 2, "batch", 5)),
        "where no output has it": case(BANDS, torch.randn(1, 1, 8, 16), time_axis={"x": 3}).streams(
            input=("batch", 1, 8, "time"), end=False
        ),
        "none, for the answer of a window": one_frame(X, LastFrame, time_axis=None),
        "for the answer at each frame": case(LastFrame, X, time_axis=1).streams(
            end=False, output=("batch", 3), holds=lambda lifted: NOTE not in lifted.notes
        ),
        "none where features look like time": case(LEVELLED, torch.randn(1, 8), time_axis=None).streams(
            states=["most"]
        ),
    },
    "time that is to be said is asked for": {
        "two axes could be it": case(DOUBLED, X).refused(
            "several-time-axes", "time_axis={'x': 1}", "time_axis={'x': 2}", advice=True
        ),
        "no output has it": case(BANDS, torch.randn(1, 1, 8, 16)).refused("answer-without-time-axis"),
        "it stands before the batch": case(TURNED, IMAGES).refused(
            "unusual-axis-order", "of 'x' time is axis 0 and the batch axis 2"
        ),
        # It was said alone that statistics over time cannot stream.
        "features look like it": case(LEVELLED, torch.randn(1, 8)).refused(
            "not-frame-local", "(amax)", "time_axis={'x': 1} (--time-axis x=1)", "time_axis=None", advice=True
        ),
    },
    "what is of all entries is of one call": {
        "a mean": one_frame(X, causal(lambda y: y.mean(1))),
        "flattened": one_frame(X, Call(lambda s, x: s.linear(x.flatten(1)), linear=nn.Linear(28, 3))),
        "a maximum": one_frame(X, causal(lambda y: y.amax(1))),
        "an image": one_frame(
            torch.randn(2, 3, 9, 9), Call(lambda s, x: s.conv(x).mean((2, 3)), conv=nn.Conv2d(3, 4, 3))
        ),
        "a norm of features": one_frame(torch.randn(2, 9), Call(lambda s, x: x.norm(dim=1, keepdim=True))),
        "both ends of features": one_frame(torch.randn(2, 9), Call(lambda s, x: x[:, :1] + x[:, -2:-1])),
        "the last feature": one_frame(torch.randn(2, 9), Call(lambda s, x: 2 * x[:, -1:])),
        "features of a model with a state": case(Call(remembered, h=torch.zeros(1, 1)), torch.randn(1, 8)).streams(
            states=["h"]
        ),
    },
    "a last frame is an answer at each frame": {
        "without padding there is none at first": case(causal(lambda y: y[:, -1], 0), LONG).streams(
            delay=4, tail=0, end=False, notes=[NOTE]
        ),
        "a mean of states is none": case(recurrent(nn.LSTM, lambda given: given[0].mean(1)), LONG).refused(
            "not-frame-local", "statistics over time", "(mean)", "time_axis={'x': 1}", "time_axis=None", advice=True
        ),
        "both directions": case(Call(lambda s, x: s.rnn(x)[0][:, -1], rnn=BOTH), LONG).refused(
            "bidirectional-layer", "rnn: the GRU"
        ),
        "a look ahead": case(
            Call(lambda s, x: s.conv(x.transpose(1, 2))[..., -1], conv=nn.Conv1d(4, 5, 3, padding=1)), LONG
        ).refused("last-frame-looks-ahead"),
    },
    "a wrong time axis is refused": {
        "features": case(Tagger, X, time_axis=2).refused(
            "time-axis-fixed-length", "time_axis={'x': 2} (--time-axis x=2)"
        ),
        "batch": case(Tagger, X, time_axis=0).refused("no-batch-axis", "x (2, 7, 4)", "rows depend on each other"),
        "range": case(Tagger, X, time_axis=3).refused(
            "time-axis-beyond-rank", "time_axis=3 (--time-axis 3)", "'x'", 3, "(2, 7, 4)"
        ),
        "below": case(Tagger, X, time_axis=-4).refused("time-axis-beyond-rank", "time_axis=-4", "'x'", 3),
        "name": case(Tagger, X, time_axis={"y": 1}).refused("time-axis-unknown-input", "['y']", "['x']"),
        "a chunk of none": case(nn.GRUCell(4, 5), X[0], chunk=3).refused("chunk-without-time", "chunk=3 (--chunk 3)"),
    },
    "a look at later frames is refused": {
        "bidirectional": case(Call(lambda s, x: s.gru(x)[0], gru=BOTH), X).refused(
            "bidirectional-layer", "gru: the GRU", "sequence_only=True"
        ),
        "mean": case(
            Call(lambda s, x: s.linear(x - x.mean(1, keepdim=True)), linear=nn.Linear(4, 4)), X, time_axis=1
        ).refused("not-frame-local", "the model (axes.py:", "statistics over time", "(mean)"),
        "flip": case(Call(lambda s, x: s.gru(x.flip(1))[0], gru=nn.GRU(4, 5, batch_first=True)), X).refused(
            "not-frame-local", "the model (axes.py:", "it moves frames over time (flip)"
        ),
    },
    "no batch axis is refused": {
        "unbatched": case(FEATURES, X[0], time_axis=None).refused(
            "no-batch-axis", "input (7, 4)", "rows depend on each other"
        ),
        "mixed rows": case(MIXED, X[:, 0], time_axis=None).refused("no-batch-axis", "x (2, 4)"),
        "a vector beside": case(SCALED, X, torch.randn(8)).refused("no-batch-axis", "x (2, 7, 4), scale (8,):"),
        "a number beside": case(SCALED, X, torch.randn(())).refused("no-batch-axis", "x (2, 7, 4), scale ():"),
    },
}
