"""Operators that move values and compute none."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import onnx_ir as ir

from rnn_export.export.targets.c.elementwise import stretch
from rnn_export.export.targets.c.literals import scalar_literal
from rnn_export.export.targets.c.program import Program, Tensor, position, refusal, shape_of, strides_of


def reshaped(p: Program, node: ir.Node) -> None:
    """Reshape, Squeeze, Unsqueeze, Flatten, Identity, and Dropout after training: the same values as they lie."""
    training = p.constant(node, 2) if node.op_type == "Dropout" else None
    if training is not None and training.any():
        raise refusal(node, "it is in training mode")
    source = node.inputs[0]
    assert source is not None
    p.alias(node, p.get(source))


def transpose(p: Program, node: ir.Node) -> None:
    x = p.read(node, 0)
    order = list(node.attributes.get_ints("perm", range(len(x.shape))[::-1]))
    if [a for a in order if x.shape[a] != 1] == sorted(a for a in order if x.shape[a] != 1):
        p.alias(node, x)
        return
    y = p.make(node)
    strides = strides_of(x.shape)
    copy(p, y, 0, x, 0, [(x.shape[a], step, strides[a]) for a, step in zip(order, strides_of(y.shape), strict=True)])


def concat(p: Program, node: ir.Node) -> None:
    y = p.make(node)
    axis = node.attributes.get_int("axis", 0) % len(y.shape)
    offset, step = 0, strides_of(y.shape)[axis]
    for i in range(len(node.inputs)):
        x = p.read(node, i)
        if x.size:
            copy(p, y, offset * step, x, 0, list(zip(x.shape, strides_of(y.shape), strides_of(x.shape), strict=True)))
        offset += x.shape[axis] if x.shape else 1


def split(p: Program, node: ir.Node) -> None:
    x = p.read(node, 0)
    axis = node.attributes.get_int("axis", 0) % len(x.shape)
    start = 0
    for i, value in enumerate(node.outputs):
        shape = shape_of(value)
        _cut(p, node, x, i, [start if a == axis else 0 for a in range(len(shape))], [1] * len(shape), shape)
        start += shape[axis]


def slice_(p: Program, node: ir.Node) -> None:
    x = p.read(node, 0)
    starts, ends, axes, steps = (p.constant(node, i) for i in range(1, 5))
    assert starts is not None
    assert ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    first, every, shape = [0] * len(x.shape), [1] * len(x.shape), list(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        taken = range(x.shape[axis])[slice(int(start), int(end), int(step))]
        first[axis], every[axis], shape[axis] = (taken[0] if taken else 0), int(step), len(taken)
    _cut(p, node, x, 0, first, every, shape)


def _cut(
    p: Program, node: ir.Node, x: Tensor, index: int, first: Sequence[int], every: Sequence[int], shape: Sequence[int]
) -> None:
    """Part of x: a view where it lies in one piece."""
    strides = strides_of(x.shape)
    offset = sum(f * s for f, s in zip(first, strides, strict=True))
    wanted = [e * s for e, s in zip(every, strides, strict=True)]
    if all(n == 1 or own == had for n, own, had in zip(shape, strides_of(shape), wanted, strict=True)):
        p.alias(node, x.part(offset, shape), index)
        return
    y = p.make(node, index)
    copy(p, y, 0, x, offset, list(zip(shape, strides_of(shape), wanted, strict=True)))


def gather(p: Program, node: ir.Node) -> None:
    """Rows of a table; an index beyond it takes the last or first row, since a step cannot fail."""
    x, value = p.read(node, 0), node.inputs[1]
    assert value is not None
    index = p.get(value)
    axis = node.attributes.get_int("axis", 0) % len(x.shape)
    outer, rows, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    if index.array is not None and index.size == 1:
        wanted = int(index.array.reshape(-1)[0])
        if not -rows <= wanted < rows:
            raise refusal(node, f"it takes {wanted} of {rows} along axis {axis}")
        at = wanted % rows
        first = [at if a == axis else 0 for a in range(len(x.shape))]
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        _cut(p, node, x, 0, first, [1] * len(x.shape), shape)
        return
    index, y = p.addressed(index), p.make(node)
    if given := re.match(r"\(*(in\d+)\b", index.text):
        p.tables[given[1]] = min(rows, p.tables.get(given[1], rows))
    with p.loop("o", outer), p.loop("j", index.size):
        p.say(f"int64_t row = {index.text}[j] < 0 ? {index.text}[j] + {rows} : {index.text}[j];")
        p.say(f"row = row < 0 ? 0 : row >= {rows} ? {rows - 1} : row;")
        target = f"{y.text} + (o * {index.size} + j) * {inner}"
        p.say(f"memcpy({target}, {x.text} + (o * {rows} + row) * {inner}, {inner} * sizeof({x.kind}));")


def expand(p: Program, node: ir.Node) -> None:
    x, y = p.read(node, 0), p.make(node)
    stretch(p, y, [x], lambda a: a, single=x.kind != "float")


def tile(p: Program, node: ir.Node) -> None:
    x, repeats = p.read(node, 0), p.constant(node, 1)
    assert repeats is not None
    y = p.make(node)
    loops = []
    for size, times, step, own in zip(x.shape, repeats.tolist(), strides_of(y.shape), strides_of(x.shape), strict=True):
        loops += [(times, size * step, 0), (size, step, own)]
    copy(p, y, 0, x, 0, loops)


def pad(p: Program, node: ir.Node) -> None:
    x, pads, value, axes = p.read(node, 0), p.constant(node, 1), p.constant(node, 2), p.constant(node, 3)
    assert pads is not None
    mode, rank = node.attributes.get_string("mode", "constant"), len(x.shape)
    chosen = list(range(rank)) if axes is None else [int(a) % rank for a in axes]
    before = [0] * rank
    for i, axis in enumerate(chosen):
        before[axis] = int(pads[i])
    if mode not in ("constant", "reflect", "edge") or (pads < 0).any():
        raise refusal(node, f"its mode is {mode!r} with pads {pads.tolist()}, and known are constant, reflect and edge")
    if mode == "reflect" and any(int(pads[i]) >= x.shape[a] for i, a in enumerate(2 * chosen)):
        raise refusal(node, f"it mirrors {pads.tolist()} values of {list(x.shape)}, which are not so many")
    y = p.make(node)
    filler = "0" if value is None else scalar_literal(value)
    with ExitStack() as loops:
        names = [f"n{a}" for a in range(rank)]
        for name, size in zip(names, y.shape, strict=True):
            loops.enter_context(p.loop(name, size))
        inside, where = [], []
        for name, size, shift, step in zip(names, x.shape, before, strides_of(x.shape), strict=True):
            at = f"({name} - {shift})" if shift else name
            if mode == "reflect" and size > 1:
                at = f"rnn_reflect({at}, {size})"
            elif mode == "edge":
                at = f"rnn_nearest({at}, {size})"
            elif mode == "constant":
                inside.append(f"{at} >= 0 && {at} < {size}")
            where.append(f"{at} * {step}")
        target = position(names, strides_of(y.shape))
        read = f"{x.text}[{' + '.join(where)}]"
        chosen_value = f"{' && '.join(inside)} ? {read} : {filler}" if mode == "constant" else read
        p.say(f"{y.text}[{target}] = {chosen_value};")


def filled(p: Program, node: ir.Node) -> None:
    """ConstantOfShape that was too large to be folded."""
    value, y = node.attributes.get("value"), p.make(node)
    item = "0" if value is None else scalar_literal(value.as_tensor().numpy())
    p.say(f"for (int i = 0; i < {y.size}; i++)")
    p.say(f"    {y.text}[i] = {item};")


def copy(p: Program, y: Tensor, to: int, x: Tensor, start: int, loops: Sequence[tuple[int, int, int]]) -> None:
    """Copy values: each loop is (count, stride in y, stride in x); runs that are dense in both are one memcpy."""
    left = [loop for loop in loops if loop[0] != 1]
    run = 1
    while left and left[-1][1:] == (run, run):
        run *= left.pop()[0]
    with ExitStack() as stack:
        target, source = f"{y.text} + {to}", f"{x.text} + {start}"
        for i, (count, own, had) in enumerate(left):
            stack.enter_context(p.loop(f"n{i}", count))
            target, source = f"{target} + n{i} * {own}", f"{source} + n{i} * {had}"
        if run == 1:
            p.say(f"*({target}) = *({source});")
        else:
            p.say(f"memcpy({target}, {source}, {run} * sizeof({x.kind}));")
