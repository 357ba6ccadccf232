"""Finds the memory that calls of a model leave for later ones, operator by operator, for any values."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from rnn_export.export.lift.ir.compare import MEMORY, same
from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, aten
from rnn_export.export.lift.ir.op_recorder import SeesOperators
from rnn_export.export.lift.model.call.pytree import leaves_of
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.module_attributes import AttributePath, attributes
from rnn_export.export.lift.states.counter_uses import asked_numbers

# A memory in a list may be read only some calls later.
CALLS = 4
# These write over all of their first argument without reading it.
OVERWRITING = {aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default}


@dataclass(frozen=True)
class Hidden:
    """The memory of earlier calls: paths `read`, attributes that grow; `other` if none of them holds it."""

    read: tuple[AttributePath, ...]
    grown: tuple[AttributePath, ...]
    other: bool


def hidden_memory(flat: FlatModel, arguments: Sequence[Tensor]) -> Hidden:
    """The memory that calls of `flat`, which must be a copy, read of earlier ones, all with `arguments`."""
    model, before = flat.model, copy.deepcopy(flat)
    history, numbers = History(), _Numbers()
    read: dict[AttributePath, None] = {}
    sizes: list[Counter[AttributePath]] = []
    moved: set[tuple[AttributePath, AttributePath]] = set()
    values: dict[AttributePath, Tensor] = {}
    given_before, differ = tuple[Tensor, ...](), False
    for number in range(CALLS):
        numbers.watch(model)
        held = _tensors(model)
        given, contents = [t.clone() for t in arguments], [t.clone() for _, t in held]
        history.begin(given, [t for _, t in held])
        with torch.no_grad(), history:
            results = flat(*given)
        history.give(results)
        given_before = given_before or results
        differ = differ or not all(same(a, b, MEMORY) for a, b in zip(results, given_before, strict=True))
        read.update((path, None) for path, t in held if _place(t) in history.read)
        # A counter is made of no argument, and moves all the same.
        left = _tensors(model)
        history.fill([t for path, t in left if not same(t, values.get(path, t))])
        values = {path: t.clone() for path, t in left}
        filled = [(path, t) for path, t in left if history.filled(t)]
        passed = _moved(held, left)
        moved |= passed
        if number:
            # What calls read and replace is memory, whatever filled it, and however many calls ago.
            replaced = {b for _, b in passed}
            replaced |= {path for (path, _), t in zip(held, contents, strict=True) if not same(values.get(path, t), t)}
            read.update((path, None) for path, t in held if path in replaced and _place(t) in history.read_held)
        sizes.append(Counter(path.root for path, _ in left))
    used = {path.root for path, _ in filled}
    grown = [path for path, n in sizes[-1].items() if path in used and n > sizes[0][path]]
    while onward := {a for a, b in moved if b in read and a not in read}:
        read.update(dict.fromkeys(sorted(onward, key=str)))
    asked = asked_numbers(before, {path: numbers.seen[path] for path in numbers.changes}, arguments)
    read.update(dict.fromkeys(asked))
    differs = any(done != history.done[0] for done in history.done)
    if differs:
        read.update(dict.fromkeys(path for path, changes in numbers.changes.items() if changes == 1))
        # Beside a state a number would be put back with it, and not be seen to change.
        roots = {path.root for path in read}
        read.update(dict.fromkeys(path for path in numbers.changes if path.root in roots and path.root != path))
    if (differs or differ) and not read and not grown:
        read.update(dict.fromkeys(numbers.changes))
    if numbers.changes:
        read.update(dict.fromkeys(_neighbours(read, _tensors(model))))
    order = {path: i for i, (path, _) in enumerate(attributes(model))}
    inside = tuple(sorted(read, key=lambda path: order.get(path, len(order))))
    return Hidden(inside, tuple(grown), (differs or bool(history.read)) and not read and not grown)


def _moved(
    held: Sequence[tuple[AttributePath, Tensor]], left: Sequence[tuple[AttributePath, Tensor]]
) -> set[tuple[AttributePath, AttributePath]]:
    """The pairs of paths of which a call put what the one held into the other."""
    sources = defaultdict[int, list[AttributePath]](list)
    for path, t in held:
        sources[_place(t)].append(path)
    return {(a, b) for b, t in left for a in sources[_place(t)] if b not in sources[_place(t)]}


def _neighbours(
    read: Mapping[AttributePath, None], held: Sequence[tuple[AttributePath, Tensor]]
) -> list[AttributePath]:
    """The other entries of a list of which one is read, if alike: a counter may pick them as well."""
    lists = {(path.module, path.keys[:-1]) for path in read if len(path.keys) > 1 and isinstance(path.keys[-1], int)}
    shapes = {(path.module, path.keys[:-1], t.shape, t.dtype) for path, t in held if path in read}
    return [
        path
        for path, t in held
        if (path.module, path.keys[:-1]) in lists and (path.module, path.keys[:-1], t.shape, t.dtype) in shapes
    ]


class History(SeesOperators):
    """The operators of calls, and the storages of values computed from the arguments of any.

    Attributes:
        done: by call, each operator on values computed from its arguments, with these, as shapes if tensors.
        read: storages that a call read and an earlier one filled.
        read_held: storages that the last call read of those that the model held before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done: list[list[str]] = []
        self.read: set[int] = set()
        self._before: set[int] = set()
        self._now: set[int] = set()
        self.read_held: set[int] = set()
        self._of_model: set[int] = set()
        # While one is held, no other storage has its address.
        self._held: list[StorageWeakRef] = []

    def begin(self, arguments: Sequence[Tensor], held: Sequence[Tensor] = ()) -> None:
        """Begin a call with `arguments`; `held` are tensors of the model."""
        self._before |= self._now
        self._now, self.read_held, self._of_model = set(), set(), {_place(t) for t in held}
        self.fill(arguments)
        self.done.append([])

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = leaves_of((args, kwargs))
        first = func._schema.arguments[0].alias_info if given else None
        if func in OVERWRITING and _is_whole(given[0]):
            self._before.discard(_place(given[0]))
            self._of_model.discard(_place(given[0]))
        # A view is no reading yet, and what is written over is none.
        taken = {_place(t) for t in (given[1:] if func in OVERWRITING else given)}
        if first is None or first.is_write:
            self.read |= taken & self._before
            self.read_held |= taken & self._of_model
        results = func(*args, **kwargs)
        # The sets grow with every operator of a loop: no union of them.
        if not (taken.isdisjoint(self._now) and taken.isdisjoint(self._before)) and func not in SHAPE_ONLY:
            self.done[-1].append(f"{func} {pytree.tree_map_only(Tensor, lambda t: tuple(t.shape), (args, kwargs))}")
            self.fill([*leaves_of(results), *_written(func, args, kwargs)])
        return results

    def give(self, results: Sequence[Tensor]) -> None:
        """End a call with `results`: earlier storages in it are read."""
        given = {_place(t) for t in results}
        self.read |= given & self._before
        self.read_held |= given & self._of_model

    def filled(self, tensor: Tensor) -> bool:
        """True if a tensor holds values computed from the arguments of any call."""
        return _place(tensor) in self._now or _place(tensor) in self._before

    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Note that this call filled `tensors`."""
        self._now |= {_place(t) for t in tensors}
        self._held += [StorageWeakRef(t.untyped_storage()) for t in tensors]  # type: ignore[no-untyped-call]


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that an operator writes to."""
    schema = func._schema.arguments
    given = {**dict(zip((a.name for a in schema), args, strict=False)), **kwargs}
    return leaves_of([given.get(a.name) for a in schema if a.alias_info is not None and a.alias_info.is_write])


def _is_whole(tensor: Tensor) -> bool:
    """True if a tensor is all of its storage."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Numbers:
    """Counts in `changes` the calls that change each number, which are `seen` so after the last one."""

    def __init__(self) -> None:
        self.changes = Counter[AttributePath]()
        self.seen: dict[AttributePath, int | float] = {}

    def watch(self, model: nn.Module) -> None:
        for path, number in attributes(model):
            if isinstance(number, int | float) and self.seen.setdefault(path, number) != number:
                self.changes[path] += 1
                self.seen[path] = number


def _tensors(model: nn.Module) -> list[tuple[AttributePath, Tensor]]:
    """The tensors that modules hold in plain attributes and in buffers."""
    return [(path, value) for path, value in attributes(model) if isinstance(value, Tensor)]
