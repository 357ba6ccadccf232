"""Operators that look at several values at once: sums, norms, softmax."""

import math

import numpy as np
import onnx_ir as ir

from rnn_export.export.targets.c.code_builder import CodeBuilder, CTensor, refusal
from rnn_export.export.targets.c.data_movement import copy_strided
from rnn_export.export.targets.c.notation import float_literal, index_expression, strides_of

# What the sum starts as, what is done with each value x, and the result of n of them.
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


def reduce(code: CodeBuilder, node: ir.Node) -> None:
    x, given = code.read(node, 0), code.constant(node, 1)
    rank = len(x.shape)
    axes = [int(a) % rank for a in node.attributes.get_ints("axes", [] if given is None else given.tolist())]
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        if node.op_type not in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
            raise refusal(node, "it has no axes and noop_with_empty_axes, which is not read alike everywhere")
        code.set_view(node, x)
        return
    axes = axes or list(range(rank))
    if x.c_type != "float":
        raise refusal(node, f"it is written for float32 alone, not for {x.c_type}")
    y = code.new_output(node)
    start, step, result = REDUCTIONS[node.op_type]
    strides = strides_of(x.shape)
    outer, inner = [f"n{a}" for a in range(rank) if a not in axes], [f"n{a}" for a in axes]
    counts = [n for a, n in enumerate(x.shape) if a not in axes]
    row = index_expression(outer, [s for a, s in enumerate(strides) if a not in axes])
    value = f"{x.address}[{row} + {index_expression(inner, [strides[a] for a in axes])}]"
    with code.loops(outer or ["once"], counts or [1]):
        code.emit(f"float sum = {start.format(first=f'{x.address}[{row}]')};")
        with code.loops(inner, [x.shape[a] for a in axes]):
            code.emit(f"{step.format(x=value)};")
        count = math.prod(x.shape[a] for a in axes)
        target = index_expression(outer, strides_of(counts))
        code.emit(f"{y.address}[{target}] = {result.format(s='sum', n=count)};")


def softmax(code: CodeBuilder, node: ir.Node) -> None:
    x = code.read(node, 0)
    axis = node.attributes.get_int("axis", -1) % len(x.shape)
    y, n, inner = code.new_output(node), x.shape[axis], math.prod(x.shape[axis + 1 :])
    logarithm = int(node.op_type == "LogSoftmax")
    outer = math.prod(x.shape[:axis])
    if inner == 1:
        with code.loop("r", outer):
            code.emit(f"rnn_softmax({x.address} + r * {n}, {n}, {logarithm}, {y.address} + r * {n});")
        return
    row, result = code.alloc("float", (n,)), code.alloc("float", (n,))
    with code.loops(["o", "c"], [outer, inner]):
        start = f" + o * {n * inner} + c"
        copy_strided(code, row, 0, CTensor(f"{x.address}{start}", "float", x.shape), 0, [(n, 1, inner)])
        code.emit(f"rnn_softmax({row.address}, {n}, {logarithm}, {result.address});")
        copy_strided(code, CTensor(f"{y.address}{start}", "float", y.shape), 0, result, 0, [(n, inner, 1)])


def layer_norm(code: CodeBuilder, node: ir.Node) -> None:
    if len([v for v in node.outputs if v.uses() or v.is_graph_output()]) > 1:
        raise refusal(node, "its mean or deviation is an output too")
    x, scale, bias = code.read(node, 0), code.required(node, 1), code.constant(node, 2)
    axis = node.attributes.get_int("axis", -1) % len(x.shape)
    n, shape = math.prod(x.shape[axis:]), x.shape[axis:]
    scale = np.broadcast_to(scale, shape)
    bias = np.zeros(shape, np.float32) if bias is None else np.broadcast_to(bias, shape)
    epsilon = float_literal(node.attributes.get_float("epsilon", 1e-5))
    y = code.new_output(node)
    with code.loop("r", x.size // n):
        names = f"{code.weights.name_of(scale)}, {code.weights.name_of(bias)}"
        code.emit(f"rnn_layer_norm({x.address} + r * {n}, {n}, {epsilon}, {names}, {y.address} + r * {n});")


def batch_norm(code: CodeBuilder, node: ir.Node) -> None:
    """BatchNormalization as it is after training: a factor and a summand for each channel."""
    if node.attributes.get_int("training_mode", 0) == 1:
        raise refusal(node, "it is in training mode")
    x = code.read(node, 0)
    scale, bias, mean, variance = (code.required(node, i) for i in range(1, 5))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    factor = (scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)).astype(np.float32)
    summand = (bias.astype(np.float64) - mean * factor.astype(np.float64)).astype(np.float32)
    names, y = (code.weights.name_of(factor), code.weights.name_of(summand)), code.new_output(node)
    n = math.prod(x.shape[2:])
    with code.loops(["o", "c"], x.shape[:2]):
        at = f"(o * {x.shape[1]} + c) * {n}"
        value = f"rnn_load_part({x.address} + {at} + i, m) * {names[0]}[c] + {names[1]}[c]"
        code.emit(f"RNN_EACH({n}, rnn_store_part({y.address} + {at} + i, {value}, m));")
