"""torch's recurrent functions under any caller: subclasses that name the class, bound methods, `torch._VF`."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call, assert_streams

X = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))


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

    def __init__(self):
        super().__init__(4, 5, batch_first=True)
        self.register_buffer("h", torch.zeros(1, 1, 5))
        self.register_buffer("c", torch.zeros(1, 1, 5))

    def forward(self, x):
        y, (h, c) = nn.LSTM.forward(self, x, (self.h, self.c))
        self.h.copy_(h)
        self.c.copy_(c)
        return y


class KeptFromNone(nn.GRU):
    def __init__(self):
        super().__init__(4, 5, batch_first=True)
        self.h = None

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
    def forward(self, x):
        zeros = x.new_zeros(1, x.shape[0], 5)
        return torch._VF.rnn_tanh(x, zeros, self._flat_weights, True, 1, 0.0, False, False, True)[0]


def reordered(s, x):
    return s.layer(x.new_zeros(1, x.shape[0], 5), x)[0]


def bound(s, x):
    return s.run(x)[0]


def function(s, x):
    zeros = x.new_zeros(2, x.shape[0], 5)
    return torch.lstm(x, (zeros, zeros), s.layer._flat_weights, False, 2, 0.0, False, False, True)[0]


def projected(s, x):
    h, c = x.new_zeros(1, x.shape[0], 3), x.new_zeros(1, x.shape[0], 5)
    return torch.lstm(x, (h, c), s.layer._flat_weights, True, 1, 0.0, False, False, True)[0]


def cells(s, x):
    h, ys = x.new_zeros(x.shape[0], 5), []
    for frame in x.unbind(1):
        h = torch.gru_cell(frame, h, s.c.weight_ih, s.c.weight_hh, s.c.bias_ih, s.c.bias_hh)
        ys.append(h)
    return torch.stack(ys, 1)


def without_weight(layer):
    """A layer that each call gives its weight, made of `raw`."""
    layer.register_parameter("raw", nn.Parameter(layer.weight_hh_l0.detach()))
    del layer._parameters["weight_hh_l0"]
    return layer


def dropping(layer):
    """The weight drop of AWD-LSTMs, which is off in eval mode."""
    inner = without_weight(layer).forward

    def forward(*args):
        layer.weight_hh_l0 = F.dropout(layer.raw, 0.5, layer.training)
        return inner(*args)

    layer.forward = forward
    return layer


def made_of_others(s, x):
    s.layer.weight_hh_l0 = torch.tanh(3 * s.layer.raw)
    return s.layer(x)[0]


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


GRU = seeded(lambda: nn.GRU(4, 5, batch_first=True))
LAYERS = {
    "nn.GRU.forward": (seeded(lambda: Call(None, layer=NamedGRU(4, 5, batch_first=True))).layer, ["l0.h"]),
    "torch.nn.LSTM.forward, two layers": (
        seeded(lambda: NamedLSTM(4, 5, 2, batch_first=True)),
        ["l0.h", "l0.c", "l1.h", "l1.c"],
    ),
    "super().forward of one that does": (seeded(lambda: Twice(4, 5, batch_first=True)), ["l0.h"]),
    "arguments in another order": (
        seeded(lambda: Call(reordered, layer=Reordered(4, 5, batch_first=True))),
        ["layer.l0.h"],
    ),
    "a state of its own, in buffers": (
        seeded(lambda: Call(lambda s, x: s.layer(x), layer=Stateful())),
        ["layer.h", "layer.c"],
    ),
    "a state of its own, None at first": (
        seeded(lambda: Call(lambda s, x: s.layer(x), layer=KeptFromNone())),
        ["layer.h"],
    ),
    "equations in Python": (
        seeded(lambda: Call(lambda s, x: s.layer(x)[0], layer=Equations(4, 5, batch_first=True))),
        ["layer.state"],
    ),
    "weights that each call sets": (
        seeded(lambda: Call(lambda s, x: s.layer(x)[0], layer=dropping(nn.LSTM(4, 5, batch_first=True)))),
        ["layer.h", "layer.c"],
    ),
    "weights that each call makes of others": (
        seeded(lambda: Call(made_of_others, layer=without_weight(nn.GRU(4, 5, batch_first=True)))),
        ["layer.h"],
    ),
    "torch._VF": (seeded(lambda: Raw("RNN_TANH", 4, 5, batch_first=True)), ["h"]),
    "a bound method": (Call(bound, layer=GRU, run=GRU.forward), ["h"]),
    "torch.lstm without biases": (
        seeded(lambda: Call(function, layer=nn.LSTM(4, 5, 2, bias=False, batch_first=True))),
        ["h", "c", "call1.h", "call1.c"],
    ),
    "torch.lstm with a projection": (
        seeded(lambda: Call(projected, layer=nn.LSTM(4, 5, proj_size=3, batch_first=True))),
        ["h", "c"],
    ),
    "torch.gru_cell": (seeded(lambda: Call(cells, c=nn.GRUCell(4, 5))), ["state"]),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("model", "states"), LAYERS.values(), ids=LAYERS)
def test_a_layer_is_one_whoever_calls_it(model, states):
    example = X[:1] if "layer.c" in states else X
    lifted = assert_streams(model, example)
    assert [s.name for s in lifted.spec.states] == states
    assert lifted.spec.has_time


def test_a_function_of_both_directions_cannot_stream():
    def both(s, x):
        zeros = x.new_zeros(2, x.shape[0], 5)
        return torch.gru(x, zeros, s.layer._flat_weights, True, 1, 0.0, False, True, True)[0]

    model = Call(both, layer=nn.GRU(4, 5, bidirectional=True, batch_first=True))
    with raises("bidirectional-layer", "GRU"):
        lift(model, (X,))
    whole = lift(model, (X,), sequence_only=True)
    with torch.no_grad():
        torch.testing.assert_close(whole.module(X)[0], model(X))
