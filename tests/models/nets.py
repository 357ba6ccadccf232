"""Small nets for lifting and export, as users write them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Tagger(nn.Module):
    """A layer hidden behind linear layers and called without a state."""

    def __init__(self, kind: type[nn.RNNBase] = nn.GRU, layers: int = 1, batch_first: bool = True) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(4, 6), nn.Linear(6, 3)
        self.rnn = kind(6, 6, layers, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(torch.relu(self.inp(x)))[0]
        return self.out(y)


class Explicit(nn.Module):
    """An LSTM that takes and returns its states (layers, batch, hidden)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, 2, batch_first=True)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x, (h, c))
        return y, h, c


class Tuple(nn.Module):
    """The same with one argument hx = (h, c)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, after = self.lstm(x, hx)
        return y, after


class Dict(nn.Module):
    """A tree of states, and results by name; the tree comes back in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(4, 5), nn.GRUCell(5, 5)

    def forward(self, x: Tensor, memory: dict[str, Tensor]) -> dict[str, object]:
        h, c = self.first(x, (memory["h"], memory["c"]))
        g = self.second(h, memory["g"])
        return {"next": {"g": g, "c": c, "h": h}, "sum": h + g, "both": torch.cat([h, g], -1)}


class Result(NamedTuple):
    y: Tensor
    h: Tensor


class Named(nn.Module):
    """A cell whose results have names."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5)

    def forward(self, x: Tensor, h: Tensor) -> Result:
        h = self.cell(x, h)
        return Result(2 * h, h)


class LearnedStart(nn.Module):
    """A GRU whose first state is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.h0 = nn.Parameter(torch.randn(2, 1, 5))
        self.gru = nn.GRU(4, 5, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x, self.h0.expand(-1, x.shape[0], -1).contiguous())[0]
        return y


class Several(nn.Module):
    """Two sequences and one held vector in; two sequences out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.mix = nn.GRU(4, 5, batch_first=True), nn.LSTM(3, 5, batch_first=True), nn.Linear(2, 5)

    def forward(self, left: Tensor, right: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.a(left)[0], self.b(right)[0]
        return a + self.mix(speaker)[:, None], a * b


class Ids(nn.Module):
    """Integer ids through an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru, self.head = nn.Embedding(11, 4), nn.GRU(4, 5, batch_first=True), nn.Linear(5, 11)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.gru(self.embedding(ids))[0]
        return self.head(y)


class Loop(nn.Module):
    """A cell in the model's own loop over time, its state taken and returned."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for frame in x.unbind(1):
            h = self.cell(frame, h)
            outputs.append(h)
        return torch.stack(outputs, 1), h


class LastFrame(nn.Module):
    """A classifier that gives one answer, as of the last frame."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x)[0]
        return self.head(y[:, -1])
