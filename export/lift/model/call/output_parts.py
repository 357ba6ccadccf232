"""Splits the results of a model into parts by name or position."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, dtype
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError
from rnn_export.export.lift.model.call.pytree import closed

OutputRef = int | str
PLAIN = (Tensor, int, float, complex, str, dtype, type)


def is_ordered(result: Any) -> bool:
    """True if the parts of a result have positions and no names."""
    return isinstance(result, tuple | list) and not hasattr(result, "_fields")


def result_parts(result: Any) -> dict[OutputRef, Any]:
    """The parts of a result, by name or position."""
    if isinstance(result, Mapping):
        named: Any = result.items()
    elif dataclasses.is_dataclass(result):
        named = ((field.name, getattr(result, field.name)) for field in dataclasses.fields(result))
    elif isinstance(result, tuple | list):
        named = zip(getattr(result, "_fields", range(len(result))), result, strict=True)
    else:
        named = {"output": result}.items()
    return dict(named)


def key_of(result: Any, ref: OutputRef) -> OutputRef | None:
    """The key in `result_parts(result)` that `ref` means, or None."""
    keys = list(result_parts(result))
    if isinstance(ref, int) and isinstance(result, tuple | list | Tensor):
        return keys[ref] if -len(keys) <= ref < len(keys) else None
    return ref if ref in keys else None


def pick(result: Any, ref: OutputRef, state: str) -> Any:
    """The part of `result` that `ref` means; raises LiftError if there is none."""
    key = key_of(result, ref)
    if key is not None:
        return result_parts(result)[key]
    has = f"{len(result)} values" if is_ordered(result) else f"the keys {list(result_parts(result))}"
    has = "one tensor" if isinstance(result, Tensor) else has
    raise LiftError(
        f"states says that {state!r} comes back as output {ref!r}, but the model returns {has}.",
        id="state-output-missing",
    )


def object_in(value: Any) -> Any:
    """The first object in `value` that torch cannot flatten, or None."""
    leaves = pytree.tree_leaves(closed(value))
    found = (leaf for leaf in leaves if not isinstance(leaf, PLAIN) and hasattr(leaf, "__dict__"))
    return next(found, None)
