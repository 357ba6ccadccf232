"""Gemm, MatMul and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import onnx_ir as ir

from rnn_export.arrays import Array
from rnn_export.export.targets.c.dense import Operand, dense
from rnn_export.export.targets.c.elementwise import stretch
from rnn_export.export.targets.c.program import Program, Tensor, position, refusal, strides_of


def matmul(p: Program, node: ir.Node) -> None:
    a, b = node.inputs[0], node.inputs[1]
    assert a is not None
    assert b is not None
    right = p.get(b).array
    if p.kind(a) != "float":
        raise refusal(node, f"it multiplies {p.kind(a)}")
    if right is not None and right.ndim == 2:
        x, y = p.read(node, 0), p.make(node)
        k, n = right.shape
        operand = Operand(np.ascontiguousarray(right.T), x.text, k, str(a.name))
        dense(p, y.text, _bias_after(p, node, n, y), x.size // k, operand)
        return
    left = p.get(a).array
    x = p.read(node, 1)
    if left is not None and left.ndim == 2 and x.shape[-2:] == (left.shape[1], 1):
        k, y = left.shape[1], p.make(node)
        dense(p, y.text, np.zeros(len(left), np.float32), x.size // k, Operand(left, x.text, k, str(b.name)))
        return
    _general(p, node)


def _bias_after(p: Program, node: ir.Node, n: int, y: Tensor) -> Array:
    """The constant that the only reader of a product adds to each row of it; that reader is then done."""
    uses = list(node.outputs[0].uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add" and not node.outputs[0].is_graph_output():
        add = uses[0].node
        other = add.inputs[1 - uses[0].idx]
        # What the reader adds may be computed only after the product.
        array = None if other is None or other.const_value is None else p.get(other).array
        if array is not None and array.shape[-1:] == (n,) and array.size == n and array.ndim <= len(y.shape):
            p.done.add(add)
            p.alias(add, y)
            return np.ascontiguousarray(array.reshape(-1), np.float32)
    return np.zeros(n, np.float32)


def _general(p: Program, node: ir.Node) -> None:
    """Of two computed matrices, or of stacks of them."""
    a, b = p.read(node, 0), p.read(node, 1)
    y = p.make(node)
    rows, inner = (a.shape[-2] if len(a.shape) > 1 else 1), a.shape[-1]
    columns = b.shape[-1] if len(b.shape) > 1 else 1
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    p.macs += math.prod(stack) * rows * inner * columns
    with ExitStack() as loops:
        starts = {"a": "", "b": "", "y": ""}
        for axis, count in enumerate(stack):
            loops.enter_context(p.loop(f"s{axis}", count))
            for key, shape, size in (
                ("a", a.shape[:-2], rows * inner),
                ("b", b.shape[:-2], inner * columns),
                ("y", stack, rows * columns),
            ):
                own = axis - (len(stack) - len(shape))
                if own >= 0 and shape[own] > 1:
                    starts[key] += f" + s{axis} * {strides_of(shape)[own] * size}"
        with p.loop("r", rows), p.loop("c", columns):
            p.say("float sum = 0.0f;")
            p.say(f"for (int k = 0; k < {inner}; k++)")
            read_a, read_b = f"{a.text}[r * {inner} + k{starts['a']}]", f"{b.text}[k * {columns} + c{starts['b']}]"
            p.say(f"    sum += {read_a} * {read_b};")
            p.say(f"{y.text}[r * {columns} + c{starts['y']}] = sum;")


def gemm(p: Program, node: ir.Node) -> None:
    """Alpha A B + beta C with constant B; A may be transposed where it is one row or column."""
    weight = p.constant(node, 1)
    assert weight is not None
    flags = {name: node.attributes.get_int(name, 0) for name in ("transA", "transB")}
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    x = p.read(node, 0)
    if x.kind != "float":
        raise refusal(node, f"it multiplies {x.kind}")
    if flags["transA"] and 1 not in x.shape:
        raise refusal(node, "its first matrix is transposed")
    matrix = np.float32(alpha) * (weight if flags["transB"] else weight.T)
    n, k = matrix.shape
    rows, y = x.size // k, p.make(node)
    extra = node.inputs[2] if len(node.inputs) > 2 else None
    bias: Array = np.zeros(n, np.float32)
    added = None if extra is None else p.get(extra)
    constant = added is not None and added.array is not None and added.size in (1, n) and added.shape[:-1] in ((), (1,))
    if constant and added is not None and added.array is not None:
        bias = bias + np.float32(beta) * added.array.reshape(-1)
    target = y if constant or added is None else p.room("float", (rows, n))
    dense(p, target.text, bias, rows, Operand(np.ascontiguousarray(matrix), x.text, k, str(_name(node, 0))))
    if added is not None and not constant:
        factor = "" if beta == 1.0 else f"{beta!r}f * "
        stretch(p, y, [target, p.addressed(added)], lambda a, b: f"{a} + {factor}{b}")


def conv(p: Program, node: ir.Node) -> None:
    """Each place of the output is a row: what its window holds, times the kernels."""
    weight, bias = p.constant(node, 1), p.constant(node, 2)
    assert weight is not None
    x = p.read(node, 0)
    rank, groups = weight.ndim - 2, node.attributes.get_int("group", 1)
    outputs, per_group = len(weight) // groups, weight.shape[1]
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise refusal(node, "its padding is computed (auto_pad)")
    strides, dilations = (list(node.attributes.get_ints(n, [1] * rank)) for n in ("strides", "dilations"))
    pads = list(node.attributes.get_ints("pads", [0] * 2 * rank))
    y = p.make(node)
    images, size, places, window = x.shape[0], x.shape[2:], y.shape[2:], weight.shape[2:]
    count, values = math.prod(places), per_group * math.prod(window)
    rows, channels = images * count, len(weight)
    for group in range(groups):
        some = slice(group * outputs, (group + 1) * outputs)
        source = x.part(group * per_group * math.prod(size), (per_group, *size))
        if images == 1 and not any(pads) and per_group == 1 and rank == 1 and dilations == [1]:
            text, apart = source.text, strides[0]
        elif not any(pads) and size == window and dilations == [1] * rank:
            text, apart = source.text, math.prod(x.shape[1:])
        else:
            patches = p.room("float", (rows, values))
            _windows(p, patches, source, x.shape, places, window, strides, dilations, pads)
            text, apart = patches.text, values
        operand = Operand(weight[some].reshape(outputs, values), text, apart, str(_name(node, 0)))
        to = group * outputs * count
        if count == 1 and 1 in (images, groups):
            dense(p, f"({y.text} + {to})", bias[some], rows, operand, fine=True)
            continue
        by_place = p.room("float", (rows, outputs))
        dense(p, by_place.text, bias[some], rows, operand, fine=True)
        with p.loop("m", images), p.loop("o", outputs), p.loop("l", count):
            target = position(["m", "o", "l"], [channels * count, count, 1])
            p.say(f"{y.text}[{to} + {target}] = {by_place.text}[(m * {count} + l) * {outputs} + o];")


def _windows(
    p: Program,
    patches: Tensor,
    x: Tensor,
    images: Sequence[int],
    places: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> None:
    """Patches (images, places, channels, window) of x (channels, size) in `images` (images, all channels, size), zero
    where a window reaches beyond it.
    """
    size, rank = x.shape[1:], len(window)
    with ExitStack() as loops:
        loops.enter_context(p.loop("m", images[0]))
        for axis in range(rank):
            loops.enter_context(p.loop(f"l{axis}", places[axis]))
        loops.enter_context(p.loop("c", x.shape[0]))
        for axis in range(rank):
            loops.enter_context(p.loop(f"k{axis}", window[axis]))
        inside, where = [], [f"m * {math.prod(images[1:])}", f"c * {math.prod(size)}"]
        for axis, step in enumerate(strides_of(size)):
            at = f"(l{axis} * {strides[axis]} + k{axis} * {dilations[axis]} - {pads[axis]})"
            last = (places[axis] - 1) * strides[axis] + (window[axis] - 1) * dilations[axis] - pads[axis]
            if pads[axis]:
                inside.append(f"{at} >= 0")
            if last >= size[axis]:
                inside.append(f"{at} < {size[axis]}")
            where.append(f"{at} * {step}")
        shape = [images[0], *places, x.shape[0], *window]
        names = ["m"] + [f"l{axis}" for axis in range(rank)] + ["c"] + [f"k{axis}" for axis in range(rank)]
        target = position(names, strides_of(shape))
        read = f"{x.text}[{' + '.join(where)}]"
        p.say(f"{patches.text}[{target}] = {' && '.join(inside) + f' ? {read} : 0.0f' if inside else read};")


def _name(node: ir.Node, index: int) -> str | None:
    value = node.inputs[index]
    return None if value is None else value.name
