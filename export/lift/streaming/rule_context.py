"""Streaming rules, their context, and the table of rules by operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any

from torch import Tensor, fx, nn

from rnn_export.export.lift.ir.dependence.axis_table import AxisEffect, windows_of
from rnn_export.export.lift.ir.dependence.operator_dependence import Operators
from rnn_export.export.lift.ir.dependence.row_dependence import Rows
from rnn_export.export.lift.ir.fx_nodes import (
    aten,
    depends_on,
    made_of_sizes,
    meta_of,
    name_of,
    placeholders,
    values_of,
)
from rnn_export.export.lift.streaming.frame_counts import Lengths
from rnn_export.export.lift.streaming.reach import Reach, makes_frames
from rnn_export.export.lift.streaming.recorded_runs import RecordedRuns
from rnn_export.export.lift.streaming.stream_states import Names, States
from rnn_export.export.lift.streaming.time_axis import (
    FirstFrames,
    Info,
    LastFrame,
    NodeInfo,
    TimeAxisInfo,
    Unsupported,
    refusal,
)


class StreamingContext:
    """A graph of whole sequences that becomes one of a stream, and the info of its nodes.

    Attributes:
        module: (inputs..., states...) -> (outputs..., next states...).
        chunk: frames of the input in one step.
        info: what is known of each node's frames; that of the inputs is there from the beginning.
        own_states: the nodes of the model's own states; `states` are those that the pass adds.
        sizes: the numbers made of the length of the sequence.
        from_input: the nodes that depend on values of inputs, not only on shapes; so `from_states`.
        length_of_piece: by number that is a sequence length plus a constant, the length alone.
        lengths: the number of frames of each value.
        after_end: by node with padding after the end filled in, the node without it.
        carried: the nodes that take a state on from frame to frame.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        model: nn.Module,
        runs: RecordedRuns,
        rows: Rows,
        inputs: Sequence[TimeAxisInfo | None],
        chunk: int,
        taken: Collection[str] = (),
    ) -> None:
        """`model` names layers by their paths; `inputs` has the info of each; no state gets a `taken` name."""
        self.module, self.graph, self.runs, self.rows, self.chunk = module, module.graph, runs, rows, chunk
        nodes = placeholders(self.graph)
        self.inputs, self.own_states = nodes[: len(inputs)], nodes[len(inputs) :]
        self.from_input = depends_on(self.graph, self.inputs)
        self.from_states = depends_on(self.graph, self.own_states)
        self.info: dict[fx.Node, NodeInfo] = dict(zip(self.inputs, inputs, strict=True))
        self.names = Names(model, taken)
        self.sizes = made_of_sizes(self.graph, runs.base, runs.longer)
        self.operators = Operators(runs.base, runs.longer, self.is_constant)
        self.states = States(self.graph, self.names, rows)
        self.chunk_length: dict[fx.Node, fx.Node] = {}
        self.lengths = Lengths(module, runs, [None if i is None else i.layout.axis for i in inputs])
        self.after_end: dict[fx.Node, fx.Node] = {}
        self.carried: set[fx.Node] = set()

    # --- what is known of a node

    def rank(self, node: fx.Node) -> int:
        value: Tensor = self.runs.base[node]
        return value.dim()

    def timed(self, node: fx.Node) -> TimeAxisInfo:
        """The info of a value that has frames."""
        info = self.info[node]
        assert isinstance(info, TimeAxisInfo)
        return info

    def is_timed(self, node: Any) -> bool:
        return isinstance(node, fx.Node) and isinstance(self.info.get(node), TimeAxisInfo)

    def time_axis(self, node: Any) -> int | None:
        """The time axis of a value, if no other axis is merged in front of time."""
        if not self.is_timed(node):
            return None
        layout = self.timed(node).layout
        return layout.axis if layout.outer == 1 else None

    def has_time_along(self, node: Any, dim: int) -> bool:
        """True if axis `dim` of a tensor, which may count from the end, is its axis of time."""
        axis = self.time_axis(node)
        return axis is not None and axis == dim % self.rank(node)

    def time_among_last(self, node: fx.Node, axes: int) -> int | None:
        """The index of the time axis among the last `axes` of a tensor; None for another one."""
        axis = self.time_axis(node)
        place = -1 if axis is None else axis - (self.rank(node) - axes)
        return place if place >= 0 else None

    def windows(self, node: fx.Node) -> Sequence[AxisEffect]:
        """The windows of a convolution or a pool, over the last axes of its argument."""
        return windows_of(node, lambda n: self.runs.base[n].shape if isinstance(n, fx.Node) else None)

    def is_moving(self, node: fx.Node) -> bool:
        """True if a value changes with the frames of the input."""
        return isinstance(self.info.get(node), TimeAxisInfo | LastFrame | FirstFrames)

    def frames_in(self, node: fx.Node) -> int:
        """The number of frames of a value in the base run."""
        return self.timed(node).layout.indices_in(self.runs.base[node])

    def timed_arguments(self, node: fx.Node) -> list[fx.Node]:
        return [n for n in dict.fromkeys(node.all_input_nodes) if self.is_timed(n)]

    def last_frame_of_arguments(self, node: fx.Node) -> LastFrame | None:
        """The latest of the arguments that are values as of the newest frame; None without one."""
        found = [i for n in node.all_input_nodes if isinstance(i := self.info.get(n), LastFrame)]
        return max(found, key=lambda i: i.input_lag, default=None)

    def first_frames_of_arguments(self, node: fx.Node) -> FirstFrames | None:
        """The latest of the arguments that are made of the first frames alone; None without one."""
        found = [i for n in node.all_input_nodes if isinstance(i := self.info.get(n), FirstFrames)]
        return max(found, key=lambda i: i.steps, default=None)

    def lag_after(self, first: FirstFrames | None, rate: Fraction) -> int | None:
        """The least lag of frames of `rate` that meet `first`; None without `first`."""
        return None if first is None else int(first.steps * self.chunk * rate)

    def unsupported_argument(self, node: fx.Node) -> Unsupported | None:
        """The first argument whose values `node` takes although a stream cannot have them."""
        return next((i for n in values_of(node) if isinstance(i := self.info.get(n), Unsupported)), None)

    def is_constant(self, node: fx.Node) -> bool:
        """True if a value is made of weights and sizes alone."""
        return node not in self.from_input and node not in self.from_states

    def is_computed(self, node: Any) -> bool:
        """True if a value depends on the input, other than by way of a state."""
        moves = self.is_moving(node) or isinstance(self.info.get(node), Unsupported)
        return moves or (node in self.from_input and node not in self.from_states)

    @property
    def unit(self) -> int:
        """A number of frames of the input that every stride divides."""
        return self.runs.longer_frames - self.runs.frames

    def frames_in_step(self, node: fx.Node) -> int:
        """The number of frames of a value in a step, with its history."""
        info = self.timed(node)
        return int(self.chunk * info.rate) + info.history

    # --- new nodes

    def insert(self, before: fx.Node, operator: Any, *args: Any) -> fx.Node:
        """A call of `operator` before a node."""
        with self.graph.inserting_before(before):
            return self.graph.call_function(operator, args)

    def annotate(self, new: fx.Node, like: fx.Node, info: Info) -> fx.Node:
        """Give a new node the recorded values and source location of `like`, equal over a whole sequence."""
        self.info[new] = info
        new.meta = meta_of(like)
        self.rows.info[new] = self.rows.of(like)
        for sources in (self.from_input, self.from_states):
            if like in sources:
                sources.add(new)
        self.lengths.same(new, like)
        for run in self.runs.all:
            run[new] = run[like]
        return new

    def computed(self, before: fx.Node, like: fx.Node, operator: Any, *args: Any) -> fx.Node:
        """A call of `operator` before a node, its values recorded; rows and lengths are those of `like`."""
        node = self.annotate(self.insert(before, operator, *args), like, None)
        for run in self.runs.all:
            run[node] = operator(*(run[a] if isinstance(a, fx.Node) else a for a in args))
        return node

    def constant(self, value: Tensor, before: fx.Node) -> fx.Node:
        """`value` as a buffer of the module."""
        name = f"_made_{sum(n.startswith('_made_') for n, _ in self.module.named_buffers())}"
        self.module.register_buffer(name, value)
        with self.graph.inserting_before(before):
            return self.graph.get_attr(name)

    def forget_end(self) -> None:
        """Remove the padding after the end of a sequence from the graph, as no result has it."""
        unused = []
        for filled, node in self.after_end.items():
            filled.replace_all_uses_with(node)
            unused.append(filled)
        while unused:
            # Not all that is idle goes: the next values of states are not taken yet.
            node = unused.pop()
            if not node.users and node.op in ("call_function", "get_attr") and not node._erased:
                before = node.all_input_nodes
                self.graph.erase_node(node)
                unused += before
        self.after_end.clear()
        self.states.forget_end()

    def alias(self, value: fx.Node, info: Info, before: fx.Node) -> fx.Node:
        """`value` under another info."""
        return self.annotate(self.insert(before, aten.alias.default, value), value, info)


Apply = Callable[[StreamingContext, fx.Node], NodeInfo]


@dataclass(frozen=True)
class Rule:
    """The rule of operators that move or carry frames: call it with the context and a node.

    It rewrites the graph around the node, and returns the info of its result. Raises LiftError if a stream cannot have
    it.

    Attributes:
        apply: the function.
        operators: the targets of the nodes that it is for; of a node that calls a module, the class of the module.
        reach: the reach of a node, for the length of the sequences that the model is recorded on.
        takes_unsupported: True if it handles arguments that a stream cannot have.
        takes_mirrors: True if it handles boundary padding that is not filled in yet.
    """

    apply: Apply
    operators: tuple[Any, ...]
    reach: Callable[[fx.Node], Reach] | None
    takes_unsupported: bool
    takes_reflections: bool

    def __call__(self, context: StreamingContext, node: fx.Node) -> NodeInfo:
        return self.apply(context, node)


Rules = Mapping[Any, Rule]


def rule(
    *operators: Any,
    reach: Callable[[fx.Node], Reach] | None = None,
    takes_unsupported: bool = False,
    takes_reflections: bool = False,
) -> Callable[[Apply], Rule]:
    """Make a function the rule of some operators."""
    return lambda apply: Rule(apply, operators, reach, takes_unsupported, takes_reflections)


def rules_of(families: Sequence[ModuleType]) -> Rules:
    """The rules in some modules, by operator; raises ValueError if an operator has two."""
    rules: dict[Any, Rule] = {}
    for found in (value for family in families for value in vars(family).values() if isinstance(value, Rule)):
        for target in found.operators:
            if rules.setdefault(target, found) is not found:
                raise ValueError(f"{target} has two rules: {rules[target].apply.__name__}, {found.apply.__name__}.")
    return rules


def receptive_field(graph: fx.Graph, rules: Rules) -> tuple[int, int]:
    """A number of frames that every stride divides, and at least as many as one frame of a result depends on."""
    reaches: dict[fx.Node, Reach] = {}
    for node in graph.nodes:
        before = [reaches[n] for n in node.all_input_nodes if makes_frames(node, n)]
        unit, field = math.lcm(*(r.stride for r in before)), max((r.frames for r in before), default=1)
        known = rules.get(node.target)
        frames, stride = known.reach(node) if known is not None and known.reach is not None else Reach(0)
        if not isinstance(frames, int) or not isinstance(stride, int):
            raise refusal(
                node,
                f"{name_of(node)} reaches over as many frames as the sequence has, and a stream has no end. Let it "
                "take the last N frames, or compute the recurrence that it stands for.",
                id="reaches-whole-sequence",
            )
        reaches[node] = Reach(field + frames * unit, unit * stride)
    return math.lcm(*(r.stride for r in reaches.values())), max(r.frames for r in reaches.values())
