"""Values for the cases of the C writer, the same ones each time."""

from typing import Any

import numpy as np

from .c_sheet import Array

random = np.random.default_rng(0)
START = random.bit_generator.state
SPECIAL = np.array([0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3, -3, 30, -30, 1e-30, -1e-3, np.inf, -np.inf, np.nan])
SPECIAL = SPECIAL.astype(np.float32)
INT64 = np.iinfo(np.int64)


def floats(*shape: int, scale: float = 1.0) -> Array:
    return np.asarray(random.standard_normal(shape) * scale, np.float32)


def positive(*shape: int) -> Array:
    return random.uniform(0.1, 3, shape).astype(np.float32)


def within(*shape: int) -> Array:
    return random.uniform(-0.9, 0.9, shape).astype(np.float32)


def ints(*shape: int, low: int = -9, high: int = 10, dtype: Any = np.int64) -> Array:
    return np.asarray(random.integers(low, high, shape), dtype)


def truth(*shape: int) -> Array:
    return np.asarray(random.integers(0, 2, shape), bool)


def from_the_start() -> None:
    random.bit_generator.state = START
