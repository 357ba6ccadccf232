"""Operators that move values and compute none."""

import math
import re
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rnn_export.export.targets.c.code_builder import CodeBuilder, CTensor, refusal
from rnn_export.export.targets.c.elementwise import broadcast
from rnn_export.export.targets.c.notation import index_expression, scalar_literal, shape_of, strides_of


def reshape(code: CodeBuilder, node: ir.Node) -> None:
    """Reshape, Squeeze, Unsqueeze, Flatten, Identity, and Dropout after training: the same values as they lie."""
    training = code.constant(node, 2) if node.op_type == "Dropout" else None
    if training is not None and training.any():
        raise refusal(node, "it is in training mode")
    code.set_view(node, code.input(node, 0))


def transpose(code: CodeBuilder, node: ir.Node) -> None:
    x = code.read(node, 0)
    order = list(node.attributes.get_ints("perm", range(len(x.shape))[::-1]))
    moved = [axis for axis in order if x.shape[axis] != 1]
    if moved == sorted(moved):
        code.set_view(node, x)
        return
    y = code.new_output(node)
    strides = strides_of(x.shape)
    loops = [(x.shape[axis], to, strides[axis]) for axis, to in zip(order, strides_of(y.shape), strict=True)]
    copy_strided(code, y, 0, x, 0, loops)


def concat(code: CodeBuilder, node: ir.Node) -> None:
    y = code.new_output(node)
    axis = node.attributes.get_int("axis", 0) % len(y.shape)
    offset, strides = 0, strides_of(y.shape)
    for i in range(len(node.inputs)):
        x = code.read(node, i)
        if x.size:
            loops = list(zip(x.shape, strides, strides_of(x.shape), strict=True))
            copy_strided(code, y, offset * strides[axis], x, 0, loops)
        offset += x.shape[axis] if x.shape else 1


def split(code: CodeBuilder, node: ir.Node) -> None:
    x = code.read(node, 0)
    axis = node.attributes.get_int("axis", 0) % len(x.shape)
    start = 0
    for i, value in enumerate(node.outputs):
        shape = shape_of(value)
        _slice(code, node, x, [(start if a == axis else 0, 1) for a in range(len(shape))], shape, i)
        start += shape[axis]


def slice_(code: CodeBuilder, node: ir.Node) -> None:
    x = code.read(node, 0)
    starts, ends = code.required(node, 1), code.required(node, 2)
    axes, steps = code.constant(node, 3), code.constant(node, 4)
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    part, shape = [(0, 1)] * len(x.shape), list(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        taken = range(x.shape[axis])[slice(int(start), int(end), int(step))]
        part[axis], shape[axis] = (taken[0] if taken else 0, int(step)), len(taken)
    _slice(code, node, x, part, shape)


def _slice(
    code: CodeBuilder, node: ir.Node, x: CTensor, part: Sequence[tuple[int, int]], shape: Sequence[int], output: int = 0
) -> None:
    """Part of x, (first, step) along each axis: a view where it lies in one piece."""
    offset = sum(first * s for (first, _), s in zip(part, strides_of(x.shape), strict=True))
    dense, strides = strides_of(shape), [step * s for (_, step), s in zip(part, strides_of(x.shape), strict=True)]
    if all(n == 1 or to == source for n, to, source in zip(shape, dense, strides, strict=True)):
        code.set_view(node, x.view(offset, shape), output)
        return
    y = code.new_output(node, output)
    copy_strided(code, y, 0, x, offset, list(zip(shape, dense, strides, strict=True)))


def gather(code: CodeBuilder, node: ir.Node) -> None:
    """Rows of a table; an index beyond it takes the last or first row, since a step cannot fail."""
    x, index = code.read(node, 0), code.input(node, 1)
    axis = node.attributes.get_int("axis", 0) % len(x.shape)
    outer, rows, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    if index.constant is not None and index.size == 1:
        row = int(index.constant.reshape(-1)[0])
        if not -rows <= row < rows:
            raise refusal(node, f"it takes {row} of {rows} along axis {axis}")
        part = [(row % rows if a == axis else 0, 1) for a in range(len(x.shape))]
        _slice(code, node, x, part, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
        return
    index, y = code.with_address(index), code.new_output(node)
    if port := re.match(r"\(*(in\d+)\b", index.address):
        code.table_rows[port[1]] = min(rows, code.table_rows.get(port[1], rows))
    with code.loops(["o", "j"], [outer, index.size]):
        code.emit(f"int64_t row = {index.address}[j] < 0 ? {index.address}[j] + {rows} : {index.address}[j];")
        code.emit(f"row = row < 0 ? 0 : row >= {rows} ? {rows - 1} : row;")
        target = f"{y.address} + (o * {index.size} + j) * {inner}"
        code.emit(f"memcpy({target}, {x.address} + (o * {rows} + row) * {inner}, {inner} * sizeof({x.c_type}));")


def expand(code: CodeBuilder, node: ir.Node) -> None:
    x = code.read(node, 0)
    broadcast(code, code.new_output(node), [x], "{a}")


def tile(code: CodeBuilder, node: ir.Node) -> None:
    x, repeats, y = code.read(node, 0), code.required(node, 1).tolist(), code.new_output(node)
    loops = []
    for size, times, to, source in zip(x.shape, repeats, strides_of(y.shape), strides_of(x.shape), strict=True):
        loops += [(times, size * to, 0), (size, to, source)]
    copy_strided(code, y, 0, x, 0, loops)


def pad(code: CodeBuilder, node: ir.Node) -> None:
    x, pads, value, axes = code.read(node, 0), code.required(node, 1), code.constant(node, 2), code.constant(node, 3)
    mode, rank = node.attributes.get_string("mode", "constant"), len(x.shape)
    padded = list(range(rank)) if axes is None else [int(a) % rank for a in axes]
    if mode not in ("constant", "reflect", "edge") or (pads < 0).any():
        raise refusal(node, f"its mode is {mode!r} with pads {pads.tolist()}, and known are constant, reflect and edge")
    if mode == "reflect" and any(int(pads[i]) >= x.shape[a] for i, a in enumerate(2 * padded)):
        raise refusal(node, f"it mirrors {pads.tolist()} values of {list(x.shape)}, which are not so many")
    before = dict(zip(padded, pads.tolist(), strict=False))
    y = code.new_output(node)
    filler = "0" if value is None else scalar_literal(value)
    loops = [f"n{axis}" for axis in range(rank)]
    places = [f"({n} - {before[axis]})" if before.get(axis) else n for axis, n in enumerate(loops)]
    inside = [f"{place} >= 0 && {place} < {size}" for place, size in zip(places, x.shape, strict=True)]
    indices = [_nearest(mode, place, size) for place, size in zip(places, x.shape, strict=True)]
    source = f"{x.address}[{index_expression(indices, strides_of(x.shape)) if rank else ''}]"
    with code.loops(loops, y.shape):
        read = f"{' && '.join(inside)} ? {source} : {filler}" if mode == "constant" else source
        code.emit(f"{y.address}[{index_expression(loops, strides_of(y.shape))}] = {read};")


def _nearest(mode: str, place: str, size: int) -> str:
    """The index along an axis of so many values that is read for a place that may lie beyond it."""
    if mode == "reflect" and size > 1:
        return f"rnn_reflect({place}, {size})"
    return f"rnn_nearest({place}, {size})" if mode == "edge" else place


def constant_of_shape(code: CodeBuilder, node: ir.Node) -> None:
    """One that was too large to be folded."""
    value, y = node.attributes.get("value"), code.new_output(node)
    code.emit(f"for (int i = 0; i < {y.size}; i++)")
    code.emit(f"    {y.address}[i] = {'0' if value is None else scalar_literal(value.as_tensor().numpy())};")


def copy_strided(
    code: CodeBuilder, y: CTensor, to: int, x: CTensor, start: int, loops: Sequence[tuple[int, int, int]]
) -> None:
    """Copy from x + `start` to y + `to`, each loop (count, stride in y, stride in x); dense runs by memcpy."""
    loops = [loop for loop in loops if loop[0] != 1]
    run = 1
    while loops and loops[-1][1:] == (run, run):
        run *= loops.pop()[0]
    target, source = f"{y.address} + {to}", f"{x.address} + {start}"
    for i, (_, to_stride, from_stride) in enumerate(loops):
        target, source = f"{target} + n{i} * {to_stride}", f"{source} + n{i} * {from_stride}"
    with code.loops([f"n{i}" for i in range(len(loops))], [count for count, _, _ in loops]):
        if run == 1:
            code.emit(f"*({target}) = *({source});")
        else:
            code.emit(f"memcpy({target}, {source}, {run} * sizeof({x.c_type}));")
