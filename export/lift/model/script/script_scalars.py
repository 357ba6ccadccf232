"""TorchScript's operators on numbers, strings, lists and dicts, in Python, so that sizes stay symbolic."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any


def _slice(values: Any, start: Any = None, stop: Any = None, step: int = 1) -> Any:
    return values[start:stop:step]


def _format(text: str, *values: Any) -> str:
    return text.format(*values)


def _setitem(values: Any, key: Any, value: Any) -> Any:
    values[key] = value
    return values


def _append(values: list[Any], value: Any) -> list[Any]:
    values.append(value)
    return values


def _delete(values: Any, key: Any) -> None:
    del values[key]


def _get(values: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return values.get(key, default)


# By name of aten or prim; none of the arguments is a tensor, or the operator takes a list of tensors apart.
SCALARS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "neg": operator.neg,
    "abs": abs,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "__not__": operator.not_,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__contains__": operator.contains,
    "__getitem__": operator.getitem,
    "_set_item": _setitem,
    "Bool": bool,
    "Int": int,
    "Float": float,
    "str": str,
    "len": len,
    "list": list,
    "append": _append,
    "slice": _slice,
    "get": _get,
    "keys": lambda values: list(values),
    "values": lambda values: list(values.values()),
    "items": lambda values: list(values.items()),
    "update": lambda values, more: values.update(more),
    "setdefault": lambda values, key, value: values.setdefault(key, value),
    "clear": lambda values: values.clear(),
    "Delete": _delete,
    "copy": lambda values: values.copy(),
    "reverse": lambda values: values.reverse(),
    "pop": lambda values, at=-1: values.pop(at),
    "insert": lambda values, at, value: values.insert(at, value),
    "extend": lambda values, more: values.extend(more),
    "add_": operator.iadd,
    "mul_": operator.imul,
    "format": _format,
    "min": min,
    "max": max,
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
    "__range_length": lambda start, stop, step: len(range(start, stop, step)),
    "__derive_index": lambda index, start, step: start + index * step,
}
