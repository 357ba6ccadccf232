"""Outputs of the untouched model, and the error of others against them."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .architectures import Architecture

Array = npt.NDArray[Any]
# None for what `finish` gives of an output without a time axis.
Outputs = list[Any]

# An error relative to the largest magnitude that the output of this row had until this frame, or FLOOR.
TOLERANCE, FLOOR = 2e-5, 1e-3
# A stream may be off LEEWAY times as far as the model itself is, on inputs and with weights that differ by a rounding,
# and where what its operators give does: a gate at its level and a norm of what is constant amplify it.
LEEWAY, SHAKEN, ROUNDING = 10, 3, 1e-7
# Of what these give, which close to 0 some code has no more exactly than at SMALL: ONNX Runtime's sigmoid.
SMALL = 0.1
FUNCTIONS = {"tanh", "sigmoid", "exp", "log", "log1p", "sqrt", "rsqrt", "softplus", "gelu", "silu", "elu", "sin", "cos"}


def separate(a: Array, b: Array) -> Array:
    """|a - b|: zero where both are the same infinity or both not a number, infinite where only one is."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf))


def scale(true: Array, timed: bool) -> Array:
    """The largest finite magnitude of each row so far, (rows, frames, 1, ...), or of each row, (rows, 1, ...)."""
    size = np.abs(np.where(np.isfinite(true), true, 0).astype(np.float64))
    size = size.max(axis=tuple(range(2 if timed else 1, true.ndim)), keepdims=True)
    return np.maximum(np.maximum.accumulate(size, 1) if timed else size, FLOOR)


class Rounded(TorchDispatchMode):
    """Perturb functions with code of their own by a rounding, as other code does."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = operator(*args, **(kwargs or {}))
        name = operator._schema.name.removeprefix("aten::")
        if name.removesuffix("_") not in FUNCTIONS:
            return given
        noise = ROUNDING * torch.randn(given.shape, generator=self.generator).to(given.dtype)
        off = given + noise * given.abs().clamp(min=SMALL)
        return given.copy_(off) if name.endswith("_") else off


class Truth:
    """Outputs of the untouched model, (rows, frames, ...), for all rows at once or for each `alone`."""

    def __init__(self, architecture: Architecture, inputs: list[Tensor], alone: bool) -> None:
        self.architecture, self.inputs, self.alone = architecture, inputs, alone
        self.outputs = self._of(architecture, inputs)

    def _of(self, architecture: Architecture, inputs: list[Tensor]) -> Outputs:
        calls = [[x[i : i + 1] for x in inputs] for i in range(len(inputs[0]))] if self.alone else [inputs]
        given = [architecture.truth([x.clone() for x in call]) for call in calls]
        return [torch.cat(rows).numpy() for rows in zip(*given, strict=True)]

    @cached_property
    def leeway(self) -> Outputs:
        others = [self._of(*self.architecture.shaken(self.inputs, seed)) for seed in range(SHAKEN)]
        for seed in range(SHAKEN):
            with Rounded(seed):
                others.append(self._of(self.architecture, self.inputs))
        # A model may make float32 of its own.
        with contextlib.suppress(RuntimeError):
            others.append(self._of(*self.architecture.exact(self.inputs)))
        moved = [[separate(a, b) for a, b in zip(self.outputs, other, strict=True)] for other in others]
        return [LEEWAY * np.max(one, axis=0) for one in zip(*moved, strict=True)]

    def error(self, i: int, given: Array, timed: bool, row: int | None) -> float:
        """The largest relative error of output `i`, over time for as many frames as were given, of all rows or one."""
        rows = slice(row, None if row is None else row + 1)

        def cut(x: Array) -> Array:
            return x[rows, : given.shape[1]] if timed else x[rows]

        size = cut(scale(self.outputs[i], timed))
        if not given.size:
            return 0.0
        off = separate(given, cut(self.outputs[i]))
        if (off / size).max() > TOLERANCE:
            with np.errstate(invalid="ignore"):
                off = np.nan_to_num(np.maximum(off - cut(self.leeway[i]), 0), nan=0.0)
        return float((off / size).max())
