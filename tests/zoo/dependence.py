"""Dependences follow from the operators, not from a response to noise: what a closed gate hides is found."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.zeros(1, 6, 8)
FRAME = X[:, 0]


def loud(x):
    """Zero for all that noise is."""
    return torch.relu(x[..., :1] - 20)


def gru(**options):
    return nn.GRU(8, 4, batch_first=True, **options)


def gated(mix, example=X):
    """A layer, and beside it what a gate lets through."""
    return case(lambda: Call(lambda s, x: s.gru(x)[0] + mix(x), gru=gru()), example)


def over_time(mix, id="not-frame-local"):
    return gated(mix).refused(id, "dependence.py:")


def over_rows(mix):
    return gated(mix, torch.cat([X, X])).refused("rows-depend", "dependence.py")


def numbers(count, begin=0):
    return torch.arange(begin, count)[:, None, None]


def looped(x, step):
    """Python's loop over time, with a memory of 4."""
    h, ys = x.new_zeros(x.shape[0], 4), []
    for frame in x.unbind(1):
        h = step(frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


def aged(frame, h):
    """A memory of four frames, of which the oldest is another row's."""
    return torch.cat([loud(frame), h[:, :-2], h[:, -2:-1].flip(0)], 1)


def later(what):
    """A loop that does something else later."""

    def forward(s, x):
        h, ys = x.new_zeros(x.shape[0], 8), []
        for t in range(x.shape[1]):
            h = what(t, torch.tanh(s.o(x[:, t]) + h))
            ys.append(h)
        return torch.stack(ys, 1)

    return case(lambda: Call(forward, o=nn.Linear(8, 8)), X)


def dead(head, time_first=False):
    """A layer whose output is the same at all frames."""

    def make():
        layer = nn.GRU(8, 4, batch_first=not time_first)
        model = Call(lambda s, x: head(s.o(s.gru(x)[0])), gru=layer, o=nn.Linear(4, 3))
        nn.init.zeros_(model.o.weight)
        return model

    shape = ("time", "batch", 8) if time_first else ("batch", "time", 8)
    return case(make, X.transpose(0, 1) if time_first else X).streams(input=shape, states=[(4,)], end=False)


def chosen(s, x, index):
    """Each row picked by its own number."""
    y = s.o(x)
    return y, y[torch.arange(x.shape[0]), index]


def along_the_last(s, x):
    rows = F.pad(x.reshape(-1, 1, x.shape[2]), (1, 0))
    return F.conv1d(rows, s.w).reshape(x.shape)


def watched(s, x):
    """Written by each call, and read by none."""
    s.seen, s.calls = s.o(x), s.calls + 1
    return torch.tanh(s.seen)


def table_products(s, x):
    if s.table is None:
        s.table = torch.arange(8.0)
    return x * s.table


def moved_by_the_last_frame(s, x):
    y = s.gru(x)[0] + s.level[:, None, :1]
    s.level = s.level + loud(x[:, -1])
    return y


def read_before_it_moves(s, x):
    y = s.gru(x)[0]
    y, s.level = y + s.level[:, None], y[:, -1]
    return y


def bounded(s, x):
    y, h = s.gru(x, s.level[None])
    s.level = h[0].clamp(-2.5, 2.5)
    return y + s.gru(x)[0]


def by_call(forward):
    return case(lambda: Call(forward, gru=gru(), level=torch.zeros(1, 4)), X).refused("state-moves-by-call", "'level'")


MEAN = ("rows-depend", "mean: rows of the batch depend on each other, so streams that are computed in one batch")
W = torch.tensor([[[0.5, -1.5]]])


def next_row(s, x):
    return s.o(x)[torch.arange(x.shape[0]).roll(1), :]


def added_rows(s, x):
    return s.o(x).index_add(0, torch.arange(x.shape[0]) // 2, s.o(x))


TABLE = {
    "what moves over time behind a gate is refused with its place": {
        "max": over_time(lambda x: loud(x).amax(1, keepdim=True)),
        "rolled by many": over_time(lambda x: loud(x).roll(72, 1)),
        "flip": over_time(lambda x: loud(x).flip(1)),
        "sort": over_time(lambda x: loud(x).sort(1).values),
        "any": over_time(lambda x: (x[..., :1] > 20).any(1, keepdim=True).float()),
        "product": over_time(lambda x: loud(x) * (loud(x).mT @ loud(x))),
        "peak as index": over_time(lambda x: x.gather(1, loud(x).argmax(1, keepdim=True).expand(-1, -1, 4))),
        "softmax": over_time(lambda x: torch.softmax(loud(x), 1) - torch.softmax(torch.zeros_like(loud(x)), 1)),
    },
    "the number of frames as a value behind a gate is refused with its place": {
        "how many": over_time(lambda x: loud(x) * torch.full((1, 1, 1), x.shape[1]), "length-used-as-value"),
        "the last number": over_time(lambda x: loud(x) * numbers(x.shape[1], x.shape[1] - 1), "length-used-as-value"),
        "as a float": over_time(lambda x: loud(x) * float(x.shape[1]), "loop-number-of-length"),
        "as many as fit": over_time(lambda x: loud(x) * (x.shape[1] // 100 + 1), "length-used-as-value"),
    },
    "rows that hear each other behind a gate are refused with their place": {
        "mean": over_rows(lambda x: loud(x).mean(0, keepdim=True)),
        "rolled by two": over_rows(lambda x: loud(x).roll(2, 0)),
        "any": over_rows(lambda x: (x[..., :1] > 20).any(0, keepdim=True).float()),
        "all others": over_rows(lambda x: (loud(x).transpose(0, 1) @ loud(x).permute(1, 2, 0)).sum(2).mT[..., None]),
        "one for all from the fourth on": over_rows(lambda x: loud(x)[torch.arange(x.shape[0]).clamp(max=3)]),
        "in a loop": over_rows(lambda x: looped(x, lambda frame, h: h / 2 + loud(frame) + loud(h).mean(0, True))),
        "late in a loop": over_rows(lambda x: looped(x, aged)),
    },
    "the number of rows as a value behind a gate is refused with its place": {
        "their number": over_rows(lambda x: loud(x) / x.shape[0]),
        "the number of each": over_rows(lambda x: loud(x) * numbers(x.shape[0])),
        "filled with their number": over_rows(lambda x: loud(x) * torch.full((x.shape[0], 1, 1), x.shape[0])),
        "as many as fit": over_rows(lambda x: loud(x) * (x.shape[0] // 4 + 1)),
        "from the fifth on": over_rows(lambda x: loud(x) * (numbers(x.shape[0]) >= 4)),
        "ones behind others": over_rows(
            lambda x: loud(x) * F.pad(torch.ones(x.shape[0]), (4, 0))[: x.shape[0], None, None]
        ),
        "all but one": over_rows(lambda x: loud(x) * torch.ones(x.shape[0] - 1).sum()),
    },
    "rows that hear each other are refused in every kind of model": {
        "by a number that is not their own": case(Call(next_row, o=nn.Linear(8, 4)), FRAME, time_axis=None).refused(
            "no-batch-axis", "by its number"
        ),
        "by adding up at a number": case(Call(added_rows, o=nn.Linear(8, 4)), FRAME, time_axis=None).refused(
            "no-batch-axis", "by its number"
        ),
        "by the bound of a norm": case(
            Call(lambda s, x: torch.renorm(x, 2, 2, 2e4)), torch.zeros(2, 6, 8), time_axis=1
        ).refused("rows-depend", "renorm"),
        "of one frame": case(Call(lambda s, x: x + loud(x).mean(0, keepdim=True)), FRAME, time_axis=None).refused(
            *MEAN
        ),
        "of whole sequences": case(
            lambda: Call(
                lambda s, x: s.gru(x)[0] + loud(x).mean(1, keepdim=True), gru=nn.GRU(8, 4, bidirectional=True)
            ),
            torch.zeros(6, 1, 8),
            sequence_only=True,
        ).refused(*MEAN),
    },
    "a loop that does something else later is refused": {
        "reset at frame 20": later(lambda t, h: h * 0 if t == 20 else h).refused("loop-frames-unlike"),
        "from frame 30 on": later(lambda t, h: h + 1 if t >= 30 else h).refused("loop-body-unlike", "(aten"),
    },
    "axes that noise does not move are told by the graph": {
        "a head at zero": dead(lambda y: y),
        "a threshold, time first": dead(lambda y: y > 0.9, time_first=True),
        "where noise never is": dead(lambda y: y.clamp(5, 6)),
        "gated, time first": dead(lambda y: torch.relu(y - 30), time_first=True),
        "of twelve layers": case(lambda: nn.LSTM(8, 16, 12, batch_first=True), X).streams(end=False),
        "rows picked by their numbers": case(
            lambda: Call(chosen, o=nn.Linear(8, 9)), FRAME, torch.full((1,), 3), time_axis=None
        ).streams(states=[], end=False, holds=lambda lifted: not lifted.spec.has_time),
    },
    "a second axis with a memory": {
        "must be named": case(
            Call(lambda s, x: along_the_last(s, x) + s.gate(x).cumsum(1), w=W, gate=nn.Hardshrink(20.0)),
            torch.zeros(1, 5, 6),
        ).refused("rival-time-axes", "time_axis={'x': 2}", "1} (--time-axis x=1"),
        "is none if taken entry by entry": case(Call(along_the_last, w=W), torch.zeros(1, 5, 6)).streams(
            input=("batch", 5, "time")
        ),
    },
    "what no call reads of another is no memory": {
        "written, never read": case(lambda: Call(watched, o=nn.Linear(8, 3), calls=0), FRAME).streams(states=[]),
        "a table made by the first call": case(lambda: Call(table_products, table=None), FRAME).streams(states=[]),
    },
    "a state that only calls move is told by the graph": {
        "behind a gate": by_call(moved_by_the_last_frame),
        "bounded": by_call(bounded),
        "read before it moves": by_call(read_before_it_moves),
    },
}
