"""Operators that look at several values at once: sums, norms, softmax, pools."""

from __future__ import annotations

import math
from contextlib import ExitStack

import numpy as np
import onnx_ir as ir

from rnn_export.export.targets.c.literals import float_literal
from rnn_export.export.targets.c.moving import copy
from rnn_export.export.targets.c.program import Program, Tensor, position, refusal, strides_of

# Start, how a value goes in, and what becomes of the result of n values.
REDUCTIONS = {
    "ReduceSum": ("0.0f", "sum += {x}", "{s}"),
    "ReduceMean": ("0.0f", "sum += {x}", "{s} / {n}.0f"),
    "ReduceSumSquare": ("0.0f", "sum += {x} * {x}", "{s}"),
    "ReduceL1": ("0.0f", "sum += {x} < 0.0f ? -{x} : {x}", "{s}"),
    "ReduceL2": ("0.0f", "sum += {x} * {x}", "rnn_scalar(rnn_sqrt(rnn_all({s})))"),
    "ReduceMax": ("{first}", "sum = {x} > sum || {x} != {x} ? {x} : sum", "{s}"),
    "ReduceMin": ("{first}", "sum = {x} < sum || {x} != {x} ? {x} : sum", "{s}"),
    "ReduceProd": ("1.0f", "sum *= {x}", "{s}"),
    "ReduceLogSum": ("0.0f", "sum += {x}", "rnn_scalar(rnn_log(rnn_all({s})))"),
}


def reduction(p: Program, node: ir.Node) -> None:
    x, axes = p.read(node, 0), p.constant(node, 1)
    if "axes" in node.attributes:
        axes = np.array(node.attributes.get_ints("axes"))
    rank = len(x.shape)
    chosen = [int(a) % rank for a in ([] if axes is None else axes)]
    if not chosen and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        if node.op_type not in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
            raise refusal(node, "it has no axes and noop_with_empty_axes, which is not read alike everywhere")
        p.alias(node, x)
        return
    chosen = chosen or list(range(rank))
    if x.kind != "float":
        raise refusal(node, f"it is written for float32 alone, not for {x.kind}")
    y = p.make(node)
    start, into, result = REDUCTIONS[node.op_type]
    strides = strides_of(x.shape)
    kept = [a for a in range(rank) if a not in chosen]
    with ExitStack() as loops:
        for name, size in [(f"n{a}", x.shape[a]) for a in kept] or [("once", 1)]:
            loops.enter_context(p.loop(name, size))
        target = position([f"n{a}" for a in kept], strides_of([x.shape[a] for a in kept]))
        at = position([f"n{a}" for a in kept], [strides[a] for a in kept])
        p.say(f"float sum = {start.format(first=f'{x.text}[{at}]')};")
        inner = [f"n{a}" for a in chosen]
        with ExitStack() as deep:
            for a, name in zip(chosen, inner, strict=True):
                deep.enter_context(p.loop(name, x.shape[a]))
            read = f"{x.text}[{at} + {position(inner, [strides[a] for a in chosen])}]"
            p.say(f"{into.format(x=read)};")
        count = math.prod(x.shape[a] for a in chosen)
        p.say(f"{y.text}[{target}] = {result.format(s='sum', n=count)};")


def softmax(p: Program, node: ir.Node) -> None:
    x = p.read(node, 0)
    axis = node.attributes.get_int("axis", -1) % len(x.shape)
    y, n, inner = p.make(node), x.shape[axis], math.prod(x.shape[axis + 1 :])
    logarithm = int(node.op_type == "LogSoftmax")
    outer = math.prod(x.shape[:axis])
    if inner == 1:
        with p.loop("r", outer):
            p.say(f"rnn_softmax({x.text} + r * {n}, {n}, {logarithm}, {y.text} + r * {n});")
        return
    row, done = p.room("float", (n,)), p.room("float", (n,))
    with p.loop("o", outer), p.loop("c", inner):
        start = f" + o * {n * inner} + c"
        copy(p, row, 0, Tensor(f"{x.text}{start}", "float", x.shape), 0, [(n, 1, inner)])
        p.say(f"rnn_softmax({row.text}, {n}, {logarithm}, {done.text});")
        copy(p, Tensor(f"{y.text}{start}", "float", y.shape), 0, done, 0, [(n, inner, 1)])


def layer_norm(p: Program, node: ir.Node) -> None:
    if len([v for v in node.outputs if v.uses() or v.is_graph_output()]) > 1:
        raise refusal(node, "its mean or deviation is an output too")
    x, scale, bias = p.read(node, 0), p.constant(node, 1), p.constant(node, 2)
    assert scale is not None
    axis = node.attributes.get_int("axis", -1) % len(x.shape)
    n, shape = math.prod(x.shape[axis:]), x.shape[axis:]
    scale = np.broadcast_to(scale, shape)
    bias = np.zeros(shape, np.float32) if bias is None else np.broadcast_to(bias, shape)
    epsilon = float_literal(node.attributes.get_float("epsilon", 1e-5))
    y = p.make(node)
    with p.loop("r", x.size // n):
        names = f"{p.weights.plain(scale)}, {p.weights.plain(bias)}"
        p.say(f"rnn_layer_norm({x.text} + r * {n}, {n}, {epsilon}, {names}, {y.text} + r * {n});")


def channel_norm(p: Program, node: ir.Node) -> None:
    """BatchNormalization as it is after training: a factor and a summand for each channel."""
    if node.attributes.get_int("training_mode", 0) == 1:
        raise refusal(node, "it is in training mode")
    x = p.read(node, 0)
    scale, bias, mean, variance = (p.constant(node, i) for i in range(1, 5))
    assert scale is not None
    assert bias is not None
    assert mean is not None
    assert variance is not None
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    factor = (scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)).astype(np.float32)
    summand = (bias.astype(np.float64) - mean * factor.astype(np.float64)).astype(np.float32)
    names, y = (p.weights.plain(factor), p.weights.plain(summand)), p.make(node)
    n = math.prod(x.shape[2:])
    with p.loop("o", x.shape[0]), p.loop("c", x.shape[1]):
        at = f"(o * {x.shape[1]} + c) * {n}"
        value = f"rnn_load_part({x.text} + {at} + i, m) * {names[0]}[c] + {names[1]}[c]"
        p.say(f"RNN_EACH({n}, rnn_store_part({y.text} + {at} + i, {value}, m));")


def pool(p: Program, node: ir.Node) -> None:
    """MaxPool and AveragePool of one or two dimensions."""
    x = p.read(node, 0)
    window = list(node.attributes.get_ints("kernel_shape"))
    rank = len(window)
    strides, dilations = (list(node.attributes.get_ints(n, [1] * rank)) for n in ("strides", "dilations"))
    pads = list(node.attributes.get_ints("pads", [0] * 2 * rank))
    computed = node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if computed or node.attributes.get_int("ceil_mode", 0) == 1:
        raise refusal(node, "its padding is computed (auto_pad or ceil_mode)")
    if len([v for v in node.outputs if v.uses() or v.is_graph_output()]) > 1:
        raise refusal(node, "its indices are an output too")
    most = node.op_type == "MaxPool"
    counted = not most and not node.attributes.get_int("count_include_pad", 0)
    y = p.make(node)
    size, places = x.shape[2:], y.shape[2:]
    with ExitStack() as loops:
        loops.enter_context(p.loop("c", x.shape[0] * x.shape[1]))
        for a in range(rank):
            loops.enter_context(p.loop(f"l{a}", places[a]))
        p.say(f"float sum = {'-1.0f / 0.0f' if most else '0.0f'};")
        if counted:
            p.say("int count = 0;")
        with ExitStack() as deep:
            for a in range(rank):
                deep.enter_context(p.loop(f"k{a}", window[a]))
            names = [f"(l{a} * {strides[a]} + k{a} * {dilations[a]} - {pads[a]})" for a in range(rank)]
            inside = " && ".join(f"{n} >= 0 && {n} < {s}" for n, s in zip(names, size, strict=True))
            p.say(f"if ({inside}) {{")
            read = f"{x.text}[c * {math.prod(size)} + {position(names, strides_of(size))}]"
            p.say(f"    sum = {f'{read} > sum || {read} != {read} ? {read} : sum' if most else f'sum + {read}'};")
            if counted:
                p.say("    count++;")
            p.say("}")
        divisor = "count" if counted else str(math.prod(window))
        target = f"c * {math.prod(places)} + {position([f'l{a}' for a in range(rank)], strides_of(places))}"
        p.say(f"{y.text}[{target}] = {'sum' if most else f'sum / (float){divisor}'};")
