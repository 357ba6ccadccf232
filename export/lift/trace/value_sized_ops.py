"""Attention and triangles of data-dependent sizes, by other operators: torch's own ask for the sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rnn_export.export.lift.ir.symbolic_integers import is_by_value


def sizes_follow_from_values(*args: Any, **kwargs: Any) -> bool:
    given = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    return any(is_by_value(n) for t in given for n in t.shape)


def decomposed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention (..., L, V) of query (..., L, E), key (..., S, E) and value (..., S, V), as torch defines it."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = lower_triangle(torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    probabilities: Any = scores.softmax(-1)
    return F.dropout(probabilities, dropout_p) @ value if dropout_p else probabilities @ value


def lower_triangle(input: Tensor, diagonal: Any = 0) -> Tensor:  # noqa: A002
    """`torch.tril` of (..., R, C)."""
    return torch.where(_columns_behind(input) - diagonal <= 0, input, torch.zeros_like(input))


def upper_triangle(input: Tensor, diagonal: Any = 0) -> Tensor:  # noqa: A002
    """`torch.triu` of (..., R, C)."""
    return torch.where(_columns_behind(input) - diagonal >= 0, input, torch.zeros_like(input))


def _columns_behind(x: Tensor) -> Tensor:
    """The number of columns (R, C) from the diagonal to each entry."""
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape[-2:])
    return columns - rows[:, None]


DECOMPOSED: dict[Any, Callable[..., Tensor]] = {
    F.scaled_dot_product_attention: decomposed_attention,
    torch.tril: lower_triangle,
    Tensor.tril: lower_triangle,
    torch.triu: upper_triangle,
    Tensor.triu: upper_triangle,
}
