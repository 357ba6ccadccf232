"""The streaming pass: it applies the rule of each node, then brings the outputs to one delay."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from torch import fx, nn

from rnn_export.errors import ONE_FRAME, LiftError, WrongChunk
from rnn_export.export.lift.ir.compare import same
from rnn_export.export.lift.ir.dependence.axis_table import MOVING
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout
from rnn_export.export.lift.ir.dependence.row_dependence import Rows
from rnn_export.export.lift.ir.fx_nodes import SAME, args_of, depends_on, results, sources_of, values_of
from rnn_export.export.lift.ir.source_location import MODEL, at_place, place_of
from rnn_export.export.lift.streaming.alignment import delay_to, trim
from rnn_export.export.lift.streaming.framewise_rule import general
from rnn_export.export.lift.streaming.recorded_runs import RecordedRuns
from rnn_export.export.lift.streaming.reflect_padding import with_padding
from rnn_export.export.lift.streaming.rule_context import Rules, StreamingContext
from rnn_export.export.lift.streaming.stream_states import LiftedState
from rnn_export.export.lift.streaming.time_axis import (
    FirstFrames,
    LastFrame,
    NodeInfo,
    TimeAxisInfo,
    Unsupported,
    refusal,
    stride_of,
)

# Of the strides of a model, how many a message names.
NAMED = 4


@dataclass(frozen=True)
class Streamed:
    """The result of the pass.

    Attributes:
        states: in the order of the graph's new inputs.
        delay: frames of the input that go by before the first of an output.
        rates: frames of each output for each frame of the input.
        lengths: of each output, as in its contract; empty if nothing is left at the end of a sequence.
        end: the name of the state that counts the frames after the end of a sequence, if one is needed.
        step: the graph of a step with padding after the end; None without padding.
        shortest: the fewest frames of a sequence for which a stream equals the graph.
        moved_by_call: the states of the model's own, by number, that a call moves, however many frames it has.
        at_once: True if one call may take all frames once the delay is over: no state is held any longer then.
    """

    states: Sequence[LiftedState]
    delay: int
    rates: Sequence[Fraction]
    lengths: Sequence[tuple[int, ...]]
    end: str | None = None
    step: fx.GraphModule | None = None
    shortest: int = 1
    moved_by_call: Sequence[int] = ()
    at_once: bool = True


def unchanged(states: Sequence[LiftedState], outputs: int) -> Streamed:
    """The result if a graph is a step."""
    return Streamed(states, 0, [Fraction(1)] * outputs, [()] * outputs)


def stream(
    module: fx.GraphModule,
    model: nn.Module,
    runs: RecordedRuns,
    rows: Rows,
    input_time: Sequence[int | None],
    output_time: Sequence[int | None],
    chunk: int,
    rules: Rules,
    taken: Collection[str] = (),
) -> Streamed:
    """Rewrite `module`, (inputs..., states...) -> (outputs..., next states...), in place for steps of `chunk` frames.

    `model`, whose layers are replaced, tells a stack of layers from its path; `runs` and `rows` are of `module` as it
    is; no new state gets a name that is `taken`. Raises LiftError, with module path and source line, where a result
    depends on later frames, or on earlier ones in a way that cannot be kept in a state.
    """
    inputs = [None if axis is None else TimeAxisInfo(AxisLayout(axis)) for axis in input_time]
    context = StreamingContext(module, model, runs, rows, inputs, chunk, taken)
    for node in list(context.graph.nodes):
        if node.op in ("call_function", "call_module"):
            context.info[node] = _info_of(context, node, rules)
    for node in results(context.graph):
        if isinstance(info := context.info.get(node), Unsupported):
            raise info.error
    by_call = _moved_by_call(context, results(context.graph)[len(output_time) :])
    return replace(_finish(context, output_time), moved_by_call=by_call)


def _moved_by_call(context: StreamingContext, next_values: Sequence[fx.Node]) -> list[int]:
    """The model's own states that move, or are read, once per call, and not frame by frame."""
    pairs = enumerate(zip(context.own_states, next_values, strict=True))
    return [i for i, (old, new) in pairs if not _is_same(context, old, new) and _is_of_calls(context, old, new)]


def _is_same(context: StreamingContext, old: fx.Node, new: fx.Node) -> bool:
    """True if a state comes back as it went in: its entries moved there and back at most."""
    node = new
    while node is not old:
        if node.target not in MOVING or len(node.all_input_nodes) != 1:
            return False
        (node,) = node.all_input_nodes
    return same(context.runs.base[old], context.runs.base[new])


def _is_of_calls(context: StreamingContext, old: fx.Node, new: fx.Node) -> bool:
    """True if nodes other than those that carry a state from frame to frame read it, or make its next value."""
    reached = {old}
    for node in context.graph.nodes:
        if node not in context.carried and not reached.isdisjoint(values_of(node)):
            reached.add(node)
    carried = depends_on(context.graph, list(context.carried))
    after = [new]
    while after:
        node = after.pop()
        if node in carried and node not in context.carried:
            if node.target not in MOVING:
                return True
            after += node.all_input_nodes
    return new in reached or any(context.is_moving(node) for node in reached)


def _info_of(context: StreamingContext, node: fx.Node, rules: Rules) -> NodeInfo:
    is_module = node.op == "call_module"
    rule = rules.get(type(context.module.get_submodule(str(node.target))) if is_module else node.target)
    unsupported = context.unsupported_argument(node)
    if unsupported is not None and not (rule and rule.takes_unsupported):
        return unsupported
    if rule is not None and not rule.takes_unsupported and context.first_frames_of_arguments(node) is not None:
        # What moves or joins frames knows of none that are the same in every step.
        rule = None
    try:
        if rule is not None and not rule.takes_reflections:
            for value in context.timed_arguments(node):
                node.replace_input_with(value, with_padding(context, value, node))
        return (rule or general)(context, node)
    except LiftError as error:
        return Unsupported(error)


def _finish(context: StreamingContext, output_time: Sequence[int | None]) -> Streamed:
    """Write the end of the graph, whose first results are outputs with these time axes."""
    given = results(context.graph)
    before = context.graph.output_node()
    given = tuple(with_padding(context, n, before) if context.is_timed(n) else n for n in given)
    outputs, own_next = given[: len(output_time)], given[len(output_time) :]
    for node in outputs:
        if context.time_axis(node) is not None:
            context.info[node] = context.timed(node).by_entry()
    lags = [_output_lag(context, n, axis) for n, axis in zip(outputs, output_time, strict=True)]
    _refuse_chunk(context, outputs)
    rates = [context.timed(n).rate if context.is_timed(n) else Fraction(1) for n in outputs]
    unit = math.lcm(*(rate.denominator for rate in rates))
    delay = math.ceil(max(lags, default=Fraction(0)) / unit) * unit
    found = [_lengths(context, n) for n in outputs]
    if not any(_outlasts(context, n, of_it) for n, of_it in zip(outputs, found, strict=True)):
        context.forget_end()
    lengths = [_shortest_period(context, n, of_it, delay) for n, of_it in zip(outputs, found, strict=True)]
    delayed = [_delay_output(context, n, delay, before) for n in outputs]
    with context.graph.inserting_before(before):
        own = [_own_next(context, old, new) for old, new in zip(context.own_states, own_next, strict=True)]
        fed = next(n for n in context.inputs if context.is_timed(n))
        added = context.states.next_values(context.chunk, (fed, context.timed(fed).layout.axis, context.rank(fed)))
    before.args = ((*delayed, *own, *added),)
    step = _with_ends(context)
    _clean(context.module, context.chunk_length)
    at_once, shortest = context.states.held_frames <= delay, context.lengths.shortest
    return Streamed(context.states.found, delay, rates, lengths, context.states.end, step, shortest, at_once=at_once)


def _lengths(context: StreamingContext, node: fx.Node) -> list[int]:
    """The lengths of an output over one period that every stride divides; empty if it has no frames."""
    if not context.is_timed(node):
        return []
    info = context.timed(node)
    return context.lengths.of(node, info.layout.axis, info.rate * info.layout.inner, context.unit)


def _shortest_period(context: StreamingContext, node: fx.Node, found: list[int], delay: int) -> tuple[int, ...]:
    """`found` by its shortest period; empty if it is as a delay leaves it."""
    if not found:
        return ()
    info = context.timed(node)
    for period in (n for n in range(1, context.unit + 1) if context.unit % n == 0 and (n * info.rate).denominator == 1):
        more = int(period * info.rate)
        if all(found[n] == found[n % period] + n // period * more for n in range(context.unit)):
            found = found[:period]
            break
    nothing_left = context.chunk == len(found) == 1 and found[0] == -delay * info.rate
    return () if nothing_left else tuple(found)


def _outlasts(context: StreamingContext, node: fx.Node, found: list[int]) -> bool:
    """True if an output has frames at the end of some sequence that its lag does not let it have.

    A value once at a lower rate is known a whole period of that rate at a time.
    """
    if not found:
        return False
    info = context.timed(node)
    sources = sources_of(node, lambda n: n.all_input_nodes)
    period = math.lcm(*(context.timed(n).rate.denominator for n in [node, *sources] if context.is_timed(n)))
    known = (frames // period * period * info.rate - max(info.least_lag, 0) for frames in range(len(found)))
    return any(length > math.floor(n * info.layout.inner) for length, n in zip(found, known, strict=True))


def _with_ends(context: StreamingContext) -> fx.GraphModule | None:
    """A copy of the graph with the padding after the end, which the graph loses; None without."""
    if not context.after_end:
        return None
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.output(graph.graph_copy(context.graph, copies))
    graph.set_codegen(context.graph._codegen)
    step = fx.GraphModule(context.module, graph)
    pieces = {copies[node]: copies[length] for node, length in context.chunk_length.items()}
    _clean(step, pieces)
    for filled, node in context.after_end.items():
        filled.replace_all_uses_with(node)
    return step


def _output_lag(context: StreamingContext, node: fx.Node, axis: int | None) -> Fraction:
    """The lag of an output, in frames of the input."""
    info = context.info.get(node)
    if not isinstance(info, TimeAxisInfo):
        if axis is not None:
            raise refusal(
                node, "an output over time does not depend on the input over time.", id="output-without-input-time"
            )
        if _is_of_end(context, node):
            raise refusal(
                node,
                "an output without frames is as of the last frame of a sequence, which here only its end gives, since "
                "that frame looks ahead: give all frames as the output, and take the last one that finish() gives; or "
                "look back alone.",
                id="last-frame-looks-ahead",
            )
        if isinstance(info, FirstFrames) and info.steps:
            raise refusal(
                node,
                "an output is made of first frames alone, which are not all there when it is given. Let the code go "
                "over all frames (x.shape[1] in place of a number).",
                ONE_FRAME,
                id="output-of-first-frames",
            )
        return info.input_lag if isinstance(info, LastFrame) else Fraction(0)
    if info.layout.axis != axis or info.layout.outer != 1:
        raise refusal(node, "the frames of an output stand in another axis than time.", id="output-frames-moved")
    # An output that ends early is late by so much at least: no stream gives frames that the model does not.
    short = int(context.runs.frames * info.rate) - context.frames_in(node)
    return Fraction(max(info.lag or 0, short, 0)) / info.rate


def _is_of_end(context: StreamingContext, node: fx.Node) -> bool:
    """True if a value without frames is made of a value whose last frames only the end gives."""
    sources = sources_of(node, lambda n: [] if context.is_timed(n) else values_of(n))
    return any(context.is_timed(n) and _outlasts(context, n, _lengths(context, n)) for n in sources)


def _refuse_chunk(context: StreamingContext, outputs: Sequence[fx.Node]) -> None:
    """Raise WrongChunk unless every output, and every value that moves, has whole frames in a step."""
    rates = [i.rate for infos in context.info.values() for i in _timed(infos) if i.lag is not None]
    rates += [context.timed(n).rate for n in outputs if context.is_timed(n)]
    unit = math.lcm(*(rate.denominator for rate in rates))
    if context.chunk % unit:
        raise WrongChunk(context.chunk, unit, _strides(context))


def _timed(infos: NodeInfo) -> list[TimeAxisInfo]:
    return [i for i in (infos if isinstance(infos, list) else [infos]) if isinstance(i, TimeAxisInfo)]


def _strides(context: StreamingContext) -> str:
    """Operators that make one frame of several, with source locations."""
    found, units = dict[str, None](), dict[fx.Node, int]()
    for node in context.graph.nodes:
        before = math.lcm(*(units[n] for n in node.all_input_nodes))
        units[node] = math.lcm(before, *(i.rate.denominator for i in _timed(context.info.get(node))))
        if units[node] > before and node in context.from_input:
            # Frames that are put together for a loop have no line of their own.
            after = [n for n in context.graph.nodes if n.op == "call_module" and n > node]
            node = after[0] if after and place_of(node) == MODEL else node
            found[f"the {stride_of(node)} {at_place(node)}"] = None
    more = [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
    return " and ".join([*[*found][:NAMED], *more]) or "its strides"


def _delay_output(context: StreamingContext, node: fx.Node, delay: int, before: fx.Node) -> fx.Node:
    if not context.is_timed(node):
        return node
    return trim(context, delay_to(context, node, int(delay * context.timed(node).rate), before), 0, before)


def _own_next(context: StreamingContext, old: fx.Node, new: fx.Node) -> fx.Node:
    """The next value of a model's own state; at the graph's insertion point."""
    info = context.info.get(new)
    lag = info.input_lag if isinstance(info, TimeAxisInfo | LastFrame) else Fraction(0)
    if isinstance(info, FirstFrames):
        lag = Fraction(info.steps * context.chunk)
    if lag > 0 and (lag / context.chunk).denominator != 1:
        raise refusal(
            new,
            f"a state of the model moves {lag} frames late, which is no multiple of the chunk.",
            id="state-late-by-part",
        )
    return context.states.held(new, old, context.rank(new), lag)


def _clean(module: fx.GraphModule, chunk_length: Mapping[fx.Node, fx.Node]) -> None:
    """Use lengths of a chunk, and remove nodes that only repeat a value."""
    graph = module.graph
    for node, length in chunk_length.items():
        node.replace_all_uses_with(length)
    for node in list(graph.nodes):
        if node.target in SAME:
            node.replace_all_uses_with(args_of(node)[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
