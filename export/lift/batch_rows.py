"""Follows the rows of the batch through the graph of a model, and finds the operator that makes them depend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.errors import LiftError, RowsDepend
from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.axes.axis_probe import layouts
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.capture import of_any_length
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, growing_axes
from rnn_export.export.lift.ir.dependence.row_dependence import (
    COUNTED,
    DEPEND,
    NUMBERED,
    Mixed,
    NodeRows,
    Numbered,
    RowInfo,
    RowRule,
    Rows,
)
from rnn_export.export.lift.ir.fx_nodes import args_of, name_of, placeholders, recorded, results
from rnn_export.export.lift.ir.source_location import place_of
from rnn_export.export.lift.layers.layer_replacement import replace_recurrent
from rnn_export.export.lift.loops.loop_body import RolledLoop
from rnn_export.export.lift.loops.value_references import value_at
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.rewrite.flat_graph import flat_graph
from rnn_export.export.lift.streaming.stream_states import OPS

Values = Mapping[fx.Node, Any]
OTHER_AXIS = "the rows of an output stand in another axis than the batch. Move them there."
DIFFERENT_START = (
    "its initial value differs between the rows of a batch, so no row can start alone. Use one learned vector for all "
    "rows."
)
# The axis of the rows in what a recurrent layer takes and gives: X (T, B, I), Y (T, D, B, H), states (D, B, H).
X_ROWS, Y_ROWS, STATE_ROWS = 1, 2, 1


def follow_rows(
    module: fx.GraphModule, few: Values, more: Values, inputs: Sequence[int], outputs: Sequence[int]
) -> Rows:
    """The row layout of every value, from the batch axis of each input and output.

    `few` and `more` are the values of two runs, one with more rows. Raises RowsDepend, with module path and source
    line, if the rows of a result depend on each other or stand on another axis.
    """
    rows = Rows(module, few, more, [AxisLayout(axis) for axis in inputs], RULES)
    for node, axis in zip(results(module.graph), outputs, strict=True):
        info = rows.of(node)
        if isinstance(info, Numbered):
            info = Mixed(node, NUMBERED)
        if isinstance(info, AxisLayout) and info != AxisLayout(axis):
            info = Mixed(node, OTHER_AXIS)
        if isinstance(info, Mixed):
            operator = name_of(info.node) if info.node.op == "call_function" else "its loop"
            place = place_of(info.node)
            raise RowsDepend(f"{place}: {operator}: {info.reason}", place, info.reason == COUNTED, id="rows-depend")
    return rows


def rows_of_one(module: fx.GraphModule, run: Values) -> Rows:
    """The rows of one stream, which depend on no other row."""
    return Rows(module, run, run, [None for _ in placeholders(module.graph)], {})


def is_independent(model: BatchFirst) -> bool:
    """True if every frame of the results depends on its own frame alone, so that another axis may be time.

    True too if no graph of any length can be made: then no stream runs along that axis.
    """
    try:
        module, frames = of_any_length(model)
    except LiftError:
        return True
    times = [*model.axes.time_in, *(None for _ in model.axes.states)]
    short, long = model.sample(2, frames), model.sample(2, 2 * frames)
    # What has no frames is the same however many there are.
    long = tuple(a if t is None else b for a, b, t in zip(short, long, times, strict=True))
    few, more = recorded(module, short), recorded(module, long)
    followed = Rows(module, few, more, [None if t is None else AxisLayout(t) for t in times], RULES)
    return not any(isinstance(followed.of(node), Mixed | Numbered) for node in results(module.graph))


def _recurrent(rows: Rows, node: fx.Node) -> NodeRows:
    """Rows stay apart if they are the layer's batch."""
    given = [(args_of(node)[0], X_ROWS), *((args_of(node)[i], STATE_ROWS) for i, _, _ in OPS[node.target])]
    others = [n for n in node.all_input_nodes if n not in [value for value, _ in given]]
    infos = [(rows.of(n), axis) for n, axis in given]
    if any(rows.of(n) is not None for n in others) or any(isinstance(i, Numbered) for i, _ in infos):
        return Mixed(node, DIFFERENT_START)
    found = {(at.outer, at.inner, at.axis == axis) for at, axis in infos if isinstance(at, AxisLayout)}
    if not found:
        return [None] * len(rows.few[node])
    outer, inner, in_batch = next(iter(found))
    if len(found) > 1 or not in_batch:
        return Mixed(node, DEPEND)
    of_states: list[RowInfo] = [AxisLayout(STATE_ROWS, outer, inner)] * (len(rows.few[node]) - 1)
    return [AxisLayout(Y_ROWS, outer, inner), *of_states]


def _rolled_loop(rows: Rows, node: fx.Node) -> NodeRows:
    """Rows stay apart in a loop if they do in its body, whatever its state holds."""
    loop = rows.module.get_submodule(str(node.target))
    assert isinstance(loop, RolledLoop)
    few, more = (_calls(loop, [run[n] for n in args_of(node)]) for run in (rows.few, rows.more))
    infos = [_laid_out(rows.of(n), a, b) for n, a, b in zip(args_of(node), few[1], more[1], strict=True)]
    start = len(infos) - loop.memories
    while True:
        # A memory that is the same for all rows so far has the values that it starts from.
        later = [isinstance(info, AxisLayout) for info in infos]
        fed = ([b if k else a for a, b, k in zip(*calls, later, strict=True)] for calls in (few, more))
        here, there = (recorded(loop.body, args) for args in fed)
        body = Rows(loop.body, here, there, infos, RULES)
        after = [body.of(n) for n in results(loop.body.graph)]
        memory = [_either(node, a, b) for a, b in zip(infos[start:], after, strict=False)]
        if memory == infos[start:]:
            break
        infos[start:] = memory
    frames = [_joined(info, rows, node, i) for i, info in enumerate(after[loop.memories :])]
    return [*frames, *memory]


def _calls(loop: RolledLoop, args: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The body's arguments at the first frame, then the same frame with the next state.

    The first state is expanded to its later shape.
    """
    outside, sequences, memory = loop.parts_of(args)
    same = [*outside, *(value_at(x, path) for x, path in zip(sequences, loop.scans, strict=True))]
    with torch.no_grad():
        after = loop.body(*same, *memory)[: loop.memories]
    return [*same, *(a.expand_as(b) for a, b in zip(memory, after, strict=True))], [*same, *after]


def _laid_out(info: RowInfo, few: Tensor, more: Tensor) -> RowInfo:
    """The row layout of a body argument taken from a value, or from all of it, with layout `info`."""
    if not isinstance(info, AxisLayout):
        return info
    (axis,) = growing_axes(few, more)
    return AxisLayout(axis, info.outer, info.inner)


def _either(node: fx.Node, before: RowInfo, after: RowInfo) -> RowInfo:
    """The row layout of a state that has `before` at one frame, `after` at the next."""
    if before == after or after is None:
        return before
    return after if before is None or isinstance(after, Mixed) else Mixed(node, DEPEND)


def _joined(info: RowInfo, rows: Rows, node: fx.Node, result: int) -> RowInfo:
    """The row layout of a loop result: the last frame's, or all frames joined along any axis."""
    if not isinstance(info, AxisLayout):
        return info
    (axis,) = rows.growth(node, result)
    others = rows.few[node][result].shape[axis] // (rows.count * info.inner)
    return AxisLayout(axis, others, info.inner)


RULES: Mapping[Any, RowRule] = {**dict.fromkeys(OPS, _recurrent), RolledLoop: _rolled_loop}


def where_rows_mix(flat: FlatModel, batch: Sequence[int]) -> str:
    """The operator that mixes rows along the input axes `batch`, as a message; empty if not found."""
    rows = flat.inputs[0].example.shape[batch[0]]
    states = [next(layouts(leaf.example, rows), None) for leaf in flat.states]
    known = tuple(layout for layout in states if layout is not None)
    if len(known) < len(states):
        return ""
    inputs, outputs = (None,) * len(batch), (None,) * len(flat.outputs)
    model = BatchFirst(
        flat.with_model(replace_recurrent), Axes(tuple(batch), inputs, known, (0,) * len(outputs), outputs)
    )
    try:
        graph = flat_graph(model, model.sample(3, 1), model.dynamic(False))
        few, more = (recorded(graph, model.sample(n, 1)) for n in (2, 3))
        grown = [_grown(few[node].shape, more[node].shape) for node in results(graph.graph)]
        follow_rows(graph, few, more, model.axes.rows_in, grown)
    except RowsDepend as error:
        return str(error)
    except (LiftError, RuntimeError):  # sizes that the graph, or its operators, do not take
        return ""
    return ""


def _grown(few: Sequence[int], more: Sequence[int]) -> int:
    return next((axis for axis, (a, b) in enumerate(zip(few, more, strict=False)) if a != b), 0)
