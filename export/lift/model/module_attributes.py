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
                value = _inside(value)[key]
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
            now = _content(holder)
            if len(now) != len(content) or any(a is not b for a, b in zip(_flat(now), _flat(content), strict=True)):
                _refill(holder, content)


def replace_inside(model: nn.Module, write: Callable[[Any], Any]) -> None:
    """Replace each value in the lists, dicts and attributes of `model` by `write(value)`, in place."""
    for holder in [holder for holder in _holders(model, DEPTH, set()) if not isinstance(holder, set)]:
        content = _content(holder)
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        written = {key: new for key, value in pairs if (new := write(value)) is not value}
        if written:
            _refill(
                holder,
                {**content, **written}
                if isinstance(content, dict)
                else [written.get(key, value) for key, value in enumerate(content)],
            )


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
    """The containers in `value`, and the attributes of objects, each once; a module restarts `depth`."""
    if id(value) in seen or depth < 0 or isinstance(value, NO_CONTAINERS):
        return
    seen.add(id(value))
    if isinstance(value, dict | list | deque | set):
        yield value
    elif slots := _Slots.of(value):
        yield slots
    if isinstance(value, dict | list | deque | set | tuple):
        inside = list(value.values()) if isinstance(value, dict) else list(value)
    else:
        inside = [vars(value)] if hasattr(value, "__dict__") else []
        inside += slots_of(value).values()
    for part in inside:
        if not isinstance(part, PLAIN):
            yield from _holders(part, DEPTH if isinstance(part, nn.Module) else depth - 1, seen)


def slots_of(value: Any) -> dict[str, Any]:
    """The attributes of an object that its class names in `__slots__`."""
    slots = _Slots.of(value)
    return _content(slots) if slots else {}


class _Slots:
    """The attributes of an object that its class names in `__slots__`."""

    def __init__(self, owner: Any, names: list[str]) -> None:
        self.owner, self.names = owner, names

    @staticmethod
    def of(value: Any) -> _Slots | None:
        members = (vars(cls).items() for cls in type(value).__mro__ if "__slots__" in vars(cls))
        names = [name for pairs in members for name, member in pairs if isinstance(member, MemberDescriptorType)]
        return _Slots(value, names) if names else None


def _content(holder: Any) -> Any:
    if isinstance(holder, _Slots):
        return {name: getattr(holder.owner, name) for name in holder.names if hasattr(holder.owner, name)}
    return dict(holder) if isinstance(holder, dict) else set(holder) if isinstance(holder, set) else list(holder)


def _flat(content: Any) -> Iterator[Any]:
    return (x for pair in content.items() for x in pair) if isinstance(content, dict) else iter(content)


def _refill(holder: Any, content: Any) -> None:
    if isinstance(holder, _Slots):
        for name in holder.names:
            if name in content:
                object.__setattr__(holder.owner, name, content[name])
            elif hasattr(holder.owner, name):
                object.__delattr__(holder.owner, name)
        return
    holder.clear()
    if isinstance(holder, dict | set):
        holder.update(content)
    else:
        holder.extend(content)


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
    inside = _inside(value)
    parts = {
        first: _with(inside[first], {keys[1:]: v for keys, v in leaves.items() if keys[0] == first})
        for first in dict.fromkeys(keys[0] for keys in leaves)
    }
    if isinstance(value, tuple):
        listed = [parts.get(i, part) for i, part in enumerate(value)]
        return type(value)(*listed) if hasattr(value, "_fields") else type(value)(listed)
    made = copy.copy(value)
    holder = _inside(made)
    for key, part in parts.items():
        holder[key] = part
    return made


def _below(
    path: AttributePath, value: Any, depth: int, around: tuple[int, ...] = ()
) -> Iterator[tuple[AttributePath, Any]]:
    """Yield `value` and the values in it; reference cycles are not followed."""
    yield path, value
    if not depth or not _is_container(value) or id(value) in around:
        return
    inside = _inside(value)
    for key, inner in list(inside.items() if isinstance(inside, dict) else enumerate(inside)):
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


def _is_container(value: Any) -> bool:
    if isinstance(value, dict | list | tuple | deque):
        return True
    return hasattr(value, "__dict__") and not isinstance(value, NO_CONTAINERS)


def _inside(value: Any) -> Any:
    """The container of the parts of a value, by key."""
    return value if isinstance(value, dict | list | tuple | deque) else vars(value)
