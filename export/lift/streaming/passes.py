"""The pass itself: one node after the other, each by its rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from rnn_export.errors import LiftError
from rnn_export.export.lift.dependence.frames import FrameLayout
from rnn_export.export.lift.program.fx import results
from rnn_export.export.lift.streaming.context import StreamingContext
from rnn_export.export.lift.streaming.general import general
from rnn_export.export.lift.streaming.outputs import finish
from rnn_export.export.lift.streaming.registry import Rules, receptive_field
from rnn_export.export.lift.streaming.runs import Sample, record
from rnn_export.export.lift.streaming.states import LiftedState
from rnn_export.export.lift.streaming.time_axis import NodeInfo, TimeAxisInfo, Unsupported


@dataclass(frozen=True)
class Streamed:
    """What the pass found.

    Attributes:
        states: in the order of the graph's new inputs.
        delay: frames of the input before the first output.
        every: by output, for how many frames of the input it has one.
    """

    states: list[LiftedState]
    delay: int
    every: list[int]


def stream(
    module: fx.GraphModule,
    model: nn.Module,
    sample: Sample,
    input_time: Sequence[int | None],
    output_time: Sequence[int | None],
    chunk: int,
    rules: Rules,
) -> Streamed:
    """Rewrite `module`, (inputs..., states...) -> (outputs..., next states...), in place.

    Args:
        module: a graph for sequences of any length.
        model: the model with its layers replaced, to know a stack of layers from its path.
        sample: (batch, frames, seed) to noise for all of its inputs.
        input_time: the time axis of each data input.
        output_time: the time axis of each output.
        chunk: frames of the input in one step.
        rules: by operator, of those that do not work frame by frame.

    Raises LiftError, with module path and source line, where a result depends on later frames, or on earlier ones in a
    way that cannot be kept in a state.
    """
    runs = record(module, sample, *receptive_field(module.graph, rules))
    inputs = [None if axis is None else TimeAxisInfo(FrameLayout(axis)) for axis in input_time]
    context = StreamingContext(module, model, runs, inputs, chunk)
    for node in list(context.graph.nodes):
        if node.op in ("call_function", "call_module"):
            context.info[node] = _info_of(context, node, rules)
    for node in results(context.graph):
        if isinstance(info := context.info.get(node), Unsupported):
            raise info.error
    delay, strides = finish(context, output_time)
    return Streamed(context.states.found, delay, strides)


def _info_of(context: StreamingContext, node: fx.Node, rules: Rules) -> NodeInfo:
    rule = rules.get(_operator(context, node))
    if rule is None or not rule.takes_unsupported:
        unsupported = context.unsupported_argument(node)
        if unsupported is not None:
            return unsupported
    try:
        return (rule or general)(context, node)
    except LiftError as error:
        return Unsupported(error)


def _operator(context: StreamingContext, node: fx.Node) -> Any:
    return type(context.module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
