"""Extracts states nested in an argument beside data, such as `obs_dict.rnn_states`, and puts them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rnn_export.export.lift.model.call.pytree import Record


def taken_out(arguments: dict[str, Any], names: Sequence[str]) -> None:
    """Make each of `names` that is a path into an argument an argument of its own; None takes its place."""
    for name in names:
        root, *keys = name.split(".")
        if keys and name not in arguments and root in arguments and _has(arguments[root], keys):
            arguments[name] = _at(arguments[root], keys)
            arguments[root] = _with(arguments[root], keys, None)


def put_back(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the model takes them."""
    whole = dict(arguments)
    for name, value in arguments.items():
        root, *keys = name.split(".")
        if keys:
            whole[root] = _with(whole[root], keys, value)
            del whole[name]
    return whole


def under(name: str, parents: Sequence[str]) -> bool:
    """True if a leaf is one of `parents` or inside one of them."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def _entries(value: Any) -> dict[str, Any]:
    """The parts of a value by their names in leaf names."""
    if isinstance(value, Record):
        return dict(value.fields)
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if isinstance(value, tuple | list):
        return {str(key): part for key, part in zip(getattr(value, "_fields", range(len(value))), value, strict=True)}
    return {}


def _has(value: Any, keys: Sequence[str]) -> bool:
    return not keys or (keys[0] in _entries(value) and _has(_entries(value)[keys[0]], keys[1:]))


def _at(value: Any, keys: Sequence[str]) -> Any:
    return _at(_entries(value)[keys[0]], keys[1:]) if keys else value


def _with(value: Any, keys: Sequence[str], part: Any) -> Any:
    """A copy of `value` with another `part` at `keys`."""
    if not keys:
        return part
    parts = {key: _with(old, keys[1:], part) if key == keys[0] else old for key, old in _entries(value).items()}
    if isinstance(value, Record):
        return replace(value, fields=parts)
    if isinstance(value, Mapping):
        return dict(zip(value, parts.values(), strict=True))
    return type(value)(*parts.values()) if hasattr(value, "_fields") else type(value)(parts.values())
