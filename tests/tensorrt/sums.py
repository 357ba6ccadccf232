"""TensorRT layers that add up: products of matrices, convolutions, pools, reductions and normalisations, in numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorrt_rtx as trt

from .layers import Array, Compute, in_fp32

Reduce = trt.ReduceOperation


@dataclass(frozen=True)
class Products:
    """Sums of fp16 terms: in fp32 and rounded at the end, or rounded to fp16 after each of them."""

    accumulate: str

    def __post_init__(self) -> None:
        if self.accumulate not in ("fp32", "fp16"):
            raise ValueError(f"accumulate is {self.accumulate!r}: it is 'fp32' or 'fp16'.")

    def matmul(self, x: Array, y: Array) -> Array:
        if x.dtype != np.float16:
            return np.asarray(x @ y)
        x, y = x.astype(np.float32), y.astype(np.float32)
        if self.accumulate == "fp32":
            return np.asarray((x @ y).astype(np.float16))
        # A product of two fp16 numbers is exact in fp32.
        return self._rounded_sum(np.moveaxis(x, -1, 0)[..., None] * np.moveaxis(y, -2, 0)[..., None, :])

    def sum(self, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
        if x.dtype != np.float16:
            return np.asarray(x.sum(axes, dtype=x.dtype, keepdims=keep))
        if self.accumulate == "fp32":
            return np.asarray(x.sum(axes, dtype=np.float32, keepdims=keep).astype(np.float16))
        rest = tuple(i for i in range(x.ndim) if i not in axes)
        terms = x.transpose(*axes, *rest).reshape(-1, *(x.shape[i] for i in rest))
        total = self._rounded_sum(terms.astype(np.float32))
        return np.expand_dims(total, axes) if keep else total

    def _rounded_sum(self, terms: Array) -> Array:
        """Over axis 0."""
        total = np.zeros(terms.shape[1:], np.float16)
        for term in terms:
            total = (total + term).astype(np.float16)
        return total


def matrix_multiply(layer: Any, products: Products) -> Compute:
    def operand(x: Array, op: Any) -> Array:
        return np.swapaxes(x, -1, -2) if op == trt.MatrixOperation.TRANSPOSE else x

    ops = (layer.op0, layer.op1)
    if trt.MatrixOperation.VECTOR in ops:
        raise KeyError("a vector as operand")
    return lambda given: products.matmul(operand(given[0], ops[0]), operand(given[1], ops[1]))


def windows(x: Array, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """The windows of (N, C, spatial...) as (N, C, places..., size...)."""
    axes = tuple(range(2, x.ndim))
    reach = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    steps = (slice(None), slice(None), *(slice(None, None, n) for n in (*stride, *dilation)))
    return np.asarray(view[steps])


def padded(layer: Any, x: Array, value: float) -> Array:
    pads = ((0, 0), (0, 0), *zip(layer.pre_padding, layer.post_padding, strict=True))
    return np.pad(x, pads, constant_values=value)


def convolution(layer: Any, products: Products) -> Compute:
    """The kernel is (maps, channels / groups, size...), correlated and not flipped."""
    if layer.padding_mode != trt.PaddingMode.EXPLICIT_ROUND_DOWN or layer.num_inputs != 1:
        raise KeyError(f"{layer.padding_mode} and {layer.num_inputs} inputs")
    size, groups, maps = tuple(layer.kernel_size_nd), layer.num_groups, layer.num_output_maps
    kernel, bias = np.array(layer.kernel), np.array(layer.bias)
    # (groups, terms, maps of a group)
    kernel = kernel.reshape(groups, maps // groups, -1).swapaxes(1, 2)
    stride, dilation = tuple(layer.stride_nd), tuple(layer.dilation_nd)

    def compute(given: Sequence[Any]) -> Array:
        seen = windows(padded(layer, given[0], 0), size, stride, dilation)
        rows, channels, places = seen.shape[0], seen.shape[1], seen.shape[2 : given[0].ndim]
        seen = seen.reshape(rows, groups, channels // groups, math.prod(places), math.prod(size))
        # (rows, groups, places, terms) @ (groups, terms, maps) -> (rows, groups, places, maps)
        terms = seen.transpose(0, 1, 3, 2, 4).reshape(rows, groups, math.prod(places), -1)
        result = products.matmul(terms, np.broadcast_to(kernel, (rows, *kernel.shape)))
        result = result.swapaxes(2, 3).reshape(rows, maps, *places)
        return result + bias.reshape(-1, *(1 for _ in places)) if bias.size else result

    return compute


def pooling(layer: Any, products: Products) -> Compute:
    # IPoolingLayer has its own kind under the name of the layer's, like IActivationLayer.
    kind = trt.IPoolingLayer.type.fget(layer)
    if kind == trt.PoolingType.MAX_AVERAGE_BLEND or layer.padding_mode != trt.PaddingMode.EXPLICIT_ROUND_DOWN:
        raise KeyError(f"{kind} and {layer.padding_mode}")
    size, stride, leave_out = tuple(layer.window_size_nd), tuple(layer.stride_nd), layer.average_count_excludes_padding

    def taken(x: Array, value: float) -> Array:
        return windows(padded(layer, x, value), size, stride, (1,) * len(size))

    def compute(given: Sequence[Any]) -> Array:
        (x,) = given
        axes = tuple(range(x.ndim, 2 * x.ndim - 2))
        if kind == trt.PoolingType.MAX:
            return np.asarray(taken(x, -np.inf).max(axes))
        count = taken(np.ones_like(x), 0 if leave_out else 1).sum(axes, dtype=x.dtype)
        return np.asarray(products.sum(taken(x, 0), axes, False) / count)

    return compute


def axes_of(bits: int) -> tuple[int, ...]:
    return tuple(i for i in range(bits.bit_length()) if bits >> i & 1)


def reduce(layer: Any, products: Products) -> Compute:
    op, axes, keep = layer.op, axes_of(layer.axes), layer.keep_dims
    others = {Reduce.PROD: np.prod, Reduce.MAX: np.max, Reduce.MIN: np.min}
    if op == Reduce.SUM:
        return lambda given: products.sum(given[0], axes, keep)
    if op == Reduce.AVG:
        return lambda given: np.asarray(
            products.sum(given[0], axes, keep) / given[0].dtype.type(math.prod(given[0].shape[i] for i in axes))
        )
    function: Any = others[op]
    return lambda given: np.asarray(function(given[0], axis=axes, keepdims=keep), given[0].dtype)


def softmax(layer: Any, products: Products) -> Compute:
    (axis,) = axes_of(layer.axes)

    def function(x: Array) -> Any:
        e = np.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    return in_fp32(function)


def normalization(layer: Any, products: Products) -> Compute:
    """(X - mean) / sqrt(variance + epsilon) * scale + bias, over `axes` and within each group of channels; in fp32."""
    axes, epsilon, groups = axes_of(layer.axes), layer.epsilon, layer.num_groups
    if groups != 1:
        raise KeyError(f"{groups} groups")

    def compute(given: Sequence[Any]) -> Array:
        x, scale, bias = (a.astype(np.float32) for a in given)
        normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + np.float32(epsilon))
        return np.asarray(normal * scale + bias, given[0].dtype)

    return compute
