"""Normalizations: softmax, and norms over features, channels and groups."""

import math

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_of
from rnn_export.export.targets.c.code.code_builder import CodeBuilder, refusal
from rnn_export.export.targets.c.code.notation import float_literal
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.export.targets.c.operators.data_movement import copy_strided
from rnn_export.export.targets.c.operators.elementwise import broadcast


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
    """LayerNormalization and RMSNormalization over the last axes; a scale that is computed is applied afterwards."""
    if len([v for v in node.outputs if v.uses() or v.is_graph_output()]) > 1:
        raise refusal(node, "its mean or deviation is an output too", id="c-norm-extra-outputs")
    x, y = code.read(node, 0), code.new_output(node)
    axis = node.attributes.get_int("axis", -1) % len(x.shape)
    n, shape = math.prod(x.shape[axis:]), x.shape[axis:]
    affine = {i: code.input(node, i) for i in (1, 2) if input_of(node, i) is not None}
    fixed = all(tensor.constant is not None for tensor in affine.values())
    known = {i: np.asarray(tensor.constant) for i, tensor in affine.items() if fixed}
    scale = np.broadcast_to(known.get(1, np.ones(1, np.float32)), shape)
    bias = np.broadcast_to(known.get(2, np.zeros(1, np.float32)), shape)
    epsilon = float_literal(node.attributes.get_float("epsilon", 1e-5))
    function = "rnn_layer_norm" if node.op_type == "LayerNormalization" else "rnn_rms_norm"
    result = y if fixed else code.alloc("float", y.shape)
    with code.loop("r", x.size // n):
        names = f"{code.weights.name_of(scale)}, {code.weights.name_of(bias)}"
        code.emit(f"{function}({x.address} + r * {n}, {n}, {epsilon}, {names}, {result.address} + r * {n});")
    if not fixed:
        formula = "{a} * {b} + {c}" if 2 in affine else "{a} * {b}"
        broadcast(code, y, [result, *map(code.with_address, affine.values())], formula)


def instance_norm(code: CodeBuilder, node: ir.Node) -> None:
    """InstanceNormalization: each channel of each image, with a scale and a bias of its own."""
    x, scale, bias = code.read(node, 0), code.read(node, 1), code.read(node, 2)
    y, channels, n = code.new_output(node), x.shape[1], math.prod(x.shape[2:])
    epsilon = float_literal(node.attributes.get_float("epsilon", 1e-5))
    with code.loops(["o", "c"], [x.shape[0], channels]):
        at = f"(o * {channels} + c) * {n}"
        affine = f"{scale.address}[c], {bias.address}[c]"
        code.emit(f"rnn_channel_norm({x.address} + {at}, {n}, {epsilon}, {affine}, {y.address} + {at});")


def lp_norm(code: CodeBuilder, node: ir.Node) -> None:
    """Values over their length along an axis; zeros stay zeros."""
    x, y = code.read(node, 0), code.new_output(node)
    axis, p = node.attributes.get_int("axis", -1) % len(x.shape), node.attributes.get_int("p", 2)
    n, inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
    with code.loops(["o", "c"], [math.prod(x.shape[:axis]), inner]):
        at = f"(o * {n} + i) * {inner} + c"
        value = f"{x.address}[{at}]"
        code.emit("float sum = 0.0f;")
        code.emit(f"for (int i = 0; i < {n}; i++)")
        code.emit(f"    sum += {f'{value} * {value}' if p == 2 else f'{value} < 0 ? -{value} : {value}'};")
        code.emit(f"const float length = {'rnn_scalar(rnn_sqrt(rnn_all(sum)))' if p == 2 else 'sum'};")
        code.emit(f"for (int i = 0; i < {n}; i++)")
        code.emit(f"    {y.address}[{at}] = length == 0.0f ? 0.0f : {value} / length;")


def batch_norm(code: CodeBuilder, node: ir.Node) -> None:
    """BatchNormalization as it is after training: a factor and a summand for each channel."""
    if node.attributes.get_int("training_mode", 0) == 1:
        raise refusal(node, "it is in training mode", id="c-batchnorm-training")
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
