"""Finds and replaces, by path, values in buffers and attributes of modules, also in lists, dicts and objects."""

from __future__ import annotations

import contextlib
import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.export.lift.model.script.script_modules import attributes_of

# How deep attributes are looked into: objects, lists and dicts in each other, as a cache of layers of numbered tensors.
DEPTH = 5
# What a module of torch keeps for itself.
OWN = ("_parameters", "_modules", "_buffers")
NO_CONTAINERS = (torch.jit.ScriptModule, Tensor, type, FunctionType, ModuleType)
PLAIN = (str, bytes, int, float, complex, type(None), Tensor)


@dataclass(frozen=True)
class AttributePath:
    """The path of a value: attribute `keys[0]` of the module at `module`, then the keys inside of it."""

    module: str
    keys: tuple[Any, ...]

    def __str__(self) -> str:
        return ".".join(str(key) for key in (self.module, *self.keys) if key != "" and key not in OWN)

    @property
    def root(self) -> AttributePath:
        """The path of the attribute itself."""
        return AttributePath(self.module, self.keys[:1])

    def is_buffer(self, model: nn.Module) -> bool:
        """True if the attribute is a registered buffer."""
        return self.keys[0] in model.get_submodule(self.module)._buffers

    def get(self, model: nn.Module) -> Any:
        """The value at the path; None if there is none."""
        return next(self._found(model), None)

    def is_in(self, model: nn.Module) -> bool:
        """True if `model` has the place already, so that a value can be put there."""
        return any(True for _ in self._found(model))

    def _found(self, model: nn.Module) -> Iterator[Any]:
        """Yield the value at the path, if there is such a place."""
        value: Any = _attributes(model.get_submodule(self.module), self.keys[0])
        with contextlib.suppress(KeyError, IndexError, TypeError):
            for key in self.keys:
                value = parts_of(value)[key]
            yield value

    def put(self, model: nn.Module, value: Any) -> None:
        """Put `value` at the path; lists, dicts and objects on the way are copied."""
        holder = _attributes(model.get_submodule(self.module), self.keys[0])
        holder[self.keys[0]] = _with(holder.get(self.keys[0]), {self.keys[1:]: value})


def attributes(model: nn.Module) -> Iterator[tuple[AttributePath, Any]]:
    """Yield all values in modules, except parameters and submodules: the items of a list after the list.

    A module in a list or an object is no submodule: it is one more object.
    """
    parts = tuple(map(id, model.modules()))
    for path, module in model.named_modules():
        for name, value in _all_attributes(module).items():
            yield from _below(AttributePath(path, (name,)), value, DEPTH, parts)


@contextlib.contextmanager
def tables_kept(model: nn.Module) -> Iterator[None]:
    """On exit, restore the tensors of modules whose shape a call changed.

    A table that code makes for the longest sequence so far would be a bound in a graph of longer ones.
    """
    held = [
        (holder, name, value)
        for module in model.modules()
        for holder in (_own(module), module._buffers)
        for name, value in holder.items()
        if isinstance(value, Tensor)
    ]
    try:
        yield
    finally:
        for holder, name, value in held:
            now = holder.get(name)
            if now is not value and isinstance(now, Tensor) and now.shape != value.shape:
                holder[name] = value


@contextlib.contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """On exit, restore the content of `model`: its modules, and the lists, dicts, sets and objects in them.

    A trace leaves tensors of its own there, which cannot be copied or computed with outside of it.
    """
    before = [(holder, _content(holder)) for holder in _holders(model, DEPTH, set())]
    try:
        yield
    finally:
        for holder, content in before:
            if not _is_same(content, _content(holder)):
                _refill(holder, content)


def replace_inside(model: nn.Module, write: Callable[[Any], Any]) -> None:
    """Replace each value in the lists, dicts and attributes of `model` by `write(value)`, in place."""
    for holder in [holder for holder in _holders(model, DEPTH, set()) if not isinstance(holder, set | tuple)]:
        content = parts_of(holder)
        written = {key: new for key, value in content.items() if (new := write(value)) is not value}
        if written:
            _refill(holder, {**content, **written})


def separate_entries(model: nn.Module) -> None:
    """Give each entry of a list a tensor of its own, as of `[zeros] * 8`: what moves along it is seen then."""
    for holder in list(_holders(model, DEPTH, set())):
        if isinstance(holder, list | deque):
            seen = set[int]()
            for place, value in enumerate(holder):
                if isinstance(value, Tensor) and id(value) in seen:
                    holder[place] = value.clone()
                seen.add(id(value))


def _holders(value: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    """The containers and objects in `value`, each once; a module restarts `depth`."""
    if id(value) in seen or depth < 0 or not (isinstance(value, set) or _has_parts(value)):
        return
    seen.add(id(value))
    yield value
    for part in _content(value).values():
        if not isinstance(part, PLAIN):
            yield from _holders(part, DEPTH if isinstance(part, nn.Module) else depth - 1, seen)


def parts_of(value: Any) -> dict[Any, Any]:
    """The entries of a dict, a list, a tuple or a deque, or the attributes of another object, by key."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list | tuple | deque):
        return dict(enumerate(value))
    slots = {name: getattr(value, name) for name in _slots(value) if hasattr(value, name)}
    return {**getattr(value, "__dict__", {}), **slots}


def _has_parts(value: Any) -> bool:
    if isinstance(value, dict | list | tuple | deque):
        return True
    return not isinstance(value, NO_CONTAINERS) and (hasattr(value, "__dict__") or bool(_slots(value)))


def _slots(value: Any) -> list[str]:
    """The attributes of an object that its class names in `__slots__`."""
    members = (item for kind in type(value).__mro__ if "__slots__" in vars(kind) for item in vars(kind).items())
    return [name for name, member in members if isinstance(member, MemberDescriptorType)]


def _content(holder: Any) -> dict[Any, Any]:
    return dict(enumerate(holder)) if isinstance(holder, set) else parts_of(holder)


def _is_same(before: dict[Any, Any], now: dict[Any, Any]) -> bool:
    """True if two contents have the same objects in one order."""
    pairs = zip(before.items(), now.items(), strict=False)
    return len(before) == len(now) and all(
        a is b or (type(a) is type(b) is int and a == b) for pair in pairs for a, b in zip(*pair, strict=True)
    )


def _refill(holder: Any, content: dict[Any, Any]) -> None:
    if isinstance(holder, tuple):
        return
    if isinstance(holder, dict | list | deque | set):
        holder.clear()
        fill = holder.extend if isinstance(holder, list | deque) else holder.update
        fill(content if isinstance(holder, dict) else content.values())
        return
    slots = _slots(holder)
    if hasattr(holder, "__dict__"):
        vars(holder).clear()
        vars(holder).update({name: value for name, value in content.items() if name not in slots})
    for name in slots:
        if name in content:
            object.__setattr__(holder, name, content[name])
        elif hasattr(holder, name):
            object.__delattr__(holder, name)


def _set(holder: Any, key: Any, value: Any) -> None:
    """Set a part of a value; of an object without calling what its class does then."""
    if isinstance(holder, dict | list | deque):
        holder[key] = value
    elif key in _slots(holder):
        object.__setattr__(holder, key, value)
    else:
        vars(holder)[key] = value


def _own(module: nn.Module) -> dict[str, Any]:
    return {} if isinstance(module, torch.jit.ScriptModule) else module.__dict__


@contextlib.contextmanager
def swapped(
    model: nn.Module, roots: Mapping[AttributePath, Any], values: Mapping[AttributePath, Any]
) -> Iterator[None]:
    """Set attributes to copies of `roots` with `values` at their places; on exit, restore them."""
    before = {root: root.get(model) for root in roots}
    try:
        for root, value in roots.items():
            root.put(model, _with(value, {path.keys[1:]: v for path, v in values.items() if path.root == root}))
        yield
    finally:
        for root, value in before.items():
            root.put(model, value)


def _with(value: Any, leaves: Mapping[tuple[Any, ...], Any]) -> Any:
    """A copy of `value`, with other values under some keys."""
    if () in leaves:
        return leaves[()]
    inside = parts_of(value)
    parts = {
        first: _with(inside[first], {keys[1:]: v for keys, v in leaves.items() if keys[0] == first})
        for first in dict.fromkeys(keys[0] for keys in leaves)
    }
    if isinstance(value, tuple):
        listed = [parts.get(i, part) for i, part in enumerate(value)]
        return type(value)(*listed) if hasattr(value, "_fields") else type(value)(listed)
    made = copy.copy(value)
    for key, part in parts.items():
        _set(made, key, part)
    return made


def _below(
    path: AttributePath, value: Any, depth: int, around: tuple[int, ...] = ()
) -> Iterator[tuple[AttributePath, Any]]:
    """Yield `value` and the values in it; reference cycles are not followed."""
    yield path, value
    if not depth or not _has_parts(value) or id(value) in around:
        return
    if _slots(value) and hasattr(type(value), "__copy__"):  # which may give the object itself: nothing is put there
        return
    for key, inner in parts_of(value).items():
        if isinstance(value, nn.Module) and key == "_parameters":
            continue
        yield from _below(AttributePath(path.module, (*path.keys, key)), inner, depth - 1, (*around, id(value)))


def _all_attributes(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, torch.jit.ScriptModule):
        return {name: getattr(module, name) for name in sorted(attributes_of(module))}
    return {**{name: value for name, value in vars(module).items() if name not in OWN}, **module._buffers}


def _attributes(module: nn.Module, name: str) -> dict[str, Any]:
    """The dict that holds the attribute `name`; a new one for a ScriptModule."""
    if isinstance(module, torch.jit.ScriptModule):
        return {name: getattr(module, name)}
    return module._buffers if name in module._buffers else vars(module)
