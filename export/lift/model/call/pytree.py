"""The tensors in nested arguments and results, and their names; dataclasses are pytree nodes too."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Record:
    """The fields of a dataclass by name; `like` is an instance of it."""

    like: Any
    fields: dict[str, Any]


def closed(value: Any) -> Any:
    """`value` with a `Record` for every dataclass in it that torch does not know."""
    if type(value) in pytree.SUPPORTED_NODES:
        if isinstance(value, dict):
            return {key: closed(part) for key, part in value.items()} if type(value) is dict else value
        return type(value)(map(closed, value)) if type(value) in (tuple, list) else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(closed, value))
    if not dataclasses.is_dataclass(value) or isinstance(value, type | Record):
        return value
    return Record(value, {field.name: closed(getattr(value, field.name)) for field in dataclasses.fields(value)})


def opened(value: Any) -> Any:
    """The inverse of `closed`."""
    return pytree.tree_map(_opened, value, is_leaf=lambda part: isinstance(part, Record))


def _opened(value: Any) -> Any:
    if not isinstance(value, Record):
        return value
    made = copy.copy(value.like)
    for name, part in value.fields.items():
        # A frozen one has no other way.
        object.__setattr__(made, name, opened(part))
    return made


def _flatten(record: Record) -> tuple[list[Any], Any]:
    return list(record.fields.values()), (record.like, tuple(record.fields))


def _unflatten(values: Iterable[Any], context: Any) -> Record:
    like, names = context
    return Record(like, dict(zip(names, values, strict=True)))


def _flatten_with_keys(record: Record) -> tuple[list[tuple[Any, Any]], Any]:
    values, context = _flatten(record)
    return [(pytree.GetAttrKey(name), value) for name, value in zip(context[1], values, strict=True)], context


pytree.register_pytree_node(Record, _flatten, _unflatten, flatten_with_keys_fn=_flatten_with_keys)
