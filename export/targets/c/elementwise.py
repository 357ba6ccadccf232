"""Operators that treat every value alike, with ONNX's rules for shapes that are stretched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import onnx_ir as ir

from rnn_export.export.targets.c.literals import float_literal, scalar_literal
from rnn_export.export.targets.c.program import Program, Tensor, refusal, strides_of

Expression = Callable[..., str]


def _of(node: ir.Node, name: str, default: float) -> str:
    attribute = node.attributes.get(name)
    return float_literal(float(np.float32(default if attribute is None else attribute.as_float())))


def _selu(node: ir.Node) -> Expression:
    alpha, gamma = _of(node, "alpha", 1.67326319217681884765625), _of(node, "gamma", 1.05070102214813232421875)
    return lambda x: f"{gamma} * RNN_IF({x} < 0.0f, {alpha} * rnn_em1({x}), {x})"


def _gelu(node: ir.Node) -> Expression:
    if node.attributes.get_string("approximate", "none") == "tanh":
        inner = "0.797884561f * ({x} + 0.044715f * {x} * {x} * {x})"
        return lambda x: f"0.5f * {x} * (1.0f + rnn_tanh({inner.format(x=x)}))"
    return lambda x: f"0.5f * {x} * (1.0f + rnn_erf({x} * 0.707106781f))"


def _hard_sigmoid(node: ir.Node) -> Expression:
    alpha, beta = _of(node, "alpha", 0.2), _of(node, "beta", 0.5)
    return lambda x: f"rnn_min(rnn_max({alpha} * {x} + {beta}, rnn_all(0.0f)), rnn_all(1.0f))"


# Of float vectors, which are plain names in the expression.
UNARY: dict[str, Callable[[ir.Node], Expression]] = {
    "Relu": lambda node: lambda x: f"rnn_relu({x})",
    "Sigmoid": lambda node: lambda x: f"rnn_sigmoid({x})",
    "Tanh": lambda node: lambda x: f"rnn_tanh({x})",
    "Exp": lambda node: lambda x: f"rnn_exp({x})",
    "Log": lambda node: lambda x: f"rnn_log({x})",
    "Sqrt": lambda node: lambda x: f"rnn_sqrt({x})",
    "Abs": lambda node: lambda x: f"rnn_abs({x})",
    "Neg": lambda node: lambda x: f"-{x}",
    "Reciprocal": lambda node: lambda x: f"1.0f / {x}",
    "Erf": lambda node: lambda x: f"rnn_erf({x})",
    "Floor": lambda node: lambda x: f"rnn_floor({x})",
    "Ceil": lambda node: lambda x: f"-rnn_floor(-{x})",
    "Softplus": lambda node: lambda x: f"rnn_softplus({x})",
    "Softsign": lambda node: lambda x: f"{x} / (1.0f + rnn_abs({x}))",
    "Mish": lambda node: lambda x: f"{x} * rnn_tanh(rnn_softplus({x}))",
    "HardSwish": lambda node: (
        lambda x: f"{x} * rnn_min(rnn_max({x} * {float_literal(1 / 6)} + 0.5f, rnn_all(0.0f)), rnn_all(1.0f))"
    ),
    "HardSigmoid": _hard_sigmoid,
    "Selu": _selu,
    "Gelu": _gelu,
    "Elu": lambda node: lambda x: f"RNN_IF({x} < 0.0f, {_of(node, 'alpha', 1.0)} * rnn_em1({x}), {x})",
    "Celu": lambda node: (
        lambda x: f"RNN_IF({x} < 0.0f, {_of(node, 'alpha', 1.0)} * rnn_em1({x} / {_of(node, 'alpha', 1.0)}), {x})"
    ),
    "LeakyRelu": lambda node: lambda x: f"RNN_IF({x} < 0.0f, {_of(node, 'alpha', 0.01)} * {x}, {x})",
    "ThresholdedRelu": lambda node: lambda x: f"RNN_IF({x} > {_of(node, 'alpha', 1.0)}, {x}, rnn_all(0.0f))",
}


def _between(sign: str) -> Expression:
    return lambda a, b: f"{a} {sign} {b}"


def _called(function: str) -> Expression:
    return lambda *arguments: f"{function}({', '.join(arguments)})"


ARITHMETIC = {name: _between(sign) for name, sign in (("Add", "+"), ("Sub", "-"), ("Mul", "*"))}
COMPARING = (
    *(("And", "&&"), ("Or", "||"), ("Equal", "==")),
    *(("Less", "<"), ("LessOrEqual", "<="), ("Greater", ">"), ("GreaterOrEqual", ">=")),
)
BINARY: dict[str, Expression] = {
    **ARITHMETIC,
    "Div": _between("/"),
    # A NaN of either stays one.
    "Max": lambda a, b: f"RNN_IF(({a} < {b}) | ({b} != {b}), {b}, {a})",
    "Min": lambda a, b: f"RNN_IF(({a} > {b}) | ({b} != {b}), {b}, {a})",
    "PRelu": lambda a, b: f"RNN_IF({a} < 0.0f, {b} * {a}, {a})",
}
# Of single values, which is all that whole numbers and truth have.
SINGLE: dict[str, Expression] = {
    **ARITHMETIC,
    **{name: _between(sign) for name, sign in COMPARING},
    # Nothing is divided by zero: a step cannot fail.
    "Div": lambda a, b: f"{b} ? {a} / {b} : 0",
    "Max": lambda a, b: f"{a} > {b} ? {a} : {b}",
    "Min": lambda a, b: f"{a} < {b} ? {a} : {b}",
    "Neg": lambda a: f"-{a}",
    "Abs": lambda a: f"{a} < 0 ? -{a} : {a}",
    "Not": lambda a: f"!{a}",
    "Xor": lambda a, b: f"!{a} != !{b}",
    "Where": lambda c, a, b: f"{c} ? {a} : {b}",
}
# The host's mathematical library has these; a microcontroller may have none.
LIBRARY: dict[str, Expression] = {
    **{name: _called(f"{name.lower()}f") for name in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh")},
    "Pow": _called("powf"),
    "Round": _called("rintf"),
}
POWERS: dict[float, Expression] = {
    2.0: lambda x: f"{x} * {x}",
    3.0: lambda x: f"{x} * {x} * {x}",
    0.5: lambda x: f"rnn_sqrt({x})",
    1.0: lambda x: x,
    -1.0: lambda x: f"1.0f / {x}",
    -0.5: lambda x: f"1.0f / rnn_sqrt({x})",
}


def unary(p: Program, node: ir.Node) -> None:
    _emit(p, node, [p.read(node, 0)], UNARY[node.op_type](node))


def several(p: Program, node: ir.Node) -> None:
    """An operator of two inputs, or of one or more where it takes any number."""
    tensors = [p.read(node, i) for i in range(len(node.inputs))]
    table = BINARY if tensors[0].kind == "float" and p.kind(node.outputs[0]) == "float" else SINGLE
    if node.op_type not in table:
        raise refusal(node, f"it has no form for {tensors[0].kind}")
    pair = table[node.op_type]
    if len(tensors) == 1:
        _emit(p, node, tensors, pair if node.op_type == "Not" else lambda a: a)
        return
    total = tensors[0]
    for i, tensor in enumerate(tensors[1:], 1):
        last = i == len(tensors) - 1
        total = _emit(p, node, [total, tensor], pair, last)


def negated(p: Program, node: ir.Node) -> None:
    """Neg and Abs, which whole numbers have too."""
    x = p.read(node, 0)
    _emit(p, node, [x], UNARY[node.op_type](node) if x.kind == "float" else SINGLE[node.op_type])


def power(p: Program, node: ir.Node) -> None:
    """Squares, roots and the like are written out; other exponents need powf."""
    exponent = p.get(node.inputs[1]).array if node.inputs[1] is not None else None
    x = p.read(node, 0)
    if exponent is not None and x.kind == "float" and len(set(exponent.reshape(-1).tolist())) == 1:
        written = POWERS.get(float(exponent.reshape(-1)[0]))
        if written is not None:
            _emit(p, node, [x], written)
            return
    library(p, node)


def library(p: Program, node: ir.Node) -> None:
    """What is left to the host's libm."""
    tensors = [p.read(node, i) for i in range(len(node.inputs))]
    if any(t.kind != "float" for t in tensors):
        raise refusal(node, "it is written for float32 alone")
    p.libm.add(node.op_type)
    _emit(p, node, tensors, LIBRARY[node.op_type], single=True)


def where(p: Program, node: ir.Node) -> None:
    _emit(p, node, [p.read(node, i) for i in range(3)], SINGLE["Where"], single=True)


def clip(p: Program, node: ir.Node) -> None:
    x, low, high = p.read(node, 0), p.constant(node, 1), p.constant(node, 2)

    def limited(a: str) -> str:
        wide = x.kind == "float"
        for limit, function, sign in ((low, "rnn_max", "<"), (high, "rnn_min", ">")):
            if limit is not None:
                text = scalar_literal(limit)
                a = f"{function}({a}, rnn_all({text}))" if wide else f"(({a}) {sign} {text} ? {text} : ({a}))"
        return a

    _emit(p, node, [x], limited, single=x.kind != "float")


def cast(p: Program, node: ir.Node) -> None:
    x, kind = p.read(node, 0), p.kind(node.outputs[0])
    if kind == x.kind:
        p.alias(node, x)
        return
    _emit(p, node, [x], (lambda a: f"{a} != 0") if kind == "uint8_t" else (lambda a: f"({kind}){a}"), single=True)


def sign(p: Program, node: ir.Node) -> None:
    _emit(p, node, [p.read(node, 0)], lambda a: f"({a} > 0) - ({a} < 0)", single=True)


def _emit(
    p: Program,
    node: ir.Node,
    tensors: Sequence[Tensor],
    expression: Expression,
    last: bool = True,
    single: bool | None = None,
) -> Tensor:
    """The loops of one operator; `last` says that they give the node's output, and not something on the way."""
    shape = np.broadcast_shapes(*(t.shape for t in tensors))
    result = p.make(node) if last else p.room(tensors[0].kind, shape)
    if single is None:
        single = result.kind != "float" or any(t.kind != "float" for t in tensors)
    stretch(p, result, tensors, expression, single)
    return result


def stretch(
    p: Program, result: Tensor, tensors: Sequence[Tensor], expression: Expression, single: bool = False
) -> None:
    """result[i] = expression(tensors[i]...) with every tensor stretched to the shape of the result."""
    dims, strides = collapsed(result.shape, [t.shape for t in tensors])
    inner = [s[-1] for s in strides]
    with ExitStack() as loops:
        starts = [""] * (len(tensors) + 1)
        every = strides_of(dims)
        for axis, count in enumerate(dims[:-1]):
            variable = f"n{axis}"
            loops.enter_context(p.loop(variable, count))
            for j, stride in enumerate([every[axis], *(s[axis] for s in strides)]):
                starts[j] += f" + {variable} * {stride}" if stride else ""
        if single:
            read = [
                f"{t.text}[{'i' if step else '0'}{start}]"
                for t, step, start in zip(tensors, inner, starts[1:], strict=True)
            ]
            p.say(f"for (int i = 0; i < {dims[-1]}; i++)")
            p.say(f"    {result.text}[i{starts[0]}] = ({result.kind})({expression(*read)});")
            return
        p.say(f"RNN_EACH({dims[-1]}, {{")
        names = []
        for j, (tensor, step, start) in enumerate(zip(tensors, inner, starts[1:], strict=True)):
            names.append("abcdefgh"[j] if j < 8 else f"a{j}")
            if tensor.array is not None and tensor.size == 1:
                value = f"rnn_all({scalar_literal(tensor.array)})"
            elif step:
                value = f"rnn_load_part({tensor.text}{start} + i, m)"
            else:
                value = f"rnn_all({tensor.text}[0{start}])"
            p.say(f"    const rnn_v {names[-1]} = {value};")
        p.say(f"    rnn_store_part({result.text}{starts[0]} + i, {expression(*names)}, m);")
        p.say("});")


def collapsed(shape: Sequence[int], shapes: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The fewest loops over `shape`, and for each of `shapes` its stride in each, 0 where it is stretched."""
    rank = len(shape)
    strides = []
    for own in shapes:
        full = (1,) * (rank - len(own)) + tuple(own)
        strides.append([0 if size == 1 else step for size, step in zip(full, strides_of(full), strict=True)])
    axes = [axis for axis in range(rank) if shape[axis] != 1] or [rank - 1] * bool(rank)
    dims: list[int] = []
    joined: list[list[int]] = [[] for _ in shapes]
    for axis in axes:
        size = shape[axis]
        if dims and all(j[-1] == s[axis] * size for j, s in zip(joined, strides, strict=True)):
            dims[-1] *= size
            for j, s in zip(joined, strides, strict=True):
                j[-1] = s[axis]
        else:
            dims.append(size)
            for j, s in zip(joined, strides, strict=True):
                j.append(s[axis])
    if not dims:
        return [1], [[0] for _ in shapes]
    return dims, joined
