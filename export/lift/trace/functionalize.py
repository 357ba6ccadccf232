"""Makes an exported program functional: no operator works in place, and none is decomposed.

Torch does it by tracing the program anew, which takes longer than the export did. Most programs do not need that, or
only for operators that may return their argument, or write to a part of a value (`x[..., :n] = y`), which are rewritten
here.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, aten, named_args, overloads, placeholders, size_of
from rnn_export.export.lift.ir.normal_form import Call, normalise
from rnn_export.export.lift.trace.tracing import lift_error, quiet

Program = torch.export.ExportedProgram


def functional(program: Program) -> Program:
    """`program` without in-place operators, not decomposed; raises LiftError as `export_program` does."""
    if in_new_values(program.graph):
        return program
    for node in program.graph.nodes:
        # What was contiguous may have been written as what it was made of.
        if node.target is aten.view.default:
            normalise(node)
    try:
        with quiet():
            anew: Program = program.run_decompositions({})
    except Exception as error:  # torch's own operators may fail in here
        raise lift_error(error) from error
    return anew


def is_functional(program: Program) -> bool:
    """True if no operator works in place, or may return its argument."""
    return all(n.op != "call_function" or is_plain(n.target) for n in program.graph.nodes)


def in_new_values(graph: fx.Graph) -> bool:
    """Rewrite the in-place operators of a graph if possible; return True if none is left."""
    return all(n.op != "call_function" or is_plain(n.target) or normalise(n) or _is_written(n) for n in graph.nodes)


def _is_written(node: fx.Node) -> bool:
    """Rewrite a node that works in place, or may return its argument; return True if it can be."""
    call = WRITERS.get(node.target, _not_in_place)(node)
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


def _reshaped(node: fx.Node) -> Call:
    """A reshape that merges or splits axes; symbolic sizes stay, except for one."""
    value, made = node.all_input_nodes[0], node.meta["val"].shape
    there = {str(size) for size in value.meta["val"].shape}
    if sum(not isinstance(size, int) and str(size) not in there for size in made) > 1:
        return None
    sizes = [n if isinstance(n, int) else _size(node, value, n) if str(n) in there else -1 for n in made]
    return aten.reshape.default, (value, sizes), {}


def _size(node: fx.Node, value: fx.Node, size: torch.SymInt) -> fx.Node:
    """The node of a size of `value`: of a placeholder's size if that is the same, as in all iterations of a loop."""
    tensors = [n for n in placeholders(node.graph) if isinstance(n.meta.get("val"), torch.Tensor)]
    fed = next((n for n in tensors if str(size) in map(str, n.meta["val"].shape)), None)
    if fed is None:
        with node.graph.inserting_before(node):
            return size_of(value, size)
    first = placeholders(node.graph)[-1].next
    with node.graph.inserting_before(first):
        asked = size_of(fed, size)
    same = (n for n in fed.users if n is not asked and (n.target, n.args) == (asked.target, asked.args))
    if (known := next(same, None)) is None:
        return asked
    if known is not first:
        first.prepend(known)
    node.graph.erase_node(asked)
    return known


# A view of it is read as a reshape anyway.
AS_THEY_ARE = overloads("reshape")


@cache
def is_plain(target: Any) -> bool:
    """True if an operator returns a new value, or a view that its schema declares."""
    if isinstance(target, torch._ops.HigherOrderOperator) or _is_of_functorch(target):
        return False
    if not isinstance(target, torch._ops.OpOverload) or target in AS_THEY_ARE:
        return True
    if target._schema.is_mutable or torch.Tag.maybe_aliasing_or_mutating in target.tags:
        return False
    name: str = target._name
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
    return not (composite and any(argument.alias_info is not None for argument in target._schema.arguments))


def is_new(value: fx.Node) -> bool:
    """True if a value is no part of an earlier one."""
    target: Any = value.args[0].target if value.target is operator.getitem else value.target  # type: ignore[union-attr]
    if not isinstance(target, torch._ops.OpOverload) or not is_plain(target):
        return False
    return all(result.alias_info is None for result in target._schema.returns)


def _is_of_functorch(target: Any) -> bool:
    """True if it is a step of `torch.func`, as in `vmap`, whose tensors do not exist outside of it."""
    return str(getattr(target, "__module__", "")).startswith("torch._functorch")


SCATTERS = {aten.slice.Tensor: aten.slice_scatter.default, aten.select.int: aten.select_scatter.default}


def written_over(node: fx.Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
    """The scatter for a `copy_` to a part of a new value; None if more nodes may see it.

    Later users of the value then take `node`.
    """
    given = named_args(node)
    part, written = given["self"], given["src"]
    if node.users or not isinstance(written, fx.Node) or not _alike(part, written):
        return None
    chain = [part]
    while chain[-1].target in SCATTERS:
        chain.append(chain[-1].args[0])
    whole = chain[-1]
    if len(chain) == 1 or not is_new(whole):
        return None
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    later = [n for n in whole.users if order[n] > order[node]]
    seen = [n for n in _parts(whole) if order[n] < order[node]]
    if any(order[user] > order[node] for n in seen for user in n.users):
        return None
    call: Any = None
    for outer, inner in zip(chain[1:], chain, strict=False):
        if call is not None:
            written = _inserted(node, call, inner)
        call = SCATTERS[inner.target], (outer, written, *inner.args[1:]), dict(inner.kwargs)
    node.meta = {**node.meta, "val": whole.meta["val"]}
    for user in later:
        user.replace_input_with(whole, node)
    return call  # type: ignore[no-any-return]


def _alike(part: fx.Node, written: fx.Node) -> bool:
    here, there = part.meta["val"], written.meta["val"]
    return here.dtype == there.dtype and [*map(str, here.shape)] == [*map(str, there.shape)]


def _parts(whole: fx.Node) -> Iterator[fx.Node]:
    """The values that may be views of `whole`."""
    for user in whole.users:
        if not is_new(user):
            yield user
            yield from _parts(user)


def _inserted(node: fx.Node, call: Any, like: fx.Node) -> fx.Node:
    with node.graph.inserting_before(node):
        made = node.graph.call_function(*call)
    made.meta = {**node.meta, "val": like.meta["val"]}
    return made


# What lifting itself flattens stays so: of a graph traced at one length, a reshape would take the sizes of that length.
WRITERS = {
    aten.copy_.default: written_over,
    **dict.fromkeys(overloads("flatten.using_ints unflatten.int ravel"), _reshaped),
}
