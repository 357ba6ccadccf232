"""What calls of a model leave behind for later ones: followed from operator to operator, whatever its values are."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from rnn_export.export.lift.program.fx import SHAPE_ONLY, aten

# A memory in a list may be read only some calls later.
CALLS = 4
# These write over all of their first argument without reading it.
OVERWRITING = {aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default}
# How deep attributes are looked into: objects, lists and dicts in each other.
DEPTH = 3


def hidden_memory(model: nn.Module, arguments: Sequence[Tensor]) -> list[str] | None:
    """The paths of attributes through which a call of `model` reads what an earlier one left; None where none does.

    A container that grows with each call counts as read. The list is empty where something is read that no attribute
    of a module holds. `model` must be a copy, which is called with `arguments` over and over.
    """
    history, numbers = _History(), _Numbers()
    names: dict[str, None] = {}
    sizes: list[Counter[str]] = []
    for _ in range(CALLS):
        numbers.watch(model)
        held = _tensors(model)
        given = [t.clone() for t in arguments]
        history.begin(given)
        with torch.no_grad(), history:
            model(*given)
        names.update((path, None) for path, t in held if _place(t) in history.read)
        sizes.append(Counter(path for path, t in _tensors(model) if history.filled(t)))
    names.update((path, None) for path, n in sizes[-1].items() if sizes[0][path] and n > sizes[0][path])
    names.update(dict.fromkeys(numbers.read))
    if any(done != history.done[0] for done in history.done):
        return list(names) or sorted(numbers.watched)
    return list(names) if history.read or names else None


class _History(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operators of calls, and the storages that hold what was computed from the arguments of any.

    Attributes:
        done: by call, each operator on what is computed from its arguments, with these, of tensors the shapes.
        read: storages that a call read, and an earlier one filled.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[list[str]] = []
        self.read: set[int] = set()
        self._before: set[int] = set()
        self._now: set[int] = set()
        # While one is held, no other storage has its address.
        self._held: list[StorageWeakRef] = []

    def begin(self, arguments: Sequence[Tensor]) -> None:
        """A call with `arguments` follows."""
        self._before |= self._now
        self._now = set()
        self._fill(arguments)
        self.done.append([])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _leaves((args, kwargs))
        first = func._schema.arguments[0].alias_info if given else None
        if func in OVERWRITING and _is_whole(given[0]):
            self._before.discard(_place(given[0]))
        # A view is no reading yet, and what is written over is none.
        taken = {_place(t) for t in (given[1:] if func in OVERWRITING else given)}
        self.read |= taken & self._before if first is None or first.is_write else set()
        results = func(*args, **kwargs)
        if taken & (self._now | self._before) and func not in SHAPE_ONLY:
            self.done[-1].append(f"{func} {pytree.tree_map_only(Tensor, lambda t: tuple(t.shape), (args, kwargs))}")
            self._fill([*_leaves(results), *_written(func, args, kwargs)])
        return results

    def filled(self, tensor: Tensor) -> bool:
        """Whether a tensor holds what was computed from the arguments of any call."""
        return _place(tensor) in self._now | self._before

    def _fill(self, tensors: Sequence[Tensor]) -> None:
        """`tensors` hold now what is computed from the arguments of this call."""
        self._now |= {_place(t) for t in tensors}
        self._held += [StorageWeakRef(t.untyped_storage()) for t in tensors]  # type: ignore[no-untyped-call]


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that an operator writes to."""
    schema = func._schema.arguments
    given = {**dict(zip((a.name for a in schema), args, strict=False)), **kwargs}
    return _leaves([given.get(a.name) for a in schema if a.alias_info is not None and a.alias_info.is_write])


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is all of its storage."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _leaves(value: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Watched(int):
    """A number that calls change: to reckon with it goes on watching, to ask what it is counts as reading."""

    readers: dict[str, None]
    path: str

    def __new__(cls, value: int, path: str, readers: dict[str, None]) -> _Watched:
        made = super().__new__(cls, value)
        made.path, made.readers = path, readers
        return made


def _reckoning(name: str) -> Callable[..., Any]:
    def method(self: _Watched, *others: Any) -> Any:
        result = getattr(int, name)(self, *map(_plain, others))
        return _Watched(result, self.path, self.readers) if type(result) is int else result

    return method


def _asking(name: str) -> Callable[..., Any]:
    def method(self: _Watched, *others: Any) -> Any:
        self.readers[self.path] = None
        return getattr(int, name)(self, *map(_plain, others))

    return method


def _plain(value: Any) -> Any:
    return int.__int__(value) if isinstance(value, _Watched) else value


RECKONING = "add radd sub rsub mul rmul mod floordiv neg and or"
ASKING = "eq ne lt le gt ge bool index int float truediv rtruediv rmod pow rpow"
for _names, _made in ((RECKONING, _reckoning), (ASKING, _asking)):
    for _name in _names.split():
        setattr(_Watched, f"__{_name}__", _made(f"__{_name}__"))
setattr(_Watched, "__hash__", int.__hash__)  # noqa: B010


class _Numbers:
    """The whole numbers that calls of a model change, each watched from then on; `read` are the paths of those read."""

    def __init__(self) -> None:
        self.read: dict[str, None] = {}
        self.watched: set[str] = set()
        self._seen: dict[tuple[str, Any], int] = {}

    def watch(self, model: nn.Module) -> None:
        for path, holder, key, value in _held(model):
            if type(value) is not int or isinstance(holder, tuple):
                continue
            if self._seen.setdefault((path, key), value) != value:
                self.watched.add(path)
                holder[key] = _Watched(value, path, self.read)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors that modules hold in plain attributes and in buffers, by path; those of a list all by its own."""
    return [(path, value) for path, _, _, value in _held(model) if isinstance(value, Tensor)]


def _held(model: nn.Module) -> Iterator[tuple[str, Any, Any, Any]]:
    """What modules hold, in lists, dicts and objects too: (path, holder, key, value)."""
    for path, module in model.named_modules():
        own = {n: v for n, v in vars(module).items() if n not in ("_parameters", "_modules", "_buffers")}
        for name, value in {**own, **module._buffers}.items():
            where = f"{path}.{name}".lstrip(".")
            yield where, vars(module), name, value
            yield from _inside(where, value, DEPTH)


def _inside(path: str, value: Any, depth: int) -> Iterator[tuple[str, Any, Any, Any]]:
    if isinstance(value, dict | list | tuple | deque):
        holder: Any = value
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | Tensor | type | FunctionType | ModuleType):
        holder = vars(value)
    else:
        return
    for key, inner in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
        yield path, holder, key, inner
        if depth:
            yield from _inside(path, inner, depth - 1)
