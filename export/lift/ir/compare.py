"""Equality of tensors in lifting, with a named tolerance for each question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Entries a and b are the same if |a - b| <= atol * scale + rtol * |b|.

    With `smallest_scale` None the scale is 1; else it is the largest finite |b| of the tensor, or this if larger.
    """

    rtol: float = 0.0
    atol: float = 0.0
    smallest_scale: float | None = None
    equal_nan: bool = False


EXACT = Tolerance()
"""Bit for bit: values that nothing was computed for anew."""

LOCALITY = Tolerance(atol=1e-5, smallest_scale=1e-3, equal_nan=True)
"""Whether entries of an operator's result move when some of its frames are exchanged. Sums over an axis of another
length, or in another order, round differently: by far less than any exchanged frame moves them."""

INITIAL_ROWS = Tolerance(rtol=1e-6, atol=1e-7)
"""Whether all rows of a batch start from one value: each is the same computation, at another place of a tensor."""

INDEPENDENCE = Tolerance(rtol=1e-5, atol=1e-6, smallest_scale=0.0)
"""Whether an output of the whole model depends on other rows or frames: the same sums in batches of other sizes."""

BRANCH_TOLERANCE = Tolerance(rtol=1e-5, atol=1e-6, smallest_scale=0.0, equal_nan=True)
"""Whether a graph gives what the model gives, or one side of a decision what the other does: the same sums in another
order, and NaN where the other has it."""

MEMORY = Tolerance(rtol=1e-5, atol=1e-6, equal_nan=True)
"""Whether a call of the model changed what one of its attributes holds."""

START = Tolerance(rtol=1e-5, atol=1e-6)
"""Whether the model, called without its states, starts from the values that stand in for them."""

SCANS = Tolerance(rtol=1e-4, atol=1e-5, smallest_scale=0.0)
"""Whether a parallel scan is the recurrence frame by frame: its products and its sums of logarithms round more."""

CLOSED_LOOP = Tolerance(rtol=1e-3, atol=1e-4)
"""Whether several calls of one frame equal one call of several frames: rounding adds up over the frames, but a state
that moves once per call is off by far more."""


def same(a: Any, b: Any, tolerance: Tolerance = EXACT) -> bool:
    """True if two tensors have one shape and the same entries within `tolerance`; dtypes are not compared."""
    return not bool(differing(a, b, tolerance).any())


def differing(a: Any, b: Any, tolerance: Tolerance = EXACT) -> Tensor:
    """A bool mask of the entries in which two tensors differ; a single True if shapes differ.

    Numbers that are not floating point are the same only if they are equal, whatever the tolerance.
    """
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
        return torch.ones(1, dtype=torch.bool)
    if a.is_complex() and b.is_complex():
        return differing(torch.view_as_real(a), torch.view_as_real(b), tolerance).any(-1)
    if not (a.is_floating_point() and b.is_floating_point()):
        return torch.ne(a, b)
    a, b, atol = a.detach().double(), b.detach().double(), tolerance.atol
    if tolerance.smallest_scale is not None:
        largest = float(b.abs().nan_to_num(0, 0, 0).max()) if b.numel() else 0.0
        atol *= max(largest, tolerance.smallest_scale)
    return ~torch.isclose(a, b, rtol=tolerance.rtol, atol=atol, equal_nan=tolerance.equal_nan)
