"""What a module remembers in itself between calls: found by calling it twice, and refused."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError
from rnn_export.models.axes import Noise
from rnn_export.models.signature import FlatModel, first_line

Attributes = dict[str, Any]


def refuse_memory(flat: FlatModel) -> None:
    """Raise LiftError where the same call gives something else the second time, naming what changed in between."""
    model, noise = copy.deepcopy(flat), Noise(flat)
    tensors = [noise.like(leaf.example, {}) for leaf in (*flat.inputs, *flat.states)]
    try:
        with torch.no_grad():
            before = _attributes(model.model)
            first = [t.clone() for t in model(*tensors)]
            after = _attributes(model.model)
            second = list(model(*tensors))
    except Exception as error:  # the user's code may raise anything
        raise LiftError(f"the model fails on noise in the shape of its example: {first_line(error)}") from error
    if any(bool(torch.isnan(t).any()) for t in first):
        raise LiftError(
            "the model gives NaN for ordinary noise: look for NaN in its weights, or for a division by zero."
        )
    if all(_same(a, b) for a, b in zip(first, second, strict=True)):
        return
    changed = [name for name in after if not _same(before.get(name, ...), after[name])]
    if not changed:
        raise LiftError(
            "the model gives other outputs for the same inputs at each call: it draws random numbers, or remembers "
            "something between calls. Make eval mode deterministic; return what is remembered."
        )
    raise LiftError(
        f"the model remembers {', '.join(map(repr, changed))} between calls, inside itself. Take it as an argument, "
        "return its next value, and declare it: states={argument: output}."
    )


def _attributes(model: nn.Module) -> Attributes:
    """Tensors and plain values by path."""
    found: Attributes = {}
    for path, module in model.named_modules():
        for name, value in {**vars(module), **dict(module.named_buffers(recurse=False))}.items():
            if value is None or isinstance(value, Tensor | int | float | str):
                found[f"{path}.{name}".lstrip(".")] = value.clone() if isinstance(value, Tensor) else value
    return found


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6, equal_nan=True)
    return type(a) is type(b) and a == b
