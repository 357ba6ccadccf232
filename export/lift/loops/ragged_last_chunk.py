"""Masks padded frames in attention over segments that have fewer frames at the ends of a sequence.

If a softmax weighs the frames of a window, padded frames must have no weight. The frame that an entry of the scores
depends on is found by changing the frames of the window one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import aten, named_args, recorded
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.loops.frame_segments import CUT, SEGMENT, Window, numbers_of
from rnn_export.export.lift.rewrite.attention.attention_parts import SDPA, SOFTMAX, decomposed_sdpa

# By entry of scores, the window and the place in it that it follows from; None of anything else.
Entries = list[tuple[Window, int] | None]


def leave_out_filled(module: fx.GraphModule, sample: Sequence[Tensor]) -> bool:
    """Let each softmax over frames of windows ignore padded frames, in place; True if there is any."""
    for node in [n for n in module.graph.nodes if n.target in SDPA]:
        probabilities, _ = decomposed_sdpa(module, node)
        node.replace_all_uses_with(next(iter(probabilities.users)))
        module.graph.erase_node(node)
    weighing: dict[int, list[fx.Node]] = {}
    for node, numbers in numbers_of(module.graph).items():
        if numbers and node.target in SOFTMAX and _is_last(node):
            weighing.setdefault(max(numbers), []).append(node)
    if not weighing or len({len(nodes) for nodes in weighing.values()}) > 1:
        return False
    middle = sorted(weighing)[len(weighing) // 2]
    values = recorded(module, sample)
    found = _entries(module, values, weighing[middle], middle)
    heads = _heads(module, values, weighing[middle], middle)
    if any(of_rows is None for of_rows, entries in zip(heads, found, strict=True) if any(entries)):
        return False
    write, there = NodeWriter(module, "short"), dict[Window, fx.Node]()
    for window in {entry[0] for entries in found for entry in entries if entry is not None}:
        if (frames := _frames_there(write, window)) is None:
            return False
        there[window] = frames
    for number, nodes in weighing.items():
        for node, entries, of_rows in zip(nodes, found, heads, strict=True):
            for window in dict.fromkeys(entry[0] for entry in entries if entry is not None):
                places = [entry[1] if entry and entry[0] == window else None for entry in entries]
                _mask(write, node, there[window], places, (number, of_rows or 1))
    module.graph.lint()
    return bool(there)


def _is_last(node: fx.Node) -> bool:
    scores = node.args[0]
    rank = scores.meta["val"].dim() if isinstance(scores, fx.Node) else 0
    return rank > 2 and named_args(node)["dim"] in (-1, rank - 1)


def _heads(
    module: fx.GraphModule, values: Mapping[fx.Node, Any], nodes: Sequence[fx.Node], number: int
) -> list[int | None]:
    """By softmax, the number of rows of its scores for one row of the batch; None if these are not adjacent."""
    changed: dict[fx.Node, Tensor] = {}
    segments = [n for n in module.graph.nodes if SEGMENT in n.meta and n.meta[SEGMENT][1] == number]
    rows = {len(values[segment]) for segment in segments}
    for segment in segments:
        value = values[segment].clone()
        value[0] *= -1.5
        for node, other in _computed(module, values, segment, value).items():
            differs = (other != values[node]).flatten(1).any(1) if isinstance(other, Tensor) and other.dim() else None
            if differs is not None:
                changed[node] = changed[node] | differs if node in changed else differs
    heads: list[int | None] = []
    for scores in (node.all_input_nodes[0] for node in nodes):
        size, found = len(values[scores]), changed.get(scores)
        first = int(found.sum()) if found is not None else 0
        alone = found is not None and len(rows) == 1 and first * max(rows) == size and bool(found[:first].all())
        heads.append(first if alone else None)
    return heads


def _entries(
    module: fx.GraphModule, values: Mapping[fx.Node, Any], nodes: Sequence[fx.Node], number: int
) -> list[Entries]:
    """By softmax, the frame that each entry depends on: it changes the entry's scores in all rows."""
    found: list[Entries] = [[None] * values[n].shape[-1] for n in nodes]
    for segment in [n for n in module.graph.nodes if SEGMENT in n.meta and n.meta[SEGMENT][1] == number]:
        window = segment.meta[SEGMENT][0]
        for place in range(window.size):
            changed = values[segment].clone()
            frame = changed.select(window.axis, place)
            frame.copy_(frame.flip(-1) * -1.5)
            other = _computed(module, values, segment, changed)
            for entries, node in zip(found, nodes, strict=True):
                scores = node.all_input_nodes[0]
                if scores in other:
                    differs = (other[scores] != values[scores]).flatten(0, -3).any(0)
                    for entry in [] if differs.all() else differs.all(0).nonzero().flatten().tolist():
                        entries[entry] = window, place
    return found


def _computed(
    module: fx.GraphModule, values: Mapping[fx.Node, Any], start: fx.Node, value: Tensor
) -> dict[fx.Node, Any]:
    """The values in its loop that depend on a new `start`."""
    run, found = fx.Interpreter(module), {start: value}
    for node in module.graph.nodes:
        if node is not start and CUT not in node.meta and any(n in found for n in node.all_input_nodes):
            if node.op == "output":
                break
            run.env = {n: found.get(n, values[n]) for n in node.all_input_nodes}
            with torch.no_grad():
                found[node] = run.run_node(node)
    return found


def _frames_there(write: NodeWriter, window: Window) -> fx.Node | None:
    """(B, segments, size): ones, and zeros where a window is padded; None unless the batch is the first axis."""
    source = window.source
    rows = [axis for axis, size in enumerate(source.meta["val"].shape) if not isinstance(size, int)]
    if rows != [0]:
        return None
    write.at, one, axis = source, source, window.axis
    with source.graph.inserting_after(source):
        marker = write.call(aten.ones_like.default, source)
    with source.graph.inserting_after(marker):
        one = marker
        for other in reversed(range(1, source.meta["val"].dim())):
            if other != axis:
                one = write.call(aten.select.int, one, other, 0)
                axis -= other < axis
    return window.of(write, one, 1)


def _mask(write: NodeWriter, node: fx.Node, there: fx.Node, places: Sequence[int | None], at: tuple[int, int]) -> None:
    """Set the scores of `node` to the lowest number where a window's frame at one of `places` is padding."""
    scores, (number, heads) = node.all_input_nodes[0], at
    write.at = node
    with write.graph.inserting_before(node):
        frames = write.call(aten.select.int, there, 1, number)
        taken = write.constant(torch.tensor([place or 0 for place in places]))
        mask = write.call(aten.index_select.default, frames, 1, taken)
        others = write.constant(torch.tensor([float(place is None) for place in places]))
        mask = write.call(aten.ge.Scalar, write.call(aten.add.Tensor, mask, others), 0.5)
        if heads > 1:
            mask = write.call(aten.repeat_interleave.self_int, mask, heads, 0)
        for _ in range(write.value_of(scores).dim() - 2):
            mask = write.call(aten.unsqueeze.default, mask, 1)
        masked = write.call(aten.where.ScalarOther, mask, scores, torch.finfo(write.value_of(scores).dtype).min)
    node.replace_input_with(scores, masked)
