"""Recurrent layers over time that hide their state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.models import CustomGRU, CustomLSTM, SimpleRNN

from .parts import Part


class Layer(Part):
    """nn.RNN, nn.GRU or nn.LSTM.

    `start`: "none", "zeros" and "new_zeros" made in forward, "learned" and expanded, "repeated". `twice`: called again
    on what it gave. `asks`: forward asks the layer for its class. `deaf`: the weights of its input are zero.
    """

    def __init__(
        self,
        size: int,
        cell: str,
        hidden: int,
        layers: int,
        batch_first: bool,
        bias: bool,
        start: str,
        proj: int = 0,
        relu: bool = False,
        twice: bool = False,
        asks: bool = False,
        deaf: bool = False,
    ) -> None:
        hidden = size if twice else hidden
        super().__init__(proj or hidden)
        more: dict[str, Any] = {"nonlinearity": "relu"} if relu else {"proj_size": proj} if proj else {}
        self.rnn = getattr(nn, cell)(size, hidden, layers, bias=bias, batch_first=batch_first, **more)
        self.hidden, self.start, self.twice, self.batch_first = hidden, start, twice, batch_first
        self.asks, self.lstm = asks, cell == "LSTM"
        if deaf:
            nn.init.zeros_(self.rnn.weight_ih_l0)
        if start in ("learned", "repeated"):
            self.h0 = nn.Parameter(torch.randn(layers, 1, self.width))
            self.c0 = nn.Parameter(torch.randn(layers, 1, hidden)) if cell == "LSTM" else None

    def first(self, x: Tensor, batch: int) -> Any:
        lstm, layers = isinstance(self.rnn, nn.LSTM) if self.asks else self.lstm, self.rnn.num_layers
        if self.start == "none":
            return None
        if self.start == "zeros":
            h = torch.zeros(layers, batch, self.width).to(x.device)
            c = torch.zeros(layers, batch, self.hidden).to(x.device)
        elif self.start == "new_zeros":
            h, c = x.new_zeros(layers, batch, self.width), x.new_zeros(layers, batch, self.hidden)
        elif self.start == "learned":
            h = self.h0.expand(-1, batch, -1).contiguous()
            c = self.c0.expand(-1, batch, -1).contiguous() if lstm else h
        else:
            h = self.h0.repeat(1, batch, 1)
            c = self.c0.repeat(1, batch, 1) if lstm else h
        return (h, c) if lstm else h

    def call(self, x: Tensor) -> Tensor:
        start = self.first(x, x.shape[0] if self.batch_first else x.size(1))
        y, _ = self.rnn(x) if start is None else self.rnn(x, start)
        return y

    def forward(self, x: Tensor) -> Tensor:
        if not self.batch_first:
            x = x.permute(1, 0, 2)
        y = self.call(x)
        if self.twice:
            y = y + self.call(torch.tanh(x + y))
        return y if self.batch_first else y.transpose(0, 1)


class Ours(Part):
    """This project's own layers, time first."""

    def __init__(self, size: int, layer: str, hidden: int, layers: int, form: bool) -> None:
        super().__init__(hidden)
        self.simple = layer == "SimpleRNN"
        if self.simple:
            self.rnn: Any = SimpleRNN(size, hidden + 1, hidden, "relu" if form else "tanh")
        elif layer == "CustomGRU":
            self.rnn = CustomGRU(size, hidden, layers, form)
        else:
            self.rnn = CustomLSTM(size, hidden, layers, "sigmoid" if form else "tanh")

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        if self.simple:
            y, _ = self.rnn(x, x.new_zeros(x.shape[1], self.rnn.hidden_size))
        else:
            y, *_ = self.rnn(x)
        return y.transpose(0, 1)


class BufferedLayer(Part):
    """The state of a GRU over time waits for the next piece: in a buffer, "reassigned" or "copied" into, or in an
    "attribute".
    """

    hidden: Tensor | None

    def __init__(self, size: int, hidden: int, layers: int, how: str) -> None:
        super().__init__(hidden)
        self.gru, self.how = nn.GRU(size, hidden, layers, batch_first=True), how
        if how == "attribute":
            self.hidden = None
        else:
            self.register_buffer("hidden", torch.zeros(layers, 1, hidden))

    def forward(self, x: Tensor) -> Tensor:
        y, last = self.gru(x, self.hidden)
        if self.how == "copied":
            assert self.hidden is not None
            self.hidden.copy_(last)
        else:
            self.hidden = last
        return y


class DualPath(Part):
    """C as bands of features: a bidirectional GRU over the bands of each frame, a layer over time for each band."""

    def __init__(self, size: int, bands: int, cell: str, by_view: bool) -> None:
        each = max(size // bands, 3)
        super().__init__(bands * each)
        self.bands, self.each, self.by_view = bands, each, by_view
        self.inp = nn.Linear(size, self.width)
        self.intra = nn.GRU(each, 3, batch_first=True, bidirectional=True)
        self.mix, self.norm = nn.Linear(6, each), nn.LayerNorm(each)
        self.inter = getattr(nn, cell)(each, each, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        F_, C = self.bands, self.each
        x = self.inp(x).reshape(B, T, F_, C)
        y, _ = self.intra(x.reshape(B * T, F_, C))
        x = x + self.norm(self.mix(y)).reshape(B, T, F_, C)
        if self.by_view:
            rows = x.permute(0, 2, 1, 3).contiguous().view(-1, T, C)
            z = self.inter(rows)[0].view(B, F_, T, C).permute(0, 2, 1, 3)
        else:
            rows = x.transpose(1, 2).flatten(0, 1)
            z = self.inter(rows)[0].unflatten(0, (B, F_)).transpose(1, 2)
        return (x + z).flatten(2)
