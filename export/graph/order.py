"""Order statistics as ONNX, where torch.onnx has no form: medians, the k-th smallest, searchsorted; and distances."""

from __future__ import annotations

from typing import Any

from onnxscript import opset18

from rnn_export.errors import ExportError

op: Any = opset18


def kthvalue(self: Any, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    """`torch.kthvalue`: the k-th smallest along an axis, and its index."""
    given = op.TopK(self, op.Constant(value_ints=[k]), axis=dim, largest=0, sorted=1)
    at = [op.Constant(value_ints=[n]) for n in (k - 1, k, dim)]
    found = [op.Slice(part, *at) for part in given]
    values, indices = found if keepdim else [op.Squeeze(part, at[2]) for part in found]
    return values, indices


def sort(self: Any, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> tuple[Any, Any]:
    """`torch.sort` along an axis of a fixed size: torch's own form asks the tensor how many entries there are."""
    size = self.shape[dim]
    if not isinstance(size, int):
        raise ExportError(
            "a sort along an axis of any size cannot be written: sort a fixed number of frames.", id="sort-of-any-size"
        )
    values, indices = op.TopK(self, op.Constant(value_ints=[size]), axis=dim, largest=int(descending), sorted=1)
    return values, indices


def median(self: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
    """`torch.median` along an axis: of an even number of entries the smaller of the two in the middle."""
    size = self.shape[dim]
    if not isinstance(size, int):
        raise ExportError(
            "a median along an axis of any size cannot be written: take it over a fixed number of frames.",
            id="median-of-any-size",
        )
    return kthvalue(self, (size + 1) // 2, dim, keepdim)


def searchsorted(
    sorted_sequence: Any,
    self: Any,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """`torch.searchsorted`, of one row of boundaries, or of one for each row of values: the number below."""
    if sorter is not None:
        raise ExportError(
            "torch.searchsorted with a `sorter` cannot be written: sort the boundaries before.",
            id="searchsorted-with-sorter",
        )
    bounds = (
        op.Unsqueeze(sorted_sequence, op.Constant(value_ints=[-2]))
        if len(sorted_sequence.shape) > 1
        else (sorted_sequence)
    )
    values = op.Unsqueeze(self, op.Constant(value_ints=[-1]))
    below = op.LessOrEqual if right or side == "right" else op.Less
    count = op.ReduceSum(op.Cast(below(bounds, values), to=7), op.Constant(value_ints=[-1]), keepdims=0)
    return op.Cast(count, to=6) if out_int32 else count


def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: int | None = None) -> Any:
    """`torch.cdist`, by differences, which lose nothing where two points are close."""
    gap = op.Abs(op.Sub(op.Unsqueeze(x1, op.Constant(value_ints=[-2])), op.Unsqueeze(x2, op.Constant(value_ints=[-3]))))
    axis = op.Constant(value_ints=[-1])
    if p == 0:
        return op.ReduceSum(op.Cast(op.Greater(gap, _number(0.0)), to=1), axis, keepdims=0)
    if p == 1:
        return op.ReduceSum(gap, axis, keepdims=0)
    if p == 2:
        return op.Sqrt(op.ReduceSum(op.Mul(gap, gap), axis, keepdims=0))
    if p == float("inf"):
        return op.ReduceMax(gap, axis, keepdims=0)
    return op.Pow(op.ReduceSum(op.Pow(gap, _number(p)), axis, keepdims=0), _number(1 / p))


def _number(value: float) -> Any:
    return op.Constant(value_float=value)
