"""Recurrent layers and cells in lifted form: the same call, but each layer one opaque recurrent op.

A lifted layer stands in for the user's while the model is exported, and the code of the model may ask that layer for
anything: isinstance(layer, nn.LSTM), layer.hidden_size, layer.weight_ih_l0. So `Stack.stand_in_for` gives it, at run
time, a class made of its own and the replaced one, and attributes that it lacks come from the replaced layer
(`Stack.__getattr__`). Only forward is its own, and that of a subclass is called around it.

T time, B batch, D directions, L layers, I input, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from rnn_export.export.lift.layers.packed_sequences import frames_of, full_rows
from rnn_export.export.lift.layers.recurrent_ops import gru, lstm, lstm_projected, rnn

States = tuple[Tensor, ...]
# What is called around a module's forward.
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


@dataclass(frozen=True)
class OnnxWeights:
    """One layer's weights, or one direction's, in ONNX layout: gates in ONNX order, no axis of directions."""

    kind: str
    W: Tensor
    R: Tensor
    B: Tensor
    activations: str
    linear_before_reset: int = 0
    P: Tensor | None = None


def weights_of_torch(
    kind: str, weights: Sequence[Tensor], projection: Tensor | None = None, nonlinearity: str = "tanh"
) -> OnnxWeights:
    """Torch's weight_ih, weight_hh and, if there are any, bias_ih and bias_hh, in ONNX layout."""
    w_ih, w_hh, *biases = weights
    biases = biases or [w_ih.new_zeros(w_ih.shape[0])] * 2
    # torch's rows are i, f, g, o and r, z, n; ONNX's are i, o, f, c and z, r, h.
    order = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}[kind]

    def rows(w: Tensor) -> Tensor:
        gates = w.chunk(len(order))
        return torch.cat([gates[k] for k in order])

    activations = {"lstm": "Sigmoid,Tanh,Tanh", "gru": "Sigmoid,Tanh", "rnn": nonlinearity.capitalize()}[kind]
    B = torch.cat([rows(b) for b in biases])
    return OnnxWeights(kind, rows(w_ih), rows(w_hh), B, activations, 1, projection)


def run_layer(x: Tensor, weights: OnnxWeights, states: States) -> tuple[Tensor, States]:
    """One layer as one opaque op: x (T, B, I), weights (D, ...), states (D, B, H) -> (y (T, B, D * H), next states)."""
    W, R, B, activations = weights.W, weights.R, weights.B, weights.activations
    if weights.P is not None:
        y, *after = lstm_projected(x, W, R, B, weights.P, *states, activations)
    elif weights.kind == "lstm":
        y, *after = lstm(x, W, R, B, *states, activations)
    elif weights.kind == "gru":
        y, *after = gru(x, W, R, B, *states, activations, weights.linear_before_reset)
    else:
        y, *after = rnn(x, W, R, B, *states, activations)
    # (T, D, B, H): the directions side by side.
    return (y.squeeze(1) if W.shape[0] == 1 else y.transpose(1, 2).flatten(2)), tuple(after)


class OpaqueLayer(nn.Module):
    """One layer as one opaque op: forward(x (T, B, I), states of (D, B, H)) -> (y (T, B, D * H), next states)."""

    def __init__(self, directions: Sequence[OnnxWeights]) -> None:
        super().__init__()
        first = directions[0]
        self.kind, self.activations = first.kind, first.activations
        self.linear_before_reset, self.directions = first.linear_before_reset, len(directions)

        def stacked(weights: Sequence[Tensor]) -> nn.Parameter:
            return nn.Parameter(torch.stack([w.detach() for w in weights]), requires_grad=False)

        self.W, self.R, self.B = (stacked([getattr(w, name) for w in directions]) for name in "WRB")
        projections = [w.P for w in directions if w.P is not None]
        self.P = stacked(projections) if projections else None

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        weights = (self.W, self.R, self.B, self.activations, self.linear_before_reset, self.P)
        return run_layer(x, OnnxWeights(self.kind, *weights), states)

    def zeros(self, x: Tensor) -> States:
        """The state that a call without one starts from."""
        D, _, N = self.R.shape
        h = x.new_zeros(D, x.shape[1], N)
        if self.kind != "lstm":
            return (h,)
        return (h, h if self.P is None else x.new_zeros(D, x.shape[1], self.P.shape[2]))


class Stack(nn.Module):
    """Layers on top of each other: run(x (T, B, I), states of (L * D, B, H) or None) -> (y (T, B, D * H), states)."""

    def __init__(self, layers: Sequence[Sequence[OnnxWeights]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(OpaqueLayer(directions) for directions in layers)

    def stand_in_for(self, layer: nn.Module, cls: type[nn.Module]) -> Stack:
        """A stand-in with the class, the hooks and other attributes of `layer`, of recurrent class `cls`.

        A subclass that calls its super().forward gets this one's.
        """
        lifted = type(cls.__name__, (type(self), cls), {})
        has_own = type(layer).forward is not cls.forward
        kind = type(type(layer).__name__, (type(layer), lifted) if has_own else (type(self), type(layer)), {})
        made: Stack = object.__new__(kind)
        # In a tuple, so that torch does not take it for a child.
        vars(made).update(vars(self), _replaced=(layer,), **{name: vars(layer)[name] for name in HOOKS})
        own = getattr(vars(layer).get("forward"), "__func__", None)
        if own is not None:
            vars(made)["forward"] = MethodType(own, made)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Stack:
        """Copy as a plain module, not by a recurrent layer's state."""
        made: Stack = object.__new__(type(self))
        memo[id(self)] = made
        vars(made).update(deepcopy(vars(self), memo))
        return made

    def _apply(self, fn: Any, recurse: bool = True) -> Stack:
        nn.Module._apply(self, fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            replaced = self.__dict__.get("_replaced")
            if replaced is None:
                raise
            return getattr(replaced[0], name)

    def run(self, x: Tensor, states: States | None) -> tuple[Tensor, States]:
        after = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, OpaqueLayer)
            D = layer.directions
            before = layer.zeros(x) if states is None else tuple(s[i * D : (i + 1) * D] for s in states)
            x, ends = layer(x, before)
            after.append(ends)
        return x, tuple(torch.cat(ends) for ends in zip(*after, strict=True))


class LiftedLayer(Stack):
    """nn.RNN, nn.GRU, nn.LSTM: forward(input, hx=None) -> (output, h_n) or (output, (h_n, c_n))."""

    def __init__(self, layers: Sequence[Sequence[OnnxWeights]], batch_first: bool) -> None:
        super().__init__(layers)
        self.batch_first = batch_first

    def forward(
        self,
        input: Tensor | PackedSequence,  # noqa: A002 - torch's name for it
        hx: Tensor | States | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor | States]:
        if isinstance(input, PackedSequence):
            y, after = self.run(frames_of(input), (hx,) if isinstance(hx, Tensor) else hx)
            return full_rows(y), (after if len(after) > 1 else after[0])
        states = (hx,) if isinstance(hx, Tensor) else hx
        if input.dim() == 2:
            y, after = self.run(input[:, None], None if states is None else tuple(s[:, None] for s in states))
            y, after = y[:, 0], tuple(s[:, 0] for s in after)
            return y, (after if len(after) > 1 else after[0])
        y, after = self.run(input.transpose(0, 1) if self.batch_first else input, states)
        return (y.transpose(0, 1) if self.batch_first else y), (after if len(after) > 1 else after[0])


class LiftedCell(Stack):
    """nn.RNNCell, nn.GRUCell, nn.LSTMCell: forward(input (B, I), hx=None) -> h or (h, c), each (B, H); or all bare."""

    def forward(self, input: Tensor, hx: Tensor | States | None = None) -> Tensor | States:  # noqa: A002
        states = (hx,) if isinstance(hx, Tensor) else hx
        if input.dim() == 1:
            after = _frame(self, input[None], None if states is None else tuple(s[None] for s in states))
            after = tuple(s[0] for s in after)
        else:
            after = _frame(self, input, states)
        return after if len(after) > 1 else after[0]


class LiftedCustomLayer(Stack):
    """CustomGRU, CustomLSTM: forward(x (T, B, I), h_0=None[, c_0=None]) -> (output, h_n[, c_n])."""

    def forward(self, x: Tensor, h_0: Tensor | None = None, c_0: Tensor | None = None) -> States:
        y, after = self.run(x, None if h_0 is None else (h_0,) if c_0 is None else (h_0, c_0))
        return y, *after


class LiftedCustomCell(Stack):
    """CustomGRUCell, CustomLSTMCell: forward(x (B, I), h (B, H)[, c]) -> h or (h, c)."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> Tensor | States:
        after = _frame(self, x, (h,) if c is None else (h, c))
        return after if len(after) > 1 else after[0]


class LiftedSimpleRNN(Stack):
    """SimpleRNN: forward(input_seq (T, B, I), h_0 (B, H)) -> (output_seq (T, B, O), h_n); h_0 defaults to zeros."""

    def __init__(self, layers: Sequence[Sequence[OnnxWeights]], Why: Tensor, by: Tensor) -> None:
        super().__init__(layers)
        self.Why, self.by = nn.Parameter(Why.detach().clone()), nn.Parameter(by.detach().clone())

    def forward(self, input_seq: Tensor, h_0: Tensor | None = None) -> States:
        y, (h_n,) = self.run(input_seq, None if h_0 is None else (h_0[None],))
        return F.linear(y, self.Why, self.by), h_n[0]


class LiftedSimpleRNNCell(LiftedSimpleRNN):
    """SimpleRNNCell: forward(x (B, I), h (B, H)) -> (y (B, O), h)."""

    def forward(self, x: Tensor, h: Tensor | None = None) -> States:
        (after,) = _frame(self, x, None if h is None else (h,))
        return F.linear(after, self.Why, self.by), after


def _frame(stack: Stack, x: Tensor, states: States | None) -> States:
    """One step of a one-layer stack: x (B, I), states (B, H)."""
    _, after = stack.run(x[None], None if states is None else tuple(s[None] for s in states))
    return tuple(s[0] for s in after)
