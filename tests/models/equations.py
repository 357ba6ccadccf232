"""The equations of the cells in plain numpy float64, one row of the batch at a time: the reference for all forms.

Each takes `(weights, x, states)` and returns `(outputs, states)`:
`weights` is the module's state dict as numpy arrays (`arrays(module)`), `x` is (time, batch, input),
`states` a tuple of arrays and `outputs` (time, batch, output).

    simple_rnn   states = (h,) with h (batch, hidden)
    gru          states = (h,) with h (layers, batch, hidden)
    lstm         states = (h, c), both (layers, batch, hidden)
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch

Array = np.ndarray
Weights = Mapping[str, Array]
States = tuple[Array, ...]


def arrays(module: torch.nn.Module) -> dict[str, Array]:
    return {name: tensor.detach().cpu().double().numpy() for name, tensor in module.state_dict().items()}


def simple_rnn(w: Weights, x: Array, states: States, nonlinearity: str = "tanh") -> tuple[Array, States]:
    φ = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}[nonlinearity]
    (h,) = (np.array(s, np.float64) for s in states)
    outputs = np.empty((*x.shape[:2], len(w["by"])))
    for t, b in np.ndindex(x.shape[:2]):
        h[b] = φ(w["Wxh"] @ x[t, b] + w["Whh"] @ h[b] + w["bh"])
        outputs[t, b] = w["Why"] @ h[b] + w["by"]
    return outputs, (h,)


def gru(w: Weights, x: Array, states: States, reset_after: bool = False) -> tuple[Array, States]:
    def cell(w: Weights, x: Array, h: Array) -> States:
        H = len(h)
        r = σ(w["Wr"] @ np.concatenate([x, h]) + w["br"])
        z = σ(w["Wz"] @ np.concatenate([x, h]) + w["bz"])
        if reset_after:
            candidate = np.tanh(w["Wh"][:, H:] @ x + w["bh"] + r * (w["Wh"][:, :H] @ h + w["bhh"]))
        else:
            candidate = np.tanh(w["Wh"] @ np.concatenate([r * h, x]) + w["bh"])
        return ((1 - z) * h + z * candidate,)

    return _layers(cell, w, x, states)


def lstm(w: Weights, x: Array, states: States, candidate: str = "tanh") -> tuple[Array, States]:
    φ = {"tanh": np.tanh, "sigmoid": σ}[candidate]

    def cell(w: Weights, x: Array, h: Array, c: Array) -> States:
        xh = np.concatenate([x, h])
        f = σ(w["Wf"] @ xh + w["bf"])
        i = σ(w["Wi"] @ xh + w["bi"])
        o = σ(w["Wo"] @ xh + w["bo"])
        c = f * c + i * φ(w["Wc"] @ xh + w["bc"])
        return o * np.tanh(c), c

    return _layers(cell, w, x, states)


def σ(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def _layers(cell: Callable[..., States], w: Weights, x: Array, states: States) -> tuple[Array, States]:
    states = tuple(np.array(s, np.float64) for s in states)
    for layer in range(len(states[0])):
        prefix = f"cells.{layer}."
        own = {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}
        outputs = np.empty((*x.shape[:2], states[0].shape[-1]))
        for t, b in np.ndindex(x.shape[:2]):
            after = cell(own, x[t, b], *(s[layer, b] for s in states))
            for state, value in zip(states, after, strict=True):
                state[layer, b] = value
            outputs[t, b] = after[0]
        x = outputs
    return x, states
