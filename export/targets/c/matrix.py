"""Gemm and MatMul."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from rnn_export.arrays import Array
from rnn_export.export.graph.passes.nodes import input_name, input_of
from rnn_export.export.targets.c.code_builder import CodeBuilder, CTensor, refusal
from rnn_export.export.targets.c.dense import Operand, Product
from rnn_export.export.targets.c.elementwise import broadcast
from rnn_export.export.targets.c.notation import strides_of


def matmul(code: CodeBuilder, node: ir.Node) -> None:
    a, b = code.input(node, 0), code.input(node, 1)
    left, right = a.constant, b.constant
    if a.c_type != "float":
        raise refusal(node, f"it multiplies {a.c_type}")
    if right is not None and right.ndim == 2:
        x, y = code.read(node, 0), code.new_output(node)
        k, n = right.shape
        operand = Operand(np.ascontiguousarray(right.T), x.address, k, input_name(node, 0))
        Product(code, _fused_bias(code, node, n, y), x.size // k, operand).emit(y.address)
        return
    x = code.read(node, 1)
    if left is not None and left.ndim == 2 and x.shape[-2:] == (left.shape[1], 1):
        (n, k), y = left.shape, code.new_output(node)
        operand = Operand(left, x.address, k, input_name(node, 1))
        Product(code, np.zeros(n, np.float32), x.size // k, operand).emit(y.address)
        return
    _matmul_of_computed(code, node)


def _fused_bias(code: CodeBuilder, node: ir.Node, n: int, y: CTensor) -> Array:
    """The constant that the only reader of a product adds to each row of it, which is then written; else zeros."""
    uses = list(node.outputs[0].uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add" and not node.outputs[0].is_graph_output():
        add = uses[0].node
        other = add.inputs[1 - uses[0].idx]
        # What the reader adds may be computed only after the product.
        bias = None if other is None or other.const_value is None else code.tensor_of(other).constant
        if bias is not None and bias.shape[-1:] == (n,) and bias.size == n and bias.ndim <= len(y.shape):
            code.fused.add(add)
            code.set_view(add, y)
            return np.ascontiguousarray(bias.reshape(-1), np.float32)
    return np.zeros(n, np.float32)


def _matmul_of_computed(code: CodeBuilder, node: ir.Node) -> None:
    """Of two computed matrices, or of stacks of them."""
    a, b = code.read(node, 0), code.read(node, 1)
    y = code.new_output(node)
    rows, inner = (a.shape[-2] if len(a.shape) > 1 else 1), a.shape[-1]
    columns = b.shape[-1] if len(b.shape) > 1 else 1
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    code.macs += math.prod(stack) * rows * inner * columns
    from_a = _start_in_stack(a.shape[:-2], len(stack), rows * inner)
    from_b = _start_in_stack(b.shape[:-2], len(stack), inner * columns)
    from_y = _start_in_stack(stack, len(stack), rows * columns)
    with code.loops([*(f"s{axis}" for axis in range(len(stack))), "r", "c"], [*stack, rows, columns]):
        code.emit("float sum = 0.0f;")
        code.emit(f"for (int k = 0; k < {inner}; k++)")
        read_a, read_b = f"{a.address}[r * {inner} + k{from_a}]", f"{b.address}[k * {columns} + c{from_b}]"
        code.emit(f"    sum += {read_a} * {read_b};")
        code.emit(f"{y.address}[r * {columns} + c{from_y}] = sum;")


def _start_in_stack(shape: tuple[int, ...], rank: int, size: int) -> str:
    """Where the matrix, of `size` values, that the loops s0, s1 ... are at starts in a stack that is broadcast."""
    first = rank - len(shape)
    strides = enumerate(zip(shape, strides_of(shape), strict=True), first)
    return "".join(f" + s{axis} * {stride * size}" for axis, (count, stride) in strides if count > 1)


def gemm(code: CodeBuilder, node: ir.Node) -> None:
    """Alpha A B + beta C with constant B; A may be transposed where it is one row or column."""
    weight = code.required(node, 1)
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    x = code.read(node, 0)
    if x.c_type != "float":
        raise refusal(node, f"it multiplies {x.c_type}")
    if node.attributes.get_int("transA", 0) and 1 not in x.shape:
        raise refusal(node, "its first matrix is transposed")
    matrix = np.float32(alpha) * (weight if node.attributes.get_int("transB", 0) else weight.T)
    n, k = matrix.shape
    rows, y = x.size // k, code.new_output(node)
    bias: Array = np.zeros(n, np.float32)
    added = None if input_of(node, 2) is None else code.input(node, 2)
    if added is not None and added.constant is not None and added.size in (1, n) and added.shape[:-1] in ((), (1,)):
        bias, added = bias + np.float32(beta) * added.constant.reshape(-1), None
    target = y if added is None else code.alloc("float", (rows, n))
    operand = Operand(np.ascontiguousarray(matrix), x.address, k, input_name(node, 0))
    Product(code, bias, rows, operand).emit(target.address)
    if added is not None:
        factor = "" if beta == 1.0 else f"{beta!r}f * "
        broadcast(code, y, [target, code.with_address(added)], f"{{a}} + {factor}{{b}}")
