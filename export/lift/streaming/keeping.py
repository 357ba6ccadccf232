"""States put into a graph: frames of the past, memory, and the count of frames that gates them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor, fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.program.fx import END, aten
from rnn_export.export.lift.streaming.frames import close, differs
from rnn_export.export.lift.streaming.recorded import BASE, BATCH, MORE, MORE_ROWS, OTHER, Recorded
from rnn_export.export.lift.streaming.states import Kept, Rows, matching


class Keeping(Recorded):
    """Brings values to one lag, and keeps what a step needs of the steps before."""

    def aligned(self, node: fx.Node, timed: Sequence[fx.Node], lag: int | None) -> int:
        """Bring each argument of `node` to `lag`, and to the same frames of the past, whose number it gives."""
        late = [self.delayed(n, lag, node) for n in timed]
        moving = [n for n in late if self.info[n].lag is not None]
        past = min((self.info[n].past for n in moving), default=0)
        if len(moving) < len(late):
            past = 0
        for old, new in zip(timed, late, strict=True):
            trimmed = self.trimmed(new, past, node) if new in moving else new
            if trimmed is not old:
                node.replace_input_with(old, trimmed)
        return past

    def trimmed(self, value: fx.Node, past: int, before: fx.Node) -> fx.Node:
        """`value` with only `past` frames of the past at its front."""
        info = self.info[value]
        if info.past == past:
            return value
        with self.graph.inserting_before(before):
            cut = self.graph.call_function(aten.slice.Tensor, (value, info.axis, (info.past - past) * info.inner, END))
        return self.stand_in(cut, value, replace(info, past=past))

    def delayed(self, value: fx.Node, lag: int | None, before: fx.Node) -> fx.Node:
        """The frames of `value`, known as late as `lag`."""
        info = self.info[value]
        if lag is None or info.lag is None or info.lag == lag:
            return value
        more = lag - info.lag
        if info.outer != 1:
            raise self.refuse(before, "frames of different lags meet where time and batch are one axis.")
        if info.past >= more:
            with self.graph.inserting_before(before):
                cut = self.graph.call_function(aten.slice.Tensor, (value, info.axis, 0, -more * info.inner))
            return self.stand_in(cut, value, replace(info, lag=lag, past=info.past - more, waited=info.waited + more))
        value = self.trimmed(value, 0, before)
        info = self.info[value]
        held = self.with_past(value, more, before, "delay", f"frames that wait {more} frames for others")
        with self.graph.inserting_before(before):
            cut = self.graph.call_function(aten.slice.Tensor, (held, info.axis, 0, -more * info.inner))
        return self.stand_in(cut, value, replace(info, lag=lag, waited=info.waited + more))

    def settled(self, value: fx.Node, before: fx.Node) -> fx.Node:
        """`value` at a lag at which frames that do not exist yet fill whole steps, and none known before its time."""
        info = self.info[value]
        step = self.chunk * info.rate
        lag = 0 if info.lag is None else max(int(math.ceil(info.lag / step) * step), 0)
        delayed = self.delayed(value, lag, before)
        return self.trimmed(delayed, 0, before) if self.info[delayed].past else delayed

    def with_past(self, value: fx.Node, frames: int, before: fx.Node, what: str, why: str) -> fx.Node:
        """`value` behind the `frames` frames before it, which are kept in a state."""
        info = self.info[value]
        entries = frames * info.inner
        start = (-(info.lag or 0) - frames) * info.inner

        def first(run: int) -> Tensor:
            """The frames before the first: those known before their time, and zeros for those that never were."""
            whole = self.values[run][value]
            known = whole.narrow(info.axis, max(start, 0), max(start + entries, 0) - max(start, 0))
            missing = entries - known.shape[info.axis]
            shape = [missing if a == info.axis else n for a, n in enumerate(whole.shape)]
            return torch.cat([whole.new_zeros(shape), known], info.axis)

        name = self.names.kept(before, what)
        own = self.new_state(name, value, first(BASE), first(MORE), before, "frames", why)
        with self.graph.inserting_before(before):
            joined = self.graph.call_function(aten.cat.default, ([own, value], info.axis))
            kept = self.graph.call_function(aten.slice.Tensor, (joined, info.axis, -entries, END))
        self.set_next(kept, own)
        return joined

    def new_state(
        self, name: str, like: fx.Node, few: Tensor, many: Tensor, before: fx.Node, kind: str, why: str
    ) -> fx.Node:
        """A new state that starts as `few` (and `many` for another batch), in the layout of `like`."""
        batch = self.rows_of(like, few, many)
        rows, more = batch.rows(few, BATCH), batch.rows(many, MORE_ROWS)
        row = rows[0]
        if not (close(rows, row.expand_as(rows)) and close(more, row.expand_as(more))):
            raise LiftError(
                f"{name}: its initial value differs between the rows of a batch, so no row can start alone. "
                "Use one learned vector for all rows."
            )
        with self.graph.inserting_after(self.last_input):
            self.last_input = self.graph.placeholder(f"state_{len(self.states)}")
        self.states.append(Kept(name, row.detach().clone(), kind, why))
        state = self.last_input
        with self.graph.inserting_before(before):
            own = self.graph.call_function(aten.alias.default, (batch.own_nodes(self.graph, state, few),))
        self.owners[own] = self.states[-1], batch, state
        return own

    def set_next(self, value: fx.Node, own: fx.Node, late: Fraction = Fraction(0)) -> None:
        """`value`, in the layout of `own`, is the next value of that state; it moves once `late` frames went in."""
        kept, batch, state = self.owners[own]
        # All of it stands before the next node of the graph, in order.
        with self.graph.inserting_before(value.next):
            rows = batch.row_nodes(self.graph, value, kept.initial.shape)
            self.after[kept.name] = self.gated(rows, state, kept.initial.dim() + 1, late)

    def rows_of(self, like: fx.Node, few: Tensor, many: Tensor) -> Rows:
        axes = [a for a in range(few.dim()) if few.shape[a] != many.shape[a]]
        if len(axes) != 1:
            raise self.refuse(
                like,
                "a value that is kept from frame to frame has no batch axis, so all streams of a batch would share it: "
                "make it in the shape of the batch, x.new_zeros(x.shape[0], ...).",
            )
        (axis,) = axes
        inner = few.shape[axis] // BATCH
        lead = axis if all(n == 1 for n in few.shape[:axis]) else 0
        if inner == 1:
            return Rows(axis, 1, True, lead)
        moved = differs(self.values[OTHER][like], self.values[BASE][like])
        places = moved.movedim(matching(moved, few, axis), 0).flatten(1).any(1)
        size = int(places.shape[0])
        where = set(places.nonzero().flatten().tolist())
        major = where <= set(range(size // BATCH))
        if not major and not where <= set(range(0, size, BATCH)):
            raise self.refuse(like, "the rows of the batch are mixed with others in a way that cannot be told apart.")
        return Rows(axis, inner, major, lead)

    def gated(self, new: fx.Node, old: fx.Node, rank: int, late: Fraction) -> fx.Node:
        """`new` once `late` frames went in, and `old` before; at the graph's insertion point."""
        if late <= 0:
            return new
        return self.graph.call_function(aten.where.self, (self.after_frames(late, rank), new, old))

    def after_frames(self, late: Fraction, rank: int) -> fx.Node:
        """Whether `late` frames of the input went in, (B, 1, ...) of `rank` axes; at the graph's insertion point."""
        if self.count is None:
            with self.graph.inserting_after(self.last_input):
                self.count = self.last_input = self.graph.placeholder("warm_up")
            name = self.names.unused("warm_up")
            self.counter = Kept(name, torch.zeros(1), "counter", "frames seen, until the context is full")
            self.states.append(self.counter)
        self.needed = max(self.needed, late)
        ready = self.graph.call_function(aten.ge.Scalar, (self.count, float(late)))
        return self.graph.call_function(aten.reshape.default, (ready, [-1] + [1] * (rank - 1)))
