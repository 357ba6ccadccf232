"""Operators that compare values along an axis: the largest, the k largest, and their indices."""

import math

import onnx_ir as ir

from rnn_export.export.targets.c.code.code_builder import CodeBuilder


def arg(code: CodeBuilder, node: ir.Node) -> None:
    """ArgMax and ArgMin: the index of the first, or with `select_last_index` the last, of the most extreme values."""
    x, y = code.read(node, 0), code.new_output(node)
    outer, n, inner = _around(x.shape, node.attributes.get_int("axis", 0))
    sign = ">" if node.op_type == "ArgMax" else "<"
    better = f"{sign}=" if node.attributes.get_int("select_last_index", 0) else sign
    with code.loops(["o", "c"], [outer, inner]):
        code.emit("int best = 0;")
        code.emit(f"for (int i = 1; i < {n}; i++)")
        value, most = (f"{x.address}[(o * {n} + {i}) * {inner} + c]" for i in ("i", "best"))
        code.emit(f"    best = {value} {better} {most} ? i : best;")
        code.emit(f"{y.address}[o * {inner} + c] = best;")


def hardmax(code: CodeBuilder, node: ir.Node) -> None:
    """1 where the first of the largest values is, else 0."""
    x, y = code.read(node, 0), code.new_output(node)
    outer, n, inner = _around(x.shape, node.attributes.get_int("axis", -1))
    with code.loops(["o", "c"], [outer, inner]):
        code.emit("int best = 0;")
        code.emit(f"for (int i = 1; i < {n}; i++)")
        value, most = (f"{x.address}[(o * {n} + {i}) * {inner} + c]" for i in ("i", "best"))
        code.emit(f"    best = {value} > {most} ? i : best;")
        code.emit(f"for (int i = 0; i < {n}; i++)")
        code.emit(f"    {y.address}[(o * {n} + i) * {inner} + c] = i == best;")


def top_k(code: CodeBuilder, node: ir.Node) -> None:
    """The k largest or smallest in order, and the indices: each value moves up past those that it beats."""
    x, k = code.read(node, 0), int(code.required(node, 1).reshape(-1)[0])
    axis = node.attributes.get_int("axis", -1) % len(x.shape)
    outer, n, inner = _around(x.shape, axis)
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    values, places = code.alloc(x.c_type, shape), code.alloc("int64_t", shape)
    for value, tensor in zip(node.outputs, (values, places), strict=False):
        code.tensors[value] = tensor
    better = ">" if node.attributes.get_int("largest", 1) else "<"
    with code.loops(["o", "c", "i"], [outer, inner, n]):
        code.emit(f"const {x.c_type} v = {x.address}[(o * {n} + i) * {inner} + c];")
        code.emit(f"int j = i < {k} ? i : {k};")
        here, above = (f"(o * {k} + {j}) * {inner} + c" for j in ("j", "j - 1"))
        code.emit(f"for (; j > 0 && v {better} {values.address}[{above}]; j--)")
        code.emit(f"    if (j < {k}) {{")
        for tensor in (values, places):
            code.emit(f"        {tensor.address}[{here}] = {tensor.address}[{above}];")
        code.emit("    }")
        code.emit(f"if (j < {k}) {{")
        code.emit(f"    {values.address}[{here}] = v;")
        code.emit(f"    {places.address}[{here}] = i;")
        code.emit("}")


def _around(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """The sizes before an axis, along it and after it."""
    axis %= len(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
