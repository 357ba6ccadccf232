"""Operators of MIL that move values, in numpy: parameters by MIL's own names, with its defaults."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# An array, or a number as MIL has it.
Value = Any


Flags = Sequence[bool] | None
_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def concat(values: Sequence[Value], axis: int, interleave: bool = False) -> Value:
    if interleave:
        return np.stack(values, axis + 1).reshape(
            *[n * (len(values) if a == axis % values[0].ndim else 1) for a, n in enumerate(values[0].shape)]
        )
    return np.concatenate(values, axis)


def expand_dims(x: Value, axes: Value) -> Value:
    return np.expand_dims(x, tuple(map(int, axes)))


def fill(shape: Value, value: Value = 0) -> Value:
    return np.full([*map(int, shape)], value)


def gather(x: Value, indices: Value, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Value:
    if batch_dims:
        raise ValueError("gather over several batches")
    return np.take(x, indices, int(axis))


def gather_along_axis(x: Value, indices: Value, axis: int = 0, validate_indices: bool = False) -> Value:
    return np.take_along_axis(x, indices.astype(np.int64), int(axis))


def gather_nd(x: Value, indices: Value, batch_dims: int = 0, validate_indices: bool = False) -> Value:
    if batch_dims:
        raise ValueError("gather_nd over several batches")
    return x[tuple(np.moveaxis(indices, -1, 0))]


def one_hot(
    indices: Value, one_hot_vector_size: int, axis: int = -1, on_value: Value = 1, off_value: Value = 0
) -> Value:
    hot = indices[..., None] == np.arange(one_hot_vector_size)
    return np.where(np.moveaxis(hot, -1, int(axis)), on_value, off_value)


def pad(x: Value, pad: Value, mode: str = "constant", constant_val: Value = 0) -> Value:
    widths = [(0, 0)] * (x.ndim - len(pad) // 2) + [(int(a), int(b)) for a, b in np.reshape(pad, (-1, 2))]
    if mode == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    others: Any = _MODES[mode]
    return np.pad(x, widths, others)


def range_1d(start: Value, end: Value, step: Value) -> Value:
    return np.arange(start, end, step)


def reshape(x: Value, shape: Value) -> Value:
    sizes = [x.shape[a] if n == 0 else int(n) for a, n in enumerate(shape)]
    return np.reshape(x, sizes)


def reverse(x: Value, axes: Value | None = None) -> Value:
    return np.flip(x, None if axes is None else tuple(map(int, axes)))


def scatter(
    data: Value, indices: Value, updates: Value, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Value:
    return _put(data, (*[slice(None)] * (int(axis) % data.ndim), indices), updates, mode)


def scatter_along_axis(
    data: Value, indices: Value, updates: Value, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Value:
    at = [np.expand_dims(np.arange(n), [b for b in range(indices.ndim) if b != a]) for a, n in enumerate(indices.shape)]
    at[int(axis)] = indices
    return _put(data, tuple(at), updates, mode)


def scatter_nd(data: Value, indices: Value, updates: Value, mode: str = "add", validate_indices: bool = False) -> Value:
    return _put(data, tuple(np.moveaxis(indices, -1, 0)), updates, mode)


def _put(data: Value, at: Value, updates: Value, mode: str) -> Value:
    result = data.copy()
    if mode == "update":
        result[at] = updates
    else:
        ways: Mapping[str, np.ufunc] = {
            "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
        }  # fmt: skip
        ways[mode].at(result, at, updates)
    return result


def slice_by_index(
    x: Value, begin: Value, end: Value, stride: Value | None = None, begin_mask: Flags = None, end_mask: Flags = None,
    squeeze_mask: Flags = None,
) -> Value:  # fmt: skip
    return x[_slices(x.ndim, begin, end, stride, begin_mask, end_mask, squeeze_mask)]


def slice_by_size(x: Value, begin: Value, size: Value) -> Value:
    return x[tuple(slice(int(b), None if n == -1 else int(b) + int(n)) for b, n in zip(begin, size, strict=True))]


def slice_update(
    x: Value, update: Value, begin: Value, end: Value, stride: Value | None = None, begin_mask: Flags = None,
    end_mask: Flags = None, squeeze_mask: Flags = None,
) -> Value:  # fmt: skip
    result = x.copy()
    result[_slices(x.ndim, begin, end, stride, begin_mask, end_mask, squeeze_mask)] = update
    return result


def _slices(
    rank: int, begin: Value, end: Value, stride: Value | None, begin_mask: Flags, end_mask: Flags, squeeze: Flags
) -> tuple[slice | int, ...]:
    none = [False] * rank
    steps = [1] * rank if stride is None else stride
    masks = (none if mask is None else mask for mask in (begin_mask, end_mask, squeeze))
    return tuple(
        int(b) if one else slice(None if from_start else int(b), None if to_end else int(e), int(step))
        for b, e, step, from_start, to_end, one in zip(begin, end, steps, *masks, strict=True)
    )


def split(x: Value, axis: int, num_splits: int | None = None, split_sizes: Value | None = None) -> list[Value]:
    if split_sizes is None:
        return np.split(x, int(num_splits or 1), int(axis))
    return np.split(x, np.cumsum(split_sizes)[:-1], int(axis))


def squeeze(x: Value, axes: Value | None = None) -> Value:
    return np.squeeze(x, None if axes is None else tuple(map(int, axes)))


def stack(values: Sequence[Value], axis: int) -> Value:
    return np.stack(values, int(axis))


def tile(x: Value, reps: Value) -> Value:
    return np.tile(x, [*map(int, reps)])


def topk(
    x: Value, k: int = 1, axis: int = -1, ascending: bool = False, sort: bool = True, return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> list[Value]:  # fmt: skip
    order = np.argsort(x if ascending else -x, int(axis), kind="stable")
    chosen = np.take(order, np.arange(int(k)), int(axis))
    values = np.take_along_axis(x, chosen, int(axis))
    return [values, chosen] if return_indices else [values]


def argsort(x: Value, axis: int = -1, ascending: bool = False) -> Value:
    return np.argsort(x if ascending else -x, int(axis), kind="stable")


def transpose(x: Value, perm: Value) -> Value:
    return np.transpose(x, [*map(int, perm)])


_ALL = (
    argsort, concat, expand_dims, fill, gather, gather_along_axis, gather_nd, one_hot, pad, range_1d, reshape, reverse,
    scatter, scatter_along_axis, scatter_nd, slice_by_index, slice_by_size, slice_update, split, squeeze, stack, tile,
    topk, transpose,
)  # fmt: skip
MOVING: Mapping[str, Callable[..., Value | list[Value]]] = {function.__name__: function for function in _ALL}
