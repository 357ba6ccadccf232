"""What a bare recurrent layer or cell is as a model: which argument is data and which are its states."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rnn_export.export.lift.layers.opaque import known_class
from rnn_export.models.gru import CustomGRUCell
from rnn_export.models.lstm import CustomLSTM, CustomLSTMCell
from rnn_export.models.simple_rnn import SimpleRNN, SimpleRNNCell


class LayerModel(nn.Module):
    """A layer called without a state: forward(x) -> output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.needs_state = isinstance(layer, SimpleRNN)
        self.hidden_size = int(layer.hidden_size)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        states = (x.new_zeros(x.shape[1], self.hidden_size),) if self.needs_state else ()
        output: Tensor = self.layer(x, *states)[0]
        return output


class HiddenModel(nn.Module):
    """A layer or cell with the one state h: forward(x, h) -> (output, h)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        after = self.module(x, h)
        return (after, after) if isinstance(after, Tensor) else after


class HiddenCellModel(nn.Module):
    """A layer or cell with the states h and c: forward(x, h, c) -> (output, h, c)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.separate = isinstance(module, CustomLSTM | CustomLSTMCell)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after = self.module(x, h, c) if self.separate else self.module(x, (h, c))
        if len(after) == 3:
            output, h, c = after
        elif isinstance(after[1], tuple):
            output, (h, c) = after
        else:
            output, (h, c) = after[0], after
        return output, h, c


def as_model(
    module: nn.Module, example: Sequence[Any]
) -> tuple[nn.Module, tuple[Any, ...], dict[str, int] | None, tuple[str, ...] | None]:
    """A known layer or cell as a model with its states named: (model, example inputs, states, input names).

    Layers called without a state, and every other module, keep their states to themselves: states is None.
    """
    cls = known_class(module)
    if cls is None or not example or not isinstance(example[0], Tensor):
        return module, tuple(example), None, None
    name = (next(iter(inspect.signature(module.forward).parameters)),)
    x = example[0]
    given = [t for hx in example[1:] if hx is not None for t in (hx if isinstance(hx, tuple | list) else (hx,))]
    is_cell = issubclass(cls, nn.RNNCellBase | SimpleRNNCell | CustomGRUCell | CustomLSTMCell) and cls is not SimpleRNN
    if not given and not is_cell:
        return LayerModel(module), (x,), None, name
    two = issubclass(cls, nn.LSTM | nn.LSTMCell | CustomLSTM | CustomLSTMCell)
    if not given:
        zeros = x.new_zeros(*x.shape[:-1], int(module.hidden_size))  # type: ignore[arg-type]
        given = [zeros, zeros] if two else [zeros]
    model: nn.Module = HiddenCellModel(module) if two else HiddenModel(module)
    return model, (x, *given), {"h": 1, "c": 2} if two else {"h": 1}, name
