"""torch's recurrent functions stream under any caller, and with rows packed."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)


class NamedGRU(nn.GRU):
    def forward(self, x, hx=None):
        y, h = nn.GRU.forward(self, F.relu(x), hx)
        return y + 1, h


class NamedLSTM(torch.nn.LSTM):
    def forward(self, x, state=None):
        return torch.nn.LSTM.forward(self, x, state)[0]


class Twice(NamedGRU):
    def forward(self, x, hx=None):
        return super().forward(x, hx)[0] * 2


class Reordered(nn.GRU):
    def forward(self, h, x):
        return super().forward(x, h)


class Stateful(nn.LSTM):
    """Its state is its own, in buffers."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.register_buffer("h", torch.zeros(1, 1, 5))
        self.register_buffer("c", torch.zeros(1, 1, 5))

    def forward(self, x):
        y, (h, c) = nn.LSTM.forward(self, x, (self.h, self.c))
        self.h.copy_(h)
        self.c.copy_(c)
        return y


class KeptFromNone(nn.GRU):
    h = None

    def forward(self, x):
        y, self.h = nn.GRU.forward(self, x, self.h)
        return y


class Equations(nn.GRU):
    """torch's weights, and its equations in Python."""

    def forward(self, x, h=None):
        h, ys = x.new_zeros(x.shape[0], self.hidden_size) if h is None else h, []
        for frame in x.unbind(1):
            given = F.linear(frame, self.weight_ih_l0, self.bias_ih_l0).chunk(3, 1)
            kept = F.linear(h, self.weight_hh_l0, self.bias_hh_l0).chunk(3, 1)
            r, z = (given[0] + kept[0]).sigmoid(), (given[1] + kept[1]).sigmoid()
            n = torch.tanh(given[2] + r * kept[2])
            h = n + z * (h - n)
            ys.append(h)
        return torch.stack(ys, 1), h


class Raw(nn.RNNBase):
    def __init__(self, *sizes, **options):
        super().__init__("RNN_TANH", *sizes, **options)

    def forward(self, x):
        zeros = x.new_zeros(1, x.shape[0], 5)
        return torch._VF.rnn_tanh(x, zeros, self._flat_weights, True, 1, 0.0, False, False, True)[0]


def function(s, x):
    zeros = x.new_zeros(2, x.shape[0], 5)
    return torch.lstm(x, (zeros, zeros), s.layer._flat_weights, False, 2, 0.0, False, False, True)[0]


def projected(s, x):
    h, c = x.new_zeros(1, x.shape[0], 3), x.new_zeros(1, x.shape[0], 5)
    return torch.lstm(x, (h, c), s.layer._flat_weights, True, 1, 0.0, False, False, True)[0]


def cells(s, x):
    h, ys = x.new_zeros(x.shape[0], 5), []
    for frame in x.unbind(1):
        h = torch.gru_cell(frame, h, s.layer.weight_ih_l0, s.layer.weight_hh_l0, s.layer.bias_ih_l0, s.layer.bias_hh_l0)
        ys.append(h)
    return torch.stack(ys, 1)


def both(s, x):
    zeros = x.new_zeros(2, x.shape[0], 5)
    return torch.gru(x, zeros, s.layer._flat_weights, True, 1, 0.0, False, True, True)[0]


def without_weight(layer):
    """A layer that each call gives its weight, made of `raw`."""
    layer.register_parameter("raw", nn.Parameter(layer.weight_hh_l0.detach()))
    del layer._parameters["weight_hh_l0"]
    return layer


def dropping():
    """The weight drop of AWD-LSTMs, which is off in eval mode."""
    layer = without_weight(nn.LSTM(4, 5, batch_first=True))
    inner = layer.forward

    def forward(*args):
        layer.weight_hh_l0 = F.dropout(layer.raw, 0.5, layer.training)
        return inner(*args)

    layer.forward = forward
    return Call(lambda s, x: s.layer(x)[0], layer=layer)


def made_of_others():
    def forward(s, x):
        s.layer.weight_hh_l0 = torch.tanh(3 * s.layer.raw)
        return s.layer(x)[0]

    return Call(forward, layer=without_weight(nn.GRU(4, 5, batch_first=True)))


def bound():
    layer = nn.GRU(4, 5, batch_first=True).eval()
    return Call(lambda s, x: s.run(x)[0], layer=layer, run=layer.forward)


def of_class(kind, *more):
    """The layer itself."""
    return lambda: kind(4, 5, *more, batch_first=True)


def called(forward, kind=nn.GRU, *more, **options):
    """A model that calls the layer."""
    return lambda: Call(forward, layer=kind(4, 5, *more, batch_first=True, **options))


def streams(model, *states, example=X):
    return case(model, example).streams(states=list(states), end=False, holds=lambda lifted: lifted.spec.has_time)


def packed(s, x):
    rows = pack_padded_sequence(x, torch.full((x.shape[0],), x.shape[1]), batch_first=True)
    return pad_packed_sequence(s.layer(rows)[0], batch_first=True, total_length=x.shape[1])[0]


# torch warns of it.
PROJECTED = streams(called(projected, nn.LSTM, proj_size=3), "h", "c")
TABLE = {
    "a recurrent layer streams whoever calls it": {
        "arguments in another order": streams(
            called(lambda s, x: s.layer(x.new_zeros(1, x.shape[0], 5), x)[0], Reordered), "layer.l0.h"
        ),
        "weights that each call sets": streams(dropping, "layer.h", "layer.c"),
        "nn.GRU.forward": streams(of_class(NamedGRU), "l0.h"),
        "torch.nn.LSTM.forward, two layers": streams(of_class(NamedLSTM, 2), "l0.h", "l0.c", "l1.h", "l1.c"),
        "super().forward of one that does": streams(of_class(Twice), "l0.h"),
        "a state of its own, in buffers": streams(
            called(lambda s, x: s.layer(x), Stateful), "layer.h", "layer.c", example=X[:1]
        ),
        "a state of its own, None at first": streams(called(lambda s, x: s.layer(x), KeptFromNone), "layer.h"),
        "equations in Python": streams(called(lambda s, x: s.layer(x)[0], Equations), "layer.state"),
        "weights that each call makes of others": streams(made_of_others, "layer.h"),
        "torch._VF": streams(of_class(Raw), "h"),
        "a bound method": streams(bound, "h"),
        "torch.lstm without biases": streams(called(function, nn.LSTM, 2, bias=False), "h", "c", "call1.h", "call1.c"),
        "torch.gru_cell": streams(called(cells), "state"),
        "packed rows": streams(called(packed, nn.LSTM), "layer.l0.h", "layer.l0.c"),
    },
    "a recurrent layer of both directions is refused": {
        "as a function": case(called(both, bidirectional=True), X).refused("bidirectional-layer", "GRU"),
    },
}
