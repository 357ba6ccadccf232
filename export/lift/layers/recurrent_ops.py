"""The recurrent ops, opaque to `torch.export`: each is exactly ONNX's operator of the same name.

Source of the equations and of the weight layout: the ONNX operator reference for LSTM, GRU and RNN (opset 14,
layout 0).
Axes: T time, B batch, D directions (1 forward, 2 forward and backward), I input, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Relu": torch.relu}

# Over fewer frames the weights in torch's order cost more than torch's own layer saves.
MANY = 8

Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def unrolled_lstm(
    X: Tensor, W: Tensor, R: Tensor, B: Tensor, initial_h: Tensor, initial_c: Tensor, activations: str
) -> tuple[Tensor, Tensor, Tensor]:
    """X (T, B, I), W (D, 4H, I), R (D, 4H, H), B (D, 8H), states (D, B, H) -> Y (T, D, B, H), Y_h, Y_c (D, B, H).

    Gates in the order i, o, f, c; `activations` is "f,g,h": gates, candidate, output.
    """
    return _lstm(X, W, R, B, None, initial_h, initial_c, activations)


def unrolled_lstm_projected(
    X: Tensor, W: Tensor, R: Tensor, B: Tensor, P: Tensor, initial_h: Tensor, initial_c: Tensor, activations: str
) -> tuple[Tensor, Tensor, Tensor]:
    """As `unrolled_lstm`, with each output projected by P (D, N, H): h (D, B, N), c (D, B, H), R (D, 4H, N).

    Source: Sak et al. 2014, as torch.nn.LSTM has it with proj_size=N; ONNX has no operator for it.
    """
    return _lstm(X, W, R, B, P, initial_h, initial_c, activations)


def _lstm(
    X: Tensor, W: Tensor, R: Tensor, B: Tensor, P: Tensor | None, h: Tensor, c: Tensor, activations: str
) -> tuple[Tensor, Tensor, Tensor]:
    f, g, out = (ACTIVATIONS[name] for name in activations.split(","))

    def make(d: int) -> Step:
        def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            H, C = states
            i, o, forget, candidate = (x + F.linear(H, R[d], B[d].chunk(2)[1])).chunk(4, -1)
            C = f(forget) * C + f(i) * g(candidate)
            H = f(o) * out(C)
            return (H if P is None else F.linear(H, P[d])), C

        return step

    Y, (Y_h, Y_c) = _run(X, W, B, (h, c), make)
    return Y, Y_h, Y_c


def unrolled_gru(
    X: Tensor, W: Tensor, R: Tensor, B: Tensor, initial_h: Tensor, activations: str, linear_before_reset: int
) -> tuple[Tensor, Tensor]:
    """X (T, B, I), W (D, 3H, I), R (D, 3H, H), B (D, 6H), initial_h (D, B, H) -> Y (T, D, B, H), Y_h (D, B, H).

    Gates in the order z, r, h, with h' = (1 - z) candidate + z h; `activations` is "f,g": gates, candidate.
    """
    f, g = (ACTIVATIONS[name] for name in activations.split(","))

    def make(d: int) -> Step:
        Rz, Rr, Rh = R[d].chunk(3)
        bz, br, bh = B[d].chunk(2)[1].chunk(3)

        def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (H,) = states
            xz, xr, xh = x.chunk(3, -1)
            z = f(xz + F.linear(H, Rz, bz))
            r = f(xr + F.linear(H, Rr, br))
            candidate = g(xh + (r * F.linear(H, Rh, bh) if linear_before_reset else F.linear(r * H, Rh, bh)))
            return ((1 - z) * candidate + z * H,)

        return step

    Y, (Y_h,) = _run(X, W, B, (initial_h,), make)
    return Y, Y_h


def unrolled_rnn(
    X: Tensor, W: Tensor, R: Tensor, B: Tensor, initial_h: Tensor, activations: str
) -> tuple[Tensor, Tensor]:
    """X (T, B, I), W (D, H, I), R (D, H, H), B (D, 2H), initial_h (D, B, H) -> Y (T, D, B, H), Y_h (D, B, H)."""
    f = ACTIVATIONS[activations]

    def make(d: int) -> Step:
        return lambda x, states: (f(x + F.linear(states[0], R[d], B[d].chunk(2)[1])),)

    Y, (Y_h,) = _run(X, W, B, (initial_h,), make)
    return Y, Y_h


def _run(
    X: Tensor, W: Tensor, B: Tensor, initial: tuple[Tensor, ...], make: Callable[[int], Step]
) -> tuple[Tensor, list[Tensor]]:
    """Drive one step function per direction over time; direction 1 runs backwards."""
    outputs, finals = [], []
    for d in range(W.shape[0]):
        step, projected = make(d), F.linear(X, W[d], B[d].chunk(2)[0])
        times = range(X.shape[0]) if d == 0 else reversed(range(X.shape[0]))
        states, by_time = tuple(s[d] for s in initial), {}
        for t in times:
            states = step(projected[t], states)
            by_time[t] = states[0]
        outputs.append(torch.stack([by_time[t] for t in range(X.shape[0])]))
        finals.append(states)
    return torch.stack(outputs, 1), [torch.stack(rows) for rows in zip(*finals, strict=True)]


def _at_once(
    layer: Callable[..., Any], X: Tensor, W: Tensor, R: Tensor, B: Tensor, states: Any, gates: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """The results of torch's `layer`, with its `gates` in ONNX's order."""

    def in_order(weights: Tensor) -> Tensor:
        parts = weights.chunk(len(gates))
        return torch.cat([parts[n] for n in gates])

    rows = X.shape[1]
    first = states if isinstance(states, tuple) else (states,)
    if X.shape[2] != W.shape[2] or any(h.shape[1] != rows for h in first):
        # Torch's own code reads on where nothing is, and ends the process.
        raise RuntimeError(f"frames {tuple(X.shape)} do not fit states {[tuple(h.shape) for h in first]}")
    directions = W.shape[0]
    of_each = ((W[d], R[d], *B[d].chunk(2)) for d in range(directions))
    weights = [in_order(w) for group in of_each for w in group]
    Y, *finals = layer(X, states, weights, True, 1, 0.0, False, directions == 2, False)
    return Y.reshape(*Y.shape[:2], directions, -1).transpose(1, 2).contiguous(), *finals


def _lstm_of_frames(
    X: Tensor, W: Tensor, R: Tensor, B: Tensor, initial_h: Tensor, initial_c: Tensor, activations: str
) -> tuple[Tensor, Tensor, Tensor]:
    if len(X) < MANY or activations != "Sigmoid,Tanh,Tanh":
        return unrolled_lstm(X, W, R, B, initial_h, initial_c, activations)
    Y, Y_h, Y_c = _at_once(torch.lstm, X, W, R, B, (initial_h, initial_c), (0, 2, 3, 1))
    return Y, Y_h, Y_c


def _gru_of_frames(
    X: Tensor, W: Tensor, R: Tensor, B: Tensor, initial_h: Tensor, activations: str, linear_before_reset: int
) -> tuple[Tensor, Tensor]:
    if len(X) < MANY or activations != "Sigmoid,Tanh" or not linear_before_reset:
        return unrolled_gru(X, W, R, B, initial_h, activations, linear_before_reset)
    Y, Y_h = _at_once(torch.gru, X, W, R, B, initial_h, (1, 0, 2))
    return Y, Y_h


lstm = torch.library.custom_op("rnn_export::lstm", _lstm_of_frames, mutates_args=())
lstm_projected = torch.library.custom_op("rnn_export::lstm_projected", unrolled_lstm_projected, mutates_args=())
gru = torch.library.custom_op("rnn_export::gru", _gru_of_frames, mutates_args=())
rnn = torch.library.custom_op("rnn_export::rnn", unrolled_rnn, mutates_args=())

# Each opaque op in torch's own operators, unrolled over time.
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.rnn_export.lstm.default: unrolled_lstm,
    torch.ops.rnn_export.lstm_projected.default: unrolled_lstm_projected,
    torch.ops.rnn_export.gru.default: unrolled_gru,
    torch.ops.rnn_export.rnn.default: unrolled_rnn,
}


def _fake(first: int, states: int) -> Callable[..., tuple[Tensor, ...]]:
    """A fake of an op that has its `states` from argument `first` on."""

    def fake(X: Tensor, *others: Any) -> tuple[Tensor, ...]:
        initial = others[first - 1 : first - 1 + states]
        # Without this check export would keep a batch symbol of its own for the state.
        torch._check(X.shape[1] == initial[0].shape[1])  # type: ignore[no-untyped-call]
        return X.new_empty(X.shape[0], *initial[0].shape), *map(torch.empty_like, initial)

    return fake


for _op, _first, _states in ((lstm, 4, 2), (lstm_projected, 5, 2), (gru, 4, 1), (rnn, 4, 1)):
    _op.register_fake(_fake(_first, _states))
