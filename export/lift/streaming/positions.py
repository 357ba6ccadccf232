"""Counts positions over time, `arange` and values computed from it, in each stream, if the model numbers a sequence.

A value that is made of sizes alone, and differs at each frame, is a function of the frame index. The indices become the
operator `frame_numbers` for each row, whose rule counts them in a state. Values computed from them run on the frames of
all rows in one axis, since each frame depends on its own index alone. Where they meet the rows of the batch they are
laid out like them. Over a whole sequence the graph gives the same as before.

    x + pe(arange(T))[None]        x (B, T, C), pe (T, C)

    frame_numbers (B, T) -> (B * T,) -> pe (B * T, C) -> (B, T, C) -> x + ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.compare import INITIAL_ROWS, same
from rnn_export.export.lift.ir.dependence.axis_table import is_pointwise
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, growing_axes
from rnn_export.export.lift.ir.dependence.operator_dependence import IndicesMixed, Operators
from rnn_export.export.lift.ir.dependence.row_dependence import Rows
from rnn_export.export.lift.ir.fx_nodes import FRAME_NUMBERS, aten, depends_on, named_args, overloads, placeholders
from rnn_export.export.lift.streaming.batch_broadcast import give_own_rows
from rnn_export.export.lift.streaming.position_axes import Length, MetRows, PositionLengths
from rnn_export.export.lift.streaming.position_tables import by_number, goes_on, going_on, refuse_beyond
from rnn_export.export.lift.streaming.recorded_runs import RecordedRuns, Sample, record
from rnn_export.export.lift.streaming.unsized_fills import broadcast_fills

ARANGES = overloads("arange arange.start arange.start_step")
LOOKING_UP = overloads("embedding index_select")
REPEATING = overloads("expand repeat")
RESHAPES = overloads("reshape expand")


def recorded_with_positions(
    module: fx.GraphModule,
    sample: Sample,
    reach: tuple[int, int],
    least: int,
    rows_in: Sequence[int] | None,
    max_frames: int | None,
    follow: Callable[[RecordedRuns], Rows],
) -> RecordedRuns:
    """The runs of `module`, as `record` makes them, once its positions are counted and its fills broadcast.

    Values of the length alone that differ at the ends have rows of their own then.

    `follow` gives the layout of the rows in each value of some runs; it raises LiftError if rows depend on each other.
    """
    runs = record(module, sample, *reach, least)
    if give_own_rows(module, runs, rows_in):
        runs = record(module, sample, *reach, least)
    # A length may be asked for where no position is counted in the end.
    if count_positions(module, runs, rows_in, max_frames, follow) or not _has_all(runs, module):
        runs = record(module, sample, *reach, least)
    return record(module, sample, *reach, least) if broadcast_fills(module, runs) else runs


def _has_all(runs: RecordedRuns, module: fx.GraphModule) -> bool:
    return all(node.op == "output" or node in runs.base for node in module.graph.nodes)


def count_positions(
    module: fx.GraphModule,
    runs: RecordedRuns,
    rows_in: Sequence[int] | None,
    max_frames: int | None,
    follow: Callable[[RecordedRuns], Rows],
) -> bool:
    """Rewrite the positions of `module` in place, as far as they can be counted; True if there were any.

    `rows_in` has the axis of the rows in each input; None for a single stream. `max_frames` are the most that a stream
    will have. Raises LiftError if a table has fewer positions.
    """
    counted = _Positions(module, runs, rows_in)
    if counted.meet_several_rows():
        with suppress(LiftError):
            counted.met.rows = follow(runs)
    for node in list(module.graph.nodes):
        counted.visit(node)
    if counted.table is not None:
        refuse_beyond(*counted.table, max_frames)
    if counted.numbers:
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.recompile()
    return bool(counted.numbers)


class _Positions:
    """The positions of one graph, each with a replacement that has the frames of all rows in its time axis.

    Attributes:
        axes: the axis of frames of each node that is a function of the frame index.
        of_rows: the replacement of each such node.
        numbers: by length, the indices of the frames of all rows, (B * T,).
        met: the rows of the batch in the values that take them.
    """

    def __init__(self, module: fx.GraphModule, runs: RecordedRuns, rows_in: Sequence[int] | None) -> None:
        self.graph, self.runs, self.rows_in = module.graph, runs, rows_in
        self.moving = depends_on(self.graph, placeholders(self.graph))
        self.operators = Operators(runs.base, runs.longer, lambda node: node not in self.moving)
        self.axes: dict[fx.Node, int] = {}
        self.of_rows: dict[fx.Node, fx.Node] = {}
        self.numbers: dict[tuple[int, int], fx.Node] = {}
        self.table: tuple[fx.Node, int] | None = None
        self._rows: fx.Node | int | None = None
        self.lengths, self.met = PositionLengths(self.graph, runs), MetRows(self.graph, runs, rows_in)

    def visit(self, node: fx.Node) -> None:
        """Handle a length, a position, a value computed from one, or a node that takes one beside rows."""
        if node.op != "call_function":
            return
        if node in self.moving or self.runs.grows(node):
            self.lengths.note(node)
        given = [n for n in dict.fromkeys(node.all_input_nodes) if n in self.of_rows]
        if not isinstance(self.runs.base[node], Tensor):
            return
        axis = None if node in self.moving else self._axis(node, alike=bool(given))
        if axis is None or self.met.axis(node) is not None:
            if given:
                self._meet(node, given)
            elif axis is not None:
                self._count_along(node, axis)
            return
        made = self._computed(node, axis) if given else self._source(node, axis)
        made = made or self._going_on(node, axis)
        if made is not None:
            self.axes[node], self.of_rows[node] = axis, made

    # --- what is known of a value

    def meet_several_rows(self) -> bool:
        """True if a position goes into a value in which a stream has several rows."""
        constant = (n for n in self.graph.nodes if n not in self.moving and isinstance(self.runs.base.get(n), Tensor))
        users = (user for node in constant if self._axis(node) is not None for user in node.users)
        return self.rows_in is not None and any(self.met.has_several(user) for user in users)

    def _axis(self, node: fx.Node, alike: bool = False) -> int | None:
        """The axis of frames of a value that is a function of the frame index; None for any other value.

        `alike` accepts frames that are all alike, as computed from positions.
        """
        here, there = self.runs.base[node], self.runs.longer[node]
        axes = growing_axes(here, there)
        if len(axes) != 1 or not same(there.narrow(axes[0], 0, here.shape[axes[0]]), here, INITIAL_ROWS):
            return None
        return axes[0] if alike or not self._is_alike(node, axes[0]) else None

    def _is_alike(self, node: fx.Node, axis: int) -> bool:
        value = self.runs.longer[node]
        return same(value, value.narrow(axis, 0, 1).expand_as(value))

    # --- numbers

    def _source(self, node: fx.Node, axis: int) -> fx.Node | None:
        """A position made of a length: rows of a table, numbers in even steps, or a running sum of a constant."""
        if node.target is aten.slice.Tensor:
            return self._rows_of_table(node, axis)
        length, value = self.lengths.of(node, axis), self.runs.longer[node]
        if length is None or node.target not in ARANGES | {aten.cumsum.default}:
            return None
        start, step = (float(n) for n in (value.flatten()[0], value.select(axis, 1).flatten()[0] - value.flatten()[0]))
        sizes = [-1 if a == axis else 1 for a in range(value.dim())]
        even = torch.arange(value.shape[axis], dtype=torch.float64).reshape(sizes) * step + start
        if not same(value, even.to(value.dtype).expand_as(value), INITIAL_ROWS):
            return None
        rows = value.movedim(axis, 0)
        if node.target not in ARANGES and not goes_on(self.runs.far(node, axis), axis, rows[:1], rows[1] - rows[0]):
            return None
        numbers = self._steps(node, self._numbers(length, node), start, step, value.dtype)
        if value.dim() == 1:
            return numbers
        numbers = self._insert(node, aten.reshape.default, numbers, sizes)
        batch = self.met.axis(node)
        others = [1 if a in (axis, batch) else n for a, n in enumerate(value.shape)]
        ones = self._insert(node, aten.full.default, others, 1, dtype=value.dtype)
        return self._insert(node, aten.mul.Tensor, numbers, ones)

    def _rows_of_table(self, node: fx.Node, axis: int) -> fx.Node | None:
        """The first entries of a table, as many as there are frames, looked up one by one."""
        given, length = named_args(node), self.lengths.of(node, axis)
        table, start = given["self"], self.runs.number(given["start"] or 0)
        entries = self.runs.base[table].shape[axis]
        grows = entries != self.runs.longer[table].shape[axis]
        if length is None or start is None or start < 0 or grows or given["step"] != 1:
            return None
        self._bound(node, entries - start)
        numbers = self._numbers(length, node)
        if start:
            numbers = self._insert(node, aten.add.Tensor, numbers, start)
        # Where nobody counts, what is beyond the table is its last entry.
        numbers = self._insert(node, aten.clamp.default, numbers, None, entries - 1)
        return self._insert(node, aten.index_select.default, table, axis, numbers)

    def _going_on(self, node: fx.Node, axis: int) -> fx.Node | None:
        """A value that is looked up for the first frames, and goes on in even steps after them."""
        found, length = going_on(self.runs.longer[node], axis), self.lengths.of(node, axis)
        if found is None or length is None or not goes_on(self.runs.far(node, axis), axis, *found):
            return None
        with self.graph.inserting_before(node):
            made = by_number(self.graph, self._numbers(length, node), *found)
            order = [*range(1, axis + 1), 0, *range(axis + 1, self.runs.base[node].dim())]
            return self.graph.call_function(aten.permute.default, (made, order))

    def _bound(self, node: fx.Node, frames: int) -> None:
        if self.table is None or frames < self.table[1]:
            self.table = node, frames

    def _looked_up(self, node: fx.Node, stand_ins: dict[fx.Node, fx.Node]) -> None:
        """Record how many frames the table of a lookup `node` is for, and clamp its indices."""
        given = named_args(node)
        table = next((given[n] for n in ("weight", "self") if isinstance(given.get(n), fx.Node)), None)
        if node.target not in LOOKING_UP or table is None or table in stand_ins:
            return
        axis = 0 if node.target is aten.embedding.default else given["dim"] % self.runs.base[table].dim()
        entries = int(self.runs.base[table].shape[axis])
        for index in [n for n in stand_ins if not self.runs.base[n].is_floating_point()]:
            here, there = (run[index] for run in (self.runs.base, self.runs.longer))
            if (more := int(there.max() - here.max())) > 0:
                frames, longer = (v.shape[self.axes[index]] for v in (here, there))
                self._bound(node, frames + (entries - 1 - int(here.max())) * (longer - frames) // more)
                stand_ins[index] = self._insert(node, aten.clamp.default, stand_ins[index], None, entries - 1)

    def _count_along(self, node: fx.Node, axis: int) -> None:
        """Replace a running sum of a constant, with rows, by a counted position."""
        made, batch = self._source(node, axis), self.met.axis(node)
        if made is None or batch is None or axis == batch or self.runs.base[node].shape[batch] != self.met.count:
            return
        self.axes[node], self.of_rows[node] = axis, made
        laid_out = self._laid_out(node, node, batch, self.runs.base[node].dim())
        assert laid_out is not None
        node.target, node.args, node.kwargs = aten.alias.default, (laid_out,), {}

    def _steps(self, before: fx.Node, numbers: fx.Node, start: float, step: float, dtype: torch.dtype) -> fx.Node:
        """`start` + `step` * `numbers`; integers are exact until the end."""
        whole = float(start).is_integer() and float(step).is_integer()
        if not whole:
            numbers = self._insert(before, aten._to_copy.default, numbers, dtype=dtype)
        if step != 1:
            numbers = self._insert(before, aten.mul.Tensor, numbers, int(step) if whole else step)
        if start != 0:
            numbers = self._insert(before, aten.add.Tensor, numbers, int(start) if whole else start)
        if whole and dtype != torch.int64:
            numbers = self._insert(before, aten._to_copy.default, numbers, dtype=dtype)
        return numbers

    def _numbers(self, length: Length, before: fx.Node) -> fx.Node:
        """The index of each frame of all rows, from 0, in int64."""
        if length.key not in self.numbers:
            rows = self._count_of_rows()
            after = length.node.next
            numbers = self._insert(after, FRAME_NUMBERS, rows, length.node)
            numbers.meta = {k: v for k, v in before.meta.items() if k != "val"}
            self.numbers[length.key] = self._insert(after, aten.reshape.default, numbers, [-1])
        return self.numbers[length.key]

    def _count_of_rows(self) -> fx.Node | int:
        if self.rows_in is None:
            return 1
        if self._rows is None:
            fed = placeholders(self.graph)
            self._rows = self._insert(fed[-1].next, aten.sym_size.int, fed[0], self.rows_in[0])
        return self._rows

    # --- what is computed of them

    def _computed(self, node: fx.Node, axis: int) -> fx.Node | None:
        """`node` on the frames of all rows; None if a frame of it depends on other frames."""
        timed = {n: a for n in node.all_input_nodes if (a := self._frames_axis(n)) is not None}
        if any(n not in self.of_rows and not self._is_alike(n, a) for n, a in timed.items()):
            return None
        try:
            self.operators.dependences(node, {n: AxisLayout(a) for n, a in timed.items()})
        except IndicesMixed:
            return None
        found: dict[fx.Node, Any] = {n: self.of_rows.get(n) or self._repeated(n, a, node) for n, a in timed.items()}
        if None in found.values():
            return None
        self._looked_up(node, found)
        return self._mapped(node, axis, found, node)

    def _frames_axis(self, node: fx.Node) -> int | None:
        """The axis of frames of a value made of sizes."""
        if node in self.axes or node in self.moving or not isinstance(self.runs.base[node], Tensor):
            return self.axes.get(node)
        axes = growing_axes(self.runs.base[node], self.runs.longer[node])
        return axes[0] if len(axes) == 1 else None

    def _repeated(self, node: fx.Node, axis: int, before: fx.Node) -> fx.Node | None:
        """A value whose frames are all alike, with those of all rows; None if it cannot be made."""
        given = {n: a for n in node.all_input_nodes if (a := self._frames_axis(n)) is not None}
        if given:
            stand_ins = {n: self._repeated(n, a, before) for n, a in given.items()}
            return None if None in stand_ins.values() else self._mapped(node, axis, stand_ins, before)
        value, length = self.runs.base[node], self.lengths.of(node, axis)
        if length is None or value.dtype == torch.bool or not same(value, value.flatten()[:1].expand_as(value)):
            return None
        none = self._insert(before, aten.mul.Tensor, self._numbers(length, before), 0)
        none = self._insert(before, aten._to_copy.default, none, dtype=value.dtype)
        none = self._insert(before, aten.reshape.default, none, [-1 if a == axis else 1 for a in range(value.dim())])
        sizes = [1 if a == axis else n for a, n in enumerate(value.shape)]
        one = self._insert(before, aten.full.default, sizes, value.flatten()[0].item(), dtype=value.dtype)
        return self._insert(before, aten.add.Tensor, none, one)

    def _mapped(self, node: fx.Node, axis: int, stand_ins: Mapping[fx.Node, Any], before: fx.Node) -> fx.Node | None:
        """`node` with other arguments, of any number of frames; None if it takes the length of the sequence."""
        given: Any = fx.node.map_arg((node.args, node.kwargs), lambda n: stand_ins.get(n, n))
        args, kwargs = given
        if node.target is aten.slice.Tensor and args[1] % self.runs.base[node].dim() == axis:
            (source,) = (n for n in node.all_input_nodes if isinstance(self.runs.base[n], Tensor))
            whole: fx.Node = args[0]
            return whole if self.runs.base[node].shape == self.runs.base[source].shape else None
        if node.target in RESHAPES:
            sizes = list(args[1])
            if -1 not in sizes or node.target is aten.expand.default:
                sizes[axis] = -1
            args = (args[0], sizes)
        if any(isinstance(n, fx.Node) and self.runs.grows(n) for n in pytree.tree_leaves((args, kwargs))):
            return None
        new = self._insert(before, node.target, *args, **kwargs)
        new.meta = {k: v for k, v in node.meta.items() if k != "val"}
        return new

    # --- where they meet rows

    def _meet(self, node: fx.Node, given: Sequence[fx.Node]) -> None:
        """Let `node` take the replaced positions, if it repeats them along the batch as it broadcasts."""
        batch, rank = self.met.axis(node), self.runs.base[node].dim()
        if node.target not in REPEATING and not is_pointwise(node.target):
            return
        if self.rows_in is not None and (batch is None or self.runs.base[node].shape[batch] % self.met.count):
            return
        for value in given:
            laid_out = self._laid_out(value, node, batch, rank)
            if laid_out is None or (node.target is aten.repeat.default and not self._repeats_rows(node, batch)):
                return
            node.replace_input_with(value, laid_out)
            if node.target is aten.repeat.default:
                node.target, node.args = aten.alias.default, (laid_out,)
            if node.target is aten.expand.default:
                time = self.axes[value] + rank - self.runs.base[value].dim()
                sizes: Any = enumerate(node.args[1])  # type: ignore[arg-type]
                node.args = (laid_out, [-1 if a in (batch, time) else n for a, n in sizes])

    def _repeats_rows(self, node: fx.Node, batch: int | None) -> bool:
        """True if nothing but the batch is repeated."""
        times: Any = node.args[1]
        return all(n == 1 for a, n in enumerate(times) if a != batch)

    def _laid_out(self, value: fx.Node, node: fx.Node, batch: int | None, rank: int) -> fx.Node | None:
        """The replacement of `value` with the rows in axis `batch` of `rank` axes; None if another axis is there."""
        flat, time, shape = self.of_rows[value], self.axes[value], self.runs.base[value].shape
        if batch is None:
            return flat
        front = rank - len(shape)
        own = batch - front
        if own == time or (own >= 0 and shape[own] != 1 and value is not node):
            return None
        rest = [a for a in range(len(shape)) if a not in (own, time)]
        if own >= 0:
            flat, time = self._insert(node, aten.squeeze.dim, flat, own), time - (own < time)
        others = [a for a in range(len(shape) - (own >= 0)) if a != time]
        moved = self._insert(node, aten.permute.default, flat, [time, *others])
        length = self.lengths.of(value, self.axes[value])
        assert length is not None
        sizes = [-1, length.node, *(int(shape[a]) for a in rest)]
        split = self._insert(node, aten.reshape.default, moved, sizes)
        # The batch, the frames and the rest, in the order of the result.
        places = [batch, self.axes[value] + front, *(a + front for a in rest)]
        order = sorted(range(len(places)), key=places.__getitem__)
        laid_out = self._insert(node, aten.permute.default, split, order)
        for axis in range(min(places), rank):
            if axis not in places:
                laid_out = self._insert(node, aten.unsqueeze.default, laid_out, axis - min(places))
        if self.runs.base[node].shape[batch] == self.met.count:
            return laid_out
        return self._for_each_row(laid_out, batch - min(places), node)

    def _for_each_row(self, laid_out: fx.Node, axis: int, node: fx.Node) -> fx.Node | None:
        """`laid_out` once for each row of a stream in `node`; None if their layout is unknown."""
        at = self.met.layout(node)
        if at is None or 1 not in (at.outer, at.inner):
            return None
        own = axis if at.outer > 1 else axis + 1
        unsqueezed = self._insert(node, aten.unsqueeze.default, laid_out, own)
        repeated = self._insert(node, aten.repeat_interleave.self_int, unsqueezed, at.outer * at.inner, own)
        return self._insert(node, aten.flatten.using_ints, repeated, axis, axis + 1)

    def _insert(self, before: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        with self.graph.inserting_before(before):
            return self.graph.call_function(target, args, kwargs)
