"""Operators that move values, in torch: shapes, parts and indices."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rnn_export.export.targets.torch_step.operands import Operands, Operator
from rnn_export.platform.arrays import Array


def _reshape(x: Operands) -> Tensor:
    sizes, keeps_zero = x.required(1), bool(x.attribute("allowzero", 0))
    return x[0].reshape([x[0].shape[i] if n == 0 and not keeps_zero else n for i, n in enumerate(sizes)])


def _squeeze(x: Operands) -> Tensor:
    axes = x.axes()
    return x[0].squeeze() if axes is None else x[0].squeeze(tuple(axes))


def _unsqueeze(x: Operands) -> Tensor:
    axes = x.axes() or []
    result, rank = x[0], x[0].dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        result = result.unsqueeze(axis)
    return result


def _flatten(x: Operands) -> Tensor:
    axis = x.attribute("axis", 1)
    rows = math.prod(x[0].shape[: axis if axis >= 0 else x[0].dim() + axis])
    return x[0].reshape(rows, -1)


def _transpose(x: Operands) -> Tensor:
    return x[0].permute(x.attribute("perm", [*reversed(range(x[0].dim()))]))


def _split(x: Operands) -> tuple[Tensor, ...]:
    axis, sizes = x.attribute("axis", 0), x.ints(1) if x.given(1) else x.attribute("split")
    if sizes is None:
        count = len(x.node.outputs)
        sizes = -(-x[0].shape[axis] // count)
    return tuple(torch.split(x[0], sizes, axis))


def _slice(x: Operands) -> Tensor:
    starts, ends = x.required(1), x.required(2)
    axes, steps = x.ints(3) or [*range(len(starts))], x.ints(4) or [1] * len(starts)
    result = x[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        taken = range(result.shape[axis])[start:end:step]
        if step > 0:
            result = torch.ops.aten.slice.Tensor(result, axis, taken.start, taken.stop, step)
        else:
            result = result.index_select(axis, torch.tensor([*taken]))
    return result


def _expand(x: Operands) -> Tensor:
    sizes = np.broadcast_shapes(tuple(x[0].shape), tuple(x.required(1)))
    return x[0].expand(sizes)


MODES: Mapping[str, Callable[[int, tuple[int, int]], Array]] = {
    "reflect": lambda size, ends: np.pad(np.arange(size), ends, mode="reflect"),
    "edge": lambda size, ends: np.pad(np.arange(size), ends, mode="edge"),
    "wrap": lambda size, ends: np.pad(np.arange(size), ends, mode="wrap"),
}


def _pad(x: Operands) -> Tensor:
    pads = x.required(1) if x.given(1) else x.attribute("pads")
    rank, mode = x[0].dim(), str(x.attribute("mode", "constant"))
    axes = x.ints(3) or [*range(rank)]
    by_axis = {axis % rank: (pads[i], pads[len(axes) + i]) for i, axis in enumerate(axes)}
    # torch counts from the last axis.
    flat = [n for axis in reversed(range(rank)) for n in by_axis.get(axis, (0, 0))]
    if mode == "constant":
        value = x.numbers(2)
        return F.pad(x[0], flat, value=0.0 if value is None or not value.size else value.item())
    if mode not in MODES:
        raise x.refusal(f"its mode is {mode!r}", id="torch-pad-mode")
    result = x[0]
    for axis, ends in by_axis.items():
        if any(ends):
            places = MODES[mode](result.shape[axis], ends)
            result = result.index_select(axis, torch.from_numpy(places))
    return result


def _gather(x: Operands) -> Tensor:
    """Constant indices may count from the end; others are ids of rows, as LiteRT and Core ML know them."""
    axis, data, ids = x.attribute("axis", 0) % x[0].dim(), x[0], x.node.inputs[1]
    if ids is not None and str(ids.name) in x.constants:
        known = x.constants[str(ids.name)] % data.shape[axis]
        result = data.index_select(axis, torch.from_numpy(known.reshape(-1).astype(np.int64)))
        return result.reshape([*data.shape[:axis], *known.shape, *data.shape[axis + 1 :]])
    if axis == 0 and data.dim() == 2:
        return F.embedding(x[1], data)
    flat = data.index_select(axis, x[1].reshape(-1))
    return flat.reshape([*data.shape[:axis], *x[1].shape, *data.shape[axis + 1 :]])


def _gather_elements(x: Operands) -> Tensor:
    return torch.gather(x[0], x.attribute("axis", 0), x[1].to(torch.int64))


def _scatter_elements(x: Operands) -> Tensor:
    if x.attribute("reduction", "none") != "none":
        raise x.refusal(f"its reduction is {x.attribute('reduction')!r}", id="torch-scatter-reduction")
    return torch.scatter(x[0], x.attribute("axis", 0), x[1].to(torch.int64), x[2])


def _concat(x: Operands) -> Tensor:
    return torch.cat(x.all(), x.attribute("axis"))


def _triangle(x: Operands) -> Tensor:
    keep = torch.triu if x.attribute("upper", 1) else torch.tril
    return keep(x[0], (x.ints(1) or [0])[0])


def _constant(x: Operands) -> Tensor:
    value = x.attribute("value")
    filled = np.zeros(1, np.float32) if value is None else value.numpy()
    return torch.from_numpy(np.full(x.required(0), filled[0]))


def _depth_to_space(x: Operands) -> Tensor:
    block = int(x.attribute("blocksize"))
    n, c, h, w = x[0].shape
    if x.attribute("mode", "DCR") == "CRD":
        return (
            x[0]
            .reshape(n, c // block**2, block, block, h, w)
            .permute(0, 1, 4, 2, 5, 3)
            .reshape(n, -1, h * block, w * block)
        )
    return (
        x[0]
        .reshape(n, block, block, c // block**2, h, w)
        .permute(0, 3, 4, 1, 5, 2)
        .reshape(n, -1, h * block, w * block)
    )


OPERATORS: Mapping[str, Operator] = {
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Identity": lambda x: x[0],
    "Dropout": lambda x: x[0],
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": lambda x: x[0].repeat(x.required(1)),
    "Pad": _pad,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "ScatterElements": _scatter_elements,
    "Trilu": _triangle,
    "ConstantOfShape": _constant,
    "DepthToSpace": _depth_to_space,
}
