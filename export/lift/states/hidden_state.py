"""Finds the memory that calls of a model leave for later ones, operator by operator, for any values."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnn_export.export.lift.ir.compare import MEMORY, same
from rnn_export.export.lift.model.call.pytree import leaves_of
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.module_attributes import AttributePath, attributes
from rnn_export.export.lift.states.counter_uses import asked_numbers
from rnn_export.export.lift.trace.dataflow import OVERWRITING, Dataflow, place_of

# A memory in a list may be read only some calls later.
CALLS = 4


@dataclass(frozen=True)
class Hidden:
    """The memory of earlier calls: paths `read`, attributes that grow; `other` if none of them holds it."""

    read: tuple[AttributePath, ...]
    grown: tuple[AttributePath, ...]
    other: bool


def hidden_memory(flat: FlatModel, arguments: Sequence[Tensor]) -> Hidden:
    """The memory that calls of `flat`, which must be a copy, read of earlier ones, all with `arguments`."""
    model, before = flat.model, copy.deepcopy(flat)
    history, numbers = _History(), _Numbers()
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
        history.take(results)
        given_before = given_before or results
        differ = differ or not all(same(a, b, MEMORY) for a, b in zip(results, given_before, strict=True))
        read.update((path, None) for path, t in held if place_of(t) in history.read)
        # A counter is made of no argument, and moves all the same.
        left = _tensors(model)
        history.fill([t for path, t in left if not same(t, values.get(path, t))])
        values = {path: t.clone() for path, t in left}
        filled = [(path, t) for path, t in left if history.names_of(t)]
        passed = _moved(held, left)
        moved |= passed
        if number:
            # What calls read and replace is memory, whatever filled it, and however many calls ago.
            replaced = {b for _, b in passed}
            replaced |= {path for (path, _), t in zip(held, contents, strict=True) if not same(values.get(path, t), t)}
            read.update((path, None) for path, t in held if path in replaced and place_of(t) in history.read_held)
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
        sources[place_of(t)].append(path)
    return {(a, b) for b, t in left for a in sources[place_of(t)] if b not in sources[place_of(t)]}


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


class _History(Dataflow):
    """The operators of calls, and the numbers of the calls that filled each storage.

    Attributes:
        done: by call, each operator on values computed from its arguments, with these, as shapes if tensors.
        read: storages that a call read and an earlier one filled.
        read_held: storages that the last call read of those that the model held before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done: list[list[str]] = []
        self.read: set[int] = set()
        self.read_held: set[int] = set()
        self._of_model: set[int] = set()

    def begin(self, arguments: Sequence[Tensor], held: Sequence[Tensor]) -> None:
        """Begin a call with `arguments`; `held` are tensors of the model."""
        self.read_held, self._of_model = set(), {place_of(t) for t in held}
        self.done.append([])
        self.fill(arguments)

    def fill(self, tensors: Sequence[Tensor], names: set[Hashable] | None = None) -> None:
        """Note that this call filled `tensors`, from whatever."""
        super().fill(tensors, {len(self.done)})

    def forget(self, tensor: Tensor) -> None:
        super().forget(tensor)
        self._of_model.discard(place_of(tensor))

    def meet(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.done[-1].append(f"{func} {pytree.tree_map_only(Tensor, lambda t: tuple(t.shape), (args, kwargs))}")

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = leaves_of((args, kwargs))
        first = func._schema.arguments[0].alias_info if given else None
        # A view is no reading yet, and what is written over is none.
        if first is None or first.is_write:
            self.take(given[1:] if func in OVERWRITING else given)
        return super().see(func, args, kwargs)

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Note that this call reads `tensors`, or gives them."""
        for tensor in tensors:
            place = place_of(tensor)
            if self.names_of(tensor) - {len(self.done)}:
                self.read.add(place)
            if place in self._of_model:
                self.read_held.add(place)


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
