"""Attention over the last W frames, written as windows over keys and values.

Each frame attends to all frames, and a mask leaves a window, from `behind` frames before it to `ahead` frames after it.
The window is read from the masks of the graph, computed over a few frames: scores of zero become as good as minus
infinity outside of it, and the masks are alike along it. They are held to that at frames far away (`far_frames.py`).
Then frame t needs the keys and values of a window, and a product over windows is streamed as any other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import guard_or_false

from rnn_export.export.lift.ir.dependence.length_runs import LENGTHS, LengthRun, Untried
from rnn_export.export.lift.ir.fx_nodes import args_of, aten, named_args, placeholders
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.symbolic_integers import size_at, size_of
from rnn_export.export.lift.ir.takes import take_of
from rnn_export.export.lift.model.attention_bound import MASKED, Context, is_causal
from rnn_export.export.lift.rewrite.attention.attention_parts import (
    SDPA,
    SOFTMAX,
    Attention,
    before_transpose,
    decomposed_sdpa,
    ready,
    split_product,
)
from rnn_export.export.lift.rewrite.attention.attention_windows import AttentionWindow, with_first_ones
from rnn_export.export.lift.rewrite.attention.far_frames import FarFrames
from rnn_export.export.lift.rewrite.attention.relative_products import Relative, Through, is_constant
from rnn_export.export.lift.rewrite.attention.window_layouts import ByBlock, ByFrame, Layout, period_of
from rnn_export.limits import CONTEXT

# Frames that a band is looked for in, first few and then many; it leaves out as many as `MARGIN` of them at least.
FRAMES = (160, 1280, 4352)
MARGIN = 32
# Frames of the input, samples mostly, behind one of an attention.
HIGHEST_STRIDE = 1 << 16
# Of scores: a limit that only large ones meet is one.
SCALES = (1.0, 1e4, 1e20)
# An example's axis of more entries is time: those of the batch are fewer.
ROWS = 3
# (window, period, the run that it was seen in, scores by key) -> whether it is the same far away.
Far = Callable[[AttentionWindow, int, "_Run", Collection[fx.Node]], bool]
# A length of the input, to see how many frames more of an attention a step's make.
MANY = 1 << 20


def narrow_attention(
    module: fx.GraphModule, examples: Sequence[Tensor], context: Context | None = None, chunk: int = 1
) -> None:
    """Write attention within a window, or causal and bounded by `context`, as windows, in place; others stay.

    A step has `chunk` frames of the input: frames that attend within blocks go by blocks if these fit in it.
    """
    module.graph.eliminate_dead_code()
    for node in [n for n in module.graph.nodes if n.target is aten.baddbmm.default and _is_square(n)]:
        split_product(module, node)
    nodes = [n for n in module.graph.nodes if n.target in SOFTMAX | SDPA and _is_square(n)]
    if not nodes:
        return
    for node in nodes:
        softmax, whole = decomposed_sdpa(module, node) if node.target in SDPA else (node, None)
        for probabilities in ready(module, softmax):
            found = Attention.of(probabilities)
            narrow = None if found is None else _narrowed(module, found, examples, context, chunk)
            if found is not None and narrow is not None:
                (whole or found.result).replace_all_uses_with(narrow)
    module.graph.eliminate_dead_code()


def _narrowed(
    module: fx.GraphModule, found: Attention, examples: Sequence[Tensor], context: Context | None, chunk: int
) -> fx.Node | None:
    """An attention as windows, by masks of as few frames as hold its window; None if it has none."""
    most = context.most if context is not None and context.most else max(LENGTHS)

    def at(frames: int, given: Mapping[fx.Node, Tensor]) -> tuple[LengthRun, int]:
        run = _Run(module, examples, found, frames, given)
        return run.values, run.frames

    def far(is_bounded: bool, window: AttentionWindow, period: int, run: _Run, by_key: Collection[fx.Node]) -> bool:
        return FarFrames(found, window, period, run.frames, at, most, by_key, is_bounded).are_alike()

    if context is not None:
        run = _Run(module, examples, found, min(context.frames + 2 * MARGIN, context.most or CONTEXT))
        with suppress(Untried):
            causal = (masked := run.masked()) is not None and is_causal(masked)
            window = AttentionWindow(context.frames - 1, 0)
            if causal and (narrow := _written(module, found, window, run, partial(far, True), chunk)):
                context.bounds = True
                return narrow
    for frames in FRAMES:
        run = _Run(module, examples, found, frames)
        with suppress(Untried):
            # Long periods are seen over more frames.
            seen = _attention_window(run)
            if seen is not None and (narrow := _written(module, found, seen, run, partial(far, False), chunk)):
                return narrow
    return None


def _is_square(node: fx.Node) -> bool:
    """True if a node has scores of frames by frames."""
    value: Any = node.meta.get("val")
    if node.target in SDPA:
        key: Any = named_args(node)["key"].meta.get("val")
        return value.dim() > 2 and _is_symbol(value.shape[-2]) and guard_or_false(value.shape[-2] == key.shape[-2])
    if not isinstance(value, Tensor) or value.dim() < 2:
        return False
    return _is_symbol(value.shape[-1]) and guard_or_false(value.shape[-1] == value.shape[-2])


def _is_symbol(size: Any) -> bool:
    return isinstance(size, torch.SymInt)


def _shortest(size: torch.SymInt, wanted: int) -> int:
    """The least length of the input at which `size` is `wanted` or more."""
    if len(size.node.expr.free_symbols) != 1:
        return wanted
    lengths = range(wanted * HIGHEST_STRIDE)
    length = bisect_left(lengths, wanted, key=lambda length: size_at(size, length) or 0)
    return length if length in lengths else wanted


class _Run:
    """The values of nodes over `frames` frames of an attention: the input may have more, or fewer."""

    def __init__(
        self,
        module: fx.GraphModule,
        examples: Sequence[Tensor],
        found: Attention,
        frames: int,
        given: Mapping[fx.Node, Tensor] | None = None,
    ) -> None:
        self.interpreter, self.found = fx.Interpreter(module), found
        size = found.scores.meta["val"].shape[-1]
        length = _shortest(size, frames)
        shapes, sizes = dict[fx.Node, Tensor](), dict[Any, int]()
        for node, example in zip(placeholders(module.graph), examples, strict=True):
            known = node.meta["val"].shape
            own = [h if isinstance(k, int) or h <= ROWS else length for k, h in zip(known, example.shape, strict=True)]
            shapes[node] = torch.empty(own, dtype=example.dtype, device="meta")
            sizes |= {k.node.expr: n for k, n in zip(known, own, strict=True) if _is_symbol(k)}
        self.frames = (size_of(size, sizes) if _is_symbol(size) else None) or frames
        if given is None:
            # All products are zero.
            scores = (found.scores, *(r.scores for r in found.relatives), *(t.result for t in found.table_products))
            both = [self.frames] * 2
            given = {n: torch.zeros(()).expand([1] * (n.meta["val"].dim() - 2) + both) for n in scores}
        self.values = LengthRun(module, shapes, given, sizes)

    def shape(self, node: fx.Node) -> list[int]:
        return [*self.values.of_shape(node).shape]

    def of(self, node: fx.Node) -> Any:
        return self.values.whole(node)

    def masked(self) -> Tensor | None:
        """The masked scores (..., T, T) if all products are zero; None if they have other axes. Raises Untried."""
        masked: Tensor = self.of(args_of(self.found.probabilities)[0])
        return masked if [*masked.shape[-2:]] == [self.frames] * 2 else None

    def along(self, relative: Relative, window: AttentionWindow) -> Tensor | None:
        """The rows (..., size, E) that multiply a query, by place in the window; None if frames differ."""
        table: Tensor = self.of(relative.table)
        *sizes, frames, _ = self.shape(relative.product)
        if frames != self.frames:
            return None
        # As they lie in memory, which `as_strided` sees.
        numbers = relative.numbers(self.frames, table.shape[-1]).expand(*sizes, -1, -1).contiguous()
        moved = self.through(relative.product, relative.moves)(numbers)
        return relative.along(moved, table, window.within(self.frames))

    def tables(self, window: AttentionWindow) -> list[Tensor | None]:
        """The rows (..., size, E), by place in the window, that multiply queries or are weighted by attention."""
        window, found = window.within(self.frames), self.found
        given = [(t, self.shape(t.given)) for t in (*found.table_products, *found.adds)]
        with torch.no_grad():
            return [
                (t.of_queries if t in found.table_products else t.of_probabilities)(
                    self.through(t.given, t.path), sizes, window
                )
                for t, sizes in given
            ]

    def through(self, start: fx.Node, path: Sequence[fx.Node]) -> Through:
        """The function that applies `path` to a value of `start`."""

        def made(value: Tensor) -> Tensor:
            values = {start: value}
            for node in path:
                self.interpreter.env = {n: values[n] if n in values else self.of(n) for n in node.all_input_nodes}
                values[node] = self.interpreter.run_node(node)
            return values[path[-1]] if path else value

        return made


def _attention_window(run: _Run) -> AttentionWindow | None:
    """The attention window that masks leave, or None."""
    if (masked := run.masked()) is None:
        return None
    window = AttentionWindow.of((masked > MASKED).flatten(0, -3).any(0) if masked.dim() > 2 else masked > MASKED)
    return None if window is None or window.size + window.first + MARGIN > run.frames else window


def _written(
    module: fx.GraphModule, found: Attention, window: AttentionWindow, run: _Run, far: Far, chunk: int
) -> fx.Node | None:
    """The attention by windows; None if masks or tables are not alike along the window, here or `far` away."""
    tables: dict[fx.Node, Tensor] = {}
    for node in (*found.between, *found.after):
        for mask in (n for n in node.all_input_nodes if is_constant(n)):
            left = window.within(run.frames).of_mask(run.of(mask), run.frames)
            if left is None:
                return None
            tables[mask] = left
    relative_tables: dict[fx.Node, Tensor] = {}
    for relative in found.relatives:
        if window.first:
            return None
        if (rows_of_window := run.along(relative, window)) is not None:
            relative_tables[relative.scores] = rows_of_window
        elif relative.moves or before_transpose(relative.table) is None:
            return None
    rows = _rows_of_tables(found, window, run)
    if rows is None:
        return None
    period = period_of(tables.values())
    if not far(window, period, run, [r.scores for r in found.relatives if r.scores not in relative_tables]):
        return None
    layout = _layout(found, window, run, period, chunk)
    write, graph = NodeWriter(module, f"band_{len([*module.buffers()])}"), module.graph
    write.at = found.result
    with graph.inserting_before(found.result):
        keys, values = (layout.windows(write, n) for n in (found.key, found.value))
        made = {found.scores: write.call(aten.matmul.default, layout.queries(write, found.query), keys)}
        for relative in found.relatives:
            if relative.scores in relative_tables:
                made[relative.scores] = layout.scores(write, relative.query, relative_tables[relative.scores])
                continue
            # Each key has a row of the table, whatever frame attends to it.
            keyed = write.call(aten.zeros_like.default, found.key)
            along = layout.windows(write, write.call(aten.add.Tensor, keyed, before_transpose(relative.table)))
            made[relative.scores] = write.call(aten.matmul.default, layout.queries(write, relative.query), along)
        for table_products in found.table_products:
            made[table_products.result] = layout.scores(write, table_products.given, rows[table_products.result])

        def replaced(node: fx.Node, given: Mapping[fx.Node, fx.Node]) -> fx.Node:
            args, kwargs = fx.node.map_arg(
                (node.args, node.kwargs),
                lambda n: layout.table(write, tables[n], found.key) if n in tables else given[n],
            )
            return write.call(node.target, *args, **kwargs)

        for node in found.between:
            data = [n for n in node.all_input_nodes if n in made]
            is_identity = len(data) == 1 and _does_nothing(node, tables)
            made[node] = made[data[0]] if is_identity else replaced(node, made)
        scores = made[args_of(found.probabilities)[0]]
        one = write.call(aten.slice.Tensor, found.key, -1, 0, 1)
        for axis, size in enumerate(write.value_of(one).shape[:-2]):
            if isinstance(size, int) and size > 1:
                # Heads, before the rows or behind them, have the same frames.
                one = write.call(aten.slice.Tensor, one, axis, 0, 1)
        is_there = replace(layout, window=replace(window, first=0)).windows(
            write, write.call(aten.ones_like.default, one)
        )
        lowest = torch.finfo(write.value_of(scores).dtype).min
        is_there = write.call(aten.gt.Scalar, is_there, 0.5)
        if window.first:
            is_there = with_first_ones(write, is_there, found.key, window)
        scores = write.call(aten.where.ScalarOther, layout.looked_at(write, is_there), scores, lowest)
        probabilities = write.call(aten.softmax.int, scores, -1)
        for node in found.after:
            if take_of(node) is not None or not _does_nothing(node, tables):
                probabilities = replaced(node, {args_of(node)[0]: probabilities})
        for added in found.adds:
            of_rows = write.call(aten.matmul.default, probabilities, write.constant(rows[added.result].unsqueeze(-3)))
            added.result.replace_all_uses_with(write.call(aten.squeeze.dim, of_rows, -2))
        result = write.call(aten.matmul.default, probabilities, write.call(aten.transpose.int, values, -2, -1))
        return layout.frames(write, result, found.query)


def _layout(found: Attention, window: AttentionWindow, run: _Run, period: int, chunk: int) -> Layout:
    """The layout by blocks if frames attend within them and a step has whole ones; else by frames."""
    size = found.scores.meta["val"].shape[-1]
    one = len(size.node.expr.free_symbols) == 1
    in_step = (size_at(size, MANY + chunk) or 0) - (size_at(size, MANY) or 0) if one else 0
    if period == 1 or found.adds or not in_step or in_step % period:
        return ByFrame(window)
    masked = run.masked()
    by_block = None if masked is None else ByBlock.of(window, period, masked.flatten(0, -3).gt(MASKED).any(0))
    return by_block or ByFrame(window)


def _rows_of_tables(found: Attention, window: AttentionWindow, run: _Run) -> dict[fx.Node, Tensor] | None:
    """By result, the rows of tables (T, T) along the window; None if these are not alike."""
    table_products, rows = (*found.table_products, *found.adds), dict[fx.Node, Tensor]()
    order = {node: number for number, node in enumerate(found.result.graph.nodes)}
    for each, along in zip(table_products, run.tables(window), strict=True):
        if along is None or window.first:
            return None
        if each in found.adds and any(order[user] < order[found.result] for user in each.result.users):
            return None
        rows[each.result] = along
    return rows


def _does_nothing(node: fx.Node, tables: Mapping[fx.Node, Tensor]) -> bool:
    """True if a node leaves scores within the window as they are, such as a mask that is all true."""
    masks = [tables[n] for n in node.all_input_nodes if n in tables]
    drawn = torch.randn(masks[0].shape if masks else (16,), generator=torch.Generator().manual_seed(0))
    return all(_stays(node, tables, scale * drawn) for scale in SCALES)


def _stays(node: fx.Node, tables: Mapping[fx.Node, Tensor], scores: Tensor) -> bool:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: tables.get(n, scores))
    assert callable(node.target)
    result = node.target(*args, **kwargs)
    return result.dtype == scores.dtype and torch.equal(result, scores)
