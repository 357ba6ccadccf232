"""What calls of a model leave behind for later ones: followed from operator to operator, whatever its values are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from rnn_export.export.lift.program.fx import aten

# A memory in a list may be read only some calls later.
CALLS = 4
# Calls after which a count has done what it will.
AHEAD = 10**6
# These write over all of their first argument without reading it.
OVERWRITING = {aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default}


def hidden_memory(model: nn.Module, draw: Callable[[], Sequence[Tensor]]) -> list[str] | None:
    """The paths of attributes through which a call of `model` reads what an earlier one made; None where none does.

    The list is empty where something is read that no attribute of a module holds. `model` must be a copy; `draw` gives
    the arguments of a call.
    """
    history, start = _History(), _numbers(model)
    names: dict[str, None] = {}
    for call in range(CALLS + 1):
        if call == CALLS:
            # What counts calls may count for nothing, or show much later.
            _set_ahead(model, [name for name, n in _numbers(model).items() if n != start.get(name, n)])
        held = {_place(t): name for name, t in _tensors(model)}
        arguments = draw()
        history.begin(arguments)
        with torch.no_grad(), history:
            model(*arguments)
        names.update((held[place], None) for place in history.read if place in held)
    if history.read:
        return list(names)
    if history.done[-1] != history.done[-2]:
        return [name for name, n in _numbers(model).items() if n != start.get(name)]
    return None


class _History(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operators of calls, and the storages that hold what was computed from the arguments of any.

    Attributes:
        done: by call, each operator with its arguments, of tensors the shapes.
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
        shown = pytree.tree_map_only(Tensor, lambda t: tuple(t.shape), (args, kwargs))
        self.done[-1].append(f"{func} {shown}")
        given = _leaves((args, kwargs))
        first = func._schema.arguments[0].alias_info if given else None
        if func in OVERWRITING and _is_whole(given[0]):
            self._before.discard(_place(given[0]))
        # A view is no reading yet, and what is written over is none.
        taken = {_place(t) for t in (given[1:] if func in OVERWRITING else given)}
        self.read |= taken & self._before if first is None or first.is_write else set()
        results = func(*args, **kwargs)
        if taken & (self._now | self._before):
            self._fill([*_leaves(results), *(given[:1] if func._schema.is_mutable else [])])
        return results

    def _fill(self, tensors: Sequence[Tensor]) -> None:
        """`tensors` hold now what is computed from the arguments of this call."""
        self._now |= {_place(t) for t in tensors}
        self._held += [StorageWeakRef(t.untyped_storage()) for t in tensors]  # type: ignore[no-untyped-call]


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is all of its storage."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _leaves(value: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors that modules hold in plain attributes and in buffers, by path."""
    found = []
    for path, module in model.named_modules():
        for name, value in {**vars(module), **module._buffers}.items():
            if name not in ("_parameters", "_modules", "_buffers"):
                found += [(f"{path}.{name}".lstrip("."), t) for t in _leaves(value)]
    return found


def _numbers(model: nn.Module) -> dict[str, float]:
    """The numbers that modules hold, by path."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) in (int, float)
    }


def _set_ahead(model: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        setattr(module, last, getattr(module, last) + AHEAD)
