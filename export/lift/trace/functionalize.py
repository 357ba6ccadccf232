"""Makes an exported program functional: no operator works in place, and none is decomposed.

Torch does it by tracing the program anew, which takes longer than the export did. Most programs do not need that, or
only for operators that may return their argument, which are rewritten here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, aten, named_args, overloads, placeholders, size_of
from rnn_export.export.lift.trace.aliases import is_new, is_plain
from rnn_export.export.lift.trace.slice_assignment import written_over
from rnn_export.export.lift.trace.tracing import lift_error, quiet

Program = torch.export.ExportedProgram
# Another call in the place of one; None where what it does hangs on more than is known.
Call = tuple[Any, tuple[Any, ...], dict[str, Any]] | None


def functional(program: Program) -> Program:
    """`program` without in-place operators, not decomposed; raises LiftError as `export_program` does."""
    if in_new_values(program.graph):
        return program
    for node in program.graph.nodes:
        # What was contiguous may have been written as what it was made of.
        if node.target is aten.view.default:
            node.target = aten.reshape.default
    try:
        with quiet():
            anew: Program = program.run_decompositions({})
    except Exception as error:  # torch's own operators may fail in here
        raise lift_error(error) from error
    for node in anew.graph.nodes:
        if node.target is aten.convolution.default:
            node.target, node.args, node.kwargs = _convolution(node)
    return anew


def is_functional(program: Program) -> bool:
    """True if no operator works in place, or may return its argument."""
    return all(n.op != "call_function" or is_plain(n.target) for n in program.graph.nodes)


def in_new_values(graph: fx.Graph) -> bool:
    """Rewrite the in-place operators of a graph if possible; return True if none is left."""
    return all(n.op != "call_function" or is_plain(n.target) or _is_written(n) for n in graph.nodes)


def _is_written(node: fx.Node) -> bool:
    """Rewrite a node as an operator without aliases; return True if there is one."""
    write = WRITERS.get(node.target, _not_in_place)
    call = write(node)
    if call is None:
        return False
    node.target, node.args, node.kwargs = call
    return True


def _not_in_place(node: fx.Node) -> Call:
    """An elementwise write to a value that nothing else sees, as its out-of-place operator."""
    target, value = node.target, next(iter(node.args), None)
    if not isinstance(target, torch._ops.OpOverload) or not isinstance(value, fx.Node):
        return None
    _, _, name = target._schema.name.partition("::")
    anew = getattr(getattr(aten, name.removesuffix("_"), None), target._overloadname, None)
    if not name.endswith("_") or anew is None or torch.Tag.pointwise not in anew.tags:
        return None
    taken = [n.meta.get("val") for n in node.all_input_nodes]
    if not all(isinstance(v, torch.Tensor) for v in taken) or not _is_unseen(value):
        return None
    # In place a comparison, or a product with a wider type, has the type of what it is written over.
    of_type: Any = fx.node.map_arg((node.args, node.kwargs), lambda n: _empty(n.meta["val"]))
    made = anew(*of_type[0], **of_type[1])
    return (anew, node.args, dict(node.kwargs)) if made.dtype == value.meta["val"].dtype else None


def _empty(value: torch.Tensor) -> torch.Tensor:
    return torch.empty([0] * value.dim(), dtype=value.dtype, device="meta")


def _is_unseen(value: fx.Node) -> bool:
    """True if a value is new, or a part of a new one, and one operator alone takes it."""
    while _readers(value) == 1 and not is_new(value) and value.args and isinstance(value.args[0], fx.Node):
        value = value.args[0]
    return _readers(value) == 1 and is_new(value)


def _readers(value: fx.Node) -> int:
    return sum(user.target not in SHAPE_ONLY for user in value.users)


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


def _transposed(node: fx.Node) -> Call:
    value, *axes = _given(node).values()
    return aten.transpose.int, (value, *(axes or (-2, -1))), {}


def _turned(node: fx.Node) -> Call:
    """A permutation of axes."""
    value, *how = node.args
    numbered = torch.empty([*range(1, value.meta["val"].dim() + 1)], device="meta")  # type: ignore[union-attr]
    turned = node.target(numbered, *how, **node.kwargs)  # type: ignore[operator]
    return aten.permute.default, (value, [n - 1 for n in turned.shape]), {}


def _reshaped(node: fx.Node) -> Call:
    """A reshape that merges or splits axes; symbolic sizes stay, except for one."""
    value = node.all_input_nodes[0]
    there = [str(size) for size in value.meta["val"].shape]
    sizes = [
        size if isinstance(size, int) else _size(node, value, size) if str(size) in there else -1
        for size in node.meta["val"].shape
    ]
    return (aten.reshape.default, (value, sizes), {}) if sizes.count(-1) <= 1 else None


def _size(node: fx.Node, value: fx.Node, size: torch.SymInt) -> fx.Node:
    """The node of a size of `value`: of a placeholder's size if that is the same, as in all iterations of a loop."""
    tensors = [n for n in placeholders(node.graph) if isinstance(n.meta.get("val"), torch.Tensor)]
    fed = next((n for n in tensors if str(size) in map(str, n.meta["val"].shape)), None)
    if fed is None:
        with node.graph.inserting_before(node):
            return size_of(value, size)
    first = next(n for n in node.graph.nodes if n.op != "placeholder")
    with node.graph.inserting_before(first):
        asked = size_of(fed, size)
    same = (n for n in fed.users if n is not asked and (n.target, n.args) == (asked.target, asked.args))
    if (known := next(same, None)) is None:
        return asked
    if known is not first:
        first.prepend(known)
    node.graph.erase_node(asked)
    return known


def _convolution(node: fx.Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
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


def _by(write: Callable[[fx.Node], Call], names: str) -> dict[Any, Callable[[fx.Node], Call]]:
    return dict.fromkeys(overloads(names), write)


WRITERS: Mapping[Any, Callable[[fx.Node], Call]] = {
    **_by(written_over, "copy_"),
    **_by(_narrow, "narrow"),
    **_by(_same, "contiguous positive detach_"),
    **_by(_dropout, "dropout feature_dropout alpha_dropout feature_alpha_dropout"),
    **_by(_to, "to.dtype to.dtype_layout to.device"),
    **_by(_chunk, "chunk"),
    **_by(_transposed, "mT swapaxes swapdims"),
    **_by(_turned, "numpy_T movedim.int movedim.intlist moveaxis.int moveaxis.intlist"),
    **_by(_batch_norm, "batch_norm"),
    **_by(_part(0), "real"),
    **_by(_part(1), "imag"),
    **_by(_reshaped, "flatten.using_ints unflatten.int ravel"),
}
