"""Rows of a table that a loop reads by its iteration index, `x[:, t] + pos[t]`, as frames of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.loops.tables.iteration_index import LINE, sequence_of
from rnn_export.export.lift.loops.value_references import resolve


def read_tables(module: fx.GraphModule, frames: int, rows: int, time: tuple[int, int]) -> bool:
    """Read rows 0, 1, ... of a table as frames of a sequence, in place, in a graph of `frames`; True if any are.

    `time` is an input, and its axis of frames; `rows` is its axis of rows.
    """
    write, changed = NodeWriter(module, "row"), False
    for table in [node for node in module.graph.nodes if node.op == "get_attr"]:
        refs = {node: resolve(node) for node in module.graph.nodes if node.users and node.op == "call_function"}
        ours = {node: ref.path for node, ref in refs.items() if ref.base is table and len(ref.path) == 1}
        taken = {node: part.entry for node, (part,) in ours.items() if part.kind == "select" and not part.axis}
        if {*taken.values()} != {*range(frames)} or not all(_is_by_row(u) for node in taken for u in node.users):
            continue
        row = list(table.meta["val"].shape[1:])
        numbers = sequence_of(write, LINE, frames, rows, time)
        write.at = numbers
        with module.graph.inserting_after(numbers):
            numbers = write.call(aten._to_copy.default, numbers, dtype=torch.int64)
        with module.graph.inserting_after(numbers):
            flat = write.call(aten.reshape.default, table, [table.meta["val"].shape[0], -1])
        with module.graph.inserting_after(flat):
            read = write.call(aten.embedding.default, flat, numbers)
        for node, entry in taken.items():
            _take(write, node, read, entry, row)
        changed = True
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return changed


def _is_by_row(user: fx.Node) -> bool:
    """True if `user` is pointwise and its first axis is the batch."""
    value = user.meta.get("val")
    if torch.Tag.pointwise not in getattr(user.target, "tags", ()) or not isinstance(value, Tensor):
        return False
    return bool(value.dim()) and isinstance(value.shape[0], torch.SymInt)


def _take(write: NodeWriter, node: fx.Node, read: fx.Node, entry: int, row: list[int]) -> None:
    """Let the users of a table row take one for each row of the batch."""
    for user in list(node.users):
        write.at = user
        with write.graph.inserting_before(user):
            one = write.call(aten.select.int, read, 1, entry)
            rank = user.meta["val"].dim()
            one = write.call(aten.reshape.default, one, [-1, *[1] * (rank - 1 - len(row)), *row])
        user.replace_input_with(node, one)
