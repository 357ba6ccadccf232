"""Follows values through the operators of a run: which of its sources each storage is computed from."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, aten
from rnn_export.export.lift.ir.op_recorder import SeesOperators
from rnn_export.export.lift.model.call.pytree import leaves_of

# These write over all of their first argument without reading it.
OVERWRITING = {aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default}


class Dataflow(SeesOperators):
    """The names of the sources that the storages of a run hold values of.

    Attributes:
        asked: the names of the sources of which an operator made a number of Python's.
    """

    def __init__(self, sources: Iterable[tuple[Hashable, Tensor]] = ()) -> None:
        super().__init__()
        self.asked: set[Hashable] = set()
        self._names: dict[int, set[Hashable]] = {}
        # While one is held, no other storage has its address.
        self._held: list[StorageWeakRef] = []
        for name, tensor in sources:
            self.fill([tensor], {name})

    def names_of(self, tensor: Tensor) -> set[Hashable]:
        """The names of the sources that the storage of `tensor` holds values of."""
        return self._names.get(place_of(tensor), set())

    def moves(self, tensor: Tensor) -> bool:
        """True if a tensor has entries, and is computed from any source."""
        return tensor.numel() > 0 and bool(self.names_of(tensor))

    def fill(self, tensors: Sequence[Tensor], names: set[Hashable]) -> None:
        """Note that the storages of `tensors` hold values of the sources `names`."""
        for tensor in tensors:
            place = place_of(tensor)
            if place not in self._names and tensor.layout is torch.strided:
                self._held.append(StorageWeakRef(tensor.untyped_storage()))  # type: ignore[no-untyped-call]
            self._names.setdefault(place, set()).update(names)

    def forget(self, tensor: Tensor) -> None:
        """Called before all of a tensor's storage is written over."""
        self._names.pop(place_of(tensor), None)

    def meet(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Called before an operator that takes values of a source."""

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = [] if func in SHAPE_ONLY else leaves_of((args, kwargs))
        if func in OVERWRITING:
            first, *given = given
            if first.numel() * first.element_size() == first.untyped_storage().nbytes():
                self.forget(first)
        names = set[Hashable]().union(*map(self.names_of, given))
        if names:
            self.meet(func, args, kwargs)
        results = func(*args, **kwargs)
        if names:
            made = leaves_of(results)
            self.asked |= set() if made else names
            self.fill([*made, *_written(func, args, kwargs)], names)
        return results


def place_of(tensor: Tensor) -> int:
    """The identity of a tensor's storage."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else id(tensor)


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that an operator writes to."""
    schema = func._schema.arguments
    given = {**dict(zip((a.name for a in schema), args, strict=False)), **kwargs}
    return leaves_of([given.get(a.name) for a in schema if a.alias_info is not None and a.alias_info.is_write])
