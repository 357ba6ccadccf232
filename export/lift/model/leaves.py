"""The named tensors of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rnn_export.export.lift.model.call.complex_parts import named_parts
from rnn_export.export.lift.model.call.pytree import renamed, tensors_of


@dataclass(frozen=True)
class Leaf:
    """One named tensor of a call, with its example value."""

    name: str
    example: Tensor


def named_leaves(arguments: Sequence[str], values: Mapping[str, Any], wanted: Sequence[str] | None) -> tuple[Leaf, ...]:
    """The leaves of `arguments`, under the names `wanted` if there are some."""
    tensors = [(name + path, leaf) for name in arguments for path, leaf in tensors_of(values[name])]
    leaves = [part for name, leaf in tensors for part in named_parts(name, leaf)]
    names = renamed([name for name, _ in leaves], wanted, "input")
    return tuple(Leaf(name, leaf) for name, (_, leaf) in zip(names, leaves, strict=True))
