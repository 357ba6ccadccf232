"""TensorRT layers that compute element by element or move values, in numpy: each is read into a function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt_rtx as trt

Array = npt.NDArray[Any]
Compute = Callable[[Sequence[Any]], Array]
Unary = trt.UnaryOperation
Elementwise = trt.ElementWiseOperation
Activation = trt.ActivationType


def in_fp32(function: Callable[..., Any]) -> Compute:
    """Computed in fp32 and rounded once, where the input is fp16."""
    return lambda given: np.asarray(function(given[0].astype(np.float32)), given[0].dtype)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def divide(x: Array, y: Array) -> Array:
    """Whole numbers towards zero, as in C."""
    if x.dtype.kind == "f":
        return np.asarray(x / y)
    return np.asarray(np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y)), x.dtype)


ELEMENTWISE: dict[Any, Callable[[Array, Array], Array]] = {
    Elementwise.SUM: np.add,
    Elementwise.SUB: np.subtract,
    Elementwise.PROD: np.multiply,
    Elementwise.DIV: divide,
    Elementwise.FLOOR_DIV: np.floor_divide,
    Elementwise.MAX: np.maximum,
    Elementwise.MIN: np.minimum,
    Elementwise.POW: np.power,
    Elementwise.AND: np.logical_and,
    Elementwise.OR: np.logical_or,
    Elementwise.XOR: np.logical_xor,
    Elementwise.EQUAL: np.equal,
    Elementwise.GREATER: np.greater,
    Elementwise.LESS: np.less,
}
UNARY: dict[Any, Callable[[Array], Array]] = {
    Unary.EXP: np.exp,
    Unary.LOG: np.log,
    Unary.SQRT: np.sqrt,
    Unary.RECIP: np.reciprocal,
    Unary.ABS: np.abs,
    Unary.NEG: np.negative,
    Unary.SIN: np.sin,
    Unary.COS: np.cos,
    Unary.TAN: np.tan,
    Unary.ATAN: np.arctan,
    Unary.CEIL: np.ceil,
    Unary.FLOOR: np.floor,
    Unary.ROUND: np.rint,
    Unary.SIGN: np.sign,
    Unary.ERF: lambda x: np.vectorize(math.erf, otypes=[x.dtype])(x),
    Unary.NOT: np.logical_not,
    Unary.ISNAN: np.isnan,
}
# f(x, alpha, beta)
ACTIVATIONS: dict[Any, Callable[[Array, float, float], Any]] = {
    Activation.RELU: lambda x, a, b: np.maximum(x, 0),
    Activation.SIGMOID: lambda x, a, b: sigmoid(x),
    Activation.TANH: lambda x, a, b: np.tanh(x),
    Activation.LEAKY_RELU: lambda x, a, b: np.where(x >= 0, x, a * x),
    Activation.ELU: lambda x, a, b: np.where(x >= 0, x, a * np.expm1(x)),
    Activation.SELU: lambda x, a, b: np.where(x > 0, b * x, b * a * np.expm1(x)),
    Activation.SOFTSIGN: lambda x, a, b: x / (1 + np.abs(x)),
    Activation.SOFTPLUS: lambda x, a, b: a * np.logaddexp(b * x, 0),
    Activation.CLIP: lambda x, a, b: np.clip(x, a, b),
    Activation.HARD_SIGMOID: lambda x, a, b: np.clip(a * x + b, 0, 1),
    Activation.SCALED_TANH: lambda x, a, b: a * np.tanh(b * x),
    Activation.THRESHOLDED_RELU: lambda x, a, b: np.where(x > a, x, 0),
}


def elementwise(layer: Any) -> Compute:
    function = ELEMENTWISE[layer.op]
    return lambda given: np.asarray(function(*given))


def unary(layer: Any) -> Compute:
    function = UNARY[layer.op]
    return lambda given: np.asarray(function(given[0]))


def activation(layer: Any) -> Compute:
    # IActivationLayer has its own kind under the name of the layer's.
    function, alpha, beta = ACTIVATIONS[trt.IActivationLayer.type.fget(layer)], layer.alpha, layer.beta
    return in_fp32(lambda x: function(x, alpha, beta))


def select(layer: Any) -> Compute:
    return lambda given: np.asarray(np.where(given[0], given[1], given[2]))


def cast(layer: Any) -> Compute:
    dtype = trt.nptype(layer.to_type)
    return lambda given: given[0].astype(dtype)


def identity(layer: Any) -> Compute:
    return lambda given: np.asarray(given[0])


# --- shapes and places ---------------------------------------------------------------------------------------------


def constant(layer: Any) -> Compute:
    value = np.array(layer.weights).reshape(tuple(layer.shape))
    return lambda given: value


def shape(layer: Any) -> Compute:
    return lambda given: np.array(given[0].shape, np.int64)


def shuffle(layer: Any) -> Compute:
    first, second = tuple(layer.first_transpose), tuple(layer.second_transpose)
    static, zero_copies = layer.reshape_dims, layer.zero_is_placeholder

    def compute(given: Sequence[Any]) -> Array:
        x = given[0].transpose(first[: given[0].ndim])
        wanted = given[1] if len(given) > 1 else static
        if wanted is not None:
            dims = [int(d) for d in wanted]
            x = x.reshape([x.shape[i] if d == 0 and zero_copies else d for i, d in enumerate(dims)])
        return np.asarray(x.transpose(second[: x.ndim]))

    return compute


def squeeze(layer: Any) -> Compute:
    return lambda given: np.squeeze(given[0], tuple(int(i) for i in given[1]))


def unsqueeze(layer: Any) -> Compute:
    return lambda given: np.expand_dims(given[0], tuple(int(i) for i in given[1]))


def concatenation(layer: Any) -> Compute:
    axis = layer.axis
    return lambda given: np.concatenate(given, axis)


def gather(layer: Any) -> Compute:
    mode, axis = layer.mode, layer.axis
    if mode == trt.GatherMode.ND or layer.num_elementwise_dims:
        raise KeyError(f"{mode} with {layer.num_elementwise_dims} elementwise dimensions")

    def compute(given: Sequence[Any]) -> Array:
        # Negative ones count from the end, since TensorRT 8.2 (onnx-tensorrt, docs/Changelog.md).
        data, indices = given
        if mode == trt.GatherMode.ELEMENT:
            return np.take_along_axis(data, indices, axis)
        return np.asarray(np.take(data, indices, axis))

    return compute


def slice_(layer: Any) -> Compute:
    """Start, size, stride and axes are the layer's own, or its inputs 1, 2, 3 and 5; input 4 fills what is outside."""
    dims = (layer.start, layer.shape, layer.stride, layer.axes)
    own = tuple(None if d is None else tuple(d) for d in dims)
    mode = layer.mode
    place = PLACES[mode]

    def compute(given: Sequence[Any]) -> Array:
        x, fill = given[0], given[4]
        chosen: list[Any] = [given[i] if given[i] is not None else d for i, d in zip((1, 2, 3, 5), own, strict=True)]
        start, size, stride, axes = chosen
        indices = [np.arange(n) for n in x.shape]
        outside = np.zeros((1,) * x.ndim, bool)
        for i, axis in enumerate(range(x.ndim) if axes is None else (int(a) % x.ndim for a in axes)):
            wanted, n = int(start[i]) + int(stride[i]) * np.arange(int(size[i])), x.shape[axis]
            out = (wanted < 0) | (wanted >= n)
            if mode == trt.SampleMode.STRICT_BOUNDS and out.any():
                raise IndexError(f"{layer.name!r} takes {wanted} of {n} on axis {axis}.")
            indices[axis] = np.where(out, place(wanted, n), wanted)
            outside = outside | np.expand_dims(out, tuple(a for a in range(x.ndim) if a != axis))
        taken = x[np.ix_(*indices)]
        if mode == trt.SampleMode.FILL:
            return np.where(outside, np.zeros((), x.dtype) if fill is None else fill, taken)
        return np.asarray(taken)

    return compute


# Where an index outside of n elements is taken from.
PLACES: dict[Any, Callable[[Array, int], Array]] = {
    trt.SampleMode.STRICT_BOUNDS: lambda i, n: i,
    trt.SampleMode.FILL: lambda i, n: np.zeros_like(i),
    trt.SampleMode.CLAMP: lambda i, n: np.clip(i, 0, n - 1),
    trt.SampleMode.WRAP: lambda i, n: i % n,
    trt.SampleMode.REFLECT: lambda i, n: n - 1 - np.abs(n - 1 - i % max(2 * n - 2, 1)),
}
