"""Refuses what calls of a model change and no state can hold: lists that grow, texts, sets, iterators, objects.

Everything that the model holds, and that its code reads outside of it, is looked at before and after calls, down to
plain values. Tensors and numbers in attributes are states, or read by no call (`hidden_state.py`).
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence, Set
from types import FunctionType, GeneratorType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.module_attributes import OWN, AttributePath, attributes, parts_of
from rnn_export.export.lift.model.outside_values import places_of

# Of the example: what only loud values change is changed as well.
SCALES = (1.0, 1.0, 0.0, 1e3, 1e6)
# Calls before the first look: what is made once, such as a cache of one size, is there.
FIRST = 2
# Numbers of one list that calls change, from which on they may move along it.
SEVERAL = 3
PLAIN = (str, bytes, bytearray, int, float, complex, type(None), np.generic)
# What keeps nothing of a call, or is no memory of Python's.
SKIPPED = (type, FunctionType, ModuleType, torch.dtype, torch.device, torch.Generator)
# Of places outside of the model that have no name of the user's.
OUTSIDE = {
    "cell_contents": "a variable of a closure",
    **dict.fromkeys(("__defaults__", "__kwdefaults__"), "the default of an argument"),
}

Path = tuple[Any, ...]


def refuse_other_memory(flat: FlatModel, draw: Callable[[float], Sequence[Tensor]]) -> None:
    """Raise LiftError, with the path, if calls of `flat` on `draw(scale)` change what is no state of it."""
    if changed := changed_by_calls(flat, draw):
        raise LiftError(
            f"calls of the model change {', '.join(changed[:4])}, which later calls may read, and no state can hold "
            "it: a state is a tensor or a number in an attribute. Keep what later calls need in a registered buffer, a "
            "tensor; leave out what none needs, such as a list of what was seen.",
            id="memory-in-python-objects",
        )


def changed_by_calls(flat: FlatModel, draw: Callable[[float], Sequence[Tensor]]) -> list[str]:
    """The names of what calls of `flat` on `draw(scale)` change, but tensors, and numbers that no call reads."""
    called = copy.deepcopy(flat)
    looks = list[dict[Path, Any]]()
    for scale in SCALES:
        # What fails on such values fails elsewhere.
        with torch.no_grad(), contextlib.suppress(Exception):
            called(*draw(scale))
        looks.append(dict(_contents(called.model)))
    pairs = itertools.pairwise(looks[FIRST - 1 :])
    changes = Counter(path for a, b in pairs for path in {**a, **b} if a.get(path) != b.get(path))
    numbers = {(path.module, *path.keys) for path, value in attributes(called.model) if isinstance(value, int | float)}
    in_list = Counter(path[:-1] for path in changes if isinstance(path[-1], int))
    names = (
        _name(path)
        for path, count in changes.items()
        # Numbers that move on along a list may be read many calls later.
        if path not in numbers or (isinstance(path[-1], int) and (count == 1 or in_list[path[:-1]] >= SEVERAL))
    )
    return list(dict.fromkeys(names))


def _name(path: Path) -> str:
    """The attribute that a path goes through, or the name outside of the model."""
    module, *keys = path
    name = str(AttributePath(module, tuple(keys[:1]))) if isinstance(module, str) else str(keys[0])
    return OUTSIDE.get(name, repr(name))


def _contents(model: nn.Module) -> Iterator[tuple[Path, Any]]:
    """Yield every plain value, and what says the size or the place of other objects, by path."""
    # A held object keeps its address.
    seen = dict[int, Any]()
    for name, module in model.named_modules():
        seen[id(module)] = module
        for key, value in _parts(module):
            yield from _below((name, key), value, seen)
    for number, place in enumerate(places_of(model)):
        yield from _below((number, place.name), place.get(), seen, is_outside=True)


def _below(path: Path, value: Any, seen: dict[int, Any], is_outside: bool = False) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Tensor):
        # Those of the model are states, or no call reads them.
        yield path, _entries_of(value) if is_outside else Tensor
    elif isinstance(value, PLAIN):
        yield path, (type(value).__name__, repr(value))
    elif isinstance(value, np.ndarray):
        yield path, (value.shape, hash(value.tobytes()) if value.dtype != object else repr(value))
    elif isinstance(value, SKIPPED) or id(value) in seen:
        return
    else:
        seen[id(value)] = value
        yield path, _size_of(value)
        for key, part in _parts(value):
            yield from _below((*path, key), part, seen, is_outside)


def _entries_of(value: Tensor) -> Any:
    with contextlib.suppress(Exception):  # of other layouts and devices
        return value.shape, hash(value.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return id(value)


def _size_of(value: Any) -> Any:
    """A value by which two states of an object differ, next to its parts."""
    if isinstance(value, Set):
        return sorted(map(repr, value))
    if isinstance(value, GeneratorType):
        return value.gi_frame and value.gi_frame.f_lasti
    return type(value).__name__, len(value) if isinstance(value, dict | list | tuple | deque) else ""


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """The parts of an object, by key: items, attributes, and what it would be pickled as."""
    if isinstance(value, Set | GeneratorType):
        return []
    held = list(parts_of(value).items())
    if isinstance(value, nn.Module):
        return [(key, part) for key, part in held if key not in OWN]
    if isinstance(value, dict | list | tuple | deque):
        return held
    if not held or any("__reduce__" in vars(kind) for kind in type(value).__mro__[:-1]):
        # An iterator, a fraction, a generator of random numbers.
        with contextlib.suppress(Exception):
            held += [(("state", i), part) for i, part in enumerate(value.__reduce_ex__(2)[1:]) if not callable(part)]
    return held
