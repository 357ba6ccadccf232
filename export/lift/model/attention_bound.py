"""Bounds attention over all earlier frames to the most recent ones: the meaning of `max_context`.

The user's own model is run with the bound: before each softmax, causal scores of older frames become minus infinity. So
a bounded stream is verified against the model, and for up to `frames` frames this is the model as it was trained.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from rnn_export.limits import CONTEXT

# The exponential of a score as low as this is zero beside any that a model makes: zipformers write -1000.
MASKED = -900.0
FUSED = F.scaled_dot_product_attention
SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


@dataclass(eq=False)
class Context:
    """Attention bound: each frame attends to itself and the `frames` - 1 before it; shared by all copies of a model.

    Attributes:
        most: the most frames of a sequence; None for any number.
        bounds: whether any attention of the model is bounded by it.
    """

    frames: int
    most: int | None = None
    bounds: bool = False

    @property
    def is_all(self) -> bool:
        """True if no sequence has more than `frames` frames."""
        return self.most is not None and self.most <= self.frames

    @property
    def declared(self) -> int | None:
        """The bound for the contract; None if it leaves nothing out."""
        return None if self.is_all else self.frames

    def __deepcopy__(self, memo: Any) -> Context:
        return self

    @contextlib.contextmanager
    def bounding(self) -> Iterator[None]:
        """Bound attention while a model runs; an exported graph is left as it is and bounded afterwards."""
        if self.is_all or torch.compiler.is_exporting():
            yield
        else:
            with _Bounding(self.frames):
                yield


def context_of(max_context: int | None, max_frames: int | None) -> Context | None:
    """The `Context` for the user's `max_context` and `max_frames`, None without a bound."""
    frames = min([n for n in (max_context, max_frames) if n is not None], default=CONTEXT + 1)
    return Context(frames, max_frames) if frames <= CONTEXT else None


def is_causal(masked: Tensor) -> bool:
    """True if masked scores (..., T, T) leave out every later frame."""
    later = torch.ones(masked.shape[-2:], dtype=torch.bool).triu(1)
    return bool((masked.masked_fill(~later, -torch.inf) <= MASKED).all())


class _Bounding(TorchFunctionMode):
    """Masks the causal scores of frames `frames` or more back."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            # The mode is off within what torch itself hands over.
            fused = mock.patch.object(F, "scaled_dot_product_attention", self._fused)
            softmax = mock.patch.object(F, "softmax", functools.partial(self._softmax, F.softmax))
            with fused, softmax:
                return func(*args, **kwargs)
        if func is FUSED:
            return self._fused(*args, **kwargs)
        return self._softmax(func, *args, **kwargs) if func in SOFTMAX else func(*args, **kwargs)

    def _softmax(self, softmax: Any, scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        last = {*args[:1], kwargs.get("dim")} & {-1, scores.dim() - 1}
        if last and self._is_beyond(scores, scores) and is_causal(scores):
            scores = scores.masked_fill(~self._near(scores), -torch.inf)
        bounded: Tensor = softmax(scores, *args, **kwargs)
        return bounded

    def _fused(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, **options: Any,
    ) -> Tensor:  # fmt: skip
        if self._is_beyond(query, key.mT) and (is_causal or attn_mask is not None):
            attn_mask, is_causal = self._bounded(attn_mask, self._near(key.mT)), False
        bounded: Tensor = FUSED(query, key, value, attn_mask, dropout_p, is_causal, **options)
        return bounded

    def _bounded(self, mask: Tensor | None, near: Tensor) -> Tensor:
        if mask is None:
            return near
        if mask.dtype == torch.bool:
            return mask & near if is_causal(torch.where(mask, 0.0, -torch.inf)) else mask
        return mask.masked_fill(~near, -torch.inf) if is_causal(mask) else mask

    def _is_beyond(self, rows: Tensor, columns: Tensor) -> bool:
        """True if the scores are square and exceed the bound."""
        return rows.dim() > 1 and self.frames < columns.shape[-1] == rows.shape[-2]

    def _near(self, columns: Tensor) -> Tensor:
        """The mask (T, T) of the frames that each attends to."""
        frames = columns.shape[-1]
        return torch.ones(frames, frames, dtype=torch.bool).tril().triu(1 - self.frames)
