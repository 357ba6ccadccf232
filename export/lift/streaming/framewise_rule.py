"""The rule of operators without a rule of their own: they work frame by frame, or cannot stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from torch import Tensor, fx

from rnn_export.errors import Advice
from rnn_export.export.lift.ir.compare import INITIAL_ROWS, same
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, Dependence, IndexDependence, growing_axes
from rnn_export.export.lift.ir.dependence.operator_dependence import IndicesMixed, NotDecided
from rnn_export.export.lift.ir.fx_nodes import name_of, numbers_taken
from rnn_export.export.lift.rewrite.complex_pairs import TRANSFORM_OF_WINDOWS
from rnn_export.export.lift.streaming.alignment import align
from rnn_export.export.lift.streaming.reflect_padding import with_padding
from rnn_export.export.lift.streaming.rule_context import StreamingContext
from rnn_export.export.lift.streaming.time_axis import (
    Info,
    LastFrame,
    NodeInfo,
    Reflections,
    TimeAxisInfo,
    refusal,
)

# By words in the name of an operator, the first that fits.
REASONS = {
    "rand bernoulli multinomial normal dropout": "it draws random numbers",
    "cumsum cumprod": "a running sum over time: keep it in a buffer that each frame adds to",
    "attention matmul bmm baddbmm einsum": "attention, or another product over time, looks at all frames",
    "softmax": "a softmax over time looks at all frames",
    "batch_norm instance_norm group_norm layer_norm": "it normalises over time, with statistics of all frames",
    "mean sum var std amax amin max min norm": "statistics over time look at all frames",
    "flip roll sort topk": "it moves frames over time",
    "upsample adaptive": "where each frame is taken from follows from the length of the whole sequence, by "
    "align_corners, a size or a factor that no few frames divide",
    "stft": TRANSFORM_OF_WINDOWS,
    "fft": "a transform over time looks at all frames",
    "view reshape flatten unflatten": "a reshape cuts through time",
    "unbind split chunk": "it takes the frames of the sequence apart",
}
PAST_OF_ATTENTION = Advice(
    {"max_context": 64}, "Where attention is causal, {} leaves each frame the last 64, or others."
)
LAST_FRAME_FOR_ALL = "a value as of the last frame is used for every frame: that looks at the end first."


def general(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """The info of a number, a value with frames, or one without."""
    if not isinstance(context.runs.base[node], Tensor | tuple | list):
        return None
    return frame_by_frame(context, node) if context.timed_arguments(node) else without_frames(context, node)


def frame_by_frame(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """Bring the arguments with frames of an operator to one lag, which the result has too."""
    _refuse_length(context, node)
    reflections = _reflections(context, node)
    arguments = _with_as_many_frames(context, node)
    if context.last_frame_of_arguments(node):
        raise refusal(node, LAST_FRAME_FOR_ALL, id="last-frame-for-all")
    infos = [context.timed(n) for n in arguments]
    try:
        layouts = {n: i.layout for n, i in zip(arguments, infos, strict=True)}
        dependences = context.operators.dependences(node, layouts)
    except NotDecided as error:
        raise refusal(
            node, f"what {name_of(node)} does along time could not be tried: {error}", id="time-use-not-tried"
        ) from None
    except IndicesMixed:
        why = _why_not_frame_local(node)
        advice = [PAST_OF_ATTENTION] if why.startswith("attention") else []
        raise refusal(node, why, *advice, id="not-frame-local") from None
    if len({i.rate for i in infos}) > 1:
        raise refusal(node, f"{name_of(node)} takes values of different rates over time.", id="different-rates")
    first = context.lag_after(context.first_frames_of_arguments(node), infos[0].rate)
    lags = [n for n in (_lag(infos), first) if n is not None]
    history = align(context, node, arguments, max(lags, default=None))
    results = [result_info(d, infos, history, first) for d in dependences]
    if reflections is not None:
        results = [replace(i, reflections=reflections) if isinstance(i, TimeAxisInfo) else i for i in results]
    return results[0] if isinstance(context.runs.base[node], Tensor) else results


def _reflections(context: StreamingContext, node: fx.Node) -> Reflections | None:
    """The boundary padding of the only argument with frames, for the result; None after filling in that of several."""
    arguments = context.timed_arguments(node)
    if len(arguments) == 1 and (reflections := context.timed(arguments[0]).reflections) is not None:
        return reflections
    for value in arguments:
        node.replace_input_with(value, with_padding(context, value, node))
    return None


def _with_as_many_frames(context: StreamingContext, node: fx.Node) -> list[fx.Node]:
    """The arguments of `node` with frames; frames of several entries may meet as many frames of one."""
    _lay_out_alike(context, node)
    arguments = context.timed_arguments(node)
    if len({context.frames_in(n) for n in arguments}) > 1:
        for value in arguments:
            if context.timed(value).layout.outer == 1:
                node.replace_input_with(value, context.alias(value, context.timed(value).by_entry(), node))
        arguments = context.timed_arguments(node)
        if len({context.frames_in(n) for n in arguments}) > 1:
            raise refusal(node, f"{name_of(node)} takes values of different lengths over time.", id="different-lengths")
    return arguments


def _lay_out_alike(context: StreamingContext, node: fx.Node) -> None:
    """Lay out frames that are all alike, such as zeros for (batch x time) rows, as those that they meet."""
    infos = {n: context.timed(n) for n in context.timed_arguments(node)}
    moving = next((n for n, info in infos.items() if info.lag is not None), None)
    if moving is None:
        return
    frames, like = context.frames_in(moving), infos[moving]
    for value, info in infos.items():
        size = int(context.runs.base[value].shape[info.layout.axis])
        if info.lag is None and context.frames_in(value) != frames and size == frames * like.layout.outer:
            laid_out = replace(info, layout=AxisLayout(info.layout.axis, like.layout.outer), rate=like.rate)
            node.replace_input_with(value, context.alias(value, laid_out, node))


def _lag(arguments: Sequence[TimeAxisInfo]) -> int | None:
    return max((i.lag for i in arguments if i.lag is not None), default=None)


def result_info(
    dependence: IndexDependence, arguments: Sequence[TimeAxisInfo], history: int, first: int | None = None
) -> Info:
    """The info of a result whose arguments, of one rate, are brought to the latest lag and to `history`.

    `first` is its least lag, if it is made of the first frames too.
    """
    if dependence is Dependence.NONE:
        return None
    if dependence is Dependence.LAST:
        return LastFrame(max(i.input_lag for i in arguments))
    assert isinstance(dependence, AxisLayout)
    lags = [(i.lag, i.least_lag) for i in arguments if i.lag is not None]
    lags += [] if first is None else [(first, first)]
    lag = max((n for n, _ in lags), default=None)
    slack = 0 if lag is None else lag - max(least for _, least in lags)
    return TimeAxisInfo(dependence, arguments[0].rate, lag, history, slack)


def without_frames(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """The info of an operator without frames: its result is as of the newest frame, or always the same."""
    value, longer = context.runs.base[node], context.runs.longer[node]
    last, first = context.last_frame_of_arguments(node), context.first_frames_of_arguments(node)
    if last and first and first.steps * context.chunk > last.input_lag:
        raise refusal(
            node,
            "a value as of the last frame meets first frames that are not all there when it is.",
            id="last-meets-first-frames",
        )
    known = last or first
    if not isinstance(value, Tensor):
        return [known] * len(value)
    growing = growing_axes(value, longer)
    if not growing:
        _refuse_length(context, node)
        return known
    if last:
        raise refusal(node, LAST_FRAME_FOR_ALL, id="last-frame-for-all")
    _refuse_length(context, node)
    axis = growing[0]
    whole = value if first is None else longer
    if len(growing) > 1 or not same(longer, whole.narrow(axis, 0, 1).expand_as(longer)):
        raise refusal(
            node,
            "positions over time: this value is another one at each frame, and starts again with each piece of a "
            "stream. Count the frames in a buffer, and compute it from that.",
            PAST_OF_ATTENTION,
            id="positions-over-time",
        )
    rate = Fraction(longer.shape[axis] - value.shape[axis], context.runs.longer_frames - context.runs.frames)
    return TimeAxisInfo(AxisLayout(axis), rate, context.lag_after(first, rate))


def _refuse_length(context: StreamingContext, node: fx.Node) -> None:
    by_length = not context.sizes.isdisjoint(numbers_taken(node))
    if by_length or (context.is_constant(node) and not _is_of_any_length(context, node)):
        raise refusal(
            node,
            f"the length of the sequence is used as a value ({name_of(node)}), and a stream has none.",
            id="length-used-as-value",
        )


def _is_of_any_length(context: StreamingContext, node: fx.Node) -> bool:
    """True if a value made of weights and sizes is equal at two lengths, or differs in shape."""
    here, there = context.runs.base[node], context.runs.longer[node]
    return not isinstance(here, Tensor) or here.shape != there.shape or same(here, there, INITIAL_ROWS)


def _why_not_frame_local(node: fx.Node) -> str:
    """The reason for an operator whose frames depend on others."""
    name = name_of(node)
    fitting = (why for words, why in REASONS.items() if any(word in name for word in words.split()))
    known = next(fitting, "it mixes frames over time")
    instead = (
        "Mask all but the last frames." if known.startswith("attention") else "Use past frames only, kept in a state."
    )
    return f"{known} ({name}), so it cannot stream. {instead}"
