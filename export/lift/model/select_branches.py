"""Runs a model in all variants of its decisions, and selects the results by the values that decide.

    self.h = self.first(x, self.h) if self.t % 2 == 0 else self.second(x, self.h)
    self.t += 1

A variant is the code with one outcome for each decision. Each is run once, and its results, and the states that it
leaves, are selected as the decisions go. This is right for one stream, since one decision is for all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError
from rnn_export.export.lift.model.module_attributes import AttributePath, attributes
from rnn_export.export.lift.model.numbers.int_provenance import value_of

# The most ways, of which each is computed at every step.
MOST = 32


@dataclass(eq=False)
class Variant:
    """A variant: its first decisions have the outcomes `taken`, later ones are true; `asked` are their tensors."""

    taken: tuple[bool, ...]
    asked: list[Tensor] = field(default_factory=list)
    _numbers: dict[Any, int] = field(default_factory=dict)

    def decide(self, tensor: Tensor) -> bool:
        """The outcome of the next decision, which reads `tensor`."""
        at = len(self.asked)
        if tensor.numel() != 1:
            # As torch itself says that this is no decision.
            return bool(tensor)
        self.asked.append(tensor)
        return self.taken[at] if at < len(self.taken) else True

    def number(self, tensor: Tensor, how: Any, values: Sequence[int]) -> int:
        """The value in this variant of a number that is one of `values`: the same for the same `how`."""
        known = value_of(how, self._numbers)
        if known is not None:
            return known
        if how not in self._numbers:
            is_value = (v for v in values[:-1] if self.decide(tensor == v))
            self._numbers[how] = next(is_value, values[-1])
        return self._numbers[how]


def both_branches(model: nn.Module, call: Callable[[Variant], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The results of `call`, run once for each variant from the same attributes of `model`.

    Afterwards, attributes hold what any variant left there.

    Raises LiftError if there are more than `MOST` variants, or if two give tensors of other shapes or types.
    """
    variants, before, left = 0, _held(model), dict[AttributePath, Any]()

    def from_here(taken: tuple[bool, ...]) -> tuple[Tensor, ...]:
        nonlocal variants
        variants += 1
        if variants > MOST:
            raise LiftError(f"the code has more than {MOST} ways by the values that it decides by.", id="too-many-ways")
        variant = Variant(taken)
        results = call(variant)
        after = _held(model)
        left.update((path, value) for path, value in after.items() if before.get(path, left) is not value)
        for path, value in before.items():
            if after.get(path, left) is not value:
                path.put(model, value)
        all_taken = [*taken, *(True for _ in variant.asked[len(taken) :])]
        for at in reversed(range(len(taken), len(variant.asked))):
            results = _chosen(variant.asked[at], results, from_here((*all_taken[:at], False)))
        return results

    results = from_here(())
    for path, value in left.items():
        path.put(model, value)
    return results


def _held(model: nn.Module) -> dict[AttributePath, Any]:
    return {path: value for path, value in attributes(model) if path.root == path}


def _chosen(asked: Tensor, yes: tuple[Tensor, ...], no: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    condition = asked.reshape(()) if asked.dtype == torch.bool else asked.reshape(()) != 0
    pairs = list(zip(yes, no, strict=True))
    if not all(_are_alike(a, b) for a, b in pairs):
        raise LiftError("two ways of the code give results of other types or shapes.", id="ways-give-other-types")
    return tuple(a if a is b else _where(condition, a, b) for a, b in pairs)


def _are_alike(a: Tensor, b: Tensor) -> bool:
    sizes = zip(a.shape, b.shape, strict=False)
    known = all(m == n for m, n in sizes if type(m) is int and type(n) is int)
    return a.dtype == b.dtype and a.dim() == b.dim() and known


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # ONNX Runtime chooses between no bools.
    return (condition & a) | (~condition & b) if a.dtype == torch.bool else torch.where(condition, a, b)
