"""Idioms of published models, each as small as it gets."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case, gru

X = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))  # (B, T, C)
IMAGE = torch.randn(2, 4, 9, 5, generator=torch.Generator().manual_seed(1))  # (B, C, T, F)


def shifted(s, x):
    """A temporal shift of features, one part from the next frame, one from the last."""
    out = torch.zeros_like(x)
    out[:, :-1, :2] = x[:, 1:, :2]
    out[:, 1:, 2:4] = x[:, :-1, 2:4]
    out[:, :, 4:] = x[:, :, 4:]
    return torch.tanh(s.mix(out)) + x


def emphasised(s, x):
    """Frames written over a value that is another one at each frame, all but the first."""
    y = x.clone()
    y[:, 1:] = x[:, 1:] - 0.9 * x[:, :-1]
    return s.gru(y)[0]


def across_and_along(s, x):
    """A GRU over features of (batch x time) rows, from zeros that are written out; another over time."""
    rows = x.flatten(0, 1).unsqueeze(-1)
    across, _ = s.across(rows, torch.zeros(2, rows.shape[0], 2))
    return s.along(across.flatten(1).unflatten(0, x.shape[:2]))[0]


def by_bands(s, x):
    """A running mean of bands that stand before the batch in one axis, counted by the number of frames."""
    bands = x.transpose(1, 2)
    rows = bands.transpose(0, 1).reshape(-1, x.shape[1])
    counts = torch.arange(1, x.shape[1] + 1, dtype=x.dtype).expand_as(rows)
    return (rows.cumsum(1) / counts).reshape(x.shape[2], x.shape[0], -1).permute(1, 2, 0)


def of_batch(s, x):
    """The same where the batch stands before the bands."""
    rows = x.transpose(1, 2).reshape(-1, x.shape[1])
    counts = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)
    return (rows.cumsum(1) / counts).reshape(x.shape[0], x.shape[2], -1).transpose(1, 2)


def neighbours(s, x):
    """Bands and their neighbours, by an unfold over all frames."""
    b, c, t, f = x.shape
    bands = F.unfold(F.pad(x.transpose(2, 3), (0, 0, 1, 1), mode="reflect").reshape(b * c, 1, f + 2, t), (3, t))
    return s.gru(bands.reshape(b, c * 3, t, f).permute(0, 2, 1, 3).flatten(2))[0]


def dual_path(s, x):
    """Windows that overlap, a layer inside each and one along them, added up where they were cut."""
    batch, channels, frames = x.shape
    windows = {"kernel_size": (4, 1), "padding": (4, 0), "stride": (2, 1)}
    y = F.unfold(x[..., None], **windows).reshape(batch, channels, 4, -1)
    count = y.shape[-1]
    y = s.inside(y.transpose(1, -1).reshape(batch * count, 4, channels))[0].reshape(batch, count, 4, channels)
    y = s.along(y.transpose(1, 2).reshape(batch * 4, count, channels))[0].reshape(batch, 4, count, channels)
    y = y.permute(0, 3, 1, 2).reshape(batch, channels * 4, count)
    return F.fold(y, (frames, 1), **windows).squeeze(-1)


def counted_windows(s, x):
    """A size that comes of a float has no bound in a graph, and none is opened without."""
    count = math.ceil(x.shape[1] / 4)
    windows = F.pad(x, (0, 0, 0, 4 * count - x.shape[1])).reshape(x.shape[0], count, 4, 6)
    return s.gru(windows.mean(2) + torch.sin(torch.arange(count, dtype=x.dtype))[:, None])[0]


class Policy(nn.Module):
    """Discrete actions, of which noise finds one: the next state follows from input and state all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8), nn.Linear(8, 3)
        self.head.bias.data[1] = 100
        self.register_buffer("h", torch.zeros(1, 1, 8))
        self.register_buffer("c", torch.zeros(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:  # (B, 4)
        y, (self.h, self.c) = self.lstm(x[None], (self.h, self.c))
        return self.head(y[0]).argmax(-1)


@dataclass(frozen=True)
class Belief:
    mean: Tensor
    memory: Tensor


class World(nn.Module):
    """A step whose state is a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, before: Belief) -> tuple[Tensor, Belief]:
        memory = self.cell(torch.cat([x, before.mean], 1), before.memory)
        after = Belief(torch.tanh(self.head(memory)), memory)
        return after.mean + x[:, :2], after


def last_of_loop(s, x):
    h = torch.zeros(x.shape[1], 3)
    for frame in x:
        h = torch.tanh(s.into(frame) + s.back(h))
    return h


def of_old(s, x):
    """The first state as code of old makes it: empty, then filled."""
    h, last, ys = x.data.new(x.shape[0], 4).zero_(), torch.empty_like(x[:, 0]).fill_(1.0), []
    for frame in x.unbind(1):
        h, last = torch.tanh(s.of_x(frame * last) + s.of_h(h)), frame
        ys.append(h)
    return torch.stack(ys, 1)


@lru_cache(maxsize=4)
def phases(frames: int, width: int) -> Tensor:
    return torch.arange(frames, dtype=torch.float32)[:, None].expand(frames, width)


def associative_scan(operator, elements):
    """A scan after jax's: of pairs of neighbours, and of what they give."""
    count = elements[0].shape[1]
    if count < 2:
        return elements
    odd = associative_scan(operator, operator([e[:, :-1:2] for e in elements], [e[:, 1::2] for e in elements]))
    even = operator([e[:, :-1] for e in odd] if count % 2 == 0 else odd, [e[:, 2::2] for e in elements])
    even = [torch.cat([e[:, :1], rest], 1) for e, rest in zip(elements, even, strict=True)]
    pairs = [
        torch.stack([F.pad(a, (0, 0, 0, 1)), F.pad(b, (0, 0, 0, 2))[:, : a.shape[1] + 1]], 2)
        for a, b in zip(even, odd, strict=True)
    ]
    return [pair.flatten(1, 2)[:, :count] for pair in pairs]


def linear(a, b):
    return [b[0] * a[0], b[0] * a[1] + b[1]]


def largest(a, b):
    return [torch.maximum(a[0], b[0]), a[1] + b[1]]


def kernel_of_length(s, x):
    decay = torch.exp(-torch.arange(x.shape[1], dtype=x.dtype)).flip(0).expand(6, 1, -1)
    return F.conv1d(F.pad(x.mT, (x.shape[1] - 1, 0)), decay, groups=6).mT


def transform_of_length(s, x):
    return torch.fft.irfft(torch.fft.rfft(x, 2 * x.shape[1]) * s.k, 2 * x.shape[1])


def idiom(forward, example=X, axis=1, **parts):
    return case(lambda: Call(forward, **{name: make() for name, make in parts.items()}), example, time_axis=axis)


def whole(forward, example=X, axis=1, **parts):
    return idiom(forward, example, axis, **parts).streams(atol=1e-5)


def scanned(*operators):
    return idiom(
        lambda s, x: sum(associative_scan(operator, (s.gate(x).sigmoid(), x))[1] for operator in operators),
        gate=lambda: nn.Linear(6, 6),
    ).streams(end=False)


def spread(over):
    """A vector is given to all frames, and needs no time."""
    return case(
        lambda: Call(lambda s, x, v: s.gru(torch.cat([x, over(v, x.shape[1])], -1))[0], gru=gru(8, 4)),
        X,
        torch.randn(2, 2),
    ).streams(end=False, holds=lambda lifted: [lifted.spec.timed(t) for t in lifted.spec.inputs] == [True, False])


def first(x):
    return x[..., 0]


def of_any_rows(lifted):
    return lifted.spec.rows is None


def written(values, of=lambda x: x, more=0):
    """A copy, written where a mask of it says."""

    def forward(s, x):
        y = x.clone()
        mask = of(x) > 0
        y[mask] = values(x, mask) + more * y[mask]
        return s.gru(y)[0]

    return idiom(forward, gru=lambda: gru(6, 4))


def by_len(s, x):
    """Rows and frames are counted as lists are."""
    h, given = x.new_zeros(len(x), 4), []
    for t in range(len(x.mT[0].mT)):
        h = s.cell(x[:, t], h)
        given.append(h)
    return torch.stack(given, 1).reshape(len(x), -1, 2, 2)


def limited(s, x):
    """Each mask is made anew, of what is written already."""
    y = x.clone()
    y[y > 1] = 1
    y[y < 0] += y[y < 0] / 2
    return s.gru(y)[0]


def by_channel(s, x):
    y = x.clone()
    y[:, :, CHANNELS] = 0.5
    y[..., ~CHANNELS] = torch.tanh(x[..., ~CHANNELS])
    return s.gru(y)[0]


CHANNELS = torch.arange(6) > 2
LAYER = nn.Linear(6, 6)
TABLE = {
    "what is written where a mask is streams": {
        "one number": written(lambda x, mask: 0.5).streams(),
        "its own entries": written(lambda x, mask: torch.sqrt(x[mask])).streams(),
        "frames by one of their entries": written(lambda x, mask: torch.sin(x[mask]) + CHANNELS, first).streams(),
        "frames through a layer": written(lambda x, mask: LAYER(x[mask]).softmax(1), first).streams(),
        "frames beside others": written(lambda x, mask: torch.cat([x[mask], x[mask]], 1)[:, ::2], first).streams(),
        "channels in another order": written(lambda x, mask: x[mask].flip(1), first).streams(),
        "added": written(lambda x, mask: 1 / x[mask], first, more=2).streams(),
        "twice": idiom(limited, gru=lambda: gru(6, 4)).streams(),
        "some channels": idiom(by_channel, gru=lambda: gru(6, 4)).streams(),
    },
    "what is sized by len of a tensor is of any size": {
        "a loop": idiom(by_len, cell=lambda: nn.GRUCell(6, 4)).streams(holds=of_any_rows),
        "a start": idiom(
            lambda s, x: s.gru(x, s.h.expand(-1, len(x), -1).contiguous())[0],
            gru=lambda: gru(6, 4),
            h=lambda: nn.Parameter(torch.ones(1, 1, 4)),
        ).streams(holds=of_any_rows),
    },
    "entries written in other places are refused": {
        "in another order of rows": written(lambda x, mask: x[mask].flip(0), first).refused("no-batch-axis"),
        "of another mask": written(lambda x, mask: x[x < 0][:1], first).refused("no-batch-axis"),
    },
    "idioms over time stream": {
        "features shifted over time": whole(shifted, mix=lambda: nn.Linear(6, 6)),
        "windows added up where padding was cut off": case(
            lambda: Call(dual_path, inside=gru(6, 6), along=gru(6, 6)), torch.randn(2, 6, 24), chunk=2
        ).streams(),
        "frames written over a sequence": whole(emphasised, gru=lambda: gru(6, 3)),
        "zeros for rows of batch and time": whole(
            across_and_along, across=lambda: nn.GRU(1, 2, 1, True, True, 0.0, True), along=lambda: gru(24, 3)
        ),
        "padding that is cut off, and a later window": whole(
            lambda s, x: (s.narrow(x)[..., 1:-1], s.wide(x)),
            axis=2,
            narrow=lambda: nn.Conv1d(8, 2, 3, padding=1),
            wide=lambda: nn.Conv1d(8, 2, 5),
        ),
        "windows counted in whole numbers": case(lambda: Call(counted_windows, gru=gru(6, 4)), X, chunk=4).streams(
            holds=lambda lifted: all(n.target is not math.ceil for n in lifted.module.graph.nodes)
        ),
        "what is made empty and filled": idiom(
            of_old, of_x=lambda: nn.Linear(6, 4), of_h=lambda: nn.Linear(4, 4)
        ).streams(end=False, holds=lambda lifted: (len(lifted.spec.states), lifted.spec.rows) == (2, None)),
        # Phases are those of the test again, and none of those of the export.
        "what is kept by the number of frames": idiom(
            lambda s, x: s.gru(x + torch.sin(phases(x.shape[1], 6)))[0], gru=lambda: gru(6, 4)
        ).streams(end=False, holds=lambda lifted: type(phases(8, 6)) is Tensor),
        "a loop whose last frame alone is given": case(
            lambda: Call(last_of_loop, into=nn.Linear(2, 3), back=nn.Linear(3, 3)), torch.randn(7, 2, 2)
        ).streams(input=("time", "batch", 2), notes=["'output': the answer at each frame"], end=False),
    },
    "bands stream": {
        "before the batch": whole(by_bands),
        "windows over all frames": whole(neighbours, IMAGE, 2, gru=lambda: gru(60, 3)),
        "behind the batch": whole(of_batch),
        "their mean": whole(lambda s, x: F.adaptive_avg_pool2d(x, (None, 1)).cumsum(2), IMAGE, 2),
        "fewer of them": whole(lambda s, x: F.adaptive_avg_pool2d(x, (x.shape[2], 3)).cumsum(2), IMAGE, 2),
        "the largest": whole(lambda s, x: F.adaptive_max_pool2d(x, (None, 1)).cumsum(2), IMAGE, 2),
        "windows": whole(
            lambda s, x: F.unfold(x, (1, 3), padding=(0, 1)).unflatten(2, x.shape[2:]).cumsum(2), IMAGE, 2
        ),
        "windows with frames": whole(
            lambda s, x: F.unfold(F.pad(x, (0, 0, 1, 0)), (2, 3)).unflatten(2, (x.shape[2], 3)).cumsum(2), IMAGE, 2
        ),
    },
    "a vector may be given to all frames": {
        "expand": spread(lambda v, frames: v.unsqueeze(1).expand(-1, frames, -1)),
        "repeat": spread(lambda v, frames: v.repeat(frames, 1, 1).transpose(0, 1)),
        "tile": spread(lambda v, frames: torch.tile(v[:, None], (frames, 1))),
        "repeat_interleave": spread(lambda v, frames: v[:, None].repeat_interleave(frames, 1)),
    },
    "a scan after that of jax is the recurrence": {
        "two operators": scanned(linear, largest),
        "of the largest": scanned(largest),
    },
    "states of policies and steps": {
        "a choice that few states change": case(Policy, torch.randn(1, 4)).streams(
            holds=lambda lifted: {s.name for s in lifted.spec.states} == {"h", "c"}
        ),
        "a dataclass that comes back is asked about": case(
            World, torch.randn(2, 3), Belief(torch.zeros(2, 2), torch.zeros(2, 4))
        ).refused("input-comes-back", "'before.mean' (2, 2)", "0 or 1"),
    },
    "what is as long as the sequence is refused": {
        "a kernel": idiom(kernel_of_length).refused("reaches-whole-sequence"),
        "a transform": idiom(transform_of_length, torch.randn(2, 9), k=lambda: torch.ones(1)).refused(
            "transform-of-length", "fft_rfft"
        ),
    },
}
