"""Elementwise operators of MIL, in numpy: parameters by MIL's own names, with its defaults.

Source: the operator reference of coremltools (coremltools.converters.mil.mil.ops.defs). Floats come in fp32, and the
caller rounds them to the type that the program declares.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# An array, or a number as MIL has it.
Value = Any


_CASTS = {"fp32": "float32", "fp16": "float16", "int32": "int32", "int16": "int16", "uint16": "uint16", "int8": "int8"}
_CASTS |= {"uint8": "uint8", "bool": "bool"}


def cast(x: Value, dtype: str) -> Value:
    kind = np.dtype(_CASTS[dtype])
    if kind.kind in "iu" and x.dtype.kind == "f":
        return np.trunc(x).astype(kind)
    return x.astype(kind)


def clip(x: Value, alpha: Value, beta: Value) -> Value:
    return np.clip(x, alpha, beta)


def elu(x: Value, alpha: Value = 1) -> Value:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def gelu(x: Value, mode: str = "EXACT") -> Value:
    if mode == "EXACT":
        return x * 0.5 * (1 + erf(x / math.sqrt(2)))
    if mode == "TANH_APPROXIMATION":
        return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * sigmoid(1.702 * x)


def erf(x: Value) -> Value:
    return np.array([math.erf(v) for v in x.reshape(-1)]).reshape(x.shape)


def inverse(x: Value, epsilon: Value = 1e-4) -> Value:
    return 1 / (x + epsilon)


def leaky_relu(x: Value, alpha: Value = 0.01) -> Value:
    return np.where(x >= 0, x, alpha * x)


def log(x: Value, epsilon: Value = 1e-45) -> Value:
    return np.log(x + epsilon)


def prelu(x: Value, alpha: Value) -> Value:
    return np.where(x >= 0, x, x * alpha.reshape(-1, *[1] * (x.ndim - 2)))


def relu6(x: Value) -> Value:
    return np.clip(x, 0, 6)


def rsqrt(x: Value, epsilon: Value = 1e-12) -> Value:
    return 1 / np.sqrt(x + epsilon)


def scaled_tanh(x: Value, alpha: Value = 1, beta: Value = 1) -> Value:
    return alpha * np.tanh(beta * x)


def select(cond: Value, a: Value, b: Value) -> Value:
    return np.where(cond, a, b)


def sigmoid(x: Value) -> Value:
    # Of a large negative number the other form overflows.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def sigmoid_hard(x: Value, alpha: Value = 0.2, beta: Value = 0.5) -> Value:
    return np.clip(alpha * x + beta, 0, 1)


def softplus(x: Value) -> Value:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def real_div(x: Value, y: Value) -> Value:
    return np.trunc(x / y).astype(x.dtype) if x.dtype.kind == "i" else x / y


def threshold(x: Value, alpha: Value) -> Value:
    return np.maximum(x, alpha)


def linear_activation(x: Value, alpha: Value, beta: Value) -> Value:
    return alpha * x + beta


def _one(function: Callable[[Any], Any]) -> Callable[..., Value]:
    return lambda x: function(x)


def _two(function: Callable[[Any, Any], Any]) -> Callable[..., Value]:
    return lambda x, y: function(x, y)


ELEMENTWISE: Mapping[str, Callable[..., Value]] = {
    **{f.__name__: f for f in (cast, clip, elu, erf, gelu, inverse, leaky_relu, linear_activation, log, prelu)},
    **{f.__name__: f for f in (real_div, relu6, rsqrt, scaled_tanh, select, sigmoid, sigmoid_hard, softplus)},
    "threshold": threshold,
    "abs": _one(np.abs),
    "atan": _one(np.arctan),
    "ceil": _one(np.ceil),
    "cos": _one(np.cos),
    "exp": _one(np.exp),
    "exp2": _one(np.exp2),
    "floor": _one(np.floor),
    "identity": _one(np.array),
    "logical_not": _one(np.logical_not),
    "relu": _one(lambda x: np.maximum(x, 0)),
    "round": _one(np.rint),
    "sign": _one(np.sign),
    "silu": _one(lambda x: x * sigmoid(x)),
    "sin": _one(np.sin),
    "softsign": _one(lambda x: x / (1 + np.abs(x))),
    "sqrt": _one(np.sqrt),
    "square": _one(np.square),
    "tan": _one(np.tan),
    "tanh": _one(np.tanh),
    "add": _two(np.add),
    "equal": _two(np.equal),
    "floor_div": _two(np.floor_divide),
    "greater": _two(np.greater),
    "greater_equal": _two(np.greater_equal),
    "less": _two(np.less),
    "less_equal": _two(np.less_equal),
    "logical_and": _two(np.logical_and),
    "logical_or": _two(np.logical_or),
    "logical_xor": _two(np.logical_xor),
    "maximum": _two(np.maximum),
    "minimum": _two(np.minimum),
    "mod": _two(np.mod),
    "mul": _two(np.multiply),
    "not_equal": _two(np.not_equal),
    "pow": _two(np.power),
    "sub": _two(np.subtract),
}
