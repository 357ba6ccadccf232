"""Models of one stream at a time: they are lifted as such, and what fixes the batch is said in a note."""

import torch
from torch import nn

from ..models.streams import Call  # noqa: TID252
from .case import case

ROW = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))  # (1, T, C)


class Resets(nn.Module):
    """A state that another batch resets."""

    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 3)
        self.h, self.rows = torch.zeros(1, 1, 8), 0

    def forward(self, x):
        if self.rows != x.shape[0]:
            self.h, self.rows = torch.zeros(1, x.shape[0], 8), x.shape[0]
        y, self.h = self.gru(x, self.h)
        return self.out(y)


def with_gru(function, batch_first=True):
    return Call(function, gru=nn.GRU(4, 8, batch_first=batch_first), out=nn.Linear(8, 3))


def written(s, x):
    """The batch is written out."""
    return s.out(s.gru(x, torch.zeros(1, 1, 8))[0])


def time_first(s, x):
    """(time, 1, features) to (time, features)."""
    return s.out(s.gru(x, torch.zeros(1, 1, 8))[0]).view(-1, 3)


def step(s, x, state):
    """Like the step function of RWKV: vectors, and one state of several of them."""
    state = torch.stack([state[0] * 0.9 + s.linear(x), torch.maximum(state[1], x)])
    return torch.tanh(state.sum(0)), state


def cell(s, x):
    """A cell on a vector, which keeps its state itself."""
    s.hc = s.cell(x, s.hc)
    return s.hc[0]


def cached_window(s, x):
    """A convolution of one stream."""
    window = torch.cat([s.cache, x[:, None]], 1)
    s.cache = window[:, 1:]
    return torch.tanh((window * s.weight).sum(1))


def checked(s, x):
    """A loop over time of a cell, after a check."""
    if x.shape[0] != 1:
        raise ValueError("one at a time")
    h, ys = x.new_zeros(1, 8), []
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        ys.append(s.out(h))
    return torch.stack(ys, 1)


def squeezed(s, x):
    """A batch of one is taken away."""
    return s.out(s.gru(x)[0]).squeeze(0)


def alone(s, x):
    """A branch on a batch of one."""
    y = s.out(s.gru(x)[0])
    return 2 * y if x.shape[0] == 1 else y


def filtered_in_place(s, x):
    """As torchaudio's filters: frames in another order of axes are written where they stand."""
    waves = (2 * x).transpose(1, 2)
    y = torch.zeros(waves.shape[0], waves.shape[1], waves.shape[2] + 2)
    for i, frame in enumerate(waves.permute(2, 0, 1)):
        frame -= (y[:, :, i : i + 3].transpose(0, 1) @ s.taps)[..., 0].t()
        y[:, :, i + 2] = frame
    return y[:, :, 2:].transpose(1, 2)


def cached_rows(s, x):
    """Its state is for as many rows as come."""
    y = s.out(x + s.last[: x.shape[0]])
    s.last[: x.shape[0]].copy_(x)
    return y


FAILS = "a batch of 2 fails at one_row.py:"
COUNTS = "the code makes a number of the size of the batch at one_row.py:"
ALONE = "a batch of one gives something else than its row in a larger batch"
NO_AXIS = "there is no batch axis in "
# By name: the model, its example, options, and parts of the reason, one behind the other.
NETS = {
    "step": (
        Call(step, linear=nn.Linear(4, 4)), (torch.randn(4), torch.randn(2, 4)), {"states": {"state": 1}},
        ["in x (4,), state (2, 4);"],
    ),
    "time first": (with_gru(time_first, False), (ROW.transpose(0, 1),), {}, ["a batch of 2 fails"]),
    "written": (with_gru(written), (ROW,), {}, [FAILS, ": RuntimeError: Expected hidden size"]),
    "bare, with a delay": (
        Call(lambda s, x: s.gru(s.conv(x).T)[0], conv=nn.Conv1d(4, 8, 3), gru=nn.GRU(8, 3)), (ROW[0].T,), {},
        [NO_AXIS + "x (4, 6);"],
    ),
    "cell": (
        Call(cell, cell=nn.LSTMCell(4, 8), hc=None), (torch.randn(4),), {}, [NO_AXIS + "x (4,), hc.0 (8,), hc.1 (8,);"],
    ),
    "a buffer": (
        Call(cached_window, weight=nn.Parameter(torch.randn(4, 3)), cache=torch.zeros(4, 2)), (torch.randn(4),), {},
        [NO_AXIS + "x (4,), cache (4, 2);"],
    ),
    "resets": (Resets, (ROW,), {"time_axis": 1}, []),
    "rows taken apart": (
        with_gru(lambda s, x: torch.stack([s.gru(row[None])[0][0] for row in x])), (ROW,), {}, [COUNTS],
    ),
    "check": (
        Call(checked, cell=nn.GRUCell(4, 8), out=nn.Linear(8, 3)), (ROW,), {}, [FAILS, ": ValueError: one at a time"],
    ),
    "squeezed": (with_gru(squeezed), (ROW,), {}, [ALONE]),
    "alone": (with_gru(alone), (ROW,), {}, [ALONE]),
    "written in place": (
        Call(filtered_in_place, taps=torch.tensor([[0.3], [-0.5], [0.0]])), (ROW,), {}, [COUNTS.partition(" at ")[0]],
    ),
    "state of as many rows as come": (
        Call(cached_rows, last=torch.zeros(1, 4), out=nn.Linear(4, 3)), (ROW[:, 0],), {"time_axis": None},
        ["the number of rows is used as a value at"],
    ),
}  # fmt: skip


def mixed(head, example):
    return case(with_gru(lambda s, x: head(s.out(s.gru(x)[0]), x)), example)


DOUBLE = staticmethod(lambda x: 2 * x)
TABLE = {
    "rows that mix are no batch of one": {
        "of several": mixed(lambda y, x: y - x.mean(), ROW.repeat(3, 1, 1)).refused("no-batch-axis"),
        "an example of one": mixed(lambda y, x: y - y.mean(0), ROW).refused("rows-depend"),
        # What one row alone gives is shown by an example of one.
        "a branch on a batch of one": case(with_gru(alone), ROW.repeat(3, 1, 1)).refused(
            "no-batch-axis", "give an example of one row", ALONE
        ),
    },
    "a batch of any size streams": {
        # Python does not copy as it is what wraps a function.
        "what wraps a function": case(
            lambda: Call(lambda s, x: s.gru(s.scaled(x))[0], gru=nn.GRU(4, 8, batch_first=True), scaled=DOUBLE),
            torch.randn(2, 7, 4),
        ).streams(holds=lambda lifted: lifted.spec.rows is None),
    },
}
