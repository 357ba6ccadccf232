"""Wraps a model that takes sequence lengths as arguments: they are computed from the sizes of its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.export.lift.model.call.output_parts import OutputRef, is_ordered, result_parts


@dataclass(frozen=True)
class Lengths:
    """The row lengths of input `of`, as `dtype`: its size along `time`, or 1.0 (all of it) if `time` is None."""

    of: str
    batch: int
    time: int | None
    dtype: torch.dtype

    def of_input(self, x: Tensor) -> Tensor:
        length = 1.0 if self.time is None else x.shape[self.time]
        return torch.full((x.shape[self.batch],), length, dtype=self.dtype)


class WithLengths(nn.Module):
    """`model` without its arguments `lengths`, and with None for its results `dropped`, which follow from them alone.

    `signature` is of forward without these arguments. Other results are given by key, in a tuple if the model does.
    """

    def __init__(
        self,
        model: nn.Module,
        lengths: Mapping[str, Lengths],
        dropped: frozenset[OutputRef],
        signature: inspect.Signature,
    ) -> None:
        super().__init__()
        self.model, self.lengths, self.dropped, self.signature = model, dict(lengths), dropped, signature

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = self.signature.bind_partial(*args, **kwargs).arguments
        made = {name: lengths.of_input(given[lengths.of]) for name, lengths in self.lengths.items()}
        result = self.model(**given, **made)
        if not self.dropped:
            return result
        parts = {key: None if key in self.dropped else value for key, value in result_parts(result).items()}
        return tuple(parts.values()) if is_ordered(result) else parts
