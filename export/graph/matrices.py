"""Inverses, solutions and factors of small matrices as ONNX, which has none: written out column by column.

Each takes matrices of a fixed size, (..., n, n), and writes O(n) operators, or O(n^2), over all of them at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18

from rnn_export.errors import ExportError

op: Any = opset18
# Beyond it a graph would be long, and slow.
LARGEST = 32


def linalg_solve(A: Any, B: Any, left: bool = True) -> Any:
    """`torch.linalg.solve`: X with A @ X = B, or X @ A = B."""
    rank = len(A.shape)
    if [*map(str, B.shape)] == [*map(str, A.shape[:-1])]:
        return op.Squeeze(_solved(A, op.Unsqueeze(B, _ints(-1)), _size(A)), _ints(-1))
    if left:
        return _solved(A, B, _size(A))
    return _turned(_solved(_turned(A, rank), _turned(B, len(B.shape)), _size(A)), max(rank, len(B.shape)))


def linalg_inv(A: Any) -> Any:
    """`torch.linalg.inv`."""
    return _solved(A, _unit(_size(A)), _size(A))


def inverse(self: Any) -> Any:
    """`torch.inverse`."""
    return linalg_inv(self)


def _solved(matrix: Any, right: Any, size: int) -> Any:
    """By Gauss and Jordan: in each column the largest entry that is left is the pivot, as in LAPACK."""
    rows = np.arange(size)[:, None]
    for k in range(size):
        column = op.Where(_constant(rows >= k), op.Abs(_column(matrix, k)), _number(-1.0))
        is_pivot = op.Equal(op.ArgMax(column, axis=-2, keepdims=1), _constant(rows))
        scale = _column(_gathered(is_pivot, matrix), k)
        cleared = []
        for part in (matrix, right):
            pivot = op.Div(_gathered(is_pivot, part), scale)
            exchanged = op.Where(is_pivot, _row(part, k), part)
            cleared.append((pivot, exchanged))
        factors = _column(cleared[0][1], k)
        matrix, right = (
            op.Where(_constant(rows == k), pivot, op.Sub(exchanged, op.Mul(factors, pivot)))
            for pivot, exchanged in cleared
        )
    return right


def linalg_cholesky(self: Any, upper: bool = False) -> Any:
    """`torch.linalg.cholesky`: the lower factor of a symmetric matrix, or the upper one, by that part of it alone."""
    size, rank, columns = _size(self), len(self.shape), []
    left = _turned(self, rank) if upper else self
    rows = np.arange(size)[:, None]
    for k in range(size):
        column = _column(left, k)
        below = op.Where(_constant(rows >= k), column, _number(0.0))
        factor = op.Div(below, op.Sqrt(_row(column, k)))
        columns.append(factor)
        left = op.Sub(left, op.MatMul(factor, _turned(factor, rank)))
    lower = op.Concat(*columns, axis=-1)
    return _turned(lower, rank) if upper else lower


def cholesky(self: Any, upper: bool = False) -> Any:
    """`torch.cholesky`."""
    return linalg_cholesky(self, upper)


def linalg_solve_triangular(self: Any, B: Any, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """`torch.linalg.solve_triangular`."""
    size, ranks = _size(self), (len(self.shape), len(B.shape))
    if left:
        return _substituted(self, B, size, upper, unitriangular)
    turned = _substituted(_turned(self, ranks[0]), _turned(B, ranks[1]), size, not upper, unitriangular)
    return _turned(turned, max(ranks))


def _substituted(matrix: Any, right: Any, size: int, upper: bool, has_ones: bool = False) -> Any:
    """Row after row, each from those before."""
    known: dict[int, Any] = {}
    for k in reversed(range(size)) if upper else range(size):
        row, value = _row(matrix, k), _row(right, k)
        for i, before in known.items():
            value = op.Sub(value, op.Mul(_column(row, i), before))
        known[k] = value if has_ones else op.Div(value, _column(row, k))
    return op.Concat(*(known[k] for k in range(size)), axis=-2)


def cholesky_solve(self: Any, input2: Any, upper: bool = False) -> Any:
    """`torch.cholesky_solve`: of the matrix whose factor `input2` is."""
    size, turned = _size(input2), _turned(input2, len(input2.shape))
    lower, other = (turned, input2) if upper else (input2, turned)
    return _substituted(other, _substituted(lower, self, size, upper=False), size, upper=True)


def cholesky_inverse(self: Any, upper: bool = False) -> Any:
    """`torch.cholesky_inverse`."""
    return cholesky_solve(_unit(_size(self)), self, upper)


def _size(matrix: Any) -> int:
    size = matrix.shape[-1]
    if not isinstance(size, int) or size > LARGEST:
        raise ExportError(
            f"a matrix of {size} rows is inverted, solved or factored, which ONNX has no operator for: it is written "
            f"out up to {LARGEST} rows. Take smaller matrices, or compute this outside of the model.",
            id="matrix-too-large",
        )
    return size


def _gathered(is_row: Any, matrix: Any) -> Any:
    """The one row of a matrix where `is_row` is true."""
    return op.ReduceSum(op.Where(is_row, matrix, _number(0.0)), _ints(-2), keepdims=1)


def _column(matrix: Any, k: int) -> Any:
    return op.Slice(matrix, _ints(k), _ints(k + 1), _ints(-1))


def _row(matrix: Any, k: int) -> Any:
    return op.Slice(matrix, _ints(k), _ints(k + 1), _ints(-2))


def _turned(matrix: Any, rank: int) -> Any:
    return op.Transpose(matrix, perm=[*range(rank - 2), rank - 1, rank - 2])


def _unit(size: int) -> Any:
    return _constant(np.eye(size, dtype=np.float32))


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=[*values])


def _number(value: float) -> Any:
    return op.Constant(value_float=value)


def _constant(value: Any) -> Any:
    return op.Constant(value=ir.tensor(value))
