"""An axis with an end is not time: this is reported, and never silently one frame; and code that goes another way."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(0))  # (B, T, C)
SHORT = X[:, :12, :4]
BANDS = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(1))
GRU = nn.GRU(16, 8, batch_first=True)


def positions(frames):
    """A GRU behind a learned table of positions."""
    table = nn.Parameter(torch.zeros(1, frames, 16))
    return case(Call(lambda s, x: s.gru(x + s.table[:, : x.shape[1]])[0], gru=GRU, table=table), X)


def matrix(frames):
    """h = 0.9 h + x by a causal matrix of so many frames; its features may be of any number."""
    i = torch.arange(float(frames))
    return case(Call(lambda s, x: s.a[: x.shape[1], : x.shape[1]] @ x, a=torch.tril(0.9 ** (i[:, None] - i))), X)


def and_before(s, x):
    """Fewer frames than the example has fail too."""
    y = x + s.table[:, : x.shape[1]]
    return s.mix(y + F.pad(y, (0, 0, 32, -32)))


def left_by_a_loop(s, x):
    h, ys = torch.zeros(x.shape[0], 4), []
    for t in range(x.shape[1]):
        h = torch.tanh(s.linear(h) + x[:, t] + s.pos[t])
        ys.append(h)
    return torch.stack(ys, 1)


class Rows(nn.Module):
    """A loop that reads a table by its number, in several ways."""

    def __init__(self, read, axis):
        super().__init__()
        self.pos, self.scale = nn.Parameter(torch.randn(60, 4)), nn.Parameter(torch.randn(60))
        self.linear, self.read, self.axis = nn.Linear(4, 4), read, axis

    def forward(self, x):
        h, ys = torch.zeros(x.shape[1 - self.axis], 4), []
        rows = self.pos if self.read == "zip" else self.pos[: x.shape[self.axis]]
        for t, (frame, row) in enumerate(zip(x.unbind(self.axis), rows, strict=self.read != "zip")):
            taken = {"zip": row, "row": self.pos[t], "cut": rows[t]}[self.read]
            h = torch.tanh(self.linear(h) * self.scale[t] + frame + taken)
            ys.append(h)
        return torch.stack(ys, self.axis)


def read_by_number(read, axis):
    x = SHORT if axis else SHORT.transpose(0, 1)
    return case(lambda: Rows(read, axis), x, max_frames=60).streams(
        lengths=range(55, 61), holds=lambda lifted: lifted.spec.max_frames == 60
    )


def goes(function, shortest, x=X, axis=1, chunk=1):
    model = Call(function, gru=GRU, conv=nn.Conv1d(1, 4, 400, stride=100))
    return case(model, x, time_axis=axis, chunk=chunk).streams(
        lengths=range(shortest, shortest + 3 * chunk, chunk),
        atol=1e-5,
        notes=[f"over fewer than {shortest} frames the code goes another way"],
        holds=lambda lifted: lifted.shortest == shortest,
    )


def negative_below(short):
    def forward(s, x):
        y = s.conv(x)
        return -y if y.shape[-1] < short else y

    return goes(forward, 300 + 100 * short, torch.randn(1, 1, 8000), 2, 100)


def doubled_loop(s, x):
    h, given = x.new_zeros(len(x), 16), []
    for frame in x.unbind(1):
        h = torch.tanh(frame + 0.5 * h)
        given.append(h)
    return torch.stack(given, 1) * (1 if len(given) > 3 else 2)


def banded(s, x):
    return s.conv(F.pad((x * s.bands[: x.shape[2]]).unsqueeze(1), (0, 0, 2, 0)))[:, 0]


def loop(s, x):
    """Over so many frames of the code's own."""
    h, ys = torch.zeros(x.shape[0], 4), []
    for t in range(8):
        h = s.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def written_out(last):
    def forward(s, x):
        h, ys = torch.zeros(x.shape[0], 4), []
        for t in range(8):
            h = torch.tanh(s.cell(h) + x[:, t])
            ys.append(h)
        return h if last else torch.stack(ys, 1)

    return Call(forward, cell=nn.Linear(4, 4))


def summed(s, x):
    """Weights are in no part of it."""
    h, ys = torch.zeros(x.shape[0], 4), []
    for t in range(12):
        h = 0.9 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def each(s, x):
    return torch.stack([s.w(x[:, t]) for t in range(8)], 1).flatten(1)


def asked(message, function, *values, **parts):
    """A sequence along an axis of fixed size: all but a layer was silently taken for one call a frame."""
    model = Call(function, table=torch.randn(12, 4), **parts)
    return case(model, SHORT).refused(message, *(values or ("axis 1 of input 'x'", 12, "time_axis=None")))


def one_frame(model, x=SHORT, **options):
    return case(model, x, **options).streams(states=[], holds=lambda lifted: not lifted.spec.has_time)


END = ("axis-with-end", "axis 1 of input 0")
EIGHT, CONV = X[:, :8, :4], nn.Conv1d(4, 4, 3)
LOOP = Call(loop, cell=nn.GRUCell(4, 4))
FIRST = ("axis 1 of input 'x'", 8, "range(8)", "x.shape[1]", "time_axis=None")
CELLS = Call(lambda s, x: s.out(s.gru(x)[0].flatten(1)), gru=GRU, out=nn.Linear(256, 4))
TABLE = {
    "a table of positions is a bound": {
        "more than the example": positions(64).refused(*END, 64, "max_frames=64 ", advice=True),
        # Up to 95 the model fails on three times the example: that is no reason to take a call for a frame.
        **{str(frames): positions(frames).refused(*END, frames) for frames in (95, 32, 33, 100, 500)},
        **{f"matrix {frames}": matrix(frames).refused(*END, frames) for frames in (32, 95, 100)},
        "where fewer frames than the example has fail": case(
            Call(and_before, table=torch.zeros(1, 64, 16), mix=nn.Linear(16, 4)), X
        ).refused("axis-with-end", "1", "0", "64"),
        "that a loop leaves": case(Call(left_by_a_loop, linear=nn.Linear(4, 4), pos=torch.randn(60, 4)), SHORT).refused(
            "axis-with-end", "60", "the loop fails at bounds.py:", "(index 60"
        ),
    },
    "a loop reads a table by its number": {
        f"{read}, axis {axis}": read_by_number(read, axis)
        for read, axis in (("zip", 1), ("cut", 0), ("row", 1), ("zip", 0), ("cut", 1), ("row", 0))
    },
    "a number of bands is no bound of time": {
        # Fewer of them pass, more do not: all the same the other axis is time, and the only one that can be.
        "bands and time": case(
            Call(banded, bands=torch.ones(32), conv=nn.Conv2d(1, 1, 3, padding=(0, 1))), BANDS
        ).streams(input=("batch", "time", 32)),
        "a table over another axis than time": case(
            Call(lambda s, x: s.gru(x * s.bands[: x.shape[2]])[0], gru=GRU, bands=torch.ones(16)), X
        ).streams(input=("batch", "time", 16)),
        # Either may be meant: both are said.
        "bands and a look ahead": case(
            Call(lambda s, x: (x - x.mean(1, keepdim=True)) * s.bands[: x.shape[2]], bands=torch.ones(32)), BANDS
        ).refused("time-axis-undecided", "2", "0", "32"),
    },
    "another way for short sequences is said": {
        "of some lengths that are tried": negative_below(7),
        "of a loop": goes(doubled_loop, 4),
        # None of the tried lengths is beyond it; the example is.
        "of all lengths that are tried": negative_below(40),
        "by a branch on the length": goes(lambda s, x: s.gru(x)[0] if x.shape[1] > 50 else s.gru(2 * x)[0], 51),
        "of all lengths that are tried first": goes(lambda s, x: s.gru(x if x.shape[1] >= 30 else x.flip(1))[0], 30),
    },
    "what the code does at other lengths": {
        "differs, and is refused": case(
            Call(lambda s, x: s.gru(x)[0] if x.shape[1] % 3 else s.gru(2 * x)[0], gru=GRU), X, time_axis=1
        ).refused("code-changes-with-length", "axis 1 of input 0"),
        "is the same after a branch": case(
            Call(lambda s, x: s.gru(x)[0] if x.shape[1] > 64 else s.gru(x * 1)[0], gru=GRU), X, time_axis=1
        ).streams(input=("batch", "time", 16)),
    },
    "a loop over a fixed number of frames is asked about": {
        "of more that there are": case(LOOP, SHORT).refused("first-frames-alone", 24, *FIRST),
        "of all": case(LOOP, EIGHT, time_axis=1).refused("output-of-first-frames"),
        "of what was tried": case(LOOP, EIGHT).refused("first-frames-alone", 16, *FIRST),
        "of some of them": case(LOOP, SHORT, time_axis=1).refused("output-of-first-frames"),
        "written out": case(written_out(False), EIGHT).refused("nothing-kept-in-loop", "cell (bounds.py"),
        "written out, and gives the last": case(written_out(True), EIGHT).refused("nothing-kept-in-loop"),
    },
    "an axis of fixed size that goes as time is asked about": {
        "a table of its length": asked(
            "nothing-kept-fixed-length", lambda s, x: s.conv(F.pad((x + s.table).mT, (2, 0))).mT, conv=CONV
        ),
        "a layer": asked(
            "recurrent-without-time", lambda s, x: s.gru(x + s.table)[0], gru=nn.GRU(4, 4, batch_first=True)
        ),
        "a loop": asked("nothing-kept-fixed-length", summed),
        "windows": asked("nothing-kept-fixed-length", lambda s, x: s.conv((x + s.table).mT).mT, conv=CONV),
        "a mask": asked("axis-of-fixed-length", lambda s, x: s.mask @ x, mask=torch.tril(torch.ones(12, 12))),
        # The model takes no other length: the layer may be over time, or over the 32 parts of a frame.
        "a layer inside one call": case(CELLS, X).refused("recurrent-without-time", "gru", "say time_axis=None"),
    },
    "one call as one frame may be said": {
        "of a table of positions": case(positions(64).model, X, time_axis=None).streams(
            input=("batch", 32, 16),
            states=[],
            notes=["gru: starts anew at each call, since the model takes one frame per call and keeps no state"],
        ),
        "of a loop": one_frame(LOOP, EIGHT, time_axis=None),
        "of a layer": one_frame(CELLS, X, time_axis=None),
        "of a sum": one_frame(Call(summed), time_axis=None),
    },
    "entries that are separate or all together are one frame": {
        "each of itself alone": one_frame(Call(each, w=nn.Linear(4, 4)), EIGHT),
        "used fewer times than there are entries": one_frame(
            Call(lambda s, x: s.w(s.w(x.flatten(1))), w=nn.Linear(32, 32)), EIGHT
        ),
        "all together": one_frame(Call(lambda s, x: s.net(x.flatten(1)).unflatten(1, (12, 4)), net=nn.Linear(48, 48))),
        "separate": one_frame(Call(lambda s, x: s.net(x + s.table), net=nn.Linear(4, 4), table=torch.randn(12, 4))),
    },
}
