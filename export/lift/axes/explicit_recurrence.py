"""Finds a recurrence written out over an axis of fixed size: weights used once per entry, on the last result."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rnn_export.export.lift.ir.op_recorder import SeesOperators
from rnn_export.export.lift.ir.source_location import at_line, user_line
from rnn_export.export.lift.model.call.pytree import leaves_of
from rnn_export.export.lift.model.flat_model import FlatModel

# An axis of fewer entries is no sequence.
FEWEST = 4


class _Depths(SeesOperators):
    """Counts the successive uses of each weight on the way to a storage; `places` has their source lines."""

    def __init__(self, weights: Sequence[int]) -> None:
        super().__init__()
        self.places: dict[int, str] = {}
        self.most: dict[int, int] = dict.fromkeys(weights, 0)
        self._depths: dict[int, dict[int, int]] = {}
        # While one is held, no other storage has its address.
        self._held: list[Any] = []

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        results = func(*args, **kwargs)
        given = [t.untyped_storage() for t in leaves_of((args, kwargs))]
        depths: dict[int, int] = {}
        for storage in given:
            for weight, depth in self._depths.get(storage._cdata, {}).items():
                depths[weight] = max(depths.get(weight, 0), depth)
        for weight in {s.data_ptr() for s in given} & self.most.keys():
            depths[weight] = depths.get(weight, 0) + 1
            if depths[weight] > self.most[weight]:
                self.most[weight] = depths[weight]
                self.places.setdefault(weight, at_line(*user_line()))
        for storage in (t.untyped_storage() for t in leaves_of(results)):
            # A weight itself is as deep as any use of it.
            if depths and storage.data_ptr() not in self.most:
                self._held.append(storage)
                here = self._depths.setdefault(storage._cdata, {})
                here.update({w: max(d, here.get(w, 0)) for w, d in depths.items()})
        return results


def written_loop(flat: FlatModel, rows: Sequence[int | None]) -> str:
    """The place of a recurrence so written over an input axis other than its `rows`; empty if none."""
    called = copy.deepcopy(flat)
    names = {p.untyped_storage().data_ptr(): name for name, p in called.model.named_parameters()}
    sizes = {
        n
        for leaf, row in zip(flat.inputs, rows, strict=True)
        for axis, n in enumerate(leaf.example.shape)
        if axis != row and n >= FEWEST and leaf.example.dim() > 2
    }
    depths = _Depths([*names])
    with torch.no_grad(), depths:
        called(*(leaf.example.clone() for leaf in (*flat.inputs, *flat.states)))
    found = (w for w, depth in depths.most.items() if depth >= FEWEST - 1 and {depth, depth + 1} & sizes)
    weight = next(found, None)
    return "" if weight is None else f"{names[weight].rpartition('.')[0] or names[weight]} ({depths.places[weight]})"
