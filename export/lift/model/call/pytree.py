"""The tensors in nested arguments and results, and their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError


def leaves_by_path(value: Any) -> list[tuple[Any, Any]]:
    """The leaves of nested containers, each with its path."""
    found: list[tuple[Any, Any]] = pytree.tree_flatten_with_path(value)[0]
    return found


def leaves_of(value: Any) -> list[Tensor]:
    """The tensors in the arguments or results of an operator."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def tensors_of(value: Any) -> list[tuple[str, Tensor]]:
    """The non-empty tensors in a value, by the suffix of their names."""
    return [(suffix(path), leaf) for path, leaf in leaves_by_path(value) if is_fed(leaf)]


def is_fed(leaf: Any) -> bool:
    """True if a leaf is a non-empty tensor: an empty part of a state stays as it is."""
    return isinstance(leaf, Tensor) and all(type(n) is not int or n > 0 for n in leaf.shape)


def suffix(path: Sequence[Any]) -> str:
    """The suffix of the leaf at `path`, behind the name of the value."""
    return "".join(f".{getattr(key, 'key', getattr(key, 'idx', getattr(key, 'name', key)))}" for key in path)


def described(tensors: Sequence[tuple[str, Tensor]]) -> str:
    """Shapes and types of tensors, for a message."""
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for _, t in tensors) or "nothing"


def renamed(names: Sequence[str], wanted: Sequence[str] | None, what: str) -> tuple[str, ...]:
    """`names`, or those that the user wants; raises LiftError if their number differs."""
    if wanted is None:
        return tuple(names)
    if len(wanted) != len(names):
        raise LiftError(
            f"{what}_names has {len(wanted)} names, but the model has {len(names)} {what}s: {list(names)}.",
            id="names-of-wrong-count",
        )
    return tuple(wanted)
