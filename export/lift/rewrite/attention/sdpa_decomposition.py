"""Decomposition of fused attention, and of a product with an added term, into single operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten, named_args, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter

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
