"""Cells, step(x (B, C), state) -> (y, state), every tensor of the state with the batch first; and their loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnn_export.models import CustomGRUCell, CustomLSTMCell

from .parts import Cell, Part, State


class TorchCell(Cell):
    def __init__(self, size: int, hidden: int, cell: str) -> None:
        super().__init__(hidden, *([(hidden,)] * (1 + ("LSTM" in cell))))
        ours = {"CustomGRUCell": CustomGRUCell, "CustomLSTMCell": CustomLSTMCell}
        self.cell, self.by_args = (ours.get(cell) or getattr(nn, cell))(size, hidden), cell == "CustomLSTMCell"

    def step(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        if state is None:
            after = self.cell(x)
        elif self.by_args:
            after = self.cell(x, *state)
        else:
            after = self.cell(x, state if len(state) > 1 else state[0])
        after = after if isinstance(after, tuple) else (after,)
        return after[0], after


class ReluGRU(Cell):
    """The reset before the product, a ReLU for the candidate."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(hidden, (hidden,))
        self.gates, self.candidate = nn.Linear(size + hidden, 2 * hidden), nn.Linear(size + hidden, hidden)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        z, r = torch.sigmoid(self.gates(torch.cat([x, h], 1))).chunk(2, 1)
        h = z * h + (1 - z) * torch.relu(self.candidate(torch.cat([x, r * h], 1)))
        return h, (h,)


class MinimalGated(Cell):
    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(hidden, (hidden,))
        self.Wf, self.Uf = nn.Linear(size, hidden), nn.Linear(hidden, hidden, bias=False)
        self.Wh, self.Uh = nn.Linear(size, hidden), nn.Linear(hidden, hidden, bias=False)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        f = torch.sigmoid(self.Wf(x) + self.Uf(h))
        h = (1 - f) * h + f * torch.tanh(self.Wh(x) + self.Uh(f * h))
        return h, (h,)


class Leaky(Cell):
    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(hidden, (hidden,))
        self.leak, self.inp = nn.Parameter(torch.randn(hidden)), nn.Linear(size, hidden)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        leak = torch.sigmoid(self.leak)
        membrane = leak * state[0] + (1 - leak) * self.inp(x)
        return torch.relu(membrane), (membrane,)


class Peephole(Cell):
    """An LSTM whose gates see c."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(hidden, (hidden,), (hidden,))
        self.gates, self.peep = nn.Linear(size + hidden, 4 * hidden), nn.Parameter(torch.randn(3, hidden))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = state
        i, f, g, o = self.gates(torch.cat([x, h], dim=-1)).chunk(4, dim=-1)
        i, f = torch.sigmoid(i + self.peep[0] * c), torch.sigmoid(f + self.peep[1] * c)
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o + self.peep[2] * c) * torch.tanh(c)
        return h, (h, c)


class TwoAgo(Cell):
    """It looks at its states of one and two frames ago."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(hidden, (hidden,), (hidden,))
        self.inp, self.one, self.two = nn.Linear(size, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        one, two = state
        h = torch.tanh(self.inp(x) + self.one(one) + self.two(two))
        return h, (h, one)


class Feedback(Cell):
    """A GRUCell that gets its last answer back beside the input."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(2, (hidden,), (2,))
        self.cell, self.answer = nn.GRUCell(size + 2, hidden), nn.Linear(hidden, 2)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, y = state
        h = self.cell(torch.cat([x, y], 1), h)
        y = torch.tanh(self.answer(h))
        return y, (h, y)


class Average(Cell):
    """An exponential average; `counted` makes it the mean of all frames so far."""

    def __init__(self, size: int, counted: bool) -> None:
        super().__init__(size, (size,), *([(1,)] * counted))
        self.counted = counted

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if not self.counted:
            mean = 0.8 * state[0] + 0.2 * x
            return x - mean, (mean,)
        mean, count = state
        count = count + 1
        mean = mean + (x - mean) / count
        return x - mean, (mean, count)


class Difference(Cell):
    def __init__(self, size: int) -> None:
        super().__init__(2 * size, (size,))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return torch.cat([x, x - state[0]], -1), (x,)


class Ring(Cell):
    """A convolution over the last frames, kept in one tensor."""

    def __init__(self, size: int, width: int, kernel: int) -> None:
        super().__init__(width, (size, kernel - 1))
        self.conv = nn.Conv1d(size, width, kernel)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        frames = torch.cat([state[0], x.unsqueeze(-1)], -1)
        return self.conv(frames)[:, :, 0], (frames[:, :, 1:],)


class Loop(Part):
    """A cell in a loop of the model's own.

    `style`: "list", "unbind", "written" (into a tensor made before), "time_first", "none" (the first state is None).
    """

    def __init__(self, size: int, cell: Cell, style: str, head: bool) -> None:
        super().__init__(cell.width)
        self.cell, self.style = cell, style
        self.head = nn.Linear(cell.width, cell.width) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        cell, outputs = self.cell, []
        if self.style == "time_first":
            x = x.transpose(0, 1)
            state = cell.zeros(x, x.shape[1])
            for t in range(x.shape[0]):
                y, state = cell.step(x[t], state)
                outputs.append(self.head(y))
            return torch.stack(outputs).transpose(0, 1)
        if self.style == "written":
            out = x.new_zeros(x.shape[0], x.shape[1], self.width)
            state = cell.zeros(x, x.shape[0])
            for t in range(x.shape[1]):
                y, state = cell.step(x[:, t], state)
                out[:, t] = self.head(y)
            return out
        state = None if self.style == "none" else cell.zeros(x, x.size(0))
        for frame in x.unbind(1) if self.style == "unbind" else [x[:, t, :] for t in range(x.size(1))]:
            y, state = cell.step(frame, state)
            outputs.append(self.head(y))
        return torch.stack(outputs, dim=1)
