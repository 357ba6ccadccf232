"""Recurrent layers and cells in lifted form: the same call, but each layer one opaque recurrent op.

T time, B batch, D directions, L layers, I input, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_export.errors import LiftError
from rnn_export.export.lift.layers.ops import gru, lstm, lstm_projected, rnn
from rnn_export.models.gru import CustomGRU, CustomGRUCell
from rnn_export.models.lstm import CustomLSTM, CustomLSTMCell
from rnn_export.models.simple_rnn import SimpleRNN, SimpleRNNCell

States = tuple[Tensor, ...]
# What is called around a module's forward.
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
LAYERS = (nn.RNNBase, SimpleRNN, CustomGRU, CustomLSTM)


@dataclass(frozen=True)
class Weights:
    """One layer's weights, or one direction's, in ONNX layout: gates in ONNX order, no axis of directions."""

    kind: str
    W: Tensor
    R: Tensor
    B: Tensor
    activations: str
    linear_before_reset: int = 0
    P: Tensor | None = None


class Recurrence(nn.Module):
    """One layer as one opaque op: forward(x (T, B, I), states of (D, B, H)) -> (y (T, B, D * H), next states)."""

    def __init__(self, directions: Sequence[Weights]) -> None:
        super().__init__()
        first = directions[0]
        self.kind, self.activations = first.kind, first.activations
        self.linear_before_reset = first.linear_before_reset
        self.directions = len(directions)
        self.W, self.R, self.B = (
            nn.Parameter(torch.stack([getattr(w, name).detach() for w in directions]), requires_grad=False)
            for name in "WRB"
        )
        projections = [w.P.detach() for w in directions if w.P is not None]
        self.P = nn.Parameter(torch.stack(projections), requires_grad=False) if projections else None

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        if self.P is not None:
            y, *after = lstm_projected(x, self.W, self.R, self.B, self.P, *states, self.activations)
        elif self.kind == "lstm":
            y, *after = lstm(x, self.W, self.R, self.B, *states, self.activations)
        elif self.kind == "gru":
            y, *after = gru(x, self.W, self.R, self.B, *states, self.activations, self.linear_before_reset)
        else:
            y, *after = rnn(x, self.W, self.R, self.B, *states, self.activations)
        # (T, D, B, H): the directions side by side.
        return (y.squeeze(1) if self.directions == 1 else y.transpose(1, 2).flatten(2)), tuple(after)

    def zeros(self, x: Tensor) -> States:
        """The state that a call without one starts from."""
        D, _, N = self.R.shape
        h = x.new_zeros(D, x.shape[1], N)
        if self.kind != "lstm":
            return (h,)
        return (h, h if self.P is None else x.new_zeros(D, x.shape[1], self.P.shape[2]))


class Stack(nn.Module):
    """Layers on top of each other: run(x (T, B, I), states of (L * D, B, H) or None) -> (y (T, B, D * H), states)."""

    def __init__(self, layers: Sequence[Sequence[Weights]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Recurrence(directions) for directions in layers)

    def stand_in_for(self, layer: nn.Module) -> Stack:
        """Give what this has not, sizes and weights, from the layer that it replaces, for models that ask for them."""
        # In a tuple, so that torch does not take it for a child.
        self._replaced = (layer,)
        # Models ask with isinstance what they hold.
        self.__class__ = type(type(layer).__name__, (type(self), type(layer)), {})
        for name in HOOKS:
            self.__dict__[name] = layer.__dict__[name]
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            replaced = self.__dict__.get("_replaced")
            if replaced is None:
                raise
            return getattr(replaced[0], name)

    def recurrences(self) -> Iterator[Recurrence]:
        """Each layer, from the input upwards."""
        for layer in self.layers:
            assert isinstance(layer, Recurrence)
            yield layer

    def run(self, x: Tensor, states: States | None) -> tuple[Tensor, States]:
        after = []
        for i, layer in enumerate(self.recurrences()):
            D = layer.directions
            before = layer.zeros(x) if states is None else tuple(s[i * D : (i + 1) * D] for s in states)
            x, ends = layer(x, before)
            after.append(ends)
        return x, tuple(torch.cat(ends) for ends in zip(*after, strict=True))


class LiftedLayer(Stack):
    """nn.RNN, nn.GRU, nn.LSTM: forward(input, hx=None) -> (output, h_n) or (output, (h_n, c_n))."""

    def __init__(self, layers: Sequence[Sequence[Weights]], batch_first: bool) -> None:
        super().__init__(layers)
        self.batch_first = batch_first

    def forward(self, input: Tensor, hx: Tensor | States | None = None) -> tuple[Tensor, Tensor | States]:  # noqa: A002
        if not isinstance(input, Tensor) or input.dim() != 3:
            raise LiftError(
                f"a recurrent layer is called with {_describe(input)}: streaming needs a plain tensor with a batch "
                "axis, (time, batch, features) or (batch, time, features). Drop the packing, add the axis."
            )
        states = (hx,) if isinstance(hx, Tensor) else hx
        y, after = self.run(input.transpose(0, 1) if self.batch_first else input, states)
        return (y.transpose(0, 1) if self.batch_first else y), (after if len(after) > 1 else after[0])


class LiftedCell(Stack):
    """nn.RNNCell, nn.GRUCell, nn.LSTMCell: forward(input (B, I), hx=None) -> h or (h, c), each (B, H)."""

    def forward(self, input: Tensor, hx: Tensor | States | None = None) -> Tensor | States:  # noqa: A002
        states = (hx,) if isinstance(hx, Tensor) else hx
        after = _frame(self, input, states)
        return after if len(after) > 1 else after[0]


class LiftedCustomLayer(Stack):
    """CustomGRU, CustomLSTM: forward(x (T, B, I), h_0=None[, c_0=None]) -> (output, h_n[, c_n])."""

    def forward(self, x: Tensor, h_0: Tensor | None = None, c_0: Tensor | None = None) -> States:
        states = None if h_0 is None else (h_0,) if c_0 is None else (h_0, c_0)
        y, after = self.run(x, states)
        return y, *after


class LiftedCustomCell(Stack):
    """CustomGRUCell, CustomLSTMCell: forward(x (B, I), h (B, H)[, c]) -> h or (h, c)."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> Tensor | States:
        after = _frame(self, x, (h,) if c is None else (h, c))
        return after if len(after) > 1 else after[0]


class LiftedSimpleRNN(Stack):
    """SimpleRNN: forward(input_seq (T, B, I), h_0 (B, H)) -> (output_seq (T, B, O), h_n); without h_0 from zeros."""

    def __init__(self, layers: Sequence[Sequence[Weights]], Why: Tensor, by: Tensor) -> None:
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


def _describe(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


# --- from each known class to its lifted form ---------------------------------------------------------------------


def _torch_weights(module: nn.RNNBase | nn.RNNCellBase, kind: str, nonlinearity: str, suffix: str = "") -> Weights:
    w_ih, w_hh = (getattr(module, name + suffix) for name in ("weight_ih", "weight_hh"))
    zero = w_ih.new_zeros(w_ih.shape[0])
    biases = [getattr(module, name + suffix) if module.bias else zero for name in ("bias_ih", "bias_hh")]
    # torch's rows are i, f, g, o and r, z, n; ONNX's are i, o, f, c and z, r, h.
    order = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}[kind]

    def rows(w: Tensor) -> Tensor:
        gates = w.detach().chunk(len(order))
        return torch.cat([gates[k] for k in order])

    activations = {"lstm": "Sigmoid,Tanh,Tanh", "gru": "Sigmoid,Tanh", "rnn": nonlinearity.capitalize()}[kind]
    projection = getattr(module, "weight_hr" + suffix) if getattr(module, "proj_size", 0) else None
    return Weights(kind, rows(w_ih), rows(w_hh), torch.cat([rows(b) for b in biases]), activations, 1, projection)


def _torch_layer(module: nn.RNNBase) -> Stack:
    kind = module.mode.split("_")[0].lower()
    nonlinearity = getattr(module, "nonlinearity", "tanh")
    directions = ("", "_reverse") if module.bidirectional else ("",)
    layers = [
        [_torch_weights(module, kind, nonlinearity, f"_l{i}{direction}") for direction in directions]
        for i in range(module.num_layers)
    ]
    return LiftedLayer(layers, module.batch_first)


def _torch_cell(module: nn.RNNCellBase) -> Stack:
    kind = "lstm" if isinstance(module, nn.LSTMCell) else "gru" if isinstance(module, nn.GRUCell) else "rnn"
    return LiftedCell([[_torch_weights(module, kind, getattr(module, "nonlinearity", "tanh"))]])


def _gru_weights(cell: CustomGRUCell) -> Weights:
    H = cell.hidden_size
    # ONNX has h' = (1 - z) candidate + z h: its z is 1 minus ours, sigma(-a) = 1 - sigma(a).
    wz, rz = -cell.Wz[:, :-H], -cell.Wz[:, -H:]
    wr, rr = cell.Wr[:, :-H], cell.Wr[:, -H:]
    rh, wh = cell.Wh[:, :H], cell.Wh[:, H:]
    zero = torch.zeros_like(cell.bh)
    recurrent_bias = zero if cell.bhh is None else cell.bhh
    B = torch.cat([-cell.bz, cell.br, cell.bh, zero, zero, recurrent_bias])
    return Weights("gru", torch.cat([wz, wr, wh]), torch.cat([rz, rr, rh]), B, "Sigmoid,Tanh", int(cell.reset_after))


def _lstm_weights(cell: CustomLSTMCell) -> Weights:
    gates = [(cell.Wi, cell.bi), (cell.Wo, cell.bo), (cell.Wf, cell.bf), (cell.Wc, cell.bc)]
    W, R = torch.tensor_split(torch.cat([w for w, _ in gates]), (cell.input_size,), 1)
    b = torch.cat([bias for _, bias in gates])
    return Weights("lstm", W, R, torch.cat([b, torch.zeros_like(b)]), f"Sigmoid,{cell.candidate.capitalize()},Tanh")


def _simple_weights(cell: SimpleRNNCell) -> Weights:
    B = torch.cat([cell.bh, torch.zeros_like(cell.bh)])
    return Weights("rnn", cell.Wxh, cell.Whh, B, cell.nonlinearity.capitalize())


LIFTED: dict[type[nn.Module], Callable[..., Stack]] = {
    nn.RNN: _torch_layer,
    nn.GRU: _torch_layer,
    nn.LSTM: _torch_layer,
    nn.RNNCell: _torch_cell,
    nn.GRUCell: _torch_cell,
    nn.LSTMCell: _torch_cell,
    SimpleRNN: lambda m: LiftedSimpleRNN([[_simple_weights(m)]], m.Why, m.by),
    SimpleRNNCell: lambda m: LiftedSimpleRNNCell([[_simple_weights(m)]], m.Why, m.by),
    CustomGRU: lambda m: LiftedCustomLayer([[_gru_weights(c)] for c in m.cells]),
    CustomGRUCell: lambda m: LiftedCustomCell([[_gru_weights(m)]]),
    CustomLSTM: lambda m: LiftedCustomLayer([[_lstm_weights(c)] for c in m.cells]),
    CustomLSTMCell: lambda m: LiftedCustomCell([[_lstm_weights(m)]]),
}


def known_class(module: nn.Module) -> type[nn.Module] | None:
    """The recurrent class whose forward this module runs, or None; a subclass with a forward of its own is not it."""
    if "forward" in vars(module):
        return None
    for cls in type(module).__mro__:
        if cls in LIFTED:
            return cls if type(module).forward is cls.forward else None
    return None


def replace_recurrent(module: nn.Module) -> nn.Module:
    """Swap every known recurrent layer below `module`, in place, and give the module, or its own lifted form.

    A module that stands in several places is one module afterwards too.

    Raises LiftError, with the layer's path, where a layer has no lifted form.
    """
    return _replaced(module, "", {})


def _replaced(module: nn.Module, path: str, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in done:
        return done[module]
    cls = known_class(module)
    if cls is None and isinstance(module, nn.RNNBase):
        raise LiftError(
            f"{path or 'the model'}: {type(module).__name__} has a forward of its own around torch's {module.mode}, "
            "where its state cannot be followed: hold the torch layer as a member and call it."
        )
    if cls is not None:
        try:
            done[module] = LIFTED[cls](module).stand_in_for(module)
        except LiftError as error:
            raise LiftError(f"{path or 'the model'}: {error}") from None
        return done[module]
    done[module] = module
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _replaced(child, f"{path}.{name}" if path else name, done)
    return module
