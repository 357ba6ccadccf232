"""The states that the pass adds to a graph: their inputs, their next values, and what holds them still at first."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.dependence.frames import growing_axes
from rnn_export.export.lift.dependence.rows import RowsMixed, batch_layout
from rnn_export.export.lift.program.compare import INITIAL_ROWS, same
from rnn_export.export.lift.program.fx import aten, placeholders
from rnn_export.export.lift.streaming.names import Names
from rnn_export.export.lift.streaming.reasons import refusal
from rnn_export.export.lift.streaming.runs import BATCH, OTHER_BATCH, RecordedRuns
from rnn_export.export.lift.streaming.state_layout import StateLayout


@dataclass(frozen=True)
class LiftedState:
    """A state that lifting found.

    Attributes:
        name: by the path of the module that it belongs to.
        initial: the row that every stream starts from, without a batch axis.
        kind: what it is, in a word: "layer", "loop", "frames", "counter", "buffer", "argument".
        why: why it is there, in words.
    """

    name: str
    initial: Tensor
    kind: str
    why: str


@dataclass(frozen=True)
class _Added:
    state: LiftedState
    layout: StateLayout
    input: fx.Node


class States:
    """New states of one graph, in the order of its new inputs."""

    def __init__(self, graph: fx.Graph, names: Names, runs: RecordedRuns) -> None:
        self.graph, self.names, self.runs = graph, names, runs
        self.found: list[LiftedState] = []
        self._next: dict[str, fx.Node] = {}  # by name
        self._added: dict[fx.Node, _Added] = {}  # by the state in the layout of the graph
        self._last_input = placeholders(graph)[-1]
        self._counter: tuple[str, fx.Node] | None = None  # of frames seen: name and input
        self._warm_up = Fraction(0)

    def add(
        self,
        name: str,
        layout_of: fx.Node,
        initial: fx.Node | tuple[Tensor, Tensor],
        before: fx.Node,
        kind: str,
        why: str,
    ) -> fx.Node:
        """The value of a new state, in the layout of the graph.

        Args:
            name: of the state.
            layout_of: a node whose rows stand where those of the initial value do.
            initial: what it starts from for batches of BATCH and of OTHER_BATCH, or the node with that value.
            before: where in the graph it is read.
            kind: see LiftedState.
            why: see LiftedState.

        Raises LiftError where rows start from different values, or cannot be told apart.
        """
        if isinstance(initial, fx.Node):
            initial = self.runs.base[initial], self.runs.other_batch[initial]
        value, other = initial
        layout = self._layout(layout_of, value, other)
        rows, others = layout.rows(value, BATCH), layout.rows(other, OTHER_BATCH)
        row = rows[0]
        if not all(same(r, row.expand_as(r), INITIAL_ROWS) for r in (rows, others)):
            raise LiftError(
                f"{name}: its initial value differs between the rows of a batch, so no row can start alone. "
                "Use one learned vector for all rows."
            )
        state = LiftedState(name, row.detach().clone(), kind, why)
        added = self._new_input(f"state_{len(self.found)}", state)
        with self.graph.inserting_before(before):
            own = self.graph.call_function(aten.alias.default, (layout.value_of(self.graph, added, value),))
        self._added[own] = _Added(state, layout, added)
        return own

    def _new_input(self, node_name: str, state: LiftedState) -> fx.Node:
        with self.graph.inserting_after(self._last_input):
            self._last_input = self.graph.placeholder(node_name)
        self.found.append(state)
        return self._last_input

    def _layout(self, layout_of: fx.Node, value: Tensor, other: Tensor) -> StateLayout:
        axes = growing_axes(value, other)
        if len(axes) != 1:
            raise refusal(
                layout_of,
                "a value that is kept from frame to frame has no batch axis, so all streams of a batch would share it: "
                "make it in the shape of the batch, x.new_zeros(x.shape[0], ...).",
            )
        before, after = self.runs.base[layout_of], self.runs.other_row[layout_of]
        try:
            return StateLayout.of(value, batch_layout(value, axes[0], BATCH, before, after))
        except RowsMixed:
            reason = "the rows of the batch are mixed with others in a way that cannot be told apart."
            raise refusal(layout_of, reason) from None

    def set_next(self, own: fx.Node, value: fx.Node, input_lag: Fraction = Fraction(0)) -> None:
        """`value` is the next value of the state `own`, once `input_lag` frames of the input went in."""
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
        """Whether `input_lag` frames of the input went in, (B, 1, ...) of `rank` axes; at the insertion point."""
        if self._counter is None:
            why = "frames seen, until the context is full"
            state = LiftedState(self.names.unused("warm_up"), torch.zeros(1), "counter", why)
            self._counter = state.name, self._new_input("warm_up", state)
        self._warm_up = max(self._warm_up, input_lag)
        ready = self.graph.call_function(aten.ge.Scalar, (self._counter[1], float(input_lag)))
        return self.graph.call_function(aten.reshape.default, (ready, [-1] + [1] * (rank - 1)))

    def next_values(self, chunk: int) -> list[fx.Node]:
        """The next value of every state, after a step of `chunk` frames; at the graph's insertion point."""
        if self._counter is not None:
            name, seen = self._counter
            more = self.graph.call_function(aten.add.Tensor, (seen, float(chunk)))
            self._next[name] = self.graph.call_function(aten.clamp.default, (more, None, float(self._warm_up)))
        return [self._next[s.name] for s in self.found]
