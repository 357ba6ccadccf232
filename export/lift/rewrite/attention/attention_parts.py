"""The parts of an attention: the nodes of a graph around a softmax over frames, fused or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.dependence.axis_table import is_pointwise
from rnn_export.export.lift.ir.fx_nodes import args_of, aten, named_args, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.takes import take_of
from rnn_export.export.lift.rewrite.attention.relative_products import (
    PRODUCTS,
    Relative,
    TableProduct,
    is_constant,
    relative_of,
    table_of_probabilities,
    table_of_queries,
)

IDENTITIES = overloads("clone alias dropout _to_copy native_dropout")
# Of chances, of which these leave those of 0 at 0.
MASKING = overloads("masked_fill.Scalar mul.Tensor")


@dataclass(frozen=True)
class Attention:
    """`result` is the product of the softmax `probabilities` with `value`, and `scores` that of `query` and `key`.

    `between` makes the input of the softmax from the scores, `relatives` and `table_products`; `after` makes that of
    the last product from the attention weights, and `adds` are terms of its result from a table.
    """

    query: fx.Node
    key: fx.Node
    scores: fx.Node
    relatives: tuple[Relative, ...]
    table_products: tuple[TableProduct, ...]
    between: tuple[fx.Node, ...]
    probabilities: fx.Node
    after: tuple[fx.Node, ...]
    value: fx.Node
    result: fx.Node
    adds: tuple[TableProduct, ...]

    @staticmethod
    def of(probabilities: fx.Node) -> Attention | None:
        """The attention around a softmax over the last axis; None if its weights or scores have other uses."""
        given = named_args(probabilities)
        last = probabilities.meta["val"].dim() - 1
        if given.get("dim", -1) % (last + 1) != last:
            return None
        last, after = probabilities, list[fx.Node]()
        while len(last.users) == 1 and (
            (user := next(iter(last.users))).target in IDENTITIES or _is_passed_on(user, last)
        ):
            last = user
            after += [] if last.target in IDENTITIES else [last]
        adds = {user: added for user in last.users if (added := table_of_probabilities(last, user)) is not None}
        results = [user for user in last.users if user not in adds]
        if len(results) != 1 or results[0].target not in PRODUCTS or args_of(results[0])[0] is not last:
            return None
        (result,) = results
        between, sources = _scores(args_of(probabilities)[0])
        table_products = {n: found for n in sources if (found := table_of_queries(n)) is not None and found.has_rows}
        relatives = {n: near for n in sources if n not in table_products and (near := relative_of(n)) is not None}
        products = [n for n in sources if n not in relatives and n not in table_products]
        if len(products) != 1 or products[0].target not in PRODUCTS:
            return None
        query, turned = args_of(products[0])
        key = before_transpose(turned)
        if key is None:
            return None
        relative_parts, more = (*relatives.values(),), (*table_products.values(),)
        given = args_of(result)[1]
        return Attention(
            query,
            key,
            products[0],
            relative_parts,
            more,
            between,
            probabilities,
            (*after,),
            given,
            result,
            (*adds.values(),),
        )


def ready(module: fx.GraphModule, softmax: fx.Node) -> list[fx.Node]:
    """In place, copy the softmax for each product that takes it, and transpose keys last; return the softmaxes."""
    found, chain = [softmax], [softmax]
    while len(chain[-1].users) == 1 and (
        (user := next(iter(chain[-1].users))).target in IDENTITIES or _is_mask(user, chain[-1])
    ):
        chain.append(user)
    users = [*chain[-1].users]
    for user in users[1:] if all(map(_leads_on, users)) else ():
        copies: dict[fx.Node, fx.Node] = {}

        def copied(node: fx.Node, made: dict[fx.Node, fx.Node] = copies) -> fx.Node:
            return made.get(node, node)

        with module.graph.inserting_before(chain[-1].next):
            for node in chain:
                copies[node] = module.graph.node_copy(node, copied)
        user.replace_input_with(chain[-1], copies[chain[-1]])
        found.append(copies[softmax])
    for scores in {args_of(node)[0] for node in found}:
        for product in [n for n in _scores(scores)[1] if n.target in PRODUCTS]:
            _transpose_last(module, product)
    return found


def _leads_on(node: fx.Node) -> bool:
    """True if a node moves, masks or multiplies attention weights."""
    return node.target in IDENTITIES | MASKING | PRODUCTS or take_of(node) is not None


def _transpose_last(module: fx.GraphModule, product: fx.Node) -> None:
    """Permute keys to (..., T, E), then transpose them."""
    turned = args_of(product)[1]
    if turned.target is not aten.permute.default or before_transpose(turned) is not None:
        return
    *others, key, frame = _order(turned)
    write = NodeWriter(module, "turned")
    write.at = product
    with module.graph.inserting_before(product):
        moved = write.call(aten.permute.default, args_of(turned)[0], [*others, frame, key])
        product.replace_input_with(turned, write.call(aten.transpose.int, moved, -2, -1))


def _is_passed_on(node: fx.Node, probabilities: fx.Node) -> bool:
    """True if a node leaves attention weights as they are, maybe of some heads, or masks them."""
    if (take := take_of(node)) is not None:
        return take.axis < probabilities.meta["val"].dim() - 2 and take.source is probabilities
    return _is_mask(node, probabilities)


def _is_mask(node: fx.Node, probabilities: fx.Node) -> bool:
    """True if a node masks some attention weights, the same ones in each call."""
    if node.target not in MASKING or args_of(node)[0] is not probabilities or not is_constant(args_of(node)[1]):
        return False
    return node.target is aten.mul.Tensor or args_of(node)[2] == 0


def _scores(node: fx.Node) -> tuple[tuple[fx.Node, ...], Sequence[fx.Node]]:
    """The elementwise operators that make `node`, in order, and their other inputs, without constants."""
    between: dict[fx.Node, None] = {}
    sources: dict[fx.Node, None] = {}

    def visit(node: fx.Node) -> None:
        if node in between or is_constant(node):
            return
        if node.target not in IDENTITIES and not is_pointwise(node.target):
            sources[node] = None
            return
        for before in node.all_input_nodes:
            visit(before)
        between[node] = None

    visit(node)
    return tuple(between), tuple(sources)


def before_transpose(node: fx.Node) -> fx.Node | None:
    """The keys (..., T, E), whose last two axes `node` exchanges."""
    rank = node.meta["val"].dim()
    if node.target is aten.permute.default and _order(node) == [*range(rank - 2), rank - 1, rank - 2]:
        found: fx.Node = args_of(node)[0]
        return found
    return None


def _order(permuted: fx.Node) -> list[int]:
    return [axis % permuted.meta["val"].dim() for axis in args_of(permuted)[1]]


SDPA = overloads("scaled_dot_product_attention")
SOFTMAX = overloads("_softmax softmax.int _safe_softmax")


def split_product(module: fx.GraphModule, node: fx.Node) -> None:
    """Decompose a product with an added term."""
    given, write = named_args(node), NodeWriter(module, "sum")
    if node.kwargs.get("beta", given["beta"]) != 1 or node.kwargs.get("alpha", given["alpha"]) != 1:
        return
    write.at = node
    with module.graph.inserting_before(node):
        product = write.call(aten.bmm.default, given["batch1"], given["batch2"])
        node.replace_all_uses_with(write.call(aten.add.Tensor, product, given["self"]))
    module.graph.erase_node(node)


def decomposed_sdpa(module: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Write the operators of a fused attention before it; return their softmax and the fused node."""
    given: dict[str, Any] = named_args(node)
    write = NodeWriter(module, "attention")
    options = dict(node.kwargs)
    query, key, value = (given[name] for name in ("query", "key", "value"))
    scale = options.get("scale") or write.value_of(query).shape[-1] ** -0.5
    mask: Any = options.get("attn_mask", given.get("attn_mask"))
    write.at = node
    with module.graph.inserting_before(node):
        if options.get("enable_gqa", given.get("enable_gqa")):
            # Heads of queries that share one of keys.
            heads = [write.value_of(n).shape[-3] for n in (query, key, value)]
            key, value = (
                write.call(aten.repeat_interleave.self_int, n, heads[0] // count, -3)
                for n, count in zip((key, value), heads[1:], strict=True)
            )
        scores = write.call(aten.matmul.default, query, write.call(aten.transpose.int, key, -2, -1))
        scores = write.call(aten.mul.Scalar, scores, scale)
        if options.get("is_causal", given.get("is_causal")):
            frames = write.call(aten.sym_size.int, key, write.value_of(key).dim() - 2)
            all_ones = write.call(aten.ones.default, [frames, frames], dtype=torch.bool)
            mask = write.call(aten.tril.default, all_ones)
        if mask is not None and write.value_of(mask).dtype == torch.bool:
            scores = write.call(aten.where.ScalarOther, mask, scores, float("-inf"))
        elif mask is not None:
            scores = write.call(aten.add.Tensor, scores, mask)
        probabilities = write.call(aten.softmax.int, scores, -1)
        write.call(aten.matmul.default, probabilities, value)
    return probabilities, node
