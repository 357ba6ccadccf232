"""A model whose memory fills up, with room for all of it, and how much of it is there as a state beside it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnn_export.export.lift.program.results import OutputRef, is_ordered, key_of, result_parts


@dataclass(frozen=True)
class Fills:
    """A tensor that is up to `size` entries long along `axis`."""

    axis: int
    size: int

    def there(self, room: Tensor, count: Tensor) -> Tensor:
        """The last `count` entries."""
        return room[self._from(self.size - min(count.reshape(()).item(), self.size))]

    def after(self, room: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """The room behind which `left` was put in, and how many entries that is."""
        one = left[tuple(slice(None) if a == self.axis else 0 for a in range(left.dim()))]
        count = torch.ones_like(one, dtype=torch.int64).sum().clamp(min=0)
        return torch.cat([room, left], self.axis)[self._from(-self.size)], count.reshape(1)

    def _from(self, start: Any) -> tuple[slice, ...]:
        return (*(slice(None) for _ in range(self.axis)), slice(start, None))


class Filling(nn.Module):
    """`model`, of whose arguments `refs` those tensors that have `fills` are as long as they will be.

    How many of their entries there are, the last ones, is an argument NAME_count of each, and a result: a list of
    tensors of one number, in the order of the tensors; one tensor where there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        refs: Mapping[str, OutputRef],
        fills: Mapping[str, Sequence[Fills | None]],
        signature: inspect.Signature,
    ) -> None:
        super().__init__()
        self.model, self.refs, self.fills = model, dict(refs), dict(fills)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        counts = [inspect.Parameter(count_of(name), kind, default=None) for name in fills]
        self.signature = signature.replace(parameters=[*signature.parameters.values(), *counts])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(self.signature.bind_partial(*args, **kwargs).arguments)
        rooms = {}
        for name, fills in self.fills.items():
            fed = iter(pytree.tree_leaves(given.pop(count_of(name))))
            rooms[name], tree = pytree.tree_flatten(given[name])
            pairs = zip(rooms[name], fills, strict=True)
            given[name] = pytree.tree_unflatten([t if f is None else f.there(t, next(fed)) for t, f in pairs], tree)
        result = self.model(**given)
        parts, keys = result_parts(result), {name: key_of(result, ref) for name, ref in self.refs.items()}
        for name, fills in self.fills.items():
            key, after, counts = keys[name], list[Any](), list[Tensor]()
            assert key is not None
            leaves, tree = pytree.tree_flatten(parts[key])
            for room, left, fill in zip(rooms[name], leaves, fills, strict=True):
                left, *count = (left,) if fill is None else fill.after(room, left)
                after.append(left)
                counts += count
            parts[key] = pytree.tree_unflatten(after, tree)
            parts[len(parts) if is_ordered(result) else count_of(name)] = counts[0] if len(counts) == 1 else counts
        return tuple(parts.values()) if is_ordered(result) else parts


def count_of(name: str) -> str:
    """The name of the count of what fills up."""
    return f"{name}_count"
