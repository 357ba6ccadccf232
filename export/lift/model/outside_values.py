"""Values that a model's code reads outside of the model: in globals, closures, defaults of functions and classes.

`copy.deepcopy` shares functions and classes, so a copy of a model shares these values with the model. The reference of
the verification takes copies of them as well: a trace of a rare branch may have changed the shared ones.
"""

from __future__ import annotations

import copy
import dis
import enum
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from gc import get_referents
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from rnn_export.errors import first_line

# Packages whose functions and classes keep nothing of a model.
FOREIGN = frozenset({*sys.stdlib_module_names, "torch", "numpy", "onnx", "rnn_export"} - {"__main__"})
CODE = (type, FunctionType, BuiltinFunctionType, ModuleType)
CONTAINERS = (dict, list, tuple, set, frozenset, deque, partial, MethodType, property, classmethod, staticmethod)


class MISSING:
    """The value of a place that holds nothing."""


@dataclass(frozen=True, eq=False)
class Place:
    """An entry `name` of a namespace, or the attribute `name` of a cell, a function or a class."""

    owner: Any
    name: str

    def __deepcopy__(self, memo: dict[int, Any]) -> Place:
        return self

    def get(self) -> Any:
        """The value, or MISSING."""
        if isinstance(self.owner, dict | type):
            space = self.owner if isinstance(self.owner, dict) else vars(self.owner)
            return space.get(self.name, MISSING)
        try:
            return getattr(self.owner, self.name)
        except ValueError:  # an empty cell
            return MISSING

    def put(self, value: Any) -> None:
        """Set the value; MISSING removes it."""
        if isinstance(self.owner, dict):
            self.owner.update({self.name: value}) if value is not MISSING else self.owner.pop(self.name, None)
        elif value is not MISSING:
            setattr(self.owner, self.name, value)
        elif self.get() is not MISSING:
            delattr(self.owner, self.name)


@dataclass(frozen=True)
class Outside:
    """Copies of the values at each place, and notes on those that have no copy."""

    values: dict[Place, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Put the values at their places; on exit, put the earlier ones back, and keep the values as left."""
        before = {place: place.get() for place in self.values}
        try:
            for place, value in self.values.items():
                place.put(value)
            yield
        finally:
            for place, value in before.items():
                self.values[place] = place.get()
                place.put(value)


def outside_of(model: nn.Module, memo: dict[int, Any]) -> Outside:
    """Copies of the values outside of `model`, made with the `memo` of its own copy."""
    values, notes = dict[Place, Any](), list[str]()
    for place in places_of(model):
        try:
            place.put(place.get())
        except (AttributeError, TypeError):  # nothing can be set there, so nothing is
            continue
        try:
            values[place] = copy.deepcopy(place.get(), memo)
        except Exception as error:  # any class may refuse to be copied
            notes.append(
                f"the code of the model reads a {type(place.get()).__name__} ({place.name}) that cannot be copied "
                f"({first_line(error)}): the verification shares it with what lifting ran"
            )
    return Outside(values, tuple(dict.fromkeys(notes)))


def places_of(model: nn.Module) -> Iterator[Place]:
    """Each place whose value the code of `model` may read, followed from object to object."""
    left, seen = list[Any]([model]), dict[int, Any]()
    own = frozenset(_package(type(module)) for module in model.modules())
    while left:
        item = left.pop()
        if id(item) in seen or (isinstance(item, CODE) and _is_foreign(item, own)):
            continue
        # A held object keeps its address.
        seen[id(item)] = item
        reads: list[Place] = []
        if isinstance(item, FunctionType):
            reads = [*_of_function(item, own)]
        elif isinstance(item, type):
            reads = [Place(item, name) for name in vars(item) if not name.startswith(("__", "_abc_"))]
            left += item.__mro__
        elif not isinstance(item, CODE):
            left += _inside(item, own)
        for place in reads:
            value = place.get()
            left.append(value)
            is_code = isinstance(value, CODE) and value is not MISSING
            is_fixed = isinstance(item, type) and (hasattr(value, "__get__") or issubclass(item, enum.Enum))
            if not is_code and not is_fixed:
                yield place


def _inside(item: Any, own: frozenset[str]) -> list[Any]:
    contents = item.__dict__ if isinstance(item, nn.Module) else item
    if isinstance(item, (nn.Module, *CONTAINERS)) or not _is_foreign(type(item), own):
        return [type(item), *get_referents(contents)]
    return []


def _of_function(function: FunctionType, own: frozenset[str]) -> Iterator[Place]:
    yield from (Place(cell, "cell_contents") for cell in function.__closure__ or ())
    yield from (Place(function, name) for name in ("__defaults__", "__kwdefaults__") if getattr(function, name))
    yield from (Place(function, name) for name in vars(function))
    names = dict.fromkeys(name for code in _codes(function.__code__) for name in code.co_names)
    spaces = [function.__globals__]
    spaces += [vars(m) for n in names if isinstance(m := spaces[0].get(n), ModuleType) and not _is_foreign(m, own)]
    yield from (Place(space, name) for space in spaces for name in names if name in space)
    yield from (Place(spaces[0], name) for name in _assigned(function.__code__) if name not in spaces[0])


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of those written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _assigned(function: CodeType) -> set[str]:
    """The globals that a function assigns."""
    codes = (code for code in _codes(function) if dis.opmap["STORE_GLOBAL"] in code.co_code[::2])
    return {i.argval for code in codes for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"}


def _is_foreign(code: Any, own: frozenset[str]) -> bool:
    """True if code is of a library: FOREIGN, or installed without a class of the model."""
    package = _package(code)
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return package in FOREIGN or (package not in own and "-packages" in file)


def _package(code: Any) -> str:
    name = code.__name__ if isinstance(code, ModuleType) else getattr(code, "__module__", None)
    return (name or "builtins").partition(".")[0]
