"""Operators of MIL that add values up, in numpy: parameters by MIL's own names, with its defaults.

Sums are in fp32, those of a program in fp16 too: Apple does not say how a GPU or the Neural Engine adds up.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# An array, or a number as MIL has it.
Value = Any


def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    return x @ weight.T if bias is None else x @ weight.T + bias


def matmul(x: Value, y: Value, transpose_x: bool = False, transpose_y: bool = False) -> Value:
    return np.matmul(np.swapaxes(x, -1, -2) if transpose_x else x, np.swapaxes(y, -1, -2) if transpose_y else y)


def einsum(values: Sequence[Value], equation: str) -> Value:
    return np.einsum(equation, *values)


def conv(
    x: Value, weight: Value, bias: Value | None = None, strides: Value | None = None, pad_type: str = "valid",
    pad: Value | None = None, dilations: Value | None = None, groups: int = 1,
) -> Value:  # fmt: skip
    """X (B, C, *spatial), weight (O, C / groups, *kernel)."""
    spatial = x.ndim - 2
    steps = [1] * spatial if strides is None else [*map(int, strides)]
    dilation = [1] * spatial if dilations is None else [*map(int, dilations)]
    kernel = weight.shape[2:]
    widths = _widths(x.shape[2:], kernel, steps, dilation, pad_type, pad)
    x = np.pad(x, [(0, 0), (0, 0), *widths])
    taps = _windows(x, kernel, steps, dilation)
    outputs = []
    for part, rows in zip(np.split(taps, int(groups), 1), np.split(weight, int(groups), 0), strict=True):
        # (B, C, *out, *kernel) with (O, C, *kernel).
        axes = [1, *range(2 + spatial, 2 + 2 * spatial)]
        product = np.tensordot(part, rows, (axes, [1, *range(2, 2 + spatial)]))
        outputs.append(np.moveaxis(product, -1, 1))
    y = np.concatenate(outputs, 1)
    return y if bias is None else y + bias.reshape(-1, *[1] * spatial)


def conv_transpose(
    x: Value, weight: Value, bias: Value | None = None, pad: Value | None = None, output_shape: Value | None = None,
    pad_type: str = "valid", strides: Value | None = None, dilations: Value | None = None, groups: int = 1,
) -> Value:  # fmt: skip
    """X (B, C, *spatial), weight (C, O / groups, *kernel)."""
    spatial = x.ndim - 2
    steps = [1] * spatial if strides is None else [*map(int, strides)]
    dilation = [1] * spatial if dilations is None else [*map(int, dilations)]
    kernel, n = weight.shape[2:], int(groups)
    sizes = [
        (length - 1) * s + (k - 1) * d + 1 for length, s, k, d in zip(x.shape[2:], steps, kernel, dilation, strict=True)
    ]
    y: Any = np.zeros((x.shape[0], n * weight.shape[1], *sizes), np.float32)
    for group, (part, rows) in enumerate(zip(np.split(x, n, 1), np.split(weight, n, 0), strict=True)):
        mine = slice(group * weight.shape[1], (group + 1) * weight.shape[1])
        for tap in np.ndindex(*kernel):
            at = tuple(
                slice(t * d, t * d + (length - 1) * s + 1, s)
                for t, d, s, length in zip(tap, dilation, steps, x.shape[2:], strict=True)
            )
            y[(slice(None), mine, *at)] += np.moveaxis(np.tensordot(part, rows[(..., *tap)], (1, 0)), -1, 1)
    if pad_type == "custom" and pad is not None:
        cut = [(int(a), int(b)) for a, b in np.reshape(pad, (-1, 2))]
        y = y[(..., *(slice(a, size - b) for (a, b), size in zip(cut, y.shape[2:], strict=True)))]
    if output_shape is not None and tuple(output_shape) != y.shape:
        raise ValueError("conv_transpose to another size than its own")
    return y if bias is None else y + bias.reshape(-1, *[1] * spatial)


def _windows(x: Value, kernel: Sequence[int], steps: Sequence[int], dilation: Sequence[int]) -> Value:
    """(B, C, *spatial) as (B, C, *out, *kernel)."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    axes = tuple(range(2, x.ndim))
    found: Any = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    return found[(..., *(slice(None, None, s) for s in steps), *(slice(None, None, d) for d in dilation))]


def _widths(
    sizes: Sequence[int], kernel: Sequence[int], steps: Sequence[int], dilation: Sequence[int], kind: str,
    pad: Value | None,
) -> list[tuple[int, int]]:  # fmt: skip
    if kind == "custom":
        return [(int(a), int(b)) for a, b in np.reshape([] if pad is None else pad, (-1, 2))]
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    found = []
    for size, k, s, d in zip(sizes, kernel, steps, dilation, strict=True):
        whole = max(((size + s - 1) // s - 1) * s + (k - 1) * d + 1 - size, 0)
        found.append((whole // 2, whole - whole // 2) if kind == "same" else (whole - whole // 2, whole // 2))
    return found


def max_pool(
    x: Value, kernel_sizes: Value, strides: Value | None = None, pad_type: str = "valid", pad: Value | None = None,
    ceil_mode: bool = False,
) -> Value:  # fmt: skip
    return _pooled(x, kernel_sizes, strides, pad_type, pad, ceil_mode, -np.inf).max(tuple(range(-len(kernel_sizes), 0)))


def avg_pool(
    x: Value, kernel_sizes: Value, strides: Value | None = None, pad_type: str = "valid", pad: Value | None = None,
    exclude_padding_from_average: bool = False, ceil_mode: bool = False,
) -> Value:  # fmt: skip
    axes = tuple(range(-len(kernel_sizes), 0))
    total = _pooled(x, kernel_sizes, strides, pad_type, pad, ceil_mode, 0).sum(axes)
    if not exclude_padding_from_average:
        return total / np.prod(kernel_sizes)
    ones = np.ones_like(x)
    return total / _pooled(ones, kernel_sizes, strides, pad_type, pad, ceil_mode, 0).sum(axes)


def _pooled(
    x: Value, kernel: Value, strides: Value | None, kind: str, pad: Value | None, ceil_mode: bool, filling: float
) -> Value:
    sizes = [*map(int, kernel)]
    steps = [1] * len(sizes) if strides is None else [*map(int, strides)]
    if ceil_mode:
        raise ValueError("a pool whose size is rounded up")
    widths = _widths(x.shape[2:], sizes, steps, [1] * len(sizes), kind, pad)
    return _windows(np.pad(x, [(0, 0), (0, 0), *widths], constant_values=filling), sizes, steps, [1] * len(sizes))


def cumsum(x: Value, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Value:
    axis = int(axis)
    given = np.flip(x, axis) if reverse else x
    found = np.cumsum(given, axis, x.dtype)
    found = found - given if exclusive else found
    return np.flip(found, axis) if reverse else found


def softmax(x: Value, axis: int = -1) -> Value:
    parts = np.exp(x - x.max(int(axis), keepdims=True))
    return parts / parts.sum(int(axis), keepdims=True)


def layer_norm(
    x: Value, axes: Value, gamma: Value | None = None, beta: Value | None = None, epsilon: Value = 1e-5
) -> Value:
    over = tuple(map(int, axes))
    centred = x - x.mean(over, keepdims=True)
    y = centred / np.sqrt(np.square(centred).mean(over, keepdims=True) + epsilon)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def batch_norm(
    x: Value, mean: Value, variance: Value, gamma: Value | None = None, beta: Value | None = None, epsilon: Value = 1e-5
) -> Value:
    shape = (-1, *[1] * (x.ndim - 2))
    y = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + epsilon)
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def instance_norm(x: Value, gamma: Value | None = None, beta: Value | None = None, epsilon: Value = 1e-5) -> Value:
    over, shape = tuple(range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
    centred = x - x.mean(over, keepdims=True)
    y = centred / np.sqrt(np.square(centred).mean(over, keepdims=True) + epsilon)
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def _reduced(function: Callable[..., Value]) -> Callable[..., Value]:
    def reduce(x: Value, axes: Value | None = None, keep_dims: bool = False) -> Value:
        over = None if axes is None else tuple(map(int, axes))
        return np.asarray(function(x, axis=over, keepdims=bool(keep_dims)))

    return reduce


def _found(function: Callable[..., Value]) -> Callable[..., Value]:
    def find(x: Value, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Value:
        return np.asarray(function(x, axis=int(axis), keepdims=bool(keep_dims)))

    return find


def _log_sum_exp(x: Value, axis: tuple[int, ...] | None, keepdims: bool) -> Value:
    most = np.max(x, axis=axis, keepdims=True)
    summed = np.log(np.exp(x - most).sum(axis=axis, keepdims=True)) + most
    return summed if keepdims else np.squeeze(summed, axis)


_ALL = (
    avg_pool, batch_norm, conv, conv_transpose, cumsum, einsum, instance_norm, layer_norm, linear, matmul, max_pool,
    softmax,
)  # fmt: skip
PRODUCTS: Mapping[str, Callable[..., Value]] = {
    **{function.__name__: function for function in _ALL},
    "reduce_argmax": _found(np.argmax),
    "reduce_argmin": _found(np.argmin),
    "reduce_l1_norm": _reduced(lambda x, **of: np.sum(np.abs(x), **of)),
    "reduce_l2_norm": _reduced(lambda x, **of: np.sqrt(np.sum(np.square(x), **of))),
    "reduce_log_sum_exp": _reduced(_log_sum_exp),
    "reduce_max": _reduced(np.max),
    "reduce_mean": _reduced(np.mean),
    "reduce_min": _reduced(np.min),
    "reduce_prod": _reduced(np.prod),
    "reduce_sum": _reduced(np.sum),
    "reduce_sum_square": _reduced(lambda x, **of: np.sum(np.square(x), **of)),
}
