"""The states that the pass adds to a graph: names, layouts, inputs, next values, and their hold during warm-up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.compare import INITIAL_ROWS, same
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, growing_axes
from rnn_export.export.lift.ir.dependence.row_dependence import Rows
from rnn_export.export.lift.ir.fx_nodes import aten, path_of, paths_of, placeholders
from rnn_export.export.lift.layers.bare_layers import LayerModel
from rnn_export.export.lift.layers.lifted_layers import Stack
from rnn_export.export.lift.streaming.recorded_runs import BATCH, OTHER_BATCH
from rnn_export.export.lift.streaming.time_axis import refusal

# The state operands of each recurrent op: position among the arguments, letter, position among the results.
OPS: dict[Any, tuple[tuple[int, str, int], ...]] = {
    torch.ops.rnn_export.lstm.default: ((4, "h", 1), (5, "c", 2)),
    torch.ops.rnn_export.lstm_projected.default: ((5, "h", 1), (6, "c", 2)),
    torch.ops.rnn_export.gru.default: ((4, "h", 1),),
    torch.ops.rnn_export.rnn.default: ((4, "h", 1),),
}


def dotted(*parts: str) -> str:
    """A path of the parts that are not empty."""
    return ".".join(filter(None, parts))


class Names:
    """Gives every state a name that no other has: by module path, `rnn.l0.h`, `conv.frames`; then `rnn.call1.l0.h`."""

    def __init__(self, model: nn.Module, taken: Collection[str] = ()) -> None:
        modules = model.named_modules(remove_duplicate=False)
        self.stacks = {path: module for path, module in modules if isinstance(module, Stack)}
        # A bare layer's states are named as if it were the model.
        self.nameless = ("", "layer") if isinstance(model, LayerModel) else ("",)
        self.seen = Counter[str]()
        self.given = set(taken)

    def layer(self, node: fx.Node) -> str:
        """The path of a recurrent op's layer, and its index in the stack."""
        path = next((p for p in reversed(paths_of(node)) if p in self.stacks), None)
        if path is None:
            return self.unused(path_of(node))
        call, layer = divmod(self.seen[path], len(self.stacks[path].layers))
        self.seen[path] += 1
        return dotted("" if path in self.nameless else path, f"call{call}" if call else "", f"l{layer}")

    def kept(self, node: fx.Node, what: str) -> str:
        return self.unused(dotted(path_of(node), what))

    def unused(self, name: str) -> str:
        """`name`, or where it is taken `name` with a call in it."""
        path, _, last = name.rpartition(".")
        call, found = 0, name
        while found in self.given:
            call += 1
            found = dotted(path, f"call{call}", last)
        self.given.add(found)
        return found


@dataclass(frozen=True)
class StateLayout:
    """The layout of a value whose rows are states, which leave out `lead` axes of size 1 before the batch."""

    batch: AxisLayout
    lead: int

    @classmethod
    def of(cls, value: Tensor, batch: AxisLayout) -> StateLayout:
        return cls(batch, batch.axis if all(n == 1 for n in value.shape[: batch.axis]) else 0)

    @property
    def _batch_axis(self) -> int:
        return self.batch.axis - self.lead

    def rows(self, value: Tensor, batch: int) -> Tensor:
        """(B, factor, ...) or, where a stream has one row alone, (B, ...)."""
        moved = value.reshape(value.shape[self.lead :]).movedim(self._batch_axis, 0)
        if self.batch.is_plain:
            return moved
        if self.batch.outer == 1:
            return moved.reshape(batch, self.batch.inner, *moved.shape[1:])
        return moved.reshape(self.batch.outer, batch, *moved.shape[1:]).transpose(0, 1)

    def value_of(self, graph: fx.Graph, state: fx.Node, like: Tensor) -> fx.Node:
        """The value in this layout, sizes as in `like`, from the state (B, ...); at the graph's insertion point."""
        rest = [n for a, n in enumerate(like.shape) if a != self.batch.axis and a >= self.lead]
        if not self.batch.is_plain:
            if self.batch.outer > 1:
                state = graph.call_function(aten.permute.default, (state, [1, 0, *range(2, len(rest) + 2)]))
            state = graph.call_function(aten.reshape.default, (state, [-1, *rest]))
        if axis := self._batch_axis:
            order = [*range(1, axis + 1), 0, *range(axis + 1, len(rest) + 1)]
            state = graph.call_function(aten.permute.default, (state, order))
        for _ in range(self.lead):
            state = graph.call_function(aten.unsqueeze.default, (state, 0))
        return state

    def state_of(self, graph: fx.Graph, value: fx.Node, row: Sequence[int]) -> fx.Node:
        """The inverse of `value_of`; `row` is the shape of one stream's state."""
        for _ in range(self.lead):
            value = graph.call_function(aten.squeeze.dim, (value, 0))
        if axis := self._batch_axis:
            rank = len(row) + (1 if self.batch.is_plain else 0)
            order = [axis, *(a for a in range(rank) if a != axis)]
            value = graph.call_function(aten.permute.default, (value, order))
        if self.batch.is_plain:
            return value
        sizes = [-1, *row] if self.batch.outer == 1 else [self.batch.outer, -1, *row[1:]]
        value = graph.call_function(aten.reshape.default, (value, sizes))
        if self.batch.outer == 1:
            return value
        return graph.call_function(aten.permute.default, (value, [1, 0, *range(2, len(row) + 1)]))


@dataclass(frozen=True)
class OneRowLayout:
    """The layout of a value of the only stream, whose state leaves out the axes of size 1 in front."""

    def rows(self, value: Tensor, batch: int) -> Tensor:
        """(1, ...), `batch` being 1."""
        front = next((axis for axis, size in enumerate(value.shape) if size > 1), value.dim())
        return value.reshape(1, *value.shape[front:])

    def value_of(self, graph: fx.Graph, state: fx.Node, like: Tensor) -> fx.Node:
        """As in `StateLayout`."""
        return graph.call_function(aten.reshape.default, (state, list(like.shape)))

    def state_of(self, graph: fx.Graph, value: fx.Node, row: Sequence[int]) -> fx.Node:
        """As in `StateLayout`."""
        return graph.call_function(aten.reshape.default, (value, [1, *row]))


@dataclass(frozen=True)
class LiftedState:
    """A lifted state: `initial` is the row that every stream starts from, without a batch axis.

    `kind` is "layer", "loop", "scan", "frames", "counter", "buffer", "attribute", "argument" or "packed"; `why` is
    the reason.
    """

    name: str
    initial: Tensor
    kind: str
    why: str

    @property
    def reason(self) -> str:
        """Its content, in a few words."""
        layer, _, letter = self.name.rpartition(".")
        return f"{letter} of the layer {layer}" if self.kind == "layer" and layer else self.why


@dataclass(frozen=True)
class _Added:
    state: LiftedState
    layout: StateLayout | OneRowLayout
    input: fx.Node


class States:
    """New states of one graph, in the order of its new inputs.

    After `held_frames` input frames no state is held any longer; counters that a call of several steps adds each frame
    to are not among them.
    """

    def __init__(self, graph: fx.Graph, names: Names, rows: Rows) -> None:
        self.graph, self.names, self.rows = graph, names, rows
        self.found: list[LiftedState] = []
        self._next: dict[str, fx.Node] = {}  # by name
        self._added: dict[fx.Node, _Added] = {}  # by the state in the layout of the graph
        self._last_input = placeholders(graph)[-1]
        self._counter: tuple[str, fx.Node] | None = None  # of frames seen: name and input
        self._warm_up = self.held_frames = Fraction(0)
        self._counts_each = False  # whether a call of more than a step counts all of its frames
        self._past_end: tuple[str, fx.Node] | None = None  # frames fed after the end: name and input

    def add(
        self, name: str, layout_of: fx.Node, initial: tuple[Tensor, Tensor], before: fx.Node, kind: str, why: str
    ) -> fx.Node:
        """The value of a new state, in the layout of the graph, read `before` a node.

        `initial` has its initial values for batches of BATCH and of OTHER_BATCH, with rows where `layout_of` has them.
        Raises LiftError if rows start from different values, or cannot be told apart.
        """
        value, other = initial
        layout = self._layout(layout_of, value, other)
        rows = layout.rows(value, BATCH), layout.rows(other, OTHER_BATCH)
        row = rows[0][0]
        if not all(same(r, row.expand_as(r), INITIAL_ROWS) for r in rows):
            raise LiftError(
                f"{name}: its initial value differs between the rows of a batch, so no row can start alone. "
                "Use one learned vector for all rows.",
                id="initial-differs-by-row",
            )
        state = LiftedState(name, row.detach().clone(), kind, why)
        added = self._new_input(f"state_{len(self._added)}", state)
        with self.graph.inserting_before(before):
            own = self.graph.call_function(aten.alias.default, (layout.value_of(self.graph, added, value),))
        self._added[own] = _Added(state, layout, added)
        return own

    def _new_input(self, node_name: str, state: LiftedState) -> fx.Node:
        with self.graph.inserting_after(self._last_input):
            self._last_input = self.graph.placeholder(node_name)
        self.found.append(state)
        return self._last_input

    def _layout(self, layout_of: fx.Node, value: Tensor, other: Tensor) -> StateLayout | OneRowLayout:
        if self.rows.alone:
            return OneRowLayout()
        axes = growing_axes(value, other)
        if len(axes) != 1:
            raise refusal(
                layout_of,
                "a value that is kept from frame to frame has no batch axis, so all streams of a batch would share it: "
                "make it in the shape of the batch, x.new_zeros(x.shape[0], ...).",
                id="kept-value-without-batch",
            )
        at = self.rows.of(layout_of)
        factor = value.shape[axes[0]] // BATCH
        outer, inner = (at.outer, at.inner) if isinstance(at, AxisLayout) else (1, factor)
        if factor == 1:
            outer = inner = 1
        if outer * inner != factor or 1 not in (outer, inner):
            reason = "the rows of the batch are mixed with others in a way that cannot be told apart."
            raise refusal(layout_of, reason, id="kept-rows-mixed")
        return StateLayout.of(value, AxisLayout(axes[0], outer, inner))

    def set_next(self, own: fx.Node, value: fx.Node, input_lag: Fraction = Fraction(0)) -> None:
        """Make `value` the next value of state `own`, once `input_lag` frames of the input went in."""
        added = self._added[own]
        # All of it stands before the next node of the graph, in order.
        with self.graph.inserting_before(value.next):
            new = added.layout.state_of(self.graph, value, added.state.initial.shape)
            self._next[added.state.name] = self.held(new, added.input, added.state.initial.dim() + 1, input_lag)

    def held(self, new: fx.Node, old: fx.Node, rank: int, input_lag: Fraction) -> fx.Node:
        """`new` once `input_lag` frames of the input went in, and `old` before; at the graph's insertion point."""
        if input_lag <= 0:
            return new
        return self.graph.call_function(aten.where.self, (self.after_frames(input_lag, rank), new, old))

    def after_frames(self, input_lag: Fraction, rank: int) -> fx.Node:
        """True once `input_lag` input frames went in, (B, 1, ...) of `rank` axes; at the insertion point."""
        self.held_frames = max(self.held_frames, input_lag)
        ready = self.graph.call_function(aten.ge.Scalar, (self._counted(input_lag), float(input_lag)))
        return self.graph.call_function(aten.reshape.default, (ready, [-1] + [1] * (rank - 1)))

    def _counted(self, most: Fraction) -> fx.Node:
        if self._counter is None:
            why = "frames seen, until the context is full"
            state = LiftedState(self.names.unused("warm_up"), torch.zeros(1), "counter", why)
            self._counter = state.name, self._new_input("warm_up", state)
        self._warm_up = max(self._warm_up, most)
        return self._counter[1]

    def seen_frames(self, most: Fraction) -> fx.Node:
        """The number of input frames before this step, (B, 1): at least `most` once so many went in."""
        self._counts_each = True
        return self._counted(most)

    def past_end(self) -> fx.Node:
        """The frames fed after the end of the sequence, once this step is over, (B, 1); 0 as long as it goes on."""
        if self._past_end is None:
            state = LiftedState(self.names.unused("past_end"), torch.zeros(1), "counter", "frames fed after the end")
            self._past_end = state.name, self._new_input("past_end", state)
        return self._past_end[1]

    @property
    def end(self) -> str | None:
        """The name of the state that is `past_end`, where there is one."""
        return None if self._past_end is None else self._past_end[0]

    def forget_end(self) -> None:
        """Take `past_end` out of the graph, if nothing reads it."""
        if self._past_end is not None:
            name, node = self._past_end
            self.found = [state for state in self.found if state.name != name]
            self._past_end = None
            if self._last_input is node:
                self._last_input = node.prev
            self.graph.erase_node(node)

    def for_each_row(self, by_row: fx.Node, value: fx.Node, run: Tensor, other: Tensor) -> fx.Node:
        """`by_row` (B, 1), shaped to broadcast with `value` along its rows; at the insertion point.

        `run` and `other` are `value` for batches of BATCH and of OTHER_BATCH.
        """
        rank = run.dim()
        if self.rows.alone:
            return self.graph.call_function(aten.reshape.default, (by_row, [1] * rank))
        layout = self._layout(value, run, other)
        assert isinstance(layout, StateLayout)
        batch = layout.batch
        if not batch.is_plain:
            # Several rows stand for one stream.
            sizes = [-1, batch.inner] if batch.outer == 1 else [batch.outer, -1]
            turned = by_row if batch.outer == 1 else self.graph.call_function(aten.permute.default, (by_row, [1, 0]))
            by_row = self.graph.call_function(aten.expand.default, (turned, sizes))
            by_row = self.graph.call_function(aten.reshape.default, (by_row, [-1, 1]))
        shape = [-1 if axis == batch.axis else 1 for axis in range(rank)]
        return self.graph.call_function(aten.reshape.default, (by_row, shape))

    def next_values(self, chunk: int, fed: tuple[fx.Node, int, int]) -> list[fx.Node]:
        """The next value of every state, after a step of `chunk` frames; at the graph's insertion point.

        `fed` is an input, its axis of time, and its number of axes.
        """
        if self._counter is not None:
            name, seen = self._counter
            frames = self._frames_of(*fed) if self._counts_each else float(chunk)
            more = self.graph.call_function(aten.add.Tensor, (seen, frames))
            self._next[name] = self.graph.call_function(aten.clamp.default, (more, None, float(self._warm_up)))
        if self._past_end is not None:
            name, past = self._past_end
            ended = self.graph.call_function(aten.gt.Scalar, (past, 0.0))
            more = self.graph.call_function(aten.add.Tensor, (past, float(chunk)))
            self._next[name] = self.graph.call_function(aten.where.self, (ended, more, past))
        return [self._next[s.name] for s in self.found]

    def _frames_of(self, fed: fx.Node, axis: int, rank: int) -> fx.Node:
        """The number of frames of an input as a float; at the insertion point."""
        one = fed
        for other in (a for a in range(rank) if a != axis):
            one = self.graph.call_function(aten.slice.Tensor, (one, other, 0, 1))
        ones = self.graph.call_function(aten.ones_like.default, (one,), {"dtype": torch.float32})
        return self.graph.call_function(aten.sum.default, (ones,))
