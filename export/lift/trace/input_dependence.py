"""Tells the values of a run that depend on its inputs from those made of sizes and weights alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, aten
from rnn_export.export.lift.ir.op_recorder import SeesOperators
from rnn_export.export.lift.model.call.pytree import leaves_of

# What Python's numbers become a tensor by, in memory that another one may have had.
NEW = (aten.lift_fresh.default, aten.lift_fresh_copy.default)


class SeesMoving(SeesOperators):
    """Tracks the tensors of a run that depend on `inputs`: they move."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._moving = {_memory(x) for x in inputs}

    def moves(self, value: Tensor) -> bool:
        return value.numel() > 0 and _memory(value) in self._moving

    def meet(self, given: Sequence[Tensor]) -> None:
        """Called with the tensors that an operator takes, if some move."""

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = leaves_of((args, kwargs))
        moves = func not in SHAPE_ONLY and func not in NEW and any(map(self.moves, given))
        if moves:
            self.meet(given)
        result = func(*args, **kwargs)
        before = set() if func in NEW else {_memory(x) for x in given}
        for memory in map(_memory, leaves_of(result)):
            if moves:
                self._moving.add(memory)
            elif memory not in before:
                self._moving.discard(memory)
        return result


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else id(value)
