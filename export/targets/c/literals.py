"""Numbers as C writes them."""

from __future__ import annotations

import numpy as np

from rnn_export.arrays import Array


def float_literal(value: float) -> str:
    """A float that reads back as the same bits."""
    if np.isnan(value):
        return "0.0f / 0.0f"
    if np.isinf(value):
        return "1.0f / 0.0f" if value > 0 else "-1.0f / 0.0f"
    return f"{float(f'{value:.9g}')!r}f"


def int_literal(value: int) -> str:
    """A whole number; C has no literal for the least of them."""
    return "INT64_MIN" if value == -(2**63) else str(value)


def scalar_literal(array: Array) -> str:
    """The first value of an array."""
    return _literals(array.reshape(-1)[:1])[0]


def array_literal(array: Array) -> str:
    """The values of an array as they stand between braces, 12 in a line."""
    values = _literals(array.reshape(-1))
    return ",\n".join(", ".join(values[i : i + 12]) for i in range(0, len(values), 12))


def _literals(array: Array) -> list[str]:
    if array.dtype.kind == "f":
        return [float_literal(value) for value in array.tolist()]
    return [int_literal(int(value)) for value in array.tolist()]
