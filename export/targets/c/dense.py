"""Products with constant matrices, in the precision that the step is written in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnn_export.arrays import Array
from rnn_export.export.targets.c.literals import float_literal
from rnn_export.export.targets.c.program import Program
from rnn_export.export.targets.c.weights import filled, tiled

# Outputs of a tile.
TILE = 64
# 2^-60 as bfloat16.
SMALLEST = 67 << 7
# Up to so many outputs a sum across a vector costs less than a tile that is nearly empty.
FEW = 4


@dataclass(frozen=True)
class Operand:
    """Rows of `matrix.shape[1]` values, `apart` values from each other, and the matrix (outputs, values) they meet.

    `name` is what a calibration knows the values by.
    """

    matrix: Array
    text: str
    apart: int
    name: str = ""

    @property
    def k(self) -> int:
        return int(self.matrix.shape[1])


class Product:
    """y (rows, outputs) = bias + x matrix' + h matrix', as a whole or in blocks of outputs.

    Args:
        block: outputs of a block, a multiple of 16 up to `TILE`; None where it is computed as a whole.
        fine: whether x keeps 16 bits in int8: what a convolution reads is of many channels, some of them quiet.
    """

    def __init__(
        self,
        p: Program,
        bias: Array,
        x: Operand,
        h: Operand | None = None,
        *,
        rows: int = 1,
        block: int | None = None,
        fine: bool = False,
    ) -> None:
        self.p, self.x, self.rows, self.block = p, x, rows, block
        self.outputs = len(bias)
        self.parts = [x] if h is None else [x, h]
        self.h = h or Operand(np.zeros((len(bias), 0), np.float32), x.text, 0)
        self.fine = fine
        self.few = block is None and h is None and self.outputs <= FEW
        p.macs += rows * self.outputs * (x.k + self.h.k)
        width = block or TILE
        if self.few:
            self.arrays = [(p.weights.plain(x.matrix), 0), (p.weights.plain(bias), 0)]
            return
        matrices = [part.matrix for part in self.parts]
        self.arrays = WEIGHTS[p.precision](p, matrices, width)
        self.arrays.append((p.weights.plain(filled(bias)), width))
        if p.precision == "int8":
            self._quantize()

    def into(self, y: str, block: str = "") -> None:
        """Say the product into `y`; `block` is the variable that counts the blocks."""
        n, x, h, rows = self.block or self.outputs, self.x, self.h, self.rows
        names = ", ".join(f"{name} + {block} * {step}" if block else name for name, step in self.arrays)
        if self.few:
            self.p.say(f"rnn_few_f32({names}, {n}, {rows}, {x.text}, {x.k}, {x.apart}, {y});")
        elif self.p.precision == "int8":
            second = x.k if self.fine else h.k
            self.p.say(
                f"rnn_dense_i8({names}, {n}, {rows}, {self.x8}, {x.k}, {second}, {int(self.fine)}, {self.scales}, {y});"
            )
        else:
            function = {"fp32": "rnn_dense_f32", "bf16": "rnn_dense_bf16"}[self.p.precision]
            self.p.say(f"{function}({names}, {n}, {rows}, {x.text}, {x.k}, {x.apart}, {h.text}, {h.k}, {y});")

    def _quantize(self) -> None:
        """Say how the rows become whole numbers, once for all blocks."""
        p, x, h, rows = self.p, self.x, self.h, self.rows
        row = _up(x.k) + _up(x.k if self.fine else h.k)
        self.x8, self.scales = p.room("int8_t", (rows * row,)).text, p.room("float", (2 * rows,)).text
        for place, (part, start) in enumerate(zip(self.parts, (0, _up(x.k)), strict=False)):
            function = "rnn_rows_i16" if self.fine else "rnn_rows_i8"
            known = float_literal(p.scale(part.name) / 127)
            p.say(
                f"{function}({part.text}, {part.k}, {part.apart}, {rows}, {known}, {self.x8} + {start}, {row}, "
                f"{self.scales} + {place});"
            )


def dense(p: Program, y: str, bias: Array, rows: int, x: Operand, h: Operand | None = None, fine: bool = False) -> None:
    """Say a product as a whole."""
    Product(p, bias, x, h, rows=rows, fine=fine).into(y)


# --- weights: names of arrays, each with the step from one block to the next


def _fp32(p: Program, matrices: list[Array], width: int) -> list[tuple[str, int]]:
    return [(p.weights.plain(_tiles(matrices, width)), width * sum(m.shape[1] for m in matrices))]


def _bf16(p: Program, matrices: list[Array], width: int) -> list[tuple[str, int]]:
    words = [bf16_words(m) for m in matrices]
    return [(p.weights.plain(_tiles(words, width)), width * sum(w.shape[1] for w in words))]


def _int8(p: Program, matrices: list[Array], width: int) -> list[tuple[str, int]]:
    scale, narrow = int8(matrices)
    fours = [_fours(m) for m in narrow]
    offsets = [p.weights.plain(filled(128 * part.sum(1, dtype=np.int32))) for part in narrow]
    return [
        (p.weights.plain(_tiles(fours, width).view(np.int8)), 4 * width * sum(f.shape[1] for f in fours)),
        (p.weights.plain(filled(scale)), width),
        (offsets[0], width),
        (offsets[-1], width),
    ]


WEIGHTS = {"fp32": _fp32, "bf16": _bf16, "int8": _int8}


def _tiles(matrices: list[Array], width: int) -> Array:
    """Tile after tile, in each the columns of one matrix after those of the other."""
    joined = np.concatenate(matrices, 1)
    return np.concatenate([tiled(joined[i : i + width]) for i in range(0, len(joined), width)])


def bf16_words(matrix: Array) -> Array:
    """(outputs, k) as words of two bfloat16, (outputs, k / 2): k in the lower half, k + 1 the float that the word is.

    Both are rounded to the nearest that there is. What is below 2^-60 becomes 0 in the lower half, and in the upper one
    2^-60 if the lower is not 0: products that are no normal floats take a CPU a hundred times as long.
    """
    full = np.pad(matrix, ((0, 0), (0, matrix.shape[1] % 2))).astype(np.float32)
    even, odd = (np.ascontiguousarray(full[:, i::2]).view(np.uint32).astype(np.int64) for i in (0, 1))
    low = np.where(even & 0x7FFFFFFF < SMALLEST << 16, 0, (even + 0x7FFF + (even >> 16 & 1)) >> 16)
    sign, size = odd & 0x80000000, odd & 0x7FFFFFFF
    high = size - low + 0x8000 >> 16
    high = np.where(high < SMALLEST, np.where(low, SMALLEST, 0), high) << 16
    words: Array = (sign | high | low).astype(np.uint32)
    return words


def int8(matrices: list[Array]) -> tuple[Array, list[Array]]:
    """A scale for each output over all of its weights, and the weights in whole numbers up to 127."""
    most = np.max([np.abs(m).max(1) for m in matrices], 0)
    scale = (np.where(most > 0, most, 1) / 127).astype(np.float32)
    return scale, [np.rint(m / scale[:, None]).clip(-127, 127).astype(np.int8) for m in matrices]


def _fours(matrix: Array) -> Array:
    """(outputs, k) bytes as words of four, (outputs, k / 4), filled up with zeros."""
    full = np.pad(matrix, ((0, 0), (0, _up(matrix.shape[1]) - matrix.shape[1])))
    return np.ascontiguousarray(full).view(np.uint32)


def _up(k: int) -> int:
    return -(-k // 4) * 4
