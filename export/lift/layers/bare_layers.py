"""Wraps a bare recurrent layer or cell as a model, with its data and state arguments named."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rnn_export.export.lift.layers.layer_replacement import known_class
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
        else:
            output, (h, c) = after if isinstance(after[1], tuple) else (after[0], after)
        return output, h, c


BARE = (HiddenModel, HiddenCellModel)


def bare_path(model: nn.Module) -> str:
    """The path of a bare layer in its wrapper; "" if `model` is the user's own."""
    return "layer" if isinstance(model, LayerModel) else "module" if isinstance(model, BARE) else ""


@dataclass(frozen=True)
class Wrapped:
    """A model and its example inputs.

    `states` has the result with the next value of each state argument; `input_names` names the others, None as in
    forward.
    """

    model: nn.Module
    example: tuple[Any, ...]
    states: Mapping[str, int] | None = None
    input_names: tuple[str, ...] | None = None


def wrap_bare_layer(module: nn.Module, example: Sequence[Any]) -> Wrapped:
    """A known layer or cell as a model with its states named; any other module as it is."""
    cls = known_class(module)
    if cls is None or not example or not isinstance(example[0], Tensor):
        return Wrapped(module, tuple(example))
    names = (next(iter(inspect.signature(module.forward).parameters)),)
    x = example[0]
    states = [t for hx in example[1:] if hx is not None for t in (hx if isinstance(hx, tuple | list) else (hx,))]
    is_cell = issubclass(cls, nn.RNNCellBase | SimpleRNNCell | CustomGRUCell | CustomLSTMCell) and cls is not SimpleRNN
    if not states and not is_cell:
        return Wrapped(LayerModel(module), (x,), None, names)
    has_c = issubclass(cls, nn.LSTM | nn.LSTMCell | CustomLSTM | CustomLSTMCell)
    if not states:
        zeros = x.new_zeros(*x.shape[:-1], int(module.hidden_size))  # type: ignore[arg-type]
        states = [zeros, zeros] if has_c else [zeros]
    if has_c:
        return Wrapped(HiddenCellModel(module), (x, *states), {"h": 1, "c": 2}, names)
    return Wrapped(HiddenModel(module), (x, *states), {"h": 1}, names)
