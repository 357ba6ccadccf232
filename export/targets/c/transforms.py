"""Products with the basis of a Fourier transform, as the transforms that they are: C computes these fast.

A basis is a constant matrix: cosines, or sines, of whole turns, each row times a number of its own, such as the value
of a window there. Such a product is the real, or the imaginary, part of a transform of the values times these numbers;
one with the basis of a transform back is a transform there, of as many frequencies with zeros behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from rnn_export.arrays import Array
from rnn_export.export.graph.passes.nodes import Replacement, input_of, values

# Of a shorter transform, or of fewer values, the product is as fast.
SHORTEST, FEWEST = 64, 32
# The opset whose DFT takes its axis as an input, and the first from which nothing else of a step changes up to it.
OF_DFT, ALIKE = 20, 18
# What rounding to float32 leaves of a basis, relative to its largest number.
ROUNDED = 3e-7


@dataclass(frozen=True)
class Basis:
    """`scale` of each row, times the cosines (`part` 0), or less the sines (1), of a transform of `length` values."""

    length: int
    part: int
    scale: Array


class FindTransforms(InPlacePass):
    """Write DFT where a product with its basis stands."""

    def call(self, model: ir.Model) -> PassResult:
        opset, modified = model.opset_imports.get("", 0), False
        for node in list(model.graph) if opset >= ALIKE else ():
            matrix = _matrix(node)
            if matrix is not None and (basis := basis_of(matrix)) is not None:
                _write(node, basis, matrix.shape[1])
                model.opset_imports[""] = max(opset, OF_DFT)
                modified = True
        return PassResult(model, modified=modified)


def _matrix(node: ir.Node) -> Array | None:
    """The constant that a product is with, from the right, where it is large enough."""
    factor = input_of(node, 1)
    if node.op_type != "MatMul" or factor is None or factor.const_value is None:
        return None
    matrix = values(factor)
    large = matrix.ndim == 2 and min(matrix.shape) >= FEWEST and max(matrix.shape) >= SHORTEST
    return matrix if large and matrix.dtype == np.float32 else None


def basis_of(matrix: Array) -> Basis | None:
    """The basis that `matrix` (values, frequencies) is; None where it is none."""
    rows, columns = matrix.shape
    for length in (2 * columns - 2, 2 * columns - 1, columns):
        if rows > length:
            continue
        # Whole turns are left out before the angle loses digits.
        turns = np.outer(np.arange(rows), np.arange(columns)) % length
        angles = turns * (2 * np.pi / length)
        for part, waves in enumerate((np.cos(angles), -np.sin(angles))):
            scale = _scale(matrix[:, part].astype(np.float64), waves[:, part])
            off = np.abs(matrix - scale[:, None] * waves).max()
            if off <= ROUNDED * np.abs(matrix).max() and np.any(scale):
                return Basis(length, part, scale.astype(np.float32))
    return None


def _scale(column: Array, wave: Array) -> Array:
    """By what a wave is multiplied; where it is zero nothing is known of it, and it is as elsewhere."""
    moves = np.abs(wave) > 0.5 / len(wave)
    scale = np.divide(column, wave, out=np.zeros(len(wave)), where=moves)
    usual = np.median(scale[moves])
    scale[~moves] = usual
    # One number for all of them is left as it was before it was rounded with each.
    return np.full(len(wave), np.float32(usual)) if np.allclose(scale, usual, rtol=ROUNDED, atol=0) else scale


def _write(node: ir.Node, basis: Basis, columns: int) -> None:
    (x, _), op = node.inputs, Replacement(node, f"{node.outputs[0].name}.transform")
    if np.any(basis.scale != 1):
        x = op.Mul(x, op.constant(basis.scale))
    length, axis = (op.constant(np.array(n, np.int64)) for n in (basis.length, -2))
    onesided = int(columns == basis.length // 2 + 1)
    parts = op.DFT(op.Unsqueeze(x, op.ints(-1)), length, axis, onesided=onesided)
    op.put([op.Gather(parts, op.constant(np.array(basis.part, np.int64)), axis=-1)])
