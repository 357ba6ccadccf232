"""Gemm and MatMul; and products with constant matrices, in the precision of the step."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_name, input_of
from rnn_export.export.targets.c.code.code_builder import CodeBuilder, refusal
from rnn_export.export.targets.c.code.constants import TILE, tiled_matrix, tiled_vector
from rnn_export.export.targets.c.code.notation import float_literal, round_up
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.export.targets.c.operators.elementwise import broadcast
from rnn_export.export.targets.c.products.matmul_general import of_computed
from rnn_export.platform.arrays import Array

# 2^-60 as bfloat16.
BF16_FLOOR = 67 << 7
# Up to so many outputs a sum across a vector costs less than a tile that is nearly empty.
FEW_OUTPUTS = 4


def matmul(code: CodeBuilder, node: ir.Node) -> None:
    computed = all(value is not None and value.const_value is None for value in node.inputs)
    if computed and any(value in code.strided or value in code.windows for value in node.inputs):
        of_computed(code, node)
        return
    a, b = code.input(node, 0), code.input(node, 1)
    left, right = a.constant, b.constant
    if a.c_type != "float":
        raise refusal(node, f"it multiplies {a.c_type}", id="c-matmul-dtype")
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
    of_computed(code, node)


def _fused_bias(code: CodeBuilder, node: ir.Node, n: int, y: CTensor) -> Array:
    """The constant bias that the only reader of a product adds to it, which is then fused; else zeros."""
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


def gemm(code: CodeBuilder, node: ir.Node) -> None:
    """Alpha A B + beta C with constant B; A may be transposed where it is one row or column."""
    weight = code.required(node, 1)
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    x = code.read(node, 0)
    if x.c_type != "float":
        raise refusal(node, f"it multiplies {x.c_type}", id="c-gemm-dtype")
    if node.attributes.get_int("transA", 0) and 1 not in x.shape:
        raise refusal(node, "its first matrix is transposed", id="c-gemm-transposed")
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


@dataclass(frozen=True)
class Operand:
    """Rows of `matrix.shape[1]` values at `address`, and the matrix (outputs, values) that they are multiplied with.

    From one row to the next it is `row_stride` values. `name` is that of the values in a calibration.
    """

    matrix: Array
    address: str
    row_stride: int
    name: str = ""

    @property
    def k(self) -> int:
        return int(self.matrix.shape[1])


class Product:
    """y (rows, outputs) = bias + x matrix' + h matrix', as a whole or in blocks of outputs.

    `block` is their number, a multiple of 16: up to `TILE`, in fp32 up to twice as many. With `wide`, x keeps 16 bits
    in int8: a convolution reads many channels, some of them quiet.
    """

    def __init__(
        self,
        code: CodeBuilder,
        bias: Array,
        rows: int,
        x: Operand,
        h: Operand | None = None,
        *,
        block: int | None = None,
        wide: bool = False,
    ) -> None:
        self.code, self.x, self.rows, self.block, self.wide = code, x, rows, block, wide
        self.outputs = len(bias)
        self.operands = [x] if h is None else [x, h]
        self.h = h or Operand(np.zeros((len(bias), 0), np.float32), x.address, 0)
        self.few = block is None and h is None and self.outputs <= FEW_OUTPUTS
        code.macs += rows * self.outputs * (x.k + self.h.k)
        # Names of constants, each with its step from one block to the next.
        self.constants: list[tuple[str, int]]
        if self.few:
            self.constants = [(code.weights.name_of(x.matrix), 0), (code.weights.name_of(bias), 0)]
            return
        width = block or TILE
        self.constants = MATRICES[code.precision](code, [operand.matrix for operand in self.operands], width)
        self.constants.append((code.weights.name_of(tiled_vector(bias)), width))
        if code.precision == "int8":
            self._quantize()

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that it reads."""
        return WEIGHT_BYTES[self.code.precision] * self.outputs * (self.x.k + self.h.k)

    def emit(self, y: str, block: str = "") -> None:
        """Write the product to `y`; `block` is the variable that counts the blocks."""
        whole = self._call(y, self.block or self.outputs, block)
        if self.block or self.few or self.rows > 1:
            self.code.emit(whole)
            return
        full, rest = divmod(self.outputs, TILE)
        tile = self._call(f"{y} + u * {TILE}", TILE, "u")
        lines = [tile]
        if rest:
            last = self._call(f"{y} + {full * TILE}", rest, str(full))
            lines = [f"if (u < {full})", f"    {tile}", "else", f"    {last}"]
        self.code.emit_of_blocks(whole, full + bool(rest), self.nbytes, lines)

    def _call(self, y: str, n: int, block: str) -> str:
        x, h, rows = self.x, self.h, self.rows
        names = ", ".join(f"{name} + {block} * {step}" if block else name for name, step in self.constants)
        if self.few:
            return f"rnn_few_f32({names}, {n}, {rows}, {x.address}, {x.k}, {x.row_stride}, {y});"
        if self.code.precision == "int8":
            rest = f"{x.k}, {x.k if self.wide else h.k}, {int(self.wide)}, {self.scales}, {y}"
            return f"rnn_dense_i8({names}, {n}, {rows}, {self.quantized}, {rest});"
        function = "rnn_dense_bf16" if self.code.precision == "bf16" else "rnn_dense_f32"
        if self.code.precision == "fp32" and self.block:
            function = "rnn_dense_block_f32"
        operands = f"{x.address}, {x.k}, {x.row_stride}, {h.address}, {h.k}"
        return f"{function}({names}, {n}, {rows}, {operands}, {y});"

    def _quantize(self) -> None:
        """Write how the rows become integers, once for all blocks."""
        code, x, h, rows = self.code, self.x, self.h, self.rows
        start_of_h = round_up(x.k, 4)
        row = start_of_h + round_up(x.k if self.wide else h.k, 4)
        self.quantized = code.alloc("int8_t", (rows * row,)).address
        self.scales = code.alloc("float", (2 * rows,)).address
        function = "rnn_rows_i16" if self.wide else "rnn_rows_i8"
        for i, (operand, start) in enumerate(zip(self.operands, (0, start_of_h), strict=False)):
            source = f"{operand.address}, {operand.k}, {operand.row_stride}, {rows}"
            scale = float_literal(code.scale_of(operand.name) / 127)
            code.emit(f"{function}({source}, {scale}, {self.quantized} + {start}, {row}, {self.scales} + {i});")


def _fp32(code: CodeBuilder, matrices: list[Array], width: int) -> list[tuple[str, int]]:
    return [(code.weights.name_of(_tiles(matrices, width)), width * sum(m.shape[1] for m in matrices))]


def _bf16(code: CodeBuilder, matrices: list[Array], width: int) -> list[tuple[str, int]]:
    return _fp32(code, [bf16_words(m) for m in matrices], width)


def _int8(code: CodeBuilder, matrices: list[Array], width: int) -> list[tuple[str, int]]:
    scale, quantized = quantize_int8(matrices)
    packed = [_pack4(m) for m in quantized]
    offsets = [code.weights.name_of(tiled_vector(128 * m.sum(1, dtype=np.int32))) for m in quantized]
    return [
        (code.weights.name_of(_tiles(packed, width).view(np.int8)), 4 * width * sum(m.shape[1] for m in packed)),
        (code.weights.name_of(tiled_vector(scale)), width),
        (offsets[0], width),
        (offsets[-1], width),
    ]


MATRICES = {"fp32": _fp32, "bf16": _bf16, "int8": _int8}
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def _tiles(matrices: list[Array], width: int) -> Array:
    """Tile after tile, in each the columns of one matrix after those of the other."""
    joined = np.concatenate(matrices, 1)
    return np.concatenate([tiled_matrix(joined[i : i + width], width) for i in range(0, len(joined), width)])


def bf16_words(matrix: Array) -> Array:
    """(outputs, k) as words of two bfloat16, (outputs, k / 2): k in the lower half, k + 1 the float that the word is.

    Both are rounded to the nearest that there is. Values below 2^-60 become 0 in the lower half, and in the upper one
    2^-60 if the lower is not 0: products that are no normal floats take a CPU a hundred times as long.
    """
    full = np.pad(matrix, ((0, 0), (0, matrix.shape[1] % 2))).astype(np.float32)
    even, odd = (np.ascontiguousarray(full[:, i::2]).view(np.uint32).astype(np.int64) for i in (0, 1))
    low = np.where(even & 0x7FFFFFFF < BF16_FLOOR << 16, 0, (even + 0x7FFF + (even >> 16 & 1)) >> 16)
    sign, size = odd & 0x80000000, odd & 0x7FFFFFFF
    high = size - low + 0x8000 >> 16
    high = np.where(high < BF16_FLOOR, np.where(low, BF16_FLOOR, 0), high) << 16
    words: Array = (sign | high | low).astype(np.uint32)
    return words


def quantize_int8(matrices: list[Array]) -> tuple[Array, list[Array]]:
    """A scale for each output over all of its weights, and the weights as integers from -127 to 127."""
    most = np.max([np.abs(m).max(1) for m in matrices], 0)
    scale = (np.where(most > 0, most, 1) / 127).astype(np.float32)
    return scale, [np.rint(m / scale[:, None]).clip(-127, 127).astype(np.int8) for m in matrices]


def _pack4(matrix: Array) -> Array:
    """(outputs, k) bytes as words of four, (outputs, k / 4), filled up with zeros."""
    k = matrix.shape[1]
    return np.ascontiguousarray(np.pad(matrix, ((0, 0), (0, round_up(k, 4) - k)))).view(np.uint32)
