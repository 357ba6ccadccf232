"""Set up a cell: its sizes, its weights (drawn, or taken over from a torch layer) and its first state."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError, SpecError

Device = torch.device | str | None
Dtype = torch.dtype | None


def check_sizes(**sizes: int) -> None:
    """Raise SpecError unless every size is a positive int."""
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise SpecError(f"{name} is {size!r}, but must be an int of at least 1.", id="size-not-positive")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise SpecError unless `value` is one of `choices`."""
    if value not in choices:
        raise SpecError(
            f"{name} is {value!r}, but must be one of {', '.join(map(repr, choices))}.", id="choice-unknown"
        )


def parameter(*shape: int, device: Device, dtype: Dtype) -> nn.Parameter:
    """Return an unfilled parameter."""
    return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))


def gate(rows: int, columns: int, device: Device, dtype: Dtype) -> tuple[nn.Parameter, nn.Parameter]:
    """Return the unfilled weight (rows, columns) and bias (rows) of one gate."""
    return parameter(rows, columns, device=device, dtype=dtype), parameter(rows, device=device, dtype=dtype)


class Cell(nn.Module):
    """One step of a recurrent network, with parameters that are drawn as torch's own are."""

    hidden_size: int

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/√hidden, 1/√hidden): no gate starts saturated."""
        bound = 1 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)


def check_state(name: str, state: Tensor, x: Tensor, hidden_size: int) -> None:
    """Raise ValueError where a state would broadcast in silence: it has the axes of `x`, the last being hidden."""
    expected = list(x.shape)
    expected[-1] = hidden_size
    _check_shape(name, state, x, expected)


def first_state(name: str, state: Tensor | None, x: Tensor, num_layers: int, hidden_size: int) -> Tensor:
    """Return the state (layers, batch, hidden) before the first frame of `x` (time, batch, input): zeros for None."""
    if x.dim() != 3:
        raise ValueError(f"x has shape {list(x.shape)}, but must be (time, batch, input).")
    expected = [num_layers, x.shape[1], hidden_size]
    if state is None:
        return x.new_zeros(expected)
    _check_shape(name, state, x, expected)
    return state


def _check_shape(name: str, state: Tensor, x: Tensor, expected: list[int]) -> None:
    # A trace cannot branch on a shape. TorchScript reads type comments too, and takes no list of codes.
    if torch.jit.is_tracing():  # type: ignore
        return
    if list(state.shape) != expected:
        raise ValueError(f"{name} has shape {list(state.shape)}, but x {list(x.shape)} needs {expected}.")


class TorchGate(NamedTuple):
    """One gate as torch keeps it: Wx (hidden, input), Wh (hidden, hidden) and a bias (hidden) for each of them."""

    Wx: Tensor
    Wh: Tensor
    bx: Tensor
    bh: Tensor

    @property
    def xh(self) -> Tensor:
        """The weight over [x, h]."""
        return torch.cat([self.Wx, self.Wh], 1)

    @property
    def hx(self) -> Tensor:
        """The weight over [h, x]."""
        return torch.cat([self.Wh, self.Wx], 1)

    @property
    def b(self) -> Tensor:
        """Both biases in one."""
        return self.bx + self.bh


def torch_gate(W: Tensor, b: Tensor, input_size: int) -> TorchGate:
    """Return the torch form of a weight over [x, h] (hidden, input + hidden) with its one bias."""
    return TorchGate(W[:, :input_size], W[:, input_size:], b, torch.zeros_like(b))


def read_gates(rnn: nn.RNNBase, layer: int) -> list[TorchGate]:
    """Return the gates of one layer in torch's order (LSTM: i, f, g, o; GRU: r, z, n); absent biases are zeros."""
    Wx, Wh = getattr(rnn, f"weight_ih_l{layer}"), getattr(rnn, f"weight_hh_l{layer}")
    none = Wx.new_zeros(len(Wx))
    bx, bh = getattr(rnn, f"bias_ih_l{layer}", none), getattr(rnn, f"bias_hh_l{layer}", none)
    split = [part.detach().split(rnn.hidden_size) for part in (Wx, Wh, bx, bh)]
    return [TorchGate(*parts) for parts in zip(*split, strict=True)]


@torch.no_grad()
def write_gates(rnn: nn.RNNBase, layer: int, gates: Sequence[TorchGate]) -> None:
    """Copy gates, in torch's order, into one layer: the inverse of `read_gates`."""
    for name, parts in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), zip(*gates, strict=True), strict=True):
        getattr(rnn, f"{name}_l{layer}").copy_(torch.cat(parts))


@torch.no_grad()
def assign(cell: nn.Module, **weights: Tensor) -> None:
    """Copy each tensor into the parameter of that name."""
    for name, weight in weights.items():
        cell.get_parameter(name).copy_(weight)


def check_torch(rnn: object, kind: type[nn.RNNBase]) -> None:
    """Raise LiftError unless `rnn` is a `kind` that one of our time-major, one-directional layers equals."""
    if not isinstance(rnn, kind):
        raise LiftError(
            f"from_torch takes an nn.{kind.__name__}, not {type(rnn).__name__}.", id="from-torch-wrong-layer"
        )
    if rnn.bidirectional:
        raise LiftError(
            "a bidirectional layer needs the future, which no stream has: use bidirectional=False.",
            id="from-torch-bidirectional",
        )
    if rnn.proj_size:
        raise LiftError(
            f"proj_size is {rnn.proj_size}, but these cells have no projection: use proj_size=0.",
            id="from-torch-projection",
        )
    if rnn.batch_first:
        raise LiftError(
            "batch_first is set, but these layers are time-major: set batch_first = False, feed (T, B, I).",
            id="from-torch-batch-first",
        )
    if rnn.dropout > 0 and rnn.training and rnn.num_layers > 1:
        raise LiftError(
            f"dropout is {rnn.dropout} in training mode, and these cells have none: call .eval() first.",
            id="from-torch-dropout",
        )
