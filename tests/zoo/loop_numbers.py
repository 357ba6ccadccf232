"""Loops that compute with their iteration number, a counter in each stream, and loops over a part of the frames."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.rand(2, 12, 4, generator=torch.Generator().manual_seed(0)) + 0.5  # (B, T, C)


def zeros(x):
    return torch.zeros(x.shape[0], 4)


def numbered(x, step, h=None):
    """The values that `step` gives of each frame next to the state, or the states."""
    h, ys = zeros(x) if h is None else h, []
    for t, frame in enumerate(x.unbind(1)):
        given = step(t, frame, h)
        h, y = given if isinstance(given, tuple) else (given, given)
        ys.append(y)
    return torch.stack(ys, 1)


def mean(s, x):
    """Welford's."""
    return numbered(x, lambda t, v, h: h + (v - h) / (t + 1))


def mean_of_sum(s, x):
    def step(t, v, h):
        h = h + v
        return h, h / (t + 1) - v / 2

    return numbered(x, step, 0)


def mean_from_the_first(s, x):
    mean, given = None, []
    for t, frame in enumerate(x.unbind(1)):
        mean = frame if mean is None else mean + (frame - mean) / (t + 1)
        given.append(mean)
    return torch.stack(given, 1)


def without_bias(s, x):
    """A moving mean as Adam corrects it."""

    def step(t, v, h):
        h = 0.9 * h + 0.1 * v
        return h, h / (1 - 0.9 ** (t + 1))

    return numbered(x, step)


def of_two_layers(s, x):
    """Two numbers in one body, by one operator."""

    def step(t, v, h):
        a, b = h
        a = a + (v - a) / (t + 1)
        b = b + (a - b) / (2 * t + 3)
        return (a, b), b

    return numbered(x, step, (zeros(x), zeros(x)))


def time_first(s, x):
    x = x.transpose(0, 1)
    h, given = x.new_zeros(x.shape[1], 4), []
    for t in range(len(x)):
        h = s.cell(x[t], h)
        given.append(h / (1 + t))
    return torch.stack(given).transpose(0, 1)


def by_arange(s, x):
    numbers = torch.arange(1, x.shape[1] + 1)
    return numbered(x, lambda t, v, h: (h * 0.9 + v) / numbers[t])


def carried(s, x):
    """As a refusal of other numbers advises."""

    def step(t, v, h):
        n, h = h[0] + 1, 0.9 * h[1] + 0.1 * v
        return (n, h), h / (1 - 0.9**n)

    return numbered(x, step, (torch.zeros(x.shape[0], 1), zeros(x)))


def behind_a_layer(s, x):
    """A count that waits for the first frame of what looks ahead."""
    return mean(s, F.conv1d(x.mT, torch.ones(4, 1, 3), padding=1, groups=4).mT)


# --- of part of the frames, and of truth values


def after_the_first(s, x):
    h = x[:, 0]
    ys = [h]
    for v in x[:, 1:].unbind(1):
        h = 0.8 * h + 0.2 * v
        ys.append(h)
    return torch.stack(ys, 1)


def in_pairs(s, x):
    h = zeros(x)
    ys = [h]
    for before, v in zip(x[:, :-1].unbind(1), x[:, 1:].split(1, 1), strict=False):
        h = 0.5 * h + v.squeeze(1) - before
        ys.append(h)
    return torch.stack(ys, 1)


def likelihoods(s, x):
    """The forward algorithm."""
    a, moves = x[:, 0], torch.eye(4) + 0.1
    ys = [a.softmax(-1)]
    for e in x[:, 1:].unbind(1):
        a = torch.logsumexp(a[:, :, None] + moves.log(), 1) + e
        ys.append(a.softmax(-1))
    return torch.stack(ys, 1)


def held_on(s, x):
    """Decisions of truth values, the first from one that is always false."""

    def step(t, v, h):
        on, left = (v > 1.1) | (h[0] & ~(v < 0.9)) ^ (v > 1.4), h[1]
        left = torch.where(on, torch.full_like(left, 3), (left - 1).clamp(min=0))
        return (on, left), (on | (left > 0)).float()

    rows = x.shape[0]
    return numbered(x[..., 0], step, (torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.int64)))


def from_one_hot(s, x):
    """Attention that moves on from the first entry."""
    first = F.one_hot(torch.zeros(x.shape[0], dtype=torch.long), 4).float()
    return numbered(x, lambda t, v, h: (h + F.pad(h[:, :-1], (1, 0))) * torch.softmax(v, -1), first)


def looped(function, **parts):
    return case(Call(function, **parts), X, time_axis=1)


def counted(function, **parts):
    """Held over a long time too."""
    return looped(function, **parts).streams(delay=0, tail=0, lengths=range(1, 303, 75))


def counts(lifted):
    return [(s.name, s.row) for s in lifted.spec.states if s.dtype == "int64"] == [("count", (1,))]


TABLE = {
    "the number of an iteration is counted": {
        "a mean": looped(mean).streams(lengths=range(1, 303, 75), holds=counts),
        "after the first frame of what looks ahead": looped(behind_a_layer).streams(),
        "a mean of a sum": counted(mean_of_sum),
        "a mean by shares": counted(lambda s, x: numbered(x, lambda t, v, h: (1 - 1 / (t + 1)) * h + 1 / (t + 1) * v)),
        "a mean from the first frame on": counted(mean_from_the_first),
        "fading": counted(lambda s, x: numbered(x, lambda t, v, h: h + 0.9**t * v)),
        "without bias": counted(without_bias),
        "of two layers": counted(of_two_layers),
        "one behind the other": counted(lambda s, x: mean(s, torch.tanh(mean(s, x)))),
        "time first": counted(time_first, cell=nn.GRUCell(4, 4)),
        "two numbers": counted(lambda s, x: numbered(x, lambda t, v, h: (h * t + v) / (t + 1))),
        "seconds": counted(lambda s, x: numbered(x, lambda t, v, h: (0.5 * h + v * (t * 0.01), h))),
        "seconds of a tensor": counted(
            lambda s, x: numbered(x, lambda t, v, h: (0.5 * h + v * torch.tensor(t * 0.25), h))
        ),
        "by arange": counted(by_arange),
        "compared": counted(lambda s, x: numbered(x, lambda t, v, h: (h + v, torch.where(h > t, h, v)))),
        "carried": counted(carried),
    },
    "a loop over the frames after the first streams": {
        "after the first": looped(after_the_first).streams(),
        "in pairs": looped(in_pairs).streams(),
        "likelihoods": looped(likelihoods).streams(),
    },
    "a loop of truth values and of places streams": {
        "held on": looped(held_on).streams(),
        "from one hot": looped(from_one_hot).streams(),
    },
    "numbers that are not in even steps are refused": {
        "no further than 100": looped(lambda s, x: numbered(x, lambda t, v, h: h + (v - h) / min(t + 1, 100))).refused(
            "loop-number-not-linear", 256
        ),
        "a sine": looped(lambda s, x: numbered(x, lambda t, v, h: (h + v, h / (2 + math.sin(t))))).refused(
            "loop-frames-unlike", "(aten.div.Tensor: "
        ),
        "the limit of what takes no tensor": looped(
            lambda s, x: numbered(x, lambda t, v, h: torch.tanh(h + v).clamp(max=t))
        ).refused("loop-frames-unlike", "(loop_numbers.py:", "(aten.clamp.default: "),
    },
}
