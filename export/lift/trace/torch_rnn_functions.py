"""torch's recurrent functions, `torch.gru`, `torch.lstm`, `torch.rnn_tanh`, `torch.rnn_relu`, as opaque operators.

A subclass that calls `nn.GRU.forward(self, x)` bypasses the lifted layer's forward and calls them; so does code that
calls `torch._VF` itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rnn_export.export.lift.layers.lifted_layers import OnnxWeights, States, run_layer, weights_of_torch
from rnn_export.export.lift.trace.istft_length import signal_of
from rnn_export.export.lift.trace.value_sized_ops import DECOMPOSED, sizes_follow_from_values

KINDS = {"lstm": ("lstm", ""), "gru": ("gru", ""), "rnn_tanh": ("rnn", "tanh"), "rnn_relu": ("rnn", "relu")}


class OpaqueFunctions(TorchFunctionMode):
    """Replaces these functions by one opaque operator for each layer, and `torch.istft` by one.

    Functions that ask for sizes, such as attention, are written by other operators if these are data-dependent.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        known = name in KINDS and func is getattr(torch._C._VariableFunctions, name, None)
        # Packed sequences come with the sizes of their batches in second place.
        if known and not kwargs and len(args) == 9 and not isinstance(args[2], Tensor):
            return _run(*KINDS[name], *args)
        if func is torch.istft:
            return signal_of(*args, **(kwargs or {}))
        if func in DECOMPOSED and sizes_follow_from_values(*args, **(kwargs or {})):
            return DECOMPOSED[func](*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _run(
    kind: str,
    nonlinearity: str,
    x: Tensor,
    hx: Tensor | States,
    flat: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Run the layers of torch's function: x (T, B, I) or, `batch_first`, (B, T, I); states (L * D, B, H)."""
    states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    D, plain = 2 if bidirectional else 1, 4 if has_biases else 2
    each = len(flat) // (num_layers * D)
    y, after = x.transpose(0, 1) if batch_first else x, []
    for i in range(num_layers):
        directions = [flat[k * each : (k + 1) * each] for k in range(i * D, (i + 1) * D)]
        weights = [weights_of_torch(kind, d[:plain], d[-1] if each > plain else None, nonlinearity) for d in directions]
        y, ends = run_layer(y, _side_by_side(weights), tuple(s[i * D : (i + 1) * D] for s in states))
        after.append(ends)
    last = tuple(torch.cat(ends) for ends in zip(*after, strict=True))
    return y.transpose(0, 1) if batch_first else y, *last


def _side_by_side(directions: list[OnnxWeights]) -> OnnxWeights:
    """The weights of all directions of one layer, stacked along a first axis."""
    W, R, B = (torch.stack([getattr(d, name) for d in directions]) for name in "WRB")
    projections = [d.P for d in directions if d.P is not None]
    return replace(directions[0], W=W, R=R, B=B, P=torch.stack(projections) if projections else None)
