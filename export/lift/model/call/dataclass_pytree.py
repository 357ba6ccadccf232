"""Dataclasses in arguments and results, as pytree nodes that torch can flatten and unflatten."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree


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
