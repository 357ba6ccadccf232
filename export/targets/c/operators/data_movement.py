"""Operators that move values and compute none."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rnn_export.export.targets.c.code.code_builder import CodeBuilder, refusal
from rnn_export.export.targets.c.code.notation import scalar_literal, shape_of, strides_of
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.export.targets.c.operators.elementwise import broadcast
from rnn_export.export.targets.c.operators.sliding_states import defer, shift_of


def reshape(code: CodeBuilder, node: ir.Node) -> None:
    """Reshape, Squeeze, Unsqueeze, Flatten, Identity, and Dropout after training: the same values in place."""
    training = code.constant(node, 2) if node.op_type == "Dropout" else None
    if training is not None and training.any():
        raise refusal(node, "it is in training mode", id="c-dropout-training")
    value = node.inputs[0]
    assert value is not None
    is_view = value in code.windows or (value in code.strided and value not in code.tensors)
    if is_view and _adds_ones(node) and _read_as_it_lies(node.outputs[0]):
        code.strided[node.outputs[0]] = code.view(node, 0).with_ones(shape_of(node.outputs[0]))
        return
    code.set_view(node, code.input(node, 0))


def transpose(code: CodeBuilder, node: ir.Node) -> None:
    value = node.inputs[0]
    assert value is not None
    order = list(node.attributes.get_ints("perm", range(len(shape_of(value)))[::-1]))
    if _read_as_it_lies(node.outputs[0]):
        code.strided[node.outputs[0]] = code.view(node, 0).transposed(order)
        return
    x = code.read(node, 0)
    if in_order(x.shape, order):
        code.set_view(node, x)
        return
    permute(code, x, code.new_output(node), x.shape, order)


def _read_as_it_lies(value: ir.Value) -> bool:
    """True if only products of two computed matrices read a tensor, directly or after transposing it."""
    readers = [use.node for use in value.uses()]
    if value.is_graph_output() or value.dtype != ir.DataType.FLOAT or not readers:
        return False
    return all(
        (reader.op_type == "MatMul" and all(v is not None and v.const_value is None for v in reader.inputs))
        or ((reader.op_type == "Transpose" or _adds_ones(reader)) and _read_as_it_lies(reader.outputs[0]))
        for reader in readers
    )


def _adds_ones(node: ir.Node) -> bool:
    """True if the node only adds or removes axes of one entry."""
    if node.op_type not in ("Reshape", "Squeeze", "Unsqueeze") or node.inputs[0] is None:
        return False
    before, after = ([n for n in shape_of(v) if n != 1] for v in (node.inputs[0], node.outputs[0]))
    return before == after


def in_order(sizes: Sequence[int], order: Sequence[int]) -> bool:
    """True if an array of `sizes` keeps its memory layout with its axes in `order`."""
    moved = [axis for axis in order if sizes[axis] != 1]
    return moved == sorted(moved)


def concat(code: CodeBuilder, node: ir.Node) -> None:
    if (shift := shift_of(code, node)) is not None:
        defer(code, node, shift)
        return
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
        slice_along(code, node, x, [(start if a == axis else 0, 1) for a in range(len(shape))], shape, i)
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
    slice_along(code, node, x, part, shape)


def slice_along(
    code: CodeBuilder, node: ir.Node, x: CTensor, part: Sequence[tuple[int, int]], shape: Sequence[int], output: int = 0
) -> None:
    """Part of x, (first, step) along each axis: a view if it is contiguous."""
    offset = sum(first * s for (first, _), s in zip(part, strides_of(x.shape), strict=True))
    dense, strides = strides_of(shape), [step * s for (_, step), s in zip(part, strides_of(x.shape), strict=True)]
    if all(n == 1 or to == source for n, to, source in zip(shape, dense, strides, strict=True)):
        code.set_view(node, x.view(offset, shape), output)
        return
    y = code.new_output(node, output)
    copy_strided(code, y, 0, x, offset, list(zip(shape, dense, strides, strict=True)))


def expand(code: CodeBuilder, node: ir.Node) -> None:
    x = code.read(node, 0)
    broadcast(code, code.new_output(node), [x], "{a}")


def depth_to_space(code: CodeBuilder, node: ir.Node) -> None:
    """Axes (images, block, block, channels, height, width), or CRD's (images, channels, block, block, ...)."""
    x, block, y = code.read(node, 0), node.attributes.get_int("blocksize"), code.new_output(node)
    images, channels, height, width = y.shape[0], y.shape[1], *x.shape[2:]
    by_column = node.attributes.get_string("mode", "DCR") == "CRD"
    sizes = (
        (images, channels, block, block, height, width)
        if by_column
        else (images, block, block, channels, height, width)
    )
    order = (0, 1, 4, 2, 5, 3) if by_column else (0, 3, 4, 1, 5, 2)
    permute(code, x, y, sizes, order)


def space_to_depth(code: CodeBuilder, node: ir.Node) -> None:
    x, block, y = code.read(node, 0), node.attributes.get_int("blocksize"), code.new_output(node)
    sizes = (*x.shape[:2], y.shape[2], block, y.shape[3], block)
    permute(code, x, y, sizes, (0, 3, 5, 1, 2, 4))


def permute(code: CodeBuilder, x: CTensor, y: CTensor, sizes: Sequence[int], order: Sequence[int]) -> None:
    """Copy x, as an array of `sizes`, to y with its axes in `order`."""
    strides, result = strides_of(sizes), strides_of([sizes[axis] for axis in order])
    loops = [(sizes[axis], to, strides[axis]) for axis, to in zip(order, result, strict=True)]
    copy_strided(code, y, 0, x, 0, loops)


def trilu(code: CodeBuilder, node: ir.Node) -> None:
    """One triangle of each matrix, the others being zeros."""
    x, diagonal, y = code.read(node, 0), code.constant(node, 1), code.new_output(node)
    rows, columns = x.shape[-2:]
    first = 0 if diagonal is None else int(diagonal)
    sign = ">=" if node.attributes.get_int("upper", 1) else "<="
    with code.loops(["o", "r", "c"], [x.size // (rows * columns), rows, columns]):
        at = f"o * {rows * columns} + r * {columns} + c"
        code.emit(f"{y.address}[{at}] = c - r {sign} {first} ? {x.address}[{at}] : 0;")


def tile(code: CodeBuilder, node: ir.Node) -> None:
    x, repeats, y = code.read(node, 0), code.required(node, 1).tolist(), code.new_output(node)
    loops = []
    for size, times, to, source in zip(x.shape, repeats, strides_of(y.shape), strides_of(x.shape), strict=True):
        loops += [(times, size * to, 0), (size, to, source)]
    copy_strided(code, y, 0, x, 0, loops)


def constant_of_shape(code: CodeBuilder, node: ir.Node) -> None:
    """A node too large to be folded."""
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
