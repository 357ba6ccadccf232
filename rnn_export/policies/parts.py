"""The parts of any library's policy, taken out as copies that leave the user's own untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rnn_export.errors import SourceError

M = TypeVar("M", bound=nn.Module)
States = tuple[Tensor, ...]
Memory = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Parts:
    """A policy taken apart.

    Attributes:
        actor: (observations (rows, ...), states) to (actions (rows, ...), next states): deterministic, on the CPU.
        memory: for each state its layers and units; a state is (layers, rows, units), and starts at zeros.
        mean, std: of the observations that the normaliser saw, of the shape of one observation; 0 and 1 without one.
        own: actions (steps, rows, ...) by the library's own call, of observations (steps, rows, ...) and bool
            (steps, rows), True where an episode of a row begins. It leaves the policy as it was.
    """

    actor: nn.Module
    memory: Memory
    mean: Tensor
    std: Tensor
    own: Callable[[Tensor, Tensor], Tensor]

    def drawn(self, *shape: int) -> Tensor:
        """Observations (*shape, ...) such as the normaliser saw."""
        generator = torch.Generator().manual_seed(0)
        return self.mean + self.std * torch.randn(*shape, *self.mean.shape, generator=generator)


def taken(module: M) -> M:
    """A copy of `module` on the CPU, in float32, to be called and not trained."""
    # Neither is copied as it is: what a training step computed last, and what was made in inference mode.
    held = (t for t in _tensors(module, set()) if not t.is_leaf or t.is_inference())
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in held}
    return copy.deepcopy(module, memo).cpu().float().eval()


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """All tensors in the attributes of `value`, and in what these hold."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from _tensors(vars(value), seen)


def observations(space: Any, what: str) -> tuple[int, ...]:
    """The shape of an observation of a Box of floats; raises SourceError for any other space."""
    name = type(space).__name__
    if name != "Box" or not str(space.dtype).startswith("float"):
        raise SourceError(
            f"{what} observes {space}: policy_of takes a Box of floats, one tensor. Write a torch.nn.Module around "
            "the policy that takes the tensors apart, and export that.",
            id="policy-observation-space",
        )
    return tuple(space.shape)


def unknown_actions(space: Any, what: str, known: Sequence[str]) -> SourceError:
    """The error for a space of actions that is none of `known`."""
    return SourceError(
        f"{what} acts in {space}, and policy_of knows {', '.join(known)} of it. Write a torch.nn.Module around the "
        "policy that returns the actions as tensors, and export that.",
        id="policy-action-space",
    )
