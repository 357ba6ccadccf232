"""Tensors filled with one number and sized like what they meet: broadcast, they need no unbounded size."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from rnn_export.export.lift.ir.dependence.axis_table import is_pointwise
from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.streaming.recorded_runs import RecordedRuns


def broadcast_fills(module: fx.GraphModule, runs: RecordedRuns) -> bool:
    """Shrink each tensor of one number to one entry, if all its users broadcast it; True if there were any."""
    found = [
        node for node in module.graph.nodes if _is_sized(node) and all(_broadcasts(u, node, runs) for u in node.users)
    ]
    for node in found:
        sizes: Any = node.args[0]
        node.args = ([1] * len(sizes), *node.args[1:])
    if found:
        module.graph.eliminate_dead_code()
        module.recompile()
    return bool(found)


def _is_sized(node: fx.Node) -> bool:
    return node.target is aten.full.default and any(isinstance(n, fx.Node) for n in node.args[0])  # type: ignore[union-attr]


def _broadcasts(user: fx.Node, fill: fx.Node, runs: RecordedRuns) -> bool:
    """True if the result of `user` has the shape of another of its tensors."""
    if user.op != "call_function" or not is_pointwise(user.target):
        return False
    others = [n for n in user.all_input_nodes if n is not fill and isinstance(runs.base[n], Tensor)]
    return any(all(run[n].shape == run[user].shape for run in runs.all) for n in others)
