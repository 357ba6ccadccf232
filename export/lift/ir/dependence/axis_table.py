"""The axis table: for every operator, once, its effect along each axis of its arguments.

Batch independence, streaming and ragged axes read it. Torch marks pointwise operators, so they have no row. Where a row
tells nothing of an axis, an operator that only moves entries is called on their indices, and any other is tried on
drawn values. The same trial is the test of each row (tests/models/test_axis_table.py).
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import by_operator, named_args, overloads


class Use(enum.Enum):
    """The use of the entries along an axis of an argument."""

    KEEPS = "each index of the result is made of the same index alone, and all are treated alike"
    MIXES = "each index of the result is made of all of them"
    CARRIES = "each index of the result is made of those up to it"
    WINDOW = "each index of the result is made of a window of them"
    MOVES = "each index of the result is made of another one"
    REDUCES = "the result has no such axis, or of one entry made of all of them"


@dataclass(frozen=True)
class AxisEffect:
    """The effect along one axis: its use, the axis of the result that it becomes, and the numbers of a window."""

    use: Use
    to: int | None = None
    size: int = 1
    stride: int = 1
    dilation: int = 1

    @property
    def span(self) -> int:
        """The entries from the first to the last of a window."""
        return self.dilation * (self.size - 1) + 1


# Of one argument, by axis; None where that has to be tried.
Effects = Sequence[AxisEffect | None]
# The shape of an argument; None for what is no tensor.
Shape = Callable[[Any], "Sequence[Any] | None"]
# (arguments by name, their shapes) -> the effects along their axes, by name; those of a list hold for each in it.
Row = Callable[[Mapping[str, Any], Shape], Mapping[str, Effects]]


def kept(rank: int, others: Mapping[int, AxisEffect | None] | None = None, ahead: int = 0) -> Effects:
    """The effects along axes that all stay, behind `ahead` new ones; of these `others` are not kept."""
    effects = [AxisEffect(Use.KEEPS, axis + ahead) for axis in range(rank)]
    return [others[axis] if others and axis in others else effect for axis, effect in enumerate(effects)]


def _closed_up(rank: int, gone: Mapping[int, AxisEffect | None]) -> Effects:
    """The effects along axes of which those in `gone` are not in the result."""
    places = count()
    return [gone[axis] if axis in gone else AxisEffect(Use.KEEPS, next(places)) for axis in range(rank)]


def _dims(given: Any, rank: int) -> set[int]:
    """The axes that an argument names; all of them for None or an empty list."""
    return {dim % max(rank, 1) for dim in ([given] if isinstance(given, int) else given or range(rank))}


def _stays(name: str = "self", last: int = 0) -> Row:
    """The axes of one argument stay; the `last` of them have to be tried."""

    def row(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
        rank = _rank(shape(given[name]))
        return {name: kept(rank, dict.fromkeys(range(rank - last, rank)))}

    return row


def _rank(shape: Sequence[Any] | None) -> int:
    assert shape is not None
    return len(shape)


def _along(use: Use | None, name: str = "dim") -> Row:
    """An operator along the axes that an argument names, which stay in the result."""

    def row(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
        rank = _rank(shape(given["self"]))
        return {"self": kept(rank, {a: AxisEffect(use, a) if use else None for a in _dims(given[name], rank)})}

    return row


def _reduced(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    rank = _rank(shape(given["self"]))
    gone = _dims(given.get("dim"), rank)
    if given.get("keepdim", False):
        return {"self": kept(rank, {a: AxisEffect(Use.REDUCES, a) for a in gone})}
    return {"self": _closed_up(rank, dict.fromkeys(gone, AxisEffect(Use.REDUCES)))}


def _picked(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    """One entry of an axis, or each on its own."""
    rank = _rank(shape(given["self"]))
    return {"self": _closed_up(rank, dict.fromkeys(_dims(given["dim"], rank)))}


def _last_mixed(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    rank, own = _rank(shape(given["input"])), len(given["normalized_shape"])
    return {"input": kept(rank, {a: AxisEffect(Use.MIXES, a) for a in range(rank - own, rank)})}


def _linear(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    rank = _rank(shape(given["input"]))
    return {"input": kept(rank, {rank - 1: AxisEffect(Use.REDUCES)})}


def _windows(axes: int) -> Row:
    """A convolution or a pool over the last `axes` axes; a convolution sums over the channels before them.

    A value of unknown shape is (batch, channels, ...).
    """

    def row(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
        weight = shape(given.get("weight"))
        sizes = _of_axes(given["kernel_size"], axes) if weight is None else list(weight[2:])
        strides = _of_axes(given.get("stride") or (sizes if weight is None else 1), axes)
        dilations = _of_axes(given.get("dilation") or 1, axes)
        name = "self" if "self" in given else "input"
        known = shape(given[name])
        rank = axes + 2 if known is None else len(known)
        places = range(rank - axes, rank)
        effects = {a: AxisEffect(Use.WINDOW, a, *n) for a, *n in zip(places, sizes, strides, dilations, strict=True)}
        summed = {} if weight is None else {rank - axes - 1: AxisEffect(Use.REDUCES)}
        return {name: kept(rank, {**effects, **summed})}

    return row


def _of_axes(numbers: Any, axes: int) -> list[Any]:
    """A number for each axis: one for all may be given."""
    several = [numbers] if isinstance(numbers, int) else [*numbers]
    return several * axes if len(several) == 1 else several


def _padded(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    rank = _rank(shape(given["self"]))
    padded = (rank - 1 - i // 2 for i, n in enumerate(given["pad"]) if n != 0)
    return {"self": kept(rank, {axis: AxisEffect(Use.MOVES, axis) for axis in padded})}


def _by_channel(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    """With known statistics each entry is made of itself alone, by the numbers of its channel."""
    rank = _rank(shape(given["input"]))
    return {"input": kept(rank, dict.fromkeys(range(rank) if given["training"] else [1]))}


def _product(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    """A batch of matrices, the rows of the left one and the columns of the right one are kept."""
    names = [name for name in ("self", "mat1", "batch1", "mat2", "batch2", "other") if name in given][-2:]
    ranks = [_rank(shape(given[name])) for name in names]
    if min(ranks) < 2:
        return {}
    summed = [{own + at: AxisEffect(Use.REDUCES)} for own, at in zip(ranks, (-1, -2), strict=True)]
    return {n: kept(own, at, max(ranks) - own) for n, own, at in zip(names, ranks, summed, strict=True)}


def _matrices(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    """Square matrices of a batch, and systems solved with them, are kept."""
    shapes = {name: sizes for name, value in given.items() if (sizes := shape(value)) is not None}
    own = dict.fromkeys(shapes, 2)
    if {"A", "B"} <= shapes.keys() and list(shapes["B"]) == list(shapes["A"][:-1]):
        own["B"] = 1  # a vector for each
    batch = max(len(sizes) - own[name] for name, sizes in shapes.items())
    return {
        name: kept(n := len(sizes), dict.fromkeys(range(n - own[name], n)), batch - (n - own[name]))
        for name, sizes in shapes.items()
    }


def _permuted(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    rank = _rank(shape(given["self"]))
    order = list(range(rank))
    if "dims" in given:
        order = [dim % rank for dim in given["dims"]]
    elif rank > 1:
        one, other = given.get("dim0", 0) % rank, given.get("dim1", 1) % rank
        order[one], order[other] = other, one
    return {"self": [AxisEffect(Use.KEEPS, order.index(axis)) for axis in range(rank)]}


def _with_one_more(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    """A new axis among those of a tensor, or of several alike."""
    name = "self" if "self" in given else "tensors"
    rank = _rank(shape(given[name] if name == "self" else given[name][0]))
    at = given["dim"] % (rank + 1)
    return {name: [AxisEffect(Use.KEEPS, axis + (axis >= at)) for axis in range(rank)]}


def _squeezed(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    """An axis of one entry is left out; whether it has one, its kind of size may say."""
    sizes = shape(given["self"]) or ()
    asked = _dims(given["dim"], len(sizes))
    gone = [axis for axis in asked if sizes[axis] == 1]
    return {
        "self": [None if a in asked else AxisEffect(Use.KEEPS, a - sum(g < a for g in gone)) for a in range(len(sizes))]
    }


def _copied(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    """The source of a copy is broadcast."""
    return _broadcast({name: given[name] for name in ("self", "src")}, shape)


def _broadcast(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    """A pointwise operator."""
    ranks = {name: len(sizes) for name, value in given.items() if (sizes := shape(value)) is not None}
    return {name: kept(rank, ahead=max(ranks.values()) - rank) for name, rank in ranks.items()}


def _dropout(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    return {} if given["train"] else _stays("input")(given, shape)


def _joined(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    ranks = {_rank(shape(value)) for value in given["tensors"]}
    rank = max(ranks)
    return {"tensors": kept(rank, dict.fromkeys(_dims(given["dim"], rank)))} if len(ranks) == 1 else {}


def _untold(given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    return {}


# Of these each entry of a result is one of an argument, whatever the values.
_MOVES = by_operator(
    {
        _permuted: "permute transpose.int t",
        _with_one_more: "unsqueeze stack",
        _squeezed: "squeeze.dim squeeze.dims",
        _picked: "unbind.int select.int",
        _along(None): "split.Tensor split_with_sizes chunk slice.Tensor narrow",
        _along(Use.MOVES, "dims"): "flip roll",
        _joined: "cat",
        _stays(): "clone alias detach contiguous",
        _untold: "view _unsafe_view reshape flatten.using_ints unflatten.int squeeze expand repeat unfold diagonal "
        "movedim.int",
    }
)
MOVING = frozenset(_MOVES) | {operator.getitem}
AXES: Mapping[Any, Row] = _MOVES | by_operator(
    {
        _along(Use.MIXES): "softmax.int _softmax _safe_softmax log_softmax.int _log_softmax glu sort sort.stable topk",
        _along(Use.CARRIES): "cumsum cumprod logcumsumexp cummax cummin",
        _reduced: "sum sum.dim_IntList mean mean.dim amax amin max.dim min.dim median.dim any any.dim any.dims all "
        "all.dim all.dims logsumexp",
        _last_mixed: "layer_norm",
        _linear: "linear",
        _windows(1): "conv1d conv1d.padding conv_transpose1d avg_pool1d max_pool1d",
        _windows(2): "conv2d conv2d.padding conv_transpose2d.input avg_pool2d max_pool2d",
        _windows(3): "conv3d conv3d.padding conv_transpose3d.input avg_pool3d max_pool3d",
        _padded: "pad constant_pad_nd",
        _by_channel: "batch_norm",
        _product: "matmul bmm mm addmm baddbmm",
        _stays(last=2): "tril triu",
        _stays("indices"): "embedding",
        _stays(): "one_hot type_as _to_copy to.dtype zeros_like ones_like full_like empty_like",
        _copied: "copy",
        _dropout: "dropout",
        _matrices: "linalg_inv inverse linalg_solve linalg_solve_triangular linalg_cholesky cholesky cholesky_solve "
        "cholesky_inverse linalg_det logdet matrix_exp",
    }
)
# Pointwise as well, though torch does not mark them.
UNMARKED = overloads(
    "where.ScalarOther where.ScalarSelf where.Scalar masked_fill.Scalar masked_fill.Tensor "
    "__and__.Tensor __and__.Scalar __or__.Tensor __or__.Scalar __xor__.Tensor __xor__.Scalar fill.Scalar fill.Tensor"
)


def is_pointwise(target: Any) -> bool:
    """True if each entry of the result is made of the entries at its place, as torch says of it."""
    if getattr(target, "namespace", "") != "aten":
        # What others say of their operators is not known to be so.
        return False
    marks = getattr(target, "tags", ())
    return (torch.Tag.pointwise in marks or target in UNMARKED) and torch.Tag.nondeterministic_seeded not in marks


def effects_of(target: Any, given: Mapping[str, Any], shape: Shape) -> Mapping[str, Effects]:
    """The effects along the axes of each tensor that an operator takes, by argument; only those that its row tells."""
    row = AXES.get(target, _broadcast if is_pointwise(target) else None)
    return {} if row is None else row(given, shape)


def windows_of(node: fx.Node, shape: Shape) -> list[AxisEffect]:
    """The windows of a convolution or a pool, over the last axes of its argument."""
    effects = (effect for along in effects_of(node.target, named_args(node), shape).values() for effect in along)
    return [effect for effect in effects if effect is not None and effect.use is Use.WINDOW]


def effects_along(node: fx.Node, values: Mapping[fx.Node, Any], axes: Mapping[fx.Node, int]) -> list[AxisEffect | None]:
    """The effects along these axes of the arguments, None for each that has to be tried."""
    if node.target not in AXES and not is_pointwise(node.target):
        return [None]
    given = named_args(node) | node.kwargs

    def shape(value: Any) -> Sequence[int] | None:
        tensor = values[value] if isinstance(value, fx.Node) else None
        return tensor.shape if isinstance(tensor, Tensor) else None

    told = list[tuple[fx.Node, AxisEffect | None]]()
    for name, effects in effects_of(node.target, given, shape).items():
        several = given[name] if isinstance(given[name], list | tuple) else [given[name]]
        told += [(value, effects[axes[value]]) for value in several if value in axes]
    return [effect for _, effect in told] + [None] * len(set(axes) - {value for value, _ in told})


def kept_axis(effects: Sequence[AxisEffect | None]) -> int | None:
    """The axis of the result that axes with these effects become; None if any is not kept, or has to be tried."""
    places = {effect.to if effect is not None and effect.use is Use.KEEPS else None for effect in effects}
    return places.pop() if len(places) == 1 else None


def are_mixed(effects: Sequence[AxisEffect | None]) -> bool:
    """True if an index of the result is made of others, as far as told: of windows it may be of its own."""
    return any(effect is not None and effect.use not in (Use.KEEPS, Use.WINDOW) for effect in effects)
