"""The scale of each value: its change where all values that it is computed from change a little."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from rnn_export.platform.arrays import Array

# How often all that is computed with is changed, and by how much of itself: 32 roundings of fp32, and less than the
# tolerance, so that a decision that hangs on it is seen.
CHANGES, CHANGE = 3, 2.0**-18
# Where something is outside its scale: a few changes leave by chance some value of very many where it was.
MORE_CHANGES = 24


def scales_of(
    values: Mapping[str, Array], changed: Iterable[Mapping[str, Array]], timed: Collection[str]
) -> dict[str, Array]:
    """By tensor, the change of each value relative to that of the weights, inputs and operator results.

    `changed` are the changed values, a few times; those of `timed` are (rows, frames, ...). That is the scale of the
    operands of a value: of a difference of large numbers, theirs. Powers of two, and 0 where a value's own running
    magnitude is no smaller.
    """
    moved = {name: np.zeros(value.shape) for name, value in values.items()}
    for other in changed:
        for name, value in values.items():
            moved[name] = np.maximum(moved[name], _distance(other[name].astype(float), value.astype(float)) / CHANGE)
    found = {}
    for name, value in values.items():
        far, own = moved[name], np.where(np.isfinite(value), np.abs(value.astype(float)), 0.0)
        own = np.maximum.accumulate(own, 1) if name in timed else own
        with np.errstate(divide="ignore", over="ignore"):
            found[name] = np.where(far > own, np.exp2(np.ceil(np.log2(far))), 0.0).astype(np.float32)
    return found


def _distance(a: Array, b: Array) -> Array:
    """Inf where one of two values alone is a number, 0 where neither is."""
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b))
    return np.where(np.isnan(b), 0.0, np.nan_to_num(difference, nan=np.inf, posinf=np.inf))
