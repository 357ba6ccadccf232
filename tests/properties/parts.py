"""Parts of recurrent models as users write them, x (B, T, C) -> (B, T', C'), and cells, one frame at a time.

A part tells the `width` of what it gives, the frames of its input that are `lost` at the front, and its `stride`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_export.models import CustomGRU, CustomGRUCell, CustomLSTM, CustomLSTMCell, SimpleRNN

State = tuple[Tensor, ...]
ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "hardtanh": nn.Hardtanh,
    "softplus": nn.Softplus,
    "relu6": nn.ReLU6,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "hardshrink": nn.Hardshrink,
}


class Part(nn.Module):
    lost, stride = 0, 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


# --- frame by frame -----------------------------------------------------------------------------------------------


def silenced(linear: nn.Linear, kept: int = 0) -> nn.Linear:
    """All but the first `kept` outputs at zero, as a fresh layer that is initialised so."""
    with torch.no_grad():
        linear.weight[kept:], linear.bias[kept:] = 0, 0
    return linear


class Dense(Part):
    """`dead`: all but the first two features are zero."""

    def __init__(self, size: int, width: int, activation: str, dead: bool = False) -> None:
        super().__init__(width)
        self.linear, self.activation = nn.Linear(size, width), ACTIVATIONS[activation]()
        if dead:
            silenced(self.linear, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class Norm(Part):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Softmax(Part):
    """A softmax over the features."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, dim=-1)


class GLU(Part):
    def __init__(self, size: int, width: int) -> None:
        super().__init__(width)
        self.linear = nn.Linear(size, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.linear(x), -1)


class BatchNorm(Part):
    """With the statistics of the training."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.norm = nn.BatchNorm1d(size)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Dropout(Part):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x)


# --- layers that hide their state ---------------------------------------------------------------------------------


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


# --- cells: step(x (B, C), state) -> (y, state), every tensor of the state with the batch first ---------------------


class Cell(nn.Module):
    def __init__(self, width: int, *rows: tuple[int, ...]) -> None:
        super().__init__()
        self.width, self.rows = width, rows

    def zeros(self, x: Tensor, batch: int) -> State:
        return tuple(x.new_zeros(batch, *row) for row in self.rows)


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


# --- convolutions over time ---------------------------------------------------------------------------------------


class Causal(Part):
    """`how` the past is padded: "pad" by F.pad, "chomp" on both sides and cut off, "constant", "cat" with zeros."""

    def __init__(self, size: int, width: int, kernel: int, dilation: int, grouped: bool, how: str) -> None:
        width = size if grouped else width
        super().__init__(width)
        self.left, self.how = dilation * (kernel - 1), how
        padding = self.left if how == "chomp" else 0
        groups = size if grouped else 1
        self.conv = nn.Conv1d(size, width, kernel, padding=padding, dilation=dilation, groups=groups)
        self.pad = nn.ConstantPad1d((self.left, 0), 0.3) if how == "constant" else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        if self.how == "pad":
            y = self.conv(F.pad(x, (self.left, 0)))
        elif self.how == "constant":
            y = self.conv(self.pad(x))
        elif self.how == "cat":
            y = self.conv(torch.cat([x.new_zeros(x.shape[0], x.shape[1], self.left), x], dim=2))
        else:
            y = self.conv(x)
            y = y[:, :, : -self.left] if self.left else y
        return y.transpose(1, 2)


class Separable(Part):
    """Causal depthwise, then pointwise, a ReLU, and the input on top, as in a temporal convolutional network."""

    def __init__(self, size: int, kernel: int, dilation: int) -> None:
        super().__init__(size)
        self.left = dilation * (kernel - 1)
        self.depth = nn.Conv1d(size, size, kernel, dilation=dilation, groups=size)
        self.point, self.act = nn.Conv1d(size, size, 1), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(F.pad(x.transpose(1, 2), (self.left, 0)))
        return x + self.point(self.act(y)).transpose(1, 2)


class Valid(Part):
    """A convolution without padding; `residual` adds the input, cut to what is left."""

    def __init__(self, size: int, width: int, kernel: int, dilation: int, residual: bool) -> None:
        width = size if residual else width
        super().__init__(width)
        self.lost, self.residual = dilation * (kernel - 1), residual
        self.conv = nn.Conv1d(size, width, kernel, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return y + x[:, self.lost :] if self.residual else y


class Strided(Part):
    """`how`: "causal" (padded by kernel - stride), "full" (by kernel - 1), "valid" (by nothing)."""

    def __init__(self, size: int, width: int, kernel: int, stride: int, how: str) -> None:
        super().__init__(width)
        self.stride, self.left = stride, {"causal": kernel - stride, "full": kernel - 1, "valid": 0}[how]
        self.lost = kernel if how == "valid" else 0
        self.conv = nn.Conv1d(size, width, kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        x = F.pad(x, (self.left, 0)) if self.left else x
        return F.leaky_relu(self.conv(x)).transpose(1, 2)


class Pool(Part):
    def __init__(self, size: int, average: bool) -> None:
        super().__init__(size)
        self.stride = 2
        self.pool = nn.AvgPool1d(2) if average else nn.MaxPool1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x.transpose(1, 2)).transpose(1, 2)


class Spectral(Part):
    """Conv2d over (time, features): causal over time, then the channels beside the features."""

    def __init__(self, size: int, channels: int, kernel: int, band: int) -> None:
        super().__init__(channels * (size - band + 1))
        self.left = kernel - 1
        self.conv = nn.Conv2d(1, channels, (kernel, band))

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv(F.pad(x.unsqueeze(1), (0, 0, self.left, 0))))
        B, C, T, bands = y.shape
        return y.permute(0, 2, 1, 3).reshape(B, T, C * bands)


class TokenShift(Part):
    """Each frame mixed with the one before; `how`: "pad" or "cat"."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.mix, self.how = nn.Parameter(torch.rand(size)), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "pad":
            before = F.pad(x[:, :-1], (0, 0, 1, 0))
        elif self.how == "module":
            before = F.pad(x, (0, 0, 1, -1))
        else:
            before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return self.mix * x + (1 - self.mix) * before


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


# --- parts of parts -----------------------------------------------------------------------------------------------


class Chain(Part):
    def __init__(self, size: int, parts: Sequence[Part]) -> None:
        super().__init__(parts[-1].width if parts else size)
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


class Residual(Part):
    """`fresh`: its last layer is at zero, as initialised."""

    def __init__(self, size: int, inside: Part, fresh: bool = False) -> None:
        super().__init__(size)
        self.inside, self.back = inside, nn.Linear(inside.width, size)
        if fresh:
            silenced(self.back)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.inside(x))


class Branches(Part):
    """Two parts side by side: `how` they meet is "cat" or "gate"."""

    def __init__(self, size: int, left: Part, right: Part, how: str) -> None:
        super().__init__(left.width + right.width if how == "cat" else left.width)
        self.left, self.right, self.how = left, right, how
        self.lost = max(left.lost, right.lost)
        self.fit = nn.Linear(right.width, left.width) if how == "gate" else None

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        # A branch that loses frames at its front makes the other lose them too.
        if self.left.lost < self.lost:
            a = a[:, self.lost - self.left.lost :]
        if self.right.lost < self.lost:
            b = b[:, self.lost - self.right.lost :]
        return torch.cat([a, b], dim=-1) if self.how == "cat" else a * torch.sigmoid(self.fit(b))


# --- what a stream cannot have ------------------------------------------------------------------------------------


class Bidirectional(Part):
    def __init__(self, size: int, cell: str) -> None:
        super().__init__(6)
        self.rnn = getattr(nn, cell)(size, 3, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Attention(Part):
    """`how`: "matmul" by hand, "sdpa", "module", and "causal", whose memory grows without end."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how = how
        self.module = nn.MultiheadAttention(size, 1, batch_first=True) if how == "module" else None
        self.qkv = nn.Linear(size, 3 * size)

    def forward(self, x: Tensor) -> Tensor:
        if self.module is not None:
            return self.module(x, x, x, need_weights=False)[0]
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.how in ("sdpa", "causal"):
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.how == "causal")
        return torch.softmax(q @ k.transpose(1, 2) / self.width**0.5, -1) @ v


class OverTime(Part):
    """An operator over the whole of time: "softmax", "mean", "max", "flip", "roll", "standardised"."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "softmax":
            return torch.softmax(x, dim=1)
        if self.how == "mean":
            return x - x.mean(1, keepdim=True)
        if self.how == "max":
            return x / x.abs().amax(1, keepdim=True)
        if self.how == "flip":
            return x.flip(1)
        if self.how == "roll":
            return x.roll(1, 1)
        return (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 1e-5)


class LookAhead(Part):
    """`how`: "same", "padding" on both sides, "pad" by F.pad, "shift" (the frame after)."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how = how
        padding: Any = {"same": "same", "padding": 1}.get(how, 0)
        self.conv = nn.Conv1d(size, size, 3, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "shift":
            return x + F.pad(x[:, 1:], (0, 0, 0, 1))
        x = x.transpose(1, 2)
        return self.conv(F.pad(x, (1, 1)) if self.how == "pad" else x).transpose(1, 2)


class Table(Part):
    """Positions that are looked up, so that they end."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.table = nn.Embedding(5000, size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(torch.arange(x.shape[1]))


class Positions(Part):
    """`how`: "sinus", "turns" (a table looked up again and again), "fades" (1 / t)."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how, self.table = how, nn.Embedding(5, size)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.arange(x.shape[1])
        if self.how == "turns":
            return x + self.table(t % 5)
        if self.how == "fades":
            return x * (1 + 1 / (1 + t))[:, None]
        return x + torch.sin(t[:, None] * torch.arange(1, self.width + 1) / 8)


class Running(Part):
    """`how`: "mean" of all frames so far, "norm" by it, "max", "min", "log" of a mean of exponentials, "product"."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.shape[1] + 1)[:, None]
        if self.how == "mean":
            return x.cumsum(1) / count
        if self.how == "norm":
            mean = x.sum(2, keepdim=True).cumsum(1) / (self.width * count)
            power = x.pow(2).sum(2, keepdim=True).cumsum(1) / (self.width * count)
            return (x - mean) / (power - mean.pow(2)).clamp(min=0.1).sqrt()
        if self.how == "log":
            return x.logcumsumexp(1) - count.log()
        if self.how == "product":
            return x * torch.sigmoid(x + 4).cumprod(1)
        return x - (x.cummax(1) if self.how == "max" else x.cummin(1)).values


class Statistics(Part):
    """`how`: "batch" (BatchNorm without running statistics), "group", "instance"."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.norm: Any = {
            "batch": lambda: nn.BatchNorm1d(size, track_running_stats=False),
            "group": lambda: nn.GroupNorm(1, size),
            "instance": lambda: nn.InstanceNorm1d(size, affine=True),
        }[how]()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class DataBranch(Part):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return torch.tanh(2 * x)
        return torch.tanh(x)


class Packed(Part):
    def __init__(self, size: int) -> None:
        super().__init__(4)
        self.gru = nn.GRU(size, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((x.shape[0],), x.shape[1])
        pack = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.gru(pack)[0], batch_first=True)[0]


class OddLoop(Part):
    """`how`: "backwards", "alternating" (two cells by turns), "counting" (t is a value), "start" (from the last)."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(4)
        self.how, self.cell, self.other = how, nn.GRUCell(size, 4), nn.GRUCell(size, 4)
        self.start = nn.Linear(size, 4)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        h, outputs = x.new_zeros(x.shape[0], 4), []
        if self.how == "start":
            h = self.start(x[:, -1])
        for t in reversed(range(T)) if self.how == "backwards" else range(T):
            cell = self.other if self.how == "alternating" and t % 2 else self.cell
            h = cell(x[:, t], h)
            outputs.append(h * t / 10 if self.how == "counting" else h)
        return torch.stack(outputs[::-1] if self.how == "backwards" else outputs, 1)
