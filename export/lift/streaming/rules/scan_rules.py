"""Rules for running sums, products, extremes and linear recurrences over time, carried in states."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import aten, name_of, named_args
from rnn_export.export.lift.ir.recurrence_operators import LINEAR, LOG_LINEAR, MATRIX
from rnn_export.export.lift.loops.loop_body import RolledLoop
from rnn_export.export.lift.loops.loop_iterations import Join
from rnn_export.export.lift.loops.loop_operands import BodyValue
from rnn_export.export.lift.loops.value_references import Part
from rnn_export.export.lift.streaming.alignment import delay_to, trim
from rnn_export.export.lift.streaming.framewise_rule import general
from rnn_export.export.lift.streaming.rule_context import StreamingContext, rule
from rnn_export.export.lift.streaming.time_axis import NodeInfo, refusal

# A body of one frame takes frames, then what is carried; it gives what is carried next, then frames.
Body = Callable[..., Any]


@dataclass(frozen=True)
class Carried:
    """A carried value of a scan: the state's name behind that of the module, and the start of every entry.

    With `parts` > 1 each entry is `parts` numbers along a last axis.
    """

    name: str
    start: Callable[[torch.dtype], float]
    dtype: torch.dtype | None = None
    parts: int = 1


@dataclass(frozen=True)
class Scan:
    """A running operator: carried values, the body of one frame, and the number of results."""

    body: Body
    carried: Sequence[Carried]
    why: str
    results: int = 1


def zero(dtype: torch.dtype) -> float:
    return 0


def lowest(dtype: torch.dtype) -> float:
    return -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def highest(dtype: torch.dtype) -> float:
    return torch.inf if dtype.is_floating_point else torch.iinfo(dtype).max


def two_sum(total: Any, x: Any) -> Any:
    """`total` + x; the last axis of a total has the number and its rounding error: T. Dekker, 1971.

    That is about twice the digits of one number. Of an infinite sum the error is 0.
    """
    first, rest = (aten.select.int(total, -1, part) for part in (0, 1))
    more = aten.add.Tensor(first, x)
    taken = aten.sub.Tensor(more, first)
    lost = aten.add.Tensor(aten.sub.Tensor(first, aten.sub.Tensor(more, taken)), aten.sub.Tensor(x, taken))
    rest = aten.add.Tensor(rest, _number(lost))
    # The rest stays small: what it has of the sum's digits goes there.
    whole = aten.add.Tensor(more, rest)
    return aten.stack.default([whole, _number(aten.sub.Tensor(rest, aten.sub.Tensor(whole, more)))], -1)


def _number(x: Any) -> Any:
    return aten.where.ScalarSelf(aten.ne.Tensor(x, x), 0.0, x)


def float_sum(x: Any, total: Any) -> Any:
    total = two_sum(total, x)
    return total, aten.select.int(total, -1, 0)


def whole_sum(x: Any, total: Any) -> Any:
    total = aten.add.Tensor(total, x)
    return total, total


def product(x: Any, total: Any) -> Any:
    total = aten.mul.Tensor(total, x)
    return total, total


def log_sum_exp(x: Any, largest: Any, total: Any) -> Any:
    """The log of a sum of exp(x), which is carried scaled by exp(-largest)."""
    more = aten.maximum.default(largest, x)
    by = aten.exp.default(aten.sub.Tensor(largest, more))
    total = aten.mul.Tensor(total, aten.unsqueeze.default(by, -1))
    total = two_sum(total, aten.exp.default(aten.sub.Tensor(x, more)))
    return more, total, aten.add.Tensor(more, aten.log.default(aten.select.int(total, -1, 0)))


def best_value(better: Any) -> Body:
    def body(x: Any, best: Any) -> Any:
        best = better(best, x)
        return best, best

    return body


def extreme(better: Any) -> Body:
    """The best frame so far, and its index: of equal frames the last one counts."""

    def body(x: Any, best: Any, at: Any, number: Any) -> Any:
        found = aten.logical_or.default(better(x, best), aten.ne.Tensor(x, x))
        best, at = aten.where.self(found, x, best), aten.where.self(found, number, at)
        return best, at, aten.add.Tensor(number, 1), best, at

    return body


def linear(factor: Any, x: Any, h: Any) -> Any:
    h = aten.add.Tensor(aten.mul.Tensor(factor, h), x)
    return h, h


def matrix_linear(factor: Any, x: Any, h: Any) -> Any:
    h = aten.add.Tensor(aten.matmul.default(factor, h), x)
    return h, h


def log_linear(log_factor: Any, log_x: Any, log_h: Any) -> Any:
    """The log of factor * h + x, whose parts may be numbers that a float cannot hold."""
    kept = aten.add.Tensor(log_h, log_factor)
    largest = aten.clamp.default(aten.maximum.default(kept, log_x), torch.finfo(torch.float32).min)
    parts = (aten.exp.default(aten.sub.Tensor(n, largest)) for n in (kept, log_x))
    log_h = aten.add.Tensor(largest, aten.log.default(aten.add.Tensor(*parts)))
    return log_h, log_h


SUM = Carried("sum", zero, parts=2)
FLOATS = Scan(float_sum, (SUM,), "the sum so far, and what rounding took of it")
WHOLES = Scan(whole_sum, (Carried("sum", zero),), "the sum so far")
PRODUCT = Scan(product, (Carried("product", lambda dtype: 1),), "the product so far")
LARGEST = Carried("largest", lambda dtype: torch.finfo(dtype).min)
LOG_SUM = Scan(log_sum_exp, (LARGEST, SUM), "the sum of exponentials so far, scaled by the largest")
AT, NUMBER = Carried("at", zero, torch.int64), Carried("frame", zero, torch.int64)
MAX, MIN = Carried("max", lowest), Carried("min", highest)
# By operator, the values alone, and the values and the numbers of their frames.
EXTREMES: dict[Any, tuple[Scan, Scan]] = {
    aten.cummax.default: (
        Scan(best_value(aten.maximum.default), (MAX,), "the largest so far"),
        Scan(extreme(aten.ge.Tensor), (MAX, AT, NUMBER), "the largest so far, and where it was", 2),
    ),
    aten.cummin.default: (
        Scan(best_value(aten.minimum.default), (MIN,), "the least so far"),
        Scan(extreme(aten.le.Tensor), (MIN, AT, NUMBER), "the least so far, and where it was", 2),
    ),
}
RECURRENCES: dict[Any, Scan] = {
    LINEAR: Scan(linear, (Carried("h", zero),), "what a scan carries"),
    MATRIX: Scan(matrix_linear, (Carried("h", zero),), "what a scan of matrices carries"),
    LOG_LINEAR: Scan(log_linear, (Carried("log_h", lowest),), "the log of what a scan carries"),
}


@rule(aten.cumsum.default)
def running_sum(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """A sum in two numbers, so that a million frames lose nothing; integers are exact in one."""
    return _scan(context, node, FLOATS if context.runs.base[node].is_floating_point() else WHOLES)


@rule(aten.cumprod.default)
def running_product(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """A running product."""
    return _scan(context, node, PRODUCT)


@rule(aten.logcumsumexp.default)
def running_log_sum(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """A running sum of exponentials, none of which is ever computed as it is."""
    return _scan(context, node, LOG_SUM)


@rule(*EXTREMES)
def running_extreme(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """The running extremes, and their frame indices if a node takes these."""
    values, places = EXTREMES[node.target]
    taken = any(user.args[1] == 1 and user.users for user in node.users)
    return _scan(context, node, places if taken else values)


@rule(*RECURRENCES)
def linear_recurrence(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """The result of a parallel scan, frame by frame."""
    return _scan(context, node, RECURRENCES[node.target])


def _scan(context: StreamingContext, node: fx.Node, scan: Scan) -> NodeInfo:
    """The operator over time as a loop that starts each step from states; over another axis it is like others."""
    given = named_args(node)
    dim = given["dim"]
    frames = [n for n in node.all_input_nodes if context.rank(n)]
    if not any(context.has_time_along(n, dim) for n in frames):
        return general(context, node)
    axis = dim % context.rank(frames[0])
    if any(context.time_axis(n) != axis for n in frames):
        raise refusal(
            node,
            f"{name_of(node)} runs over values whose frames do not stand in the axis of time alone.",
            id="frames-outside-time-axis",
        )
    # Of what makes more frames of each it runs over every one.
    frames = [context.alias(n, context.timed(n).by_entry(), node) for n in frames]
    if len({context.timed(n).rate for n in frames}) > 1:
        raise refusal(node, f"{name_of(node)} takes values of different rates over time.", id="different-rates")
    with_padding = _with_padding(context, node, frames)
    info = context.timed(with_padding[0])
    dtype: Any = node.kwargs.get("dtype")
    if dtype is not None:
        with_padding = [_converted(context, n, dtype, node) for n in with_padding]
    name = f"scan{sum(isinstance(m, RolledLoop) for m in context.module.modules())}"
    joins = [Join(BodyValue(i), torch.stack, axis) for i in range(scan.results)]
    frame = (Part("select", axis, 0),)
    loop = RolledLoop(fx.symbolic_trace(scan.body), [frame] * len(frames), len(scan.carried), joins)
    context.module.add_submodule(name, loop)
    states = _states(context, node, scan, loop, with_padding)
    with context.graph.inserting_before(node):
        called = context.graph.call_module(name, (*with_padding, *states))
        after = [context.graph.call_function(operator.getitem, (called, scan.results + i)) for i in range(len(states))]
    called.meta = {k: v for k, v in node.meta.items() if k != "val"}
    context.carried.add(called)
    for own, value in zip(states, after, strict=True):
        context.states.set_next(own, value, info.input_lag)
    found = replace(info, layout=replace(info.layout, axis=axis))
    if isinstance(context.runs.base[node], Tensor):
        node.target, node.args, node.kwargs = operator.getitem, (called, 0), {}
        return found
    node.replace_all_uses_with(called)
    context.info[called] = [found] * scan.results
    return None


def _with_padding(context: StreamingContext, node: fx.Node, frames: Sequence[fx.Node]) -> list[fx.Node]:
    """The values that a scan runs over, at one lag: of whole steps, or ahead of their time."""
    moving = [context.alias(n, context.timed(n).moving(), node) for n in frames]
    lag = max(context.timed(n).lag or 0 for n in moving)
    if lag > 0:
        step = context.chunk * context.timed(moving[0]).rate
        lag = int(math.ceil(lag / step) * step)
    return [trim(context, delay_to(context, n, lag, node), 0, node) for n in moving]


def _converted(context: StreamingContext, value: fx.Node, dtype: torch.dtype, before: fx.Node) -> fx.Node:
    new = context.annotate(context.insert(before, aten._to_copy.default, value), value, context.timed(value))
    new.kwargs = {"dtype": dtype}
    for run in context.runs.all:
        run[new] = run[value].to(dtype)
    return new


def _states(
    context: StreamingContext, node: fx.Node, scan: Scan, loop: RolledLoop, frames: Sequence[fx.Node]
) -> list[fx.Node]:
    """The carried values as states in the shape of one frame, after the frames that are known ahead of time."""
    starts = [
        _start(run, node, scan, loop, frames, -(context.timed(frames[0]).lag or 0)) for run in context.runs.all[::2]
    ]
    found = []
    for carried, base, other in zip(scan.carried, *starts, strict=True):
        name = context.names.kept(node, carried.name)
        found.append(context.states.add(name, node, (base, other), node, "scan", scan.why))
    return found


def _start(
    run: Mapping[fx.Node, Any], node: fx.Node, scan: Scan, loop: RolledLoop, frames: Sequence[fx.Node], known: int
) -> Sequence[Tensor]:
    """The carried values after the first `known` frames."""
    (axis,) = {path[0].axis for path in loop.scans}
    value = run[node] if isinstance(run[node], Tensor) else run[node][0]
    like, start = value.select(axis, 0), []
    for carried in scan.carried:
        dtype, parts = carried.dtype or like.dtype, [carried.parts] if carried.parts > 1 else []
        start.append(torch.full([*like.shape, *parts], carried.start(dtype), dtype=dtype))
    if known <= 0:
        return start
    with torch.no_grad():
        given: Sequence[Tensor] = loop(*(run[n].narrow(axis, 0, known) for n in frames), *start)
    return given[scan.results :]
