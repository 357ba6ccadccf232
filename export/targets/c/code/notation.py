"""Numbers, sizes and indices, written in C."""

import math
from collections.abc import Sequence

import onnx_ir as ir

from rnn_export.platform.arrays import Array


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """A shape with a number for every size."""
    return () if value.shape is None else tuple(value.shape.numpy())


def strides_of(shape: Sequence[int]) -> list[int]:
    """Values from one index of an axis to the next, in an array without gaps."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def index_expression(variables: Sequence[str], strides: Sequence[int]) -> str:
    """The C of the flat index that loop variables stand for in an array of these strides."""
    return " + ".join(f"{variable} * {stride}" for variable, stride in zip(variables, strides, strict=True)) or "0"


def float_literal(value: float) -> str:
    """A float that reads back as the same bits."""
    if math.isfinite(value):
        return f"{float(f'{value:.9g}')!r}f"
    if math.isnan(value):
        return "0.0f / 0.0f"
    return "1.0f / 0.0f" if value > 0 else "-1.0f / 0.0f"


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
    # C has no literal for the least of the whole numbers.
    return ["INT64_MIN" if value == -(2**63) else str(int(value)) for value in array.tolist()]
