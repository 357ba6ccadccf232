"""Replaces every known recurrent layer and cell by its lifted form with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rnn_export.export.lift.layers.lifted_layers import (
    LiftedCell,
    LiftedCustomCell,
    LiftedCustomLayer,
    LiftedLayer,
    LiftedSimpleRNN,
    LiftedSimpleRNNCell,
    OnnxWeights,
    Stack,
    weights_of_torch,
)
from rnn_export.models.gru import CustomGRU, CustomGRUCell
from rnn_export.models.lstm import CustomLSTM, CustomLSTMCell
from rnn_export.models.simple_rnn import SimpleRNN, SimpleRNNCell

LAYERS = (nn.RNNBase, SimpleRNN, CustomGRU, CustomLSTM)


def _torch_weights(module: nn.RNNBase | nn.RNNCellBase, kind: str, suffix: str = "") -> OnnxWeights:
    weights = [getattr(module, name + suffix) for name in ("weight_ih", "weight_hh")]
    biases = [getattr(module, name + suffix) for name in ("bias_ih", "bias_hh")] if module.bias else []
    projection = getattr(module, "weight_hr" + suffix) if getattr(module, "proj_size", 0) else None
    given = [w.detach() for w in (*weights, *biases)]
    return weights_of_torch(kind, given, projection, getattr(module, "nonlinearity", "tanh"))


def _torch_layer(module: nn.RNNBase) -> Stack:
    kind = module.mode.split("_")[0].lower()
    directions = ("", "_reverse") if module.bidirectional else ("",)
    layers = [[_torch_weights(module, kind, f"_l{i}{d}") for d in directions] for i in range(module.num_layers)]
    return LiftedLayer(layers, module.batch_first)


def _torch_cell(module: nn.RNNCellBase) -> Stack:
    kind = "lstm" if isinstance(module, nn.LSTMCell) else "gru" if isinstance(module, nn.GRUCell) else "rnn"
    return LiftedCell([[_torch_weights(module, kind)]])


def _gru_weights(cell: CustomGRUCell) -> OnnxWeights:
    H, zero = cell.hidden_size, torch.zeros_like(cell.bh)
    # ONNX has h' = (1 - z) candidate + z h: its z is 1 minus ours, sigma(-a) = 1 - sigma(a).
    W = torch.cat([-cell.Wz[:, :-H], cell.Wr[:, :-H], cell.Wh[:, H:]])
    R = torch.cat([-cell.Wz[:, -H:], cell.Wr[:, -H:], cell.Wh[:, :H]])
    B = torch.cat([-cell.bz, cell.br, cell.bh, zero, zero, zero if cell.bhh is None else cell.bhh])
    return OnnxWeights("gru", W, R, B, "Sigmoid,Tanh", int(cell.reset_after))


def _lstm_weights(cell: CustomLSTMCell) -> OnnxWeights:
    gates = [(cell.Wi, cell.bi), (cell.Wo, cell.bo), (cell.Wf, cell.bf), (cell.Wc, cell.bc)]
    W, R = torch.tensor_split(torch.cat([w for w, _ in gates]), (cell.input_size,), 1)
    b = torch.cat([bias for _, bias in gates])
    return OnnxWeights("lstm", W, R, torch.cat([b, torch.zeros_like(b)]), f"Sigmoid,{cell.candidate.capitalize()},Tanh")


def _simple_weights(cell: SimpleRNNCell) -> OnnxWeights:
    B = torch.cat([cell.bh, torch.zeros_like(cell.bh)])
    return OnnxWeights("rnn", cell.Wxh, cell.Whh, B, cell.nonlinearity.capitalize())


LIFTED: dict[type[nn.Module], Callable[..., Stack]] = {
    **dict.fromkeys((nn.RNN, nn.GRU, nn.LSTM), _torch_layer),
    **dict.fromkeys((nn.RNNCell, nn.GRUCell, nn.LSTMCell), _torch_cell),
    SimpleRNN: lambda m: LiftedSimpleRNN([[_simple_weights(m)]], m.Why, m.by),
    SimpleRNNCell: lambda m: LiftedSimpleRNNCell([[_simple_weights(m)]], m.Why, m.by),
    CustomGRU: lambda m: LiftedCustomLayer([[_gru_weights(c)] for c in m.cells]),
    CustomGRUCell: lambda m: LiftedCustomCell([[_gru_weights(m)]]),
    CustomLSTM: lambda m: LiftedCustomLayer([[_lstm_weights(c)] for c in m.cells]),
    CustomLSTMCell: lambda m: LiftedCustomCell([[_lstm_weights(m)]]),
}


def known_class(module: nn.Module) -> type[nn.Module] | None:
    """The recurrent class whose forward this module runs; None for others and for subclasses with their own."""
    cls = _class_of(module)
    return cls if cls is not None and "forward" not in vars(module) and type(module).forward is cls.forward else None


def _class_of(module: nn.Module) -> type[nn.Module] | None:
    """The recurrent class of a module, whatever its forward."""
    return next((cls for cls in type(module).__mro__ if cls in LIFTED), None)


def replace_recurrent(module: nn.Module) -> nn.Module:
    """Replace every known recurrent layer below `module`, in place, and return the module or its lifted form.

    A module used in several places stays one module. A layer of torch that makes its weights at each call stays, and is
    called as it is.
    """
    return _replaced(module, {})


def _makes_weights(module: nn.Module) -> bool:
    """True if a call, and no hook or parametrization, sets a weight of a torch layer, as in AWD-LSTMs."""
    names = [name for names in getattr(module, "_all_weights", ()) for name in names]
    made = [name for name in names if name not in module._parameters and not hasattr(type(module), name)]
    return bool(made) and not module._forward_pre_hooks


class _MakesWeights(nn.Module):
    """A layer that is given its weights at each call, as tensors, since no trace could set a parameter."""

    def __setattr__(self, name: str, value: Any) -> None:
        names: Any = self._flat_weights_names
        is_weight = isinstance(value, nn.Parameter) and name in names
        super().__setattr__(name, value.detach() if is_weight else value)


def _replaced(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in done:
        return done[module]
    cls = _class_of(module) if isinstance(module, nn.RNNBase) else known_class(module)
    if _makes_weights(module):
        module.__class__ = type(type(module).__name__, (_MakesWeights, type(module)), {})
    elif cls is not None:
        done[module] = LIFTED[cls](module).stand_in_for(module, cls)
        return done[module]
    done[module] = module
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _replaced(child, done)
    return module
