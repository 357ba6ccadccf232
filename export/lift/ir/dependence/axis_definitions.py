"""The layout of frames or rows after operators that move axes or work along others, by definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, growing_axes
from rnn_export.export.lift.ir.fx_nodes import named_args, overloads

Values = Mapping[fx.Node, Any]
# (arguments by name, their values, where the cells stand) -> their axis in the result, or None.
Definition = Callable[[Mapping[str, Any], Values, Mapping[fx.Node, AxisLayout]], "int | None"]


def by_definition(
    node: fx.Node, values: Values, more: Values, layouts: Mapping[fx.Node, AxisLayout]
) -> AxisLayout | None:
    """The layout in each result of `node` of its arguments' frames or rows; None if that has to be tried."""
    define, merged = DEFINITIONS.get(node.target), {(at.outer, at.inner) for at in layouts.values()}
    if define is None or len(merged) != 1:
        return None
    axis = define({**named_args(node), **node.kwargs}, values, layouts)
    here, there = (value if isinstance(value, tuple | list) else [value] for value in (values[node], more[node]))
    if axis is None or any(growing_axes(a, b) != [axis] for a, b in zip(here, there, strict=True)):
        return None
    return AxisLayout(axis, *merged.pop())


def _alone(layouts: Mapping[fx.Node, AxisLayout], value: Any) -> int | None:
    """The axis in `layouts` of `value`, if no other argument has one."""
    return layouts[value].axis if set(layouts) == {value} else None


def _exchanged(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    rank, axis = values[given["self"]].dim(), layouts[given["self"]].axis
    one, other = given["dim0"] % rank, given["dim1"] % rank
    places: dict[int, int] = {one: other, other: one}
    return places.get(axis, axis)


def _permuted(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    value = given["self"]
    return [d % values[value].dim() for d in given["dims"]].index(layouts[value].axis)


def _with_one_more(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    value = given["self"]
    at, axis = given["dim"] % (values[value].dim() + 1), layouts[value].axis
    return axis + 1 if at <= axis else axis


def _without_some(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    value, axis = given["self"], layouts[given["self"]].axis
    dims = {d % values[value].dim() for d in _list(given["dim"])}
    gone = [d for d in dims if values[value].shape[d] == 1]
    return None if axis in dims else axis - sum(d < axis for d in gone)


def _along_others(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    """Entries along `dim` mix; those along other axes stay."""
    axis = layouts[given["self"]].axis
    return None if axis == given["dim"] % values[given["self"]].dim() else axis


def _reduced(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    value, axis = given["self"], layouts[given["self"]].axis
    dims = {d % values[value].dim() for d in _list(given.get("dim"))}
    if not dims or axis in dims:
        return None
    return axis if given.get("keepdim", False) else axis - sum(d < axis for d in dims)


def _normalised(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    axis = _alone(layouts, given["input"])
    kept = values[given["input"]].dim() - len(given["normalized_shape"])
    return axis if axis is not None and axis < kept else None


def _linear(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    axis = _alone(layouts, given["input"])
    return axis if axis is not None and axis < values[given["input"]].dim() - 1 else None


def _convolved(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    """Each sequence or image of a batch is convolved alone."""
    axis, batched = _alone(layouts, given["input"]), values[given["input"]].dim() == values[given["weight"]].dim()
    return axis if axis == 0 and batched else None


def _padded(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    """Padding adds entries along some axes, made of the entries along them or a number."""
    axis = _alone(layouts, given["self"])
    return axis if axis is not None and axis < values[given["self"]].dim() - len(given["pad"]) // 2 else None


def _normalised_by_channel(
    given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]
) -> int | None:
    """With known statistics each entry is made of itself alone."""
    axis = _alone(layouts, given["input"])
    return None if given["training"] or axis == 1 else axis


def _product(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    """A batch of matrices, the rows of the left one and the columns of the right one are apart."""
    left, right = list(given.values())[:2]
    ranks: tuple[int, int] = values[left].dim(), values[right].dim()
    places: set[int] = {layouts[n].axis - values[n].dim() for n in (left, right) if n in layouts}
    summed = (left in layouts and -1 in places, right in layouts and -2 in places)
    if min(ranks) < 2 or len(places) != 1 or any(summed):
        return None
    return max(ranks) + places.pop()


def _triangle(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    """The matrices of a batch stay in place, also if the triangle is empty."""
    axis = layouts[given["self"]].axis
    return axis if axis < values[given["self"]].dim() - 2 else None


def _numbered(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    """Adds a last axis, made of each number alone."""
    return layouts[given["self"]].axis


def _by_matrix(given: Mapping[str, Any], values: Values, layouts: Mapping[fx.Node, AxisLayout]) -> int | None:
    """Square matrices of a batch, and systems solved with them, are apart."""
    tensors = [n for n in given.values() if isinstance(n, fx.Node)]
    own = dict.fromkeys(tensors, 2)
    if "A" in given and values[tensors[-1]].shape == values[tensors[0]].shape[:-1]:
        own[tensors[1]] = 1  # a vector for each
    places: set[int] = {layouts[n].axis - (values[n].dim() - own[n]) for n in layouts}
    batch: int = max(values[n].dim() - own[n] for n in tensors)
    return batch + place if len(places) == 1 and (place := places.pop()) < 0 else None


def _list(dims: Any) -> Sequence[int]:
    return [] if dims is None else [dims] if isinstance(dims, int) else dims


DEFINITIONS: Mapping[Any, Definition] = {
    operator: define
    for define, names in {
        _exchanged: "transpose.int",
        _permuted: "permute",
        _with_one_more: "unsqueeze",
        _without_some: "squeeze.dim squeeze.dims",
        _along_others: "softmax.int _softmax _safe_softmax log_softmax.int _log_softmax glu cumsum cumprod "
        "logcumsumexp cummax cummin sort sort.stable topk",
        _reduced: "sum.dim_IntList mean.dim amax amin max.dim min.dim median.dim",
        _normalised: "layer_norm",
        _linear: "linear",
        _convolved: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input conv_transpose3d.input",
        _padded: "pad constant_pad_nd",
        _normalised_by_channel: "batch_norm",
        _product: "matmul bmm mm",
        _triangle: "tril triu",
        _numbered: "one_hot",
        _by_matrix: "linalg_inv inverse linalg_solve linalg_solve_triangular linalg_cholesky cholesky cholesky_solve "
        "cholesky_inverse linalg_det logdet matrix_exp",
    }.items()
    for operator in overloads(names)
}
