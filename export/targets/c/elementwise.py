"""Operators that treat every value alike, with ONNX's rules of broadcasting."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rnn_export.export.targets.c.code_builder import CodeBuilder, CTensor, refusal
from rnn_export.export.targets.c.notation import float_literal, scalar_literal, strides_of

# Formulas of C, in which {a}, {b} and {c} are a value of each input, and other names are attributes.
ARITHMETIC = {"Add": "{a} + {b}", "Sub": "{a} - {b}", "Mul": "{a} * {b}"}
# Of vectors of floats.
VECTOR = {
    **ARITHMETIC,
    "Div": "{a} / {b}",
    # A NaN of either stays one.
    "Max": "RNN_IF(({a} < {b}) | ({b} != {b}), {b}, {a})",
    "Min": "RNN_IF(({a} > {b}) | ({b} != {b}), {b}, {a})",
    "Neg": "-{a}",
    "Abs": "rnn_abs({a})",
    "Reciprocal": "1.0f / {a}",
    "Floor": "rnn_floor({a})",
    "Ceil": "-rnn_floor(-{a})",
    "Sqrt": "rnn_sqrt({a})",
    "Exp": "rnn_exp({a})",
    "Log": "rnn_log({a})",
    "Erf": "rnn_erf({a})",
    "Tanh": "rnn_tanh({a})",
    "Sigmoid": "rnn_sigmoid({a})",
    "HardSigmoid": "rnn_min(rnn_max({alpha} * {a} + {beta}, rnn_all(0.0f)), rnn_all(1.0f))",
    "HardSwish": "{a} * rnn_min(rnn_max({a} * 0.166666667f + 0.5f, rnn_all(0.0f)), rnn_all(1.0f))",
    "Softplus": "rnn_softplus({a})",
    "Softsign": "{a} / (1.0f + rnn_abs({a}))",
    "Mish": "{a} * rnn_tanh(rnn_softplus({a}))",
    "Gelu": "0.5f * {a} * (1.0f + rnn_erf({a} * 0.707106781f))",
    "Relu": "rnn_relu({a})",
    "PRelu": "RNN_IF({a} < 0.0f, {b} * {a}, {a})",
    "LeakyRelu": "RNN_IF({a} < 0.0f, {alpha} * {a}, {a})",
    "ThresholdedRelu": "RNN_IF({a} > {alpha}, {a}, rnn_all(0.0f))",
    "Elu": "RNN_IF({a} < 0.0f, {alpha} * rnn_em1({a}), {a})",
    "Celu": "RNN_IF({a} < 0.0f, {alpha} * rnn_em1({a} / {alpha}), {a})",
    "Selu": "{gamma} * RNN_IF({a} < 0.0f, {alpha} * rnn_em1({a}), {a})",
}
GELU_BY_TANH = "0.5f * {a} * (1.0f + rnn_tanh(0.797884561f * ({a} + 0.044715f * {a} * {a} * {a})))"
# Attributes that a node may leave out, by the ONNX operator reference.
DEFAULTS = {
    "Celu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "ThresholdedRelu": {"alpha": 1.0},
}
# Of single values: all that integers and booleans have, and floats where there is none of vectors.
SCALAR = {
    **ARITHMETIC,
    # Nothing is divided by zero: a step cannot fail.
    "Div": "{b} ? {a} / {b} : 0",
    "Max": "{a} > {b} ? {a} : {b}",
    "Min": "{a} < {b} ? {a} : {b}",
    "Neg": "-{a}",
    "Abs": "{a} < 0 ? -{a} : {a}",
    "Sign": "({a} > 0) - ({a} < 0)",
    "Not": "!{a}",
    "And": "{a} && {b}",
    "Or": "{a} || {b}",
    "Xor": "!{a} != !{b}",
    "Equal": "{a} == {b}",
    "Less": "{a} < {b}",
    "LessOrEqual": "{a} <= {b}",
    "Greater": "{a} > {b}",
    "GreaterOrEqual": "{a} >= {b}",
    "Where": "{a} ? {b} : {c}",
}
# The host's mathematical library has these; a microcontroller may have none.
LIBRARY = {
    **{name: f"{name.lower()}f({{a}})" for name in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh")},
    "Pow": "powf({a}, {b})",
    "Round": "rintf({a})",
}
POWERS = {
    2.0: "{a} * {a}",
    3.0: "{a} * {a} * {a}",
    0.5: "rnn_sqrt({a})",
    1.0: "{a}",
    -1.0: "1.0f / {a}",
    -0.5: "1.0f / rnn_sqrt({a})",
}


def by_formula(code: CodeBuilder, node: ir.Node) -> None:
    """An operator that has a formula; one of {a} and {b} takes any number of inputs, pair by pair."""
    tensors = code.read_all(node)
    floats = tensors[0].c_type == "float" and code.c_type(node.outputs[0]) == "float"
    scalar = not floats or node.op_type not in VECTOR
    formula = (SCALAR if scalar else VECTOR).get(node.op_type)
    if formula is None:
        raise refusal(node, f"it has no form for {tensors[0].c_type}")
    if node.op_type == "Gelu" and node.attributes.get_string("approximate", "none") == "tanh":
        formula = GELU_BY_TANH
    for name, default in DEFAULTS.get(node.op_type, {}).items():
        value = float(np.float32(node.attributes.get_float(name, default)))
        formula = formula.replace(f"{{{name}}}", float_literal(value))
    while len(tensors) > 2 and "{c}" not in formula:
        pair = tensors[:2]
        result = code.alloc(pair[0].c_type, np.broadcast_shapes(*(t.shape for t in pair)))
        broadcast(code, result, pair, formula)
        tensors = [result, *tensors[2:]]
    if len(tensors) == 1 and "{b}" in formula:
        formula = "{a}"
    broadcast(code, code.new_output(node), tensors, formula, scalar)


def power(code: CodeBuilder, node: ir.Node) -> None:
    """Squares, roots and the like are written out; other exponents need powf."""
    x, exponent = code.read(node, 0), code.input(node, 1).constant
    exponents = set() if exponent is None else set(exponent.reshape(-1).tolist())
    if x.c_type == "float" and len(exponents) == 1 and (formula := POWERS.get(float(*exponents))):
        broadcast(code, code.new_output(node), [x], formula)
        return
    library(code, node)


def library(code: CodeBuilder, node: ir.Node) -> None:
    """What the host's libm computes."""
    tensors = code.read_all(node)
    if any(t.c_type != "float" for t in tensors):
        raise refusal(node, "it is written for float32 alone")
    code.uses_libm = True
    broadcast(code, code.new_output(node), tensors, LIBRARY[node.op_type], scalar=True)


def clip(code: CodeBuilder, node: ir.Node) -> None:
    x, formula = code.read(node, 0), "{a}"
    for index, function, sign in ((1, "rnn_max", "<"), (2, "rnn_min", ">")):
        limit = code.constant(node, index)
        if limit is not None:
            bound = scalar_literal(limit)
            value = f"(({formula}) {sign} {bound} ? {bound} : ({formula}))"
            formula = f"{function}({formula}, rnn_all({bound}))" if x.c_type == "float" else value
    broadcast(code, code.new_output(node), [x], formula)


def cast(code: CodeBuilder, node: ir.Node) -> None:
    x, c_type = code.read(node, 0), code.c_type(node.outputs[0])
    if c_type == x.c_type:
        code.set_view(node, x)
        return
    broadcast(code, code.new_output(node), [x], "{a} != 0" if c_type == "uint8_t" else f"({c_type}){{a}}")


def broadcast(
    code: CodeBuilder, result: CTensor, tensors: Sequence[CTensor], formula: str, scalar: bool = False
) -> None:
    """Write result[i] = formula(tensors[i]...), each broadcast; `scalar`: value by value even if all are floats."""
    counts, strides = merged_loops([result.shape, *(t.shape for t in tensors)])
    outer = [f"n{axis}" for axis in range(len(counts) - 1)]
    starts = ["".join(f" + {n} * {s}" for n, s in zip(outer, each, strict=False) if s) for each in strides]
    steps = [each[-1] for each in strides[1:]]
    with code.loops(outer, counts[:-1]):
        if scalar or any(t.c_type != "float" for t in (result, *tensors)):
            of_tensors = zip("abc", tensors, steps, starts[1:], strict=False)
            values = {n: f"{t.address}[{'i' if step else '0'}{start}]" for n, t, step, start in of_tensors}
            value = formula.format(**values)
            code.emit(f"for (int i = 0; i < {counts[-1]}; i++)")
            code.emit(f"    {result.address}[i{starts[0]}] = ({result.c_type})({value});")
            return
        code.emit(f"RNN_EACH({counts[-1]}, {{")
        for name, tensor, step, start in zip("abc", tensors, steps, starts[1:], strict=False):
            if tensor.constant is not None and tensor.size == 1:
                value = f"rnn_all({scalar_literal(tensor.constant)})"
            elif step:
                value = f"rnn_load_part({tensor.address}{start} + i, m)"
            else:
                value = f"rnn_all({tensor.address}[0{start}])"
            code.emit(f"    const rnn_v {name} = {value};")
        code.emit(f"    rnn_store_part({result.address}{starts[0]} + i, {formula.format(a='a', b='b', c='c')}, m);")
        code.emit("});")


def merged_loops(shapes: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The counts of the fewest loops over the first of `shapes`, and for each its stride in each, 0 where broadcast."""
    rank = len(shapes[0])
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    strides = [[0 if n == 1 else s for n, s in zip(shape, strides_of(shape), strict=True)] for shape in padded]
    counts: list[int] = []
    merged: list[list[int]] = [[] for _ in shapes]
    for axis, count in enumerate(shapes[0]):
        if count == 1:
            continue
        if counts and all(m[-1] == s[axis] * count for m, s in zip(merged, strides, strict=True)):
            count *= counts.pop()
            merged = [m[:-1] for m in merged]
        counts.append(count)
        for m, s in zip(merged, strides, strict=True):
            m.append(s[axis])
    return (counts, merged) if counts else ([1], [[0] for _ in shapes])
