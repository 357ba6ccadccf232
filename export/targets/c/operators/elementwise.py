"""Elementwise operators, with ONNX's rules of broadcasting."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_of
from rnn_export.export.targets.c.code.code_builder import CodeBuilder, refusal
from rnn_export.export.targets.c.code.constants import LANES
from rnn_export.export.targets.c.code.notation import float_literal, scalar_literal, strides_of
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.export.targets.c.operators.formulas import (
    ARITHMETIC,
    DEFAULTS,
    LIBRARY,
    POWERS,
    SCALAR,
    VARIANTS,
    VECTOR,
)

# Of whole numbers, written out as a product.
LARGEST_WHOLE_POWER = 8
# Formulas that are the same for a value and a vector.
OF_EITHER = (*ARITHMETIC.values(), "{a} / {b}")


def by_formula(code: CodeBuilder, node: ir.Node) -> None:
    """An operator that has a formula; one of {a} and {b} takes any number of inputs, pair by pair."""
    tensors = code.read_all(node)
    floats = tensors[0].c_type == "float" and code.c_type(node.outputs[0]) == "float"
    scalar = not floats or node.op_type not in VECTOR
    formula = (SCALAR if scalar else VECTOR).get(node.op_type)
    if formula is None:
        raise refusal(node, f"it has no form for {tensors[0].c_type}", id="c-formula-dtype")
    for (op_type, name, choice), variant in VARIANTS.items():
        if op_type == node.op_type and name in node.attributes and node.attributes[name].value == choice:
            formula = variant
    for name, default in DEFAULTS.get(node.op_type, {}).items():
        value = float(np.float32(node.attributes.get_float(name, default)))
        formula = formula.replace(f"{{{name}}}", float_literal(value))
    if "{c}" not in formula:
        tensors = _first_joined(code, tensors, formula)
    if len(tensors) == 1 and "{b}" in formula:
        formula = "{a}"
    broadcast(code, code.new_output(node), tensors, formula, scalar)


def _first_joined(code: CodeBuilder, tensors: list[CTensor], formula: str) -> list[CTensor]:
    """Two of any number of tensors, the first being all but the last joined by a formula of {a} and {b}."""
    while len(tensors) > 2:
        pair = tensors[:2]
        result = code.alloc(pair[0].c_type, np.broadcast_shapes(*(t.shape for t in pair)))
        broadcast(code, result, pair, formula)
        tensors = [result, *tensors[2:]]
    return tensors


def mean(code: CodeBuilder, node: ir.Node) -> None:
    tensors = code.read_all(node)
    formula = "({a} + {b})" if len(tensors) > 1 else "{a}"
    pair = _first_joined(code, tensors, "{a} + {b}")
    broadcast(code, code.new_output(node), pair, f"{formula} / {len(tensors)}.0f")


def power(code: CodeBuilder, node: ir.Node) -> None:
    """Squares, roots and the like are written out; other exponents need powf."""
    x, exponent = code.read(node, 0), code.input(node, 1).constant
    exponents = set() if exponent is None else set(exponent.reshape(-1).tolist())
    single = float(*exponents) if len(exponents) == 1 else math.nan
    if x.c_type == "float" and (formula := POWERS.get(single)):
        broadcast(code, code.new_output(node), [x], formula)
    elif x.c_type == "float":
        code.uses_libm = True
        broadcast(code, code.new_output(node), code.read_all(node), "powf({a}, (float){b})", scalar=True)
    elif single in range(LARGEST_WHOLE_POWER + 1):
        broadcast(code, code.new_output(node), [x], " * ".join(["{a}"] * int(single)) or "{a} * 0 + 1")
    else:
        raise refusal(
            node,
            f"whole numbers have constant powers of 0 to {LARGEST_WHOLE_POWER} alone, all to the same one",
            id="c-power-of-integers",
        )


def modulo(code: CodeBuilder, node: ir.Node) -> None:
    if code.read(node, 0).c_type != "float":
        by_formula(code, node)
    elif node.attributes.get_int("fmod", 0):
        library(code, node)
    else:
        raise refusal(node, "ONNX has it for floats with fmod=1 alone", id="c-float-modulo")


def library(code: CodeBuilder, node: ir.Node) -> None:
    """A function of the host's libm."""
    tensors = code.read_all(node)
    if any(t.c_type != "float" for t in tensors):
        raise refusal(node, "it is written for float32 alone", id="c-library-float32")
    code.uses_libm = True
    broadcast(code, code.new_output(node), tensors, LIBRARY[node.op_type], scalar=True)


def clip(code: CodeBuilder, node: ir.Node) -> None:
    x, formula = code.read(node, 0), "{a}"
    tensors = [x]
    for index, function, sign in ((1, "rnn_max", "<"), (2, "rnn_min", ">")):
        if input_of(node, index) is None:
            continue
        limit = code.input(node, index)
        if limit.constant is None:
            tensors.append(limit)
            bound = each = "{b}" if len(tensors) == 2 else "{c}"
        else:
            each = scalar_literal(limit.constant)
            bound = f"rnn_all({each})"
        value = f"(({formula}) {sign} {each} ? {each} : ({formula}))"
        formula = f"{function}({formula}, {bound})" if x.c_type == "float" else value
    broadcast(code, code.new_output(node), tensors, formula)


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
    # Compilers make better code of rows that are shorter than a vector, and as many values of the same arithmetic.
    scalar |= len(counts) > 1 and counts[-1] < LANES and formula in OF_EITHER
    outer = [f"n{axis}" for axis in range(len(counts) - 1)]
    starts = ["".join(f" + {n} * {s}" for n, s in zip(outer, each, strict=False) if s) for each in strides]
    steps = [each[-1] for each in strides[1:]]
    with code.loops(outer, counts[:-1]):
        if scalar or any(t.c_type != "float" for t in (result, *tensors)):
            of_tensors = zip("abc", tensors, steps, starts[1:], strict=False)
            values = {n: f"{t.address}[{'i' if step else '0'}{start}]" for n, t, step, start in of_tensors}
            if formula == SCALAR["Where"]:
                _emit_choice(code, f"{result.address}[i{starts[0]}]", tensors, list(values.values()), counts[-1])
                return
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


def _emit_choice(code: CodeBuilder, result: str, tensors: Sequence[CTensor], values: list[str], count: int) -> None:
    """One of two values by a truth, both read first: GCC 12 with -O3 and AVX-512BW reads one alone by a wrong mask."""
    code.emit(f"for (int i = 0; i < {count}; i++) {{")
    for name, tensor, value in zip(("yes", "no"), tensors[1:], values[1:], strict=True):
        code.emit(f"    const {tensor.c_type} {name} = {value};")
    code.emit(f"    {result} = {values[0]} ? yes : no;")
    code.emit("}")


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
