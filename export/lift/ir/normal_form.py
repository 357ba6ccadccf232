"""The normal form of a graph: one operator for each thing that torch has several names for.

A row rewrites one node in place. The form is that of every traced graph, and of each node that a pass of lifting
writes (`NodeWriter.call`), so no pass has to know the other names.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten, by_operator, named_args

# Another call in the place of one; None where what it does hangs on more than is known.
Call = tuple[Any, tuple[Any, ...], dict[str, Any]] | None


def normalise(node: fx.Node) -> bool:
    """Rewrite a node in place by its row; True if it has one that fits."""
    row = NORMAL_FORM.get(node.target)
    call = None if row is None else row(node)
    if call is None:
        return False
    node.target, node.args, node.kwargs = call
    return True


def _given(node: fx.Node) -> dict[str, Any]:
    return named_args(node) | node.kwargs


def _same(node: fx.Node) -> Call:
    return aten.alias.default, (node.args[0],), {}


def _dropout(node: fx.Node) -> Call:
    return None if _given(node)["train"] else _same(node)


def _to(node: fx.Node) -> Call:
    value = node.all_input_nodes[0]
    before, after = value.meta["val"], node.meta["val"]
    if before.device != after.device:
        return None
    return _same(node) if before.dtype == after.dtype else (aten._to_copy.default, (value,), {"dtype": after.dtype})


def _chunk(node: fx.Node) -> Call:
    value, axis = _given(node)["self"], _given(node)["dim"]
    size = node.meta["val"][0].shape[axis]
    return (aten.split.Tensor, (value, size, axis), {}) if isinstance(size, int) else None


def _narrow(node: fx.Node) -> Call:
    value, axis, start, length = _given(node).values()
    if not all(isinstance(n, int) for n in (start, length)) or start < 0:
        return None
    return aten.slice.Tensor, (value, axis, start, start + length), {}


def _permuted(node: fx.Node) -> Call:
    """A permutation of axes, by any name."""
    value, *how = node.args
    numbered = torch.empty([*range(1, value.meta["val"].dim() + 1)], device="meta")  # type: ignore[union-attr]
    turned = node.target(numbered, *how, **node.kwargs)  # type: ignore[operator]
    return aten.permute.default, (value, [n - 1 for n in turned.shape]), {}


def _viewed(node: fx.Node) -> Call:
    """A view as a reshape: the same value may lie another way in memory in a step."""
    return aten.reshape.default, node.args, dict(node.kwargs)


def _convolution(node: fx.Node) -> Call:
    """A convolution as the operator of its rank; torch writes this general one inside of `vmap` alone."""
    given = _given(node)
    axes = node.meta["val"].dim() - 2
    taken = [given[name] for name in ("input", "weight", "bias", "stride", "padding")]
    if given["transposed"]:
        target = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}
        return target[axes], (*taken, given["output_padding"], given["groups"], given["dilation"]), {}
    target = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
    return target[axes], (*taken, given["dilation"], given["groups"]), {}


def _batch_norm(node: fx.Node) -> Call:
    given = _given(node)
    if given["training"]:
        return None
    taken = tuple(given[name] for name in ("input", "weight", "bias", "running_mean", "running_var", "momentum", "eps"))
    with node.graph.inserting_before(node):
        normed = node.graph.call_function(aten._native_batch_norm_legit_no_training.default, taken)
    value = node.meta["val"]
    normed.meta = {**node.meta, "val": (value, value.new_empty(0), value.new_empty(0))}
    return operator.getitem, (normed, 0), {}


def _part(index: int) -> Callable[[fx.Node], Call]:
    """The rule for the real or the imaginary part."""

    def write(node: fx.Node) -> Call:
        value = node.all_input_nodes[0]
        whole = value.meta["val"]
        if not whole.is_complex() or whole.is_conj():
            return None
        with node.graph.inserting_before(node):
            pairs = node.graph.call_function(aten.view_as_real.default, (value,))
        pairs.meta = {**node.meta, "val": torch.view_as_real(whole)}
        return aten.select.int, (pairs, -1, index), {}

    return write


def _full(value: int) -> Callable[[fx.Node], Call]:
    """The rule for a tensor filled with `value`; an empty one holds anything, and so zeros."""

    def write(node: fx.Node) -> Call:
        return aten.full.default, (node.args[0], value), {"dtype": node.meta["val"].dtype}

    return write


def _expanded(node: fx.Node) -> Call:
    """Copies along axes of size 1, which are as good as none: an `expand` has no size to be bounded."""
    given = _given(node)
    shape = given["self"].meta["val"].shape
    if node.target is aten.repeat_interleave.self_int:
        if given["dim"] is None:
            return None
        times = [given["repeats"] if axis == given["dim"] % len(shape) else 1 for axis in range(len(shape))]
    else:
        times = list(given["repeats" if node.target is aten.repeat.default else "dims"])
    new = max(len(times) - len(shape), 0)
    along = [1] * (len(shape) - len(times)) + times[new:]
    sizes = [-1 if type(n) is int and n == 1 else n for n in along]
    if any(n != -1 and (not isinstance(size, int) or size != 1) for n, size in zip(sizes, shape, strict=True)):
        return None
    return aten.expand.default, (given["self"], [*times[:new], *sizes]), {}


NORMAL_FORM: Mapping[Any, Callable[[fx.Node], Call]] = by_operator(
    {
        _permuted: "transpose.int t mT swapaxes swapdims numpy_T movedim.int movedim.intlist moveaxis.int "
        "moveaxis.intlist",
        _viewed: "view _unsafe_view",
        _expanded: "repeat tile repeat_interleave.self_int",
        _narrow: "narrow",
        _chunk: "chunk",
        _to: "to.dtype to.dtype_layout to.device",
        _same: "contiguous positive detach_",
        _dropout: "dropout feature_dropout alpha_dropout feature_alpha_dropout",
        _batch_norm: "batch_norm",
        _convolution: "convolution",
        _full(0): "zeros empty.memory_format",
        _full(1): "ones",
        _part(0): "real",
        _part(1): "imag",
    }
)


def is_normal(graph: fx.Graph) -> bool:
    """True if no operator of a graph works in place or has a row that fits."""
    return not any(_is_in_place(node.target) or _fits(NORMAL_FORM.get(node.target), node) for node in graph.nodes)


def _fits(row: Callable[[fx.Node], Call] | None, node: fx.Node) -> bool:
    # Some nodes that lifting writes have no value of torch.export's.
    return row in (_permuted, _viewed) or (row is not None and "val" in node.meta and row(node) is not None)


def _is_in_place(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
