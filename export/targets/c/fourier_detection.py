"""Replace products and convolutions with the basis of a Fourier transform by DFT: C has fast transforms.

A basis is a constant matrix: cosines, or sines, of whole turns, each row times a number of its own, such as the value
of a window there, and each column too. A product with it is the real, or the imaginary, part of a transform of the
values times these numbers; one with the basis of an inverse transform is a transform of as many frequencies with
zeros behind them. A convolution whose kernels are cosines and then sines is a transform of each frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from rnn_export.export.graph.passes.nodes import Replacement, input_of, values
from rnn_export.platform.arrays import Array

# Of a shorter transform, or of fewer values, the product is as fast.
SHORTEST, FEWEST = 64, 32
# The opset whose DFT takes its axis as an input, and the first from which nothing else of a step changes up to it.
OF_DFT, ALIKE = 20, 18
# Columns that are looked at before all of them are.
FIRST = 8
# What rounding to float32 leaves of a basis, relative to its largest number.
ROUNDED = 3e-7


@dataclass(frozen=True)
class Basis:
    """`scale` of each row, times cosines (`part` 0) or negative sines (1) of `length` values, times `weight`."""

    length: int
    part: int
    scale: Array
    weight: Array


class FindTransforms(InPlacePass):
    """Replace products, or convolutions, with its basis by DFT."""

    def call(self, model: ir.Model) -> PassResult:
        opset, modified = model.opset_imports.get("", 0), False
        for node in list(model.graph) if opset >= ALIKE else ():
            matrix = _matrix(node)
            find = {"MatMul": _product, "Conv": _convolution}.get(node.op_type)
            if matrix is not None and find is not None and find(node, matrix):
                model.opset_imports[""] = max(opset, OF_DFT)
                modified = True
        return PassResult(model, modified=modified)


def _matrix(node: ir.Node) -> Array | None:
    """(values, results): the constant that values are multiplied with, where it is large enough."""
    factor = input_of(node, 1)
    if factor is None or factor.const_value is None:
        return None
    matrix = values(factor)
    if node.op_type == "Conv" and matrix.ndim == 3 and matrix.shape[1] == 1:
        matrix = matrix[:, 0].T
    large = matrix.ndim == 2 and min(matrix.shape) >= FEWEST and max(matrix.shape) >= SHORTEST
    return matrix if large and matrix.dtype == np.float32 else None


def basis_of(matrix: Array) -> Basis | None:
    """The basis that `matrix` (values, frequencies) is; None where it is none."""
    rows, columns = matrix.shape
    near = ROUNDED * np.abs(matrix).max()
    for length in (2 * columns - 2, 2 * columns - 1, columns):
        for part in (0, 1) if rows <= length else ():
            # A few columns tell most matrices from a basis.
            if _basis(matrix[:, :FIRST], length, part, near) and (basis := _basis(matrix, length, part, near)):
                return basis
    return None


def _basis(matrix: Array, length: int, part: int, near: float) -> Basis | None:
    """One part of the transform of `length` values that is within `near` of `matrix`, or None."""
    rows, columns = matrix.shape
    # Whole turns are left out before the angle loses digits.
    angles = np.outer(np.arange(rows), np.arange(columns)) % length * (2 * np.pi / length)
    waves = -np.sin(angles) if part else np.cos(angles)
    scale = _scale(matrix[:, part].astype(np.float64), waves[:, part])
    weight = _weight(matrix, scale[:, None] * waves)
    if not np.any(scale) or np.abs(matrix - scale[:, None] * waves * weight).max() > near:
        return None
    return Basis(length, part, scale.astype(np.float32), weight.astype(np.float32))


def _scale(column: Array, wave: Array) -> Array:
    """The factor of a wave; where the wave is zero it is unknown, and taken as elsewhere."""
    moves = np.abs(wave) > 0.5 / len(wave)
    scale = np.divide(column, wave, out=np.zeros(len(wave)), where=moves)
    usual = np.median(scale[moves])
    scale[~moves] = usual
    # One number for all of them is left as it was before it was rounded with each.
    return np.full(len(wave), np.float32(usual)) if np.allclose(scale, usual, rtol=ROUNDED, atol=0) else scale


def _weight(matrix: Array, waves: Array) -> Array:
    """The factor of each column of `waves` in `matrix`, by least squares."""
    squares = np.square(waves).sum(0)
    moves = squares > ROUNDED * squares.max()
    weight = np.divide((matrix * waves).sum(0), squares, out=np.ones(len(squares)), where=moves)
    return np.where(np.isclose(weight, 1, rtol=ROUNDED, atol=0), 1.0, weight)


def _product(node: ir.Node, matrix: Array) -> bool:
    basis = basis_of(matrix)
    if basis is not None:
        op = _replacing(node)
        op.put([_transformed(op, node.inputs[0], basis)])
    return basis is not None


def _convolution(node: ir.Node, kernels: Array) -> bool:
    """Rewrite kernels that are all cosines and then all sines as transforms of the frames."""
    x, size = node.inputs[0], kernels.shape[0]
    plain = all(n == 1 for name in ("dilations", "group") for n in _ints(node, name)) and not any(_ints(node, "pads"))
    length = x.shape[2] if x is not None and x.shape is not None else None
    if kernels.shape[1] % 2 or not plain or input_of(node, 2) is not None or not isinstance(length, int):
        return False
    real, imaginary = (basis_of(part) for part in np.split(kernels, 2, 1))
    if real is None or imaginary is None or (real.part, imaginary.part) != (0, 1):
        return False
    starts = np.arange(0, length - size + 1, (_ints(node, "strides") or [1])[0])
    op = _replacing(node)
    frames = op.Gather(op.Squeeze(x, op.ints(1)), op.constant(starts[:, None] + np.arange(size)), axis=1)
    parts = [_transformed(op, frames, basis) for basis in (real, _alike(imaginary, real))]
    op.put([op.Transpose(op.Concat(*parts, axis=-1), perm=[0, 2, 1])])
    return True


def _alike(sines: Basis, cosines: Basis) -> Basis:
    """`sines`, of the same values as `cosines` where they may be: then both are parts of one transform."""
    angles = 2 * np.pi * np.arange(len(sines.scale)) / sines.length
    sign = np.sign(sines.scale[1] * cosines.scale[1])
    off = np.abs((sines.scale - sign * cosines.scale) * np.sin(angles)).max()
    if sines.length != cosines.length or off > ROUNDED * np.abs(cosines.scale).max():
        return sines
    return replace(sines, scale=cosines.scale, weight=sign * sines.weight)


def _replacing(node: ir.Node) -> Replacement:
    return Replacement(node, f"{node.outputs[0].name}.transform")


def _transformed(op: Replacement, x: ir.Value | None, basis: Basis) -> ir.Value:
    """The product of the values on the last axis of `x` with a basis, by DFT."""
    if np.any(basis.scale != 1):
        x = op.Mul(x, op.constant(basis.scale))
    length, axis = (op.constant(np.array(n, np.int64)) for n in (basis.length, -2))
    onesided = int(len(basis.weight) == basis.length // 2 + 1)
    parts = op.DFT(op.Unsqueeze(x, op.ints(-1)), length, axis, onesided=onesided)
    result = op.Gather(parts, op.constant(np.array(basis.part, np.int64)), axis=-1)
    return op.Mul(result, op.constant(basis.weight)) if np.any(basis.weight != 1) else result


def _ints(node: ir.Node, name: str) -> Sequence[int]:
    attribute = node.attributes.get(name)
    if attribute is None:
        return ()
    return (attribute.as_int(),) if attribute.type == ir.AttributeType.INT else attribute.as_ints()
