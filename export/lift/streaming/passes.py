"""The pass itself: one node after the other, and the outputs at the end."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn

from rnn_export.errors import LiftError
from rnn_export.export.lift.program.fx import SAME, args_of, aten, results, values_of
from rnn_export.export.lift.program.names import OPS
from rnn_export.export.lift.streaming.context import TRANSPOSED, WINDOWS
from rnn_export.export.lift.streaming.frames import Info, Last, Refused, Timed, positive
from rnn_export.export.lift.streaming.reasons import name_of, reason_of
from rnn_export.export.lift.streaming.recorded import BASE, LONGER, Sample
from rnn_export.export.lift.streaming.recurrences import Recurrences
from rnn_export.export.lift.streaming.states import Kept
from rnn_export.export.lift.streaming.tried import Mixed, Trial
from rnn_export.export.lift.streaming.windows import Windows


@dataclass(frozen=True)
class Streamed:
    """What the pass found.

    Attributes:
        states: in the order of the graph's new inputs.
        delay: frames of the input before the first output.
        every: by output, for how many frames of the input it has one.
    """

    states: list[Kept]
    delay: int
    every: list[int]


def stream(
    module: fx.GraphModule,
    model: nn.Module,
    sample: Sample,
    input_time: Sequence[int | None],
    outputs: int,
    output_time: Sequence[int | None],
    chunk: int,
) -> Streamed:
    """Rewrite `module`, (inputs..., states...) -> (outputs..., next states...), in place.

    Args:
        module: a graph for sequences of any length.
        model: the model with its layers replaced, to know a stack of layers from its path.
        sample: (batch, frames, seed) to noise for all of its inputs.
        input_time: the time axis of each data input.
        outputs: how many of the results are outputs.
        output_time: the time axis of each of them.
        chunk: frames of the input in one step.

    Raises LiftError, with module path and source line, where a result depends on later frames, or on earlier ones in a
    way that cannot be kept in a state.
    """
    return Pass(module, model, sample, input_time, outputs, output_time, chunk).run()


class Pass(Windows, Recurrences):
    """One pass over one graph."""

    def run(self) -> Streamed:
        for node in list(self.graph.nodes):
            if node.op in ("call_function", "call_module"):
                refused = next((i for n in values_of(node) if isinstance(i := self.info.get(n), Refused)), None)
                if refused is not None and node.op == "call_function" and node.target not in OPS:
                    self.info[node] = refused
                    continue
                try:
                    self.visit(node)
                except LiftError as error:
                    self.info[node] = Refused(error)
        for node in results(self.graph):
            if isinstance(refused := self.info.get(node), Refused):
                raise refused.error
        delay, every = self.finish()
        return Streamed(self.states, delay, every)

    def visit(self, node: fx.Node) -> None:
        if node.target is operator.getitem and isinstance(self.info.get(args_of(node)[0]), list):
            self.info[node] = self.info[args_of(node)[0]][args_of(node)[1]]
            return
        if not isinstance(self.values[BASE][node], Tensor | tuple | list):
            self.number(node)
            return
        timed = [n for n in dict.fromkeys(node.all_input_nodes) if isinstance(self.info.get(n), Timed)]
        last = [n for n in node.all_input_nodes if isinstance(self.info.get(n), Last)]
        if node.op == "call_module":
            self.rolled_loop(node)
        elif node.target in OPS and isinstance(refused := self.info.get(args_of(node)[0]), Refused):
            raise refused.error
        elif not timed:
            self.untimed(node, last)
        elif node.target in OPS and self.time_axis(args_of(node)[0]) == 0:
            self.recurrent(node)
        elif (handler := self.handler(node)) is not None:
            handler(node)
        else:
            self.frame_by_frame(node, timed, last)

    def handler(self, node: fx.Node) -> Callable[[fx.Node], None] | None:
        axis = self.time_axis(args_of(node)[0]) if node.args and isinstance(args_of(node)[0], fx.Node) else None
        if node.target is aten.cat.default:
            dim = self.cat_axis(node)
            return self.cat if any(self.time_axis(n) == dim for n in args_of(node)[0]) else None
        if axis is None:
            return None
        rank = self.values[BASE][args_of(node)[0]].dim()
        if node.target in (aten.pad.default, aten.constant_pad_nd.default):
            pads = args_of(node)[1]
            place = 2 * (rank - 1 - axis)
            return self.pad if len(pads) > place and any(pads[place : place + 2]) else None
        if node.target is aten.slice.Tensor:
            return self.cut if positive(args_of(node)[1], rank) == axis else None
        if node.target is aten.select.int:
            return self.select if positive(args_of(node)[1], rank) == axis else None
        if node.target is aten.unfold.default:
            return self.window if positive(args_of(node)[1], rank) == axis else None
        dims = TRANSPOSED.get(node.target)
        if dims and rank - dims <= axis:
            return self.transposed
        dims = WINDOWS.get(node.target)
        if dims and rank - dims <= axis:
            return self.window
        return None

    def number(self, node: fx.Node) -> None:
        """A length of whole sequences is, piece by piece, what grows with the piece: its constant part falls away."""
        grows = [n for n in node.all_input_nodes if self.grows(n)]
        minus = node.target is operator.sub and args_of(node)[0] in grows
        if len(grows) == 1 and (minus or node.target is operator.add):
            # Not yet: other nodes are still tried with the numbers of whole sequences.
            self.shorter[node] = grows[0]

    def untimed(self, node: fx.Node, last: Sequence[fx.Node]) -> None:
        value, longer = self.values[BASE][node], self.values[LONGER][node]
        if not isinstance(value, Tensor):
            self.info[node] = [Last(max(self.info[n].late for n in last)) if last else None] * len(value)
            return
        growing = [a for a in range(value.dim()) if value.shape[a] != longer.shape[a]]
        if not growing:
            self.refuse_length(node)
            self.info[node] = Last(max(self.info[n].late for n in last)) if last else None
            return
        if last:
            raise self.refuse(
                node, "a value as of the last frame is used for every frame: that looks at the end first."
            )
        (axis,) = growing[:1]
        one = value.select(axis, 0).unsqueeze(axis)
        if len(growing) > 1 or not torch.equal(value, one.expand_as(value)):
            raise self.refuse(
                node,
                "positions over time: this value is another one at each frame, and starts again with each piece of a "
                "stream. Count the frames in a buffer, and compute it from that.",
            )
        rate = Fraction(longer.shape[axis] - value.shape[axis], self.longer - self.frames)
        self.info[node] = Timed(axis, 1, 1, rate, None)

    def refuse_length(self, node: fx.Node) -> None:
        if any(self.grows(n) for n in node.all_input_nodes) and node.target not in SHAPERS:
            raise self.refuse(
                node, f"the length of the sequence is used as a value ({name_of(node)}), and a stream has none."
            )

    def frame_by_frame(self, node: fx.Node, timed: Sequence[fx.Node], last: Sequence[fx.Node]) -> None:
        self.refuse_length(node)
        count = {self.frames_in(n) for n in timed}
        if len(count) > 1:
            # Frames of several entries each may meet as many frames of one.
            self.info |= {n: self.plain(n) for n in timed if self.info[n].outer == 1}
            count = {self.frames_in(n) for n in timed}
        if len(count) > 1:
            raise self.refuse(node, f"{name_of(node)} takes values of different lengths over time.")
        if last:
            raise self.refuse(
                node, "a value as of the last frame is used for every frame: that looks at the end first."
            )
        (frames,) = count
        infos = [self.info[n] for n in timed]
        rates = {i.rate for i in infos}
        lag = max((i.lag for i in infos if i.lag is not None), default=None)
        late = max((i.late for i in infos), default=Fraction(0))
        value, longer = self.values[BASE][node], self.values[LONGER][node]
        several = not isinstance(value, Tensor)
        trial = Trial(node, self.values[BASE], {n: self.info[n] for n in timed}, frames)
        waited = 0 if lag is None else lag - max(i.soonest for i in infos if i.lag is not None)
        found: list[Info] = []
        try:
            for i, (one, other) in enumerate(zip(value, longer, strict=True) if several else [(value, longer)]):
                growing = [a for a in range(one.dim()) if one.shape[a] != other.shape[a]]
                if len(growing) > 1:
                    raise Mixed
                if growing:
                    axis, outer, inner = trial.place(i, growing[0], one.shape[growing[0]])
                    found.append(Timed(axis, outer, inner, next(iter(rates)), lag, waited=waited))
                else:
                    found.append(Last(late) if trial.whole(i) else None)
        except Mixed:
            raise self.refuse(node, reason_of(node)) from None
        if len(rates) > 1:
            raise self.refuse(node, f"{name_of(node)} takes values of different rates over time.")
        past = self.aligned(node, timed, lag)
        found = [replace(f, past=past) if isinstance(f, Timed) else f for f in found]
        self.free_size(node, found[0])
        self.info[node] = found if several else found[0]

    def free_size(self, node: fx.Node, info: Any) -> None:
        """A reshape says its axis of time as the rest, since a piece may be of another length."""
        if node.target in RESHAPES and isinstance(info, Timed):
            sizes = list(args_of(node)[1])
            if -1 not in sizes or node.target is aten.expand.default:
                sizes[info.axis] = -1
            node.update_arg(1, sizes)

    def finish(self) -> tuple[int, list[int]]:
        output = self.graph.output_node()
        given = list(results(self.graph))
        outputs, states = given[: self.outputs], given[self.outputs :]
        lags = [self.output_lag(n, axis) for n, axis in zip(outputs, self.output_time, strict=True)]
        delay = max(
            [*lags, *(self.info[n].late for n in outputs if isinstance(self.info.get(n), Last))], default=Fraction(0)
        )
        if self.chunk % self.multiple:
            raise LiftError(
                f"chunk={self.chunk}: the model takes {self.multiple} frames at once (its strides), so a step "
                f"must have a multiple of {self.multiple}: chunk={math.lcm(self.chunk, self.multiple)} "
                f"(--chunk {math.lcm(self.chunk, self.multiple)})."
            )
        every = [int(1 / self.info[n].rate) if isinstance(self.info.get(n), Timed) else 1 for n in outputs]
        unit = math.lcm(*every)
        delay = Fraction(math.ceil(delay / unit) * unit)
        for i, node in enumerate(outputs):
            info = self.info.get(node)
            if isinstance(info, Timed):
                outputs[i] = self.trimmed(self.delayed(node, int(delay * info.rate), output), 0, output)
        own = self.fed[len(self.inputs) :]
        with self.graph.inserting_before(output):
            after = [self.own_next(old, new) for old, new in zip(own, states, strict=True)]
            if self.count is not None:
                more = self.graph.call_function(aten.add.Tensor, (self.count, float(self.chunk)))
                more = self.graph.call_function(aten.clamp.default, (more, None, float(self.needed)))
                self.after[self.counter.name] = more
        output.args = ((*outputs, *after, *(self.after[s.name] for s in self.states)),)
        for node, grown in self.shorter.items():
            node.replace_all_uses_with(grown)
        for node in list(self.graph.nodes):
            if node.target in SAME:
                node.replace_all_uses_with(args_of(node)[0])
                self.graph.erase_node(node)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()
        return int(delay), every

    def own_next(self, old: fx.Node, new: fx.Node) -> fx.Node:
        """The next value of a state that the model has itself; at the graph's insertion point."""
        info = self.info.get(new)
        late = info.late if isinstance(info, Timed | Last) else Fraction(0)
        if late > 0 and (late / self.chunk).denominator != 1:
            raise self.refuse(new, f"a state of the model moves {late} frames late, which is no multiple of the chunk.")
        return self.gated(new, old, self.values[BASE][new].dim(), late)

    def output_lag(self, node: fx.Node, axis: int | None) -> Fraction:
        """How many frames of the input an output is late."""
        info = self.info.get(node)
        if isinstance(info, Timed) and info.outer == 1:
            info = self.info[node] = self.plain(node)
        if not isinstance(info, Timed):
            if axis is not None:
                raise self.refuse(node, "an output over time does not depend on the input over time.")
            return Fraction(0)
        if info.axis != axis or info.outer != 1 or info.inner != 1:
            raise self.refuse(node, "the frames of an output stand in another axis than time.")
        if info.rate > 1 or info.rate.numerator != 1:
            raise self.refuse(
                node, f"an output has {info.rate} frames for each frame of the input: at most one is possible."
            )
        soonest = max(info.soonest, 0)
        ahead = self.frames_in(node) - (self.frames * info.rate - soonest)
        if ahead > 0:
            where = f": {'; '.join(dict.fromkeys(self.ahead))}" if self.ahead else ""
            raise LiftError(
                f"an output looks {ahead} frames ahead, so it cannot stream{where}. Pad on the left only, or drop the "
                f"padding on the right: the stream is then late by as many frames (its delay)."
            )
        self.multiple = math.lcm(self.multiple, info.rate.denominator)
        return Fraction(max(info.lag or 0, soonest - int(ahead))) / info.rate


RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default}
SHAPERS = RESHAPES | {
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.empty.memory_format,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.new_empty.default,
    aten.slice.Tensor,
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.repeat.default,
    aten.unflatten.int,
}
