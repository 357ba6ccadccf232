"""Buffers of fixed capacity for memories that grow from call to call; their fill counts become states."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnn_export.export.lift.model.call.output_parts import OutputRef, is_ordered, key_of, result_parts


@dataclass(frozen=True)
class Fills:
    """A tensor of at most `size` entries along `axis`; the state `count` says how many are valid."""

    axis: int
    size: int
    count: str

    def there(self, cache: Tensor, count: Tensor) -> Tensor:
        """The last `count` entries of `cache`."""
        return cache[self._from(self.size - min(count.reshape(()).item(), self.size))]

    def after(self, cache: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """The buffer with `left` at its end, and the number of entries in `left`, (1,)."""
        one = left[tuple(slice(None) if a == self.axis else 0 for a in range(left.dim()))]
        count = torch.ones_like(one, dtype=torch.int64).sum().clamp(min=0)
        return torch.cat([cache, left], self.axis)[self._from(-self.size)], count.reshape(1)

    def _from(self, start: Any) -> tuple[slice, ...]:
        return (*(slice(None) for _ in range(self.axis)), slice(start, None))


class Filling(nn.Module):
    """`model` with buffers of fixed capacity for the tensors of the arguments `refs` that have `fills`.

    The number of valid entries, the last ones of a buffer, is an argument and a result: one for all tensors that fill
    up alike.
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
        self.counts = tuple(dict.fromkeys(f.count for of in fills.values() for f in of if f is not None))
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        counts = [inspect.Parameter(count, kind, default=None) for count in self.counts]
        self.signature = signature.replace(parameters=[*signature.parameters.values(), *counts])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(self.signature.bind_partial(*args, **kwargs).arguments)
        fed, caches = {count: given.pop(count) for count in self.counts}, dict[str, list[Any]]()
        for name, fills in self.fills.items():
            caches[name], tree = pytree.tree_flatten(given[name])
            there = [t if f is None else f.there(t, fed[f.count]) for t, f in zip(caches[name], fills, strict=True)]
            given[name] = pytree.tree_unflatten(there, tree)
        result = self.model(**given)
        parts, keys = result_parts(result), {name: key_of(result, ref) for name, ref in self.refs.items()}
        counts: dict[str, Tensor] = {}
        for name, fills in self.fills.items():
            key, after = keys[name], list[Any]()
            assert key is not None
            leaves, tree = pytree.tree_flatten(parts[key])
            for cache, left, fill in zip(caches[name], leaves, fills, strict=True):
                if fill is None:
                    after.append(left)
                    continue
                entries, count = fill.after(cache, left)
                after.append(entries)
                counts.setdefault(fill.count, count)
            parts[key] = pytree.tree_unflatten(after, tree)
        for named, value in counts.items():
            parts[len(parts) if is_ordered(result) else named] = value
        return tuple(parts.values()) if is_ordered(result) else parts
