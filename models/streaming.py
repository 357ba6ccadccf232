"""The pass that makes a graph of whole sequences one that takes them piece by piece, with what it remembers outside.

Every value over time is a stream of frames. Frame j of it can be known `lag` frames after frame j of the input went in:
padding on the left makes frames known earlier, a window that ends later makes them late. A window over frames keeps the
frames before it in a state; values that meet are brought to the same lag; what begins with frames that do not exist
yet is held still until they do. At the end the lag of the outputs is the delay of the stream, and an output that is
longer than its lag allows has seen the future.

What an operator does along time is not looked up in a table: its value is computed with one frame exchanged, and it
works frame by frame if no other frame of the result changes. Only windows, padding, cuts, joins and recurrences are
known by name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn

from rnn_export.errors import LiftError
from rnn_export.models.loops import RolledLoop
from rnn_export.models.names import OPS, Names
from rnn_export.models.program import (
    END,
    SAME,
    Recorder,
    aten,
    depends_on,
    path_of,
    place_of,
    placeholders,
    results,
    values_of,
)

# Which recorded run: two lengths, another batch, and the first again with another first row.
BASE, LONGER, MORE, OTHER = range(4)
BATCH, MORE_ROWS = 2, 3
# Frames beyond the context of the model in the runs that are looked at.
ROOM = 8

Sample = Callable[[int, int, int], list[Tensor]]


@dataclass(frozen=True)
class Timed:
    """A value that has frames.

    Attributes:
        axis: where they stand.
        outer: rows of others in that axis before the frames, such as the batch; 1 for none.
        inner: entries of one frame in that axis.
        rate: frames for each frame of the input.
        lag: how many frames late each is known, negative if before its time; None for what never changes.
        past: frames at the front of each step that the step before had too.
        waited: how many of the frames that it is late it only waited, for others or for a whole step.
    """

    axis: int
    outer: int
    inner: int
    rate: Fraction
    lag: int | None
    past: int = 0
    waited: int = 0

    @property
    def soonest(self) -> int:
        """The lag that it would have without waiting."""
        return (self.lag or 0) - self.waited

    @property
    def late(self) -> Fraction:
        return Fraction(self.lag or 0) / self.rate


@dataclass(frozen=True)
class Last:
    """A value as of the newest frame, so many frames of the input late."""

    late: Fraction


@dataclass(frozen=True)
class Refused:
    """A value that a stream cannot have: an error only where it is used."""

    error: LiftError


Info = Timed | Last | Refused | None


@dataclass(frozen=True)
class Kept:
    """A state that was found: its name, the row that it starts from, what kind it is and why it is there."""

    name: str
    initial: Tensor
    kind: str
    why: str


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
    return _Pass(module, model, sample, input_time, outputs, output_time, chunk).run()


class _Pass:
    def __init__(
        self,
        module: fx.GraphModule,
        model: nn.Module,
        sample: Sample,
        input_time: Sequence[int | None],
        outputs: int,
        output_time: Sequence[int | None],
        chunk: int,
    ) -> None:
        self.module, self.graph, self.chunk = module, module.graph, chunk
        self.outputs, self.output_time = outputs, output_time
        self.names = Names(model)
        self.fed = placeholders(self.graph)
        self.inputs = self.fed[: len(input_time)]
        self.names.given.update(n.name for n in self.inputs)
        self.from_input = depends_on(self.graph, self.inputs)
        self.from_state = depends_on(self.graph, self.fed[len(self.inputs) :])
        unit, context = _context(self.graph)
        self.frames = unit * (math.ceil(context / unit) + ROOM)
        self.longer = self.frames + unit
        self.values = self._runs(sample)
        self.info: dict[fx.Node, Any] = {}
        for node, axis in zip(self.inputs, input_time, strict=True):
            self.info[node] = None if axis is None else Timed(axis, 1, 1, Fraction(1), 0)
        self.states: list[Kept] = []
        self.after: dict[str, fx.Node] = {}  # by name
        self.owners: dict[fx.Node, tuple[Kept, _Batch, fx.Node]] = {}  # of a state in the layout of the graph
        self.last_input = self.fed[-1]
        self.layers: dict[fx.Node, str] = {}
        self.multiple = 1
        self.ahead: list[str] = []
        self.count: fx.Node | None = None
        self.needed = Fraction(0)

    def _runs(self, sample: Sample) -> list[dict[fx.Node, Any]]:
        base = sample(BATCH, self.frames, 0)
        other = [
            torch.cat([b[:1], a[1:]]) if a.dim() else a
            for a, b in zip(base, sample(BATCH, self.frames, 2), strict=True)
        ]
        fed = [base, sample(BATCH, self.longer, 0), sample(MORE_ROWS, self.frames, 1), other]
        return [Recorder(self.module).values(tensors) for tensors in fed]

    def run(self) -> Streamed:
        for node in list(self.graph.nodes):
            if node.op in ("call_function", "call_module"):
                refused = next((i for n in values_of(node) if isinstance(i := self.info.get(n), Refused)), None)
                if refused is not None and node.op == "call_function" and node.target not in OPS:
                    self.info[node] = refused
                    continue
                try:
                    self._visit(node)
                except LiftError as error:
                    self.info[node] = Refused(error)
        for node in results(self.graph):
            if isinstance(refused := self.info.get(node), Refused):
                raise refused.error
        delay, every = self._finish()
        return Streamed(self.states, delay, every)

    # --- one node

    def _visit(self, node: fx.Node) -> None:
        if node.target is operator.getitem and isinstance(self.info.get(node.args[0]), list):
            self.info[node] = self.info[node.args[0]][node.args[1]]
            return
        if not isinstance(self.values[BASE][node], Tensor | tuple | list):
            self._number(node)
            return
        timed = [n for n in dict.fromkeys(node.all_input_nodes) if isinstance(self.info.get(n), Timed)]
        last = [n for n in node.all_input_nodes if isinstance(self.info.get(n), Last)]
        if node.op == "call_module":
            self._loop(node)
        elif node.target in OPS and isinstance(refused := self.info.get(node.args[0]), Refused):
            raise refused.error
        elif not timed:
            self._untimed(node, last)
        elif node.target in OPS and self._at(node.args[0]) == 0:
            self._recurrent(node)
        elif (handler := self._handler(node)) is not None:
            handler(node)
        else:
            self._frame_by_frame(node, timed, last)

    def _at(self, node: Any) -> int | None:
        """The axis of time of a value in which nothing else stands in that axis before it."""
        info = self.info.get(node)
        return info.axis if isinstance(info, Timed) and info.outer == 1 else None

    def _handler(self, node: fx.Node) -> Callable[[fx.Node], None] | None:
        axis = self._at(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        if node.target is aten.cat.default:
            dim = self._cat_axis(node)
            return self._cat if any(self._at(n) == dim for n in node.args[0]) else None  # type: ignore[union-attr]
        if axis is None:
            return None
        rank = self.values[BASE][node.args[0]].dim()
        if node.target in (aten.pad.default, aten.constant_pad_nd.default):
            pads = node.args[1]
            place = 2 * (rank - 1 - axis)
            return self._pad if len(pads) > place and any(pads[place : place + 2]) else None  # type: ignore[arg-type,index]
        if node.target is aten.slice.Tensor:
            return self._cut if _positive(node.args[1], rank) == axis else None
        if node.target is aten.select.int:
            return self._select if _positive(node.args[1], rank) == axis else None
        if node.target is aten.unfold.default:
            return self._window if _positive(node.args[1], rank) == axis else None
        dims = _WINDOWS.get(node.target)
        if dims and rank - dims <= axis:
            return self._window
        return None

    def refuse(self, node: fx.Node, reason: str) -> LiftError:
        return LiftError(f"{place_of(node)}: {reason}")

    # --- numbers

    def _number(self, node: fx.Node) -> None:
        """A length of whole sequences is, piece by piece, what grows with the piece: its constant part falls away."""
        grows = [n for n in node.all_input_nodes if self._grows(n)]
        minus = node.target is operator.sub and node.args[0] in grows
        if len(grows) == 1 and (minus or node.target is operator.add):
            node.replace_all_uses_with(grows[0])

    def _grows(self, node: fx.Node) -> bool:
        value = self.values[BASE].get(node)
        return isinstance(value, int) and value != self.values[LONGER][node]

    # --- operators that work frame by frame

    def _untimed(self, node: fx.Node, last: Sequence[fx.Node]) -> None:
        value, longer = self.values[BASE][node], self.values[LONGER][node]
        if not isinstance(value, Tensor):
            self.info[node] = [Last(max(self.info[n].late for n in last)) if last else None] * len(value)
            return
        growing = [a for a in range(value.dim()) if value.shape[a] != longer.shape[a]]
        if not growing:
            self._refuse_length(node)
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

    def _refuse_length(self, node: fx.Node) -> None:
        if any(self._grows(n) for n in node.all_input_nodes) and node.target not in _SHAPERS:
            raise self.refuse(
                node, f"the length of the sequence is used as a value ({_name(node)}), and a stream has none."
            )

    def _frame_by_frame(self, node: fx.Node, timed: Sequence[fx.Node], last: Sequence[fx.Node]) -> None:
        self._refuse_length(node)
        count = {self._count(n) for n in timed}
        if len(count) > 1:
            raise self.refuse(node, f"{_name(node)} takes values of different lengths over time.")
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
        shapes = [
            self._frames_of(node, v, w, frames)
            for v, w in zip(*(([value], [longer]) if not several else (value, longer)), strict=True)
        ]
        changed = [self._changed(node, timed, frames, t) for t in (frames // 3, frames // 2, frames - 1)]
        found: list[Info] = []
        for i, (result, candidates) in enumerate(zip([value] if not several else value, shapes, strict=True)):
            marks = [c[i] for c in changed]
            if candidates is None:
                if any(bool(m.any()) for m in marks[:2]):
                    raise self.refuse(node, _reason(node))
                found.append(Last(late) if bool(marks[2].any()) else None)
                continue
            fitting = [
                c
                for c in candidates
                if all(
                    _within(m, c, t, frames) for m, t in zip(marks, (frames // 3, frames // 2, frames - 1), strict=True)
                )
            ]
            if not fitting:
                raise self.refuse(node, _reason(node))
            axis, outer, inner = fitting[0]
            waited = 0 if lag is None else lag - max(i.soonest for i in infos if i.lag is not None)
            found.append(Timed(axis, outer, inner, next(iter(rates)), lag, waited=waited))
            del result
        if len(rates) > 1:
            raise self.refuse(node, f"{_name(node)} takes values of different rates over time.")
        past = self._aligned(node, timed, lag)
        found = [replace(f, past=past) if isinstance(f, Timed) else f for f in found]
        self._free_size(node, found[0])
        self.info[node] = found if several else found[0]

    def _count(self, node: fx.Node) -> int:
        info = self.info[node]
        return int(self.values[BASE][node].shape[info.axis]) // (info.outer * info.inner)

    def _frames_of(self, node: fx.Node, value: Any, longer: Any, frames: int) -> list[tuple[int, int, int]] | None:
        """Every way in which `frames` frames can stand in a result: axis, outer, inner; None if it has no time."""
        if not isinstance(value, Tensor):
            return None
        growing = [a for a in range(value.dim()) if value.shape[a] != longer.shape[a]]
        if not growing:
            return None
        size = value.shape[growing[0]]
        if len(growing) > 1 or size % frames:
            raise self.refuse(node, _reason(node))
        rest = size // frames
        outers = [n for n in range(1, rest + 1) if rest % n == 0]
        return [(growing[0], outer, rest // outer) for outer in outers]

    def _changed(self, node: fx.Node, timed: Sequence[fx.Node], frames: int, t: int) -> list[Tensor]:
        """Where each result changes if frame t of every argument over time becomes another."""
        values = self.values[BASE]
        swapped = {n: _exchanged(values[n], self.info[n], frames, t, (t + frames // 2 + 1) % frames) for n in timed}

        def argument(n: fx.Node) -> Any:
            return swapped.get(n, values[n])

        args, kwargs = fx.node.map_arg(node.args, argument), fx.node.map_arg(node.kwargs, argument)
        with torch.no_grad():
            given = node.target(*args, **kwargs)  # type: ignore[operator]
        pairs = zip(
            *((given, values[node]) if not isinstance(given, Tensor) else ([given], [values[node]])), strict=True
        )
        return [_differs(a, b) for a, b in pairs]

    def _free_size(self, node: fx.Node, info: Any) -> None:
        """A reshape says its axis of time as the rest, since a piece may be of another length."""
        if node.target in _RESHAPES and isinstance(info, Timed):
            sizes = list(node.args[1])  # type: ignore[arg-type]
            if -1 not in sizes or node.target is aten.expand.default:
                sizes[info.axis] = -1
            node.update_arg(1, sizes)

    # --- bringing values to one lag

    def _aligned(self, node: fx.Node, timed: Sequence[fx.Node], lag: int | None) -> int:
        """Bring each argument of `node` to `lag`, and to the same frames of the past, whose number it gives."""
        late = [self._delayed(n, lag, node) for n in timed]
        moving = [n for n in late if self.info[n].lag is not None]
        past = min((self.info[n].past for n in moving), default=0)
        if len(moving) < len(late):
            past = 0
        for old, new in zip(timed, late, strict=True):
            trimmed = self._trimmed(new, past, node) if new in moving else new
            if trimmed is not old:
                node.replace_input_with(old, trimmed)
        return past

    def _trimmed(self, value: fx.Node, past: int, before: fx.Node) -> fx.Node:
        """`value` with only `past` frames of the past at its front."""
        info = self.info[value]
        if info.past == past:
            return value
        with self.graph.inserting_before(before):
            cut = self.graph.call_function(aten.slice.Tensor, (value, info.axis, (info.past - past) * info.inner, END))
        return self._known(cut, value, replace(info, past=past))

    def _known(self, new: fx.Node, like: fx.Node, info: Timed) -> fx.Node:
        """A node of ours that holds the frames of `like`, seen over a whole sequence."""
        self.info[new] = info
        new.meta = {k: v for k, v in like.meta.items() if k != "val"}
        for run in self.values:
            run[new] = run[like]
        return new

    def _delayed(self, value: fx.Node, lag: int | None, before: fx.Node) -> fx.Node:
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
            return self._known(cut, value, replace(info, lag=lag, past=info.past - more, waited=info.waited + more))
        value = self._trimmed(value, 0, before)
        info = self.info[value]
        held = self._with_past(value, more, before, "delay", f"frames that wait {more} frames for others")
        with self.graph.inserting_before(before):
            cut = self.graph.call_function(aten.slice.Tensor, (held, info.axis, 0, -more * info.inner))
        return self._known(cut, value, replace(info, lag=lag, waited=info.waited + more))

    def _settled(self, value: fx.Node, before: fx.Node) -> fx.Node:
        """`value` at a lag at which frames that do not exist yet fill whole steps, and none known before its time."""
        info = self.info[value]
        step = self.chunk * info.rate
        lag = 0 if info.lag is None else max(int(math.ceil(info.lag / step) * step), 0)
        delayed = self._delayed(value, lag, before)
        return self._trimmed(delayed, 0, before) if self.info[delayed].past else delayed

    def _with_past(self, value: fx.Node, frames: int, before: fx.Node, what: str, why: str) -> fx.Node:
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
        own = self._state(name, value, first(BASE), first(MORE), before, "frames", why)
        with self.graph.inserting_before(before):
            joined = self.graph.call_function(aten.cat.default, ([own, value], info.axis))
            kept = self.graph.call_function(aten.slice.Tensor, (joined, info.axis, -entries, END))
        self._next(kept, own)
        return joined

    # --- states

    def _state(
        self, name: str, like: fx.Node, few: Tensor, many: Tensor, before: fx.Node, kind: str, why: str
    ) -> fx.Node:
        """A new state that starts as `few` (and `many` for another batch), in the layout of `like`."""
        batch = self._batch_axis(like, few, many)
        rows, more = batch.rows(few, BATCH), batch.rows(many, MORE_ROWS)
        row = rows[0]
        if not (_close(rows, row.expand_as(rows)) and _close(more, row.expand_as(more))):
            raise LiftError(
                f"{name}: its initial value differs between the rows of a batch, so no row can start alone. "
                "Use one learned vector for all rows."
            )
        with self.graph.inserting_after(self.last_input):
            self.last_input = self.graph.placeholder(name.replace(".", "_") + "_state")
        self.states.append(Kept(name, row.clone(), kind, why))
        state = self.last_input
        with self.graph.inserting_before(before):
            own = self.graph.call_function(aten.alias.default, (batch.own_nodes(self.graph, state, few),))
        self.owners[own] = self.states[-1], batch, state
        return own

    def _next(self, value: fx.Node, own: fx.Node, late: Fraction = Fraction(0)) -> None:
        """`value`, in the layout of `own`, is the next value of that state; it moves once `late` frames went in."""
        kept, batch, state = self.owners[own]
        # All of it stands before the next node of the graph, in order.
        with self.graph.inserting_before(value.next):
            rows = batch.row_nodes(self.graph, value, kept.initial.shape)
            self.after[kept.name] = self._gated(rows, state, kept.initial.dim() + 1, late)

    def _batch_axis(self, like: fx.Node, few: Tensor, many: Tensor) -> _Batch:
        axes = [a for a in range(few.dim()) if few.shape[a] != many.shape[a]]
        if len(axes) != 1:
            raise self.refuse(like, "a state was found that has no batch axis.")
        (axis,) = axes
        inner = few.shape[axis] // BATCH
        lead = axis if all(n == 1 for n in few.shape[:axis]) else 0
        if inner == 1:
            return _Batch(axis, 1, True, lead)
        moved = _differs(self.values[OTHER][like], self.values[BASE][like])
        places = moved.movedim(_matching(moved, few, axis), 0).flatten(1).any(1)
        size = int(places.shape[0])
        where = set(places.nonzero().flatten().tolist())
        major = where <= set(range(size // BATCH))
        if not major and not where <= set(range(0, size, BATCH)):
            raise self.refuse(like, "the rows of the batch are mixed with others in a way that cannot be told apart.")
        return _Batch(axis, inner, major, lead)

    # --- waiting for the first frames

    def _gated(self, new: fx.Node, old: fx.Node, rank: int, late: Fraction) -> fx.Node:
        """`new` once `late` frames went in, and `old` before; at the graph's insertion point."""
        if late <= 0:
            return new
        return self.graph.call_function(aten.where.self, (self._ready(late, rank), new, old))

    def _ready(self, late: Fraction, rank: int) -> fx.Node:
        """Whether `late` frames of the input went in, (B, 1, ...) of `rank` axes; at the graph's insertion point."""
        if self.count is None:
            with self.graph.inserting_after(self.last_input):
                self.count = self.last_input = self.graph.placeholder("warm_up_state")
            name = self.names.unused("warm_up")
            self.counter = Kept(name, torch.zeros(1), "counter", "frames seen, until the context is full")
            self.states.append(self.counter)
        self.needed = max(self.needed, late)
        ready = self.graph.call_function(aten.ge.Scalar, (self.count, float(late)))
        return self.graph.call_function(aten.reshape.default, (ready, [-1] + [1] * (rank - 1)))

    # --- recurrences

    def _recurrent(self, node: fx.Node) -> None:
        directions = self.values[BASE][node.args[1]].shape[0]
        if directions == 2:
            kind = str(node.target).split(".")[1].upper()
            path = self.names.layer(node).rpartition(".")[0] or "the model"
            raise LiftError(
                f"{path}: the {kind} is bidirectional: it needs the end of the sequence before it can give the first "
                "frame, so it cannot stream. Train it with bidirectional=False, or export whole sequences only: "
                "sequence_only=True (--sequence-only)."
            )
        path = self.names.layer(node)
        x = node.args[0]
        assert isinstance(x, fx.Node)
        for argument, letter, _ in OPS[node.target]:
            self._refuse_computed(path, node.args[argument], letter)
        ready = self._settled(x, node)
        node.update_arg(0, ready)
        info = self.info[ready]
        for argument, letter, result in OPS[node.target]:
            operand = node.args[argument]
            assert isinstance(operand, fx.Node)
            if operand in self.from_state:
                continue
            name = self.names.unused(f"{path}.{letter}")
            values = [self.values[run][operand] for run in (BASE, MORE)]
            why = f"the {letter} of a recurrent layer that is called without it, or with one made in forward"
            own = self._state(name, operand if operand in self.from_input else x, *values, node, "layer", why)
            node.update_arg(argument, own)
            self._next(self._result(node, result), own, info.late)
        late = Last(info.late)
        self.info[node] = [replace(info, axis=0), *([late] * (len(self.values[BASE][node]) - 1))]

    def _refuse_computed(self, path: str, operand: Any, what: str) -> None:
        if isinstance(self.info.get(operand), Timed | Last | Refused) or (
            operand in self.from_input and operand not in self.from_state
        ):
            raise LiftError(
                f"{path}: the state {what!r} that it starts from is computed from the input, so it cannot be carried "
                "between calls. Take it as an argument and declare it: states={argument: output}."
            )

    def _result(self, node: fx.Node, index: int) -> fx.Node:
        taken = [u for u in node.users if u.target is operator.getitem and u.args[1] == index]
        if taken:
            return taken[0]
        with self.graph.inserting_after(node):
            return self.graph.call_function(operator.getitem, (node, index))

    def _loop(self, node: fx.Node) -> None:
        loop = self.module.get_submodule(str(node.target))
        assert isinstance(loop, RolledLoop)
        args = list(node.args)
        first_memory = len(args) - loop.memories
        first_frame = first_memory - len(loop.scans)
        if isinstance(
            refused := next((i for n in args[:first_memory] if isinstance(i := self.info.get(n), Refused)), None),
            Refused,
        ):
            raise refused.error
        for argument in args[:first_frame]:
            if isinstance(self.info.get(argument), Timed | Last):
                raise self.refuse(node, "its loop over time takes the whole sequence at each frame.")
        frames = args[first_frame:first_memory]
        for x, path in zip(frames, loop.scans, strict=True):
            if self._at(x) != path[0][1] or self.info[x].inner != 1:
                raise self.refuse(node, "its loop does not run over the frames of the input.")
        if len({self.info[x].rate for x in frames}) > 1:
            raise self.refuse(node, "its loop takes values of different rates over time.")
        settled = [self._settled(x, node) for x in frames]
        lag = max(self.info[x].lag or 0 for x in settled)
        settled = [self._delayed(x, lag, node) for x in settled]
        info = self.info[settled[0]]
        given = self.values[BASE][node]
        kept = len(given) - loop.memories
        args[first_frame:first_memory] = settled
        for i in range(loop.memories):
            operand = args[first_memory + i]
            name, what = self._memory_name(loop, i)
            self._refuse_computed(name, operand, what)
            if operand in self.from_state:
                continue
            why = "a variable that the model's own loop carries from frame to frame"
            like = self._like_result(node, kept + i)
            values = [self.values[run][operand].expand_as(self.values[run][like]) for run in (BASE, MORE)]
            own = self._state(self.names.unused(name), like, *values, node, "loop", why)
            args[first_memory + i] = own
            self._next(self._result(node, kept + i), own, info.late)
        node.args = tuple(args)
        infos: list[Info] = []
        for i in range(len(given)):
            if i < len(loop.joins):
                dim = loop.joins[i][1]
                axis = _positive(dim, given[i].dim())
                size = given[i].shape[axis] // self._count(settled[0])
                infos.append(replace(info, axis=axis, inner=size, past=0, lag=lag))
            else:
                infos.append(Last(info.late))
        self.info[node] = infos

    def _like_result(self, node: fx.Node, index: int) -> fx.Node:
        """A node with the values of one result of `node`."""
        result = self._result(node, index)
        for run in self.values:
            run[result] = run[node][index]
        return result

    def _memory_name(self, loop: RolledLoop, index: int) -> tuple[str, str]:
        """The name of one memory: by the layer that takes it, or else by the module that reads it first."""
        memory = placeholders(loop.body.graph)[index - loop.memories]
        node = memory
        while len(node.users) == 1:
            user = next(iter(node.users))
            for argument, letter, _ in OPS.get(user.target, ()):
                if user.args[argument] is node:
                    if user not in self.layers:
                        self.layers[user] = self.names.layer(user)
                    return f"{self.layers[user]}.{letter}", letter
            if len(user.all_input_nodes) > 1 or user.op == "output":
                break
            node = user
        path = path_of(next(iter(memory.users), memory))
        return ".".join([*filter(None, [path]), "state"]), "state"

    # --- windows, padding, cuts and joins over time

    def _plain(self, value: fx.Node) -> Timed:
        """The info of a value with every entry of its axis taken as a frame."""
        info: Timed = self.info[value]
        lag = None if info.lag is None else info.lag * info.inner
        waited = info.waited * info.inner
        return replace(info, inner=1, rate=info.rate * info.inner, lag=lag, past=info.past * info.inner, waited=waited)

    def _window(self, node: fx.Node) -> None:
        value = node.args[0]
        assert isinstance(value, fx.Node)
        info = self._plain(value)
        size, stride, padding = self._window_of(node, info)
        if info.lag is None:
            info = replace(info, lag=0)
        left, right, fill = padding
        if right:
            self.ahead.append(f"{place_of(node)} looks {right} frames ahead (padding on the right)")
        with self.graph.inserting_before(node):
            value = self._alias(value, info)
        if left:
            value = self._padded(value, left, fill, node)
        info = self.info[value]
        lag = (info.lag + size - 1) // stride
        past = stride * lag - info.lag
        if past > info.past:
            value = self._trimmed(value, 0, node)
            why = f"the {past} frames before each window of {size}"
            joined = self._with_past(value, past, node, "frames", why)
        else:
            joined = self._trimmed(value, past, node)
        node.update_arg(0, joined)
        rate = info.rate / stride
        self.multiple = math.lcm(self.multiple, rate.denominator)
        waited = lag - (info.soonest + size - 1) // stride
        self.info[node] = replace(info, rate=rate, lag=lag, past=0, waited=waited)

    def _alias(self, value: fx.Node, info: Timed) -> fx.Node:
        return self._known(self.graph.call_function(aten.alias.default, (value,)), value, info)

    def _window_of(self, node: fx.Node, info: Timed) -> tuple[int, int, tuple[int, int, float]]:
        """Size and stride of a window in frames, and (left, right, value) of the padding, taken out of `node`."""
        if node.target is aten.unfold.default:
            return int(node.args[2]), int(node.args[3]), (0, 0, 0.0)  # type: ignore[arg-type]
        rank = self.values[BASE][node.args[0]].dim()
        dims = _WINDOWS[node.target]
        place = info.axis - (rank - dims)
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = {a.name: a.default_value for a in schema} | dict(zip((a.name for a in schema), node.args, strict=False))

        def at(name: str, usual: int) -> int:
            values = given.get(name)
            return usual if not values else int(values[place] if len(values) > 1 else values[0])

        convolution = "weight" in given
        kernel = self.values[BASE][given["weight"]].shape[2 + place] if convolution else at("kernel_size", 1)
        size = at("dilation", 1) * (kernel - 1) + 1
        stride = at("stride", 1 if convolution else kernel)
        padding = given.get("padding")
        if isinstance(padding, str):
            total = size - 1 if padding == "same" else 0
            left, right = total // 2, total - total // 2
        else:
            left = right = at("padding", 0)
        if left or right:
            if not convolution:
                raise self.refuse(node, f"{_name(node)} pads over time at both ends: pad on the left, before it.")
            self._without_padding(node, place, dims, isinstance(padding, str), given)
        return size, stride, (left, right, 0.0)

    def _without_padding(self, node: fx.Node, place: int, dims: int, named: bool, given: Mapping[str, Any]) -> None:
        if named:
            if dims > 1:
                raise self.refuse(node, 'padding="same" in several axes, one of them time: give the numbers.')
            node.target = {aten.conv1d.padding: aten.conv1d.default}[node.target]
            pads = [0]
        else:
            pads = list(given["padding"])
            pads = pads * dims if len(pads) == 1 else pads
            pads[place] = 0
        index = [a.name for a in node.target._schema.arguments].index("padding")  # type: ignore[union-attr]
        args = list(node.args)
        defaults = [a.default_value for a in node.target._schema.arguments]  # type: ignore[union-attr]
        while len(args) <= index:
            args.append(defaults[len(args)])
        args[index] = pads
        node.args = tuple(args)

    def _pad(self, node: fx.Node) -> None:
        value, pads, *rest = node.args
        assert isinstance(value, fx.Node)
        mode, fill = "constant", 0.0
        for given in rest:
            if isinstance(given, str):
                mode = given
            elif given is not None:
                fill = float(given)  # type: ignore[arg-type]
        info = self._plain(value)
        rank = self.values[BASE][value].dim()
        place = 2 * (rank - 1 - info.axis)
        left, right = pads[place : place + 2]  # type: ignore[index,misc]
        if mode != "constant":
            raise self.refuse(node, f"padding over time by {mode} takes frames that come later: pad with a constant.")
        if right > 0:
            self.ahead.append(f"{place_of(node)} looks {right} frames ahead (padding on the right)")
        others = [0 if i in (place, place + 1) else p for i, p in enumerate(pads)]  # type: ignore[arg-type]
        node.args = (value, others, *rest)
        self._cut_or_pad(node, info, left, fill)
        if not any(others):
            node.target, node.args = aten.alias.default, (node.args[0],)

    def _cut_or_pad(self, node: fx.Node, info: Timed, left: int, fill: float) -> None:
        """`node` becomes its argument with `left` more frames at the beginning of the sequence, or so many less."""
        value = node.args[0]
        assert isinstance(value, fx.Node)
        if left > 0 and (info.lag or 0) > 0:
            filled = self._filled(value, fill, node)
            node.update_arg(0, filled)
            info = replace(self._plain(filled), past=0)
        lag = None if info.lag is None and fill == 0 and left <= 0 else (info.lag or 0) - left
        self.info[node] = replace(info, lag=lag)

    def _padded(self, value: fx.Node, left: int, fill: float, before: fx.Node) -> fx.Node:
        """A node of ours with `left` more frames at the beginning."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(aten.alias.default, (value,))
        node.meta = {k: v for k, v in before.meta.items() if k != "val"}
        axis = self.info[value].axis
        for run in self.values:
            whole = run[value]
            shape = [left if a == axis else n for a, n in enumerate(whole.shape)]
            run[node] = torch.cat([whole.new_full(shape, fill), whole], axis)
        self._cut_or_pad(node, self.info[value], left, fill)
        return node

    def _filled(self, value: fx.Node, fill: float, before: fx.Node) -> fx.Node:
        """`value` with `fill` in place of the frames that do not exist yet."""
        settled = self._settled(value, before)
        info = self.info[settled]
        axis = [
            a
            for a, (m, n) in enumerate(
                zip(self.values[BASE][settled].shape, self.values[MORE][settled].shape, strict=True)
            )
            if m != n
        ]
        rank = self.values[BASE][settled].dim()
        if len(axis) != 1 or self.values[BASE][settled].shape[axis[0]] != BATCH:
            raise self.refuse(before, "padding over time of late frames whose batch is merged with another axis.")
        with self.graph.inserting_before(before):
            ready = self._ready(info.late, rank)
            shape = [-1 if a == axis[0] else 1 for a in range(rank)]
            ready = self.graph.call_function(aten.reshape.default, (ready, shape))
            chosen = self.graph.call_function(aten.where.ScalarOther, (ready, settled, fill))
        return self._known(chosen, settled, info)

    def _cut(self, node: fx.Node) -> None:
        value = node.args[0]
        assert isinstance(value, fx.Node)
        info = self._plain(value)
        size = self.values[BASE][value].shape[info.axis]
        start, step = self._bound(node, 2, 0), self._bound(node, 4, 1)
        longer = self.values[LONGER][value].shape[info.axis]
        kept, more = (int(run[node].shape[info.axis]) for run in (self.values[BASE], self.values[LONGER]))
        if kept == more:
            if start[0] - size != start[1] - longer and not (start[0] < 0 and start[0] == start[1]):
                raise self.refuse(
                    node, "it takes a fixed part of the sequence, which a stream has no beginning or end for."
                )
            if kept > info.past + 1:
                raise self.refuse(
                    node, f"it takes the last {kept} frames of the sequence: keep them in a buffer, or pad on the left."
                )
            self.info[node] = Last(Fraction(info.lag or 0) / info.rate)
            node.args = (value, info.axis, -kept, END)
            return
        first = start[0] if start[0] >= 0 else start[0] + size
        if start[0] != start[1] or step[0] < 1 or (step[0] == 1 and more - kept != longer - size):
            raise self.refuse(node, "it cuts the sequence at a place that depends on its length.")
        node.target, node.args = aten.alias.default, (value,)
        self._cut_or_pad(node, info, -first, 0.0)
        if step[0] > 1:
            self._decimated(node, step[0])

    def _bound(self, node: fx.Node, index: int, usual: int) -> tuple[int, int]:
        given = node.args[index] if len(node.args) > index else None
        if isinstance(given, fx.Node):
            return self.values[BASE][given], self.values[LONGER][given]
        return (usual, usual) if given is None else (int(given), int(given))  # type: ignore[arg-type]

    def _decimated(self, node: fx.Node, step: int) -> None:
        """Every `step`th frame of what `node` is an alias of."""
        info = self.info[node]
        source = node.args[0]
        assert isinstance(source, fx.Node)
        lag = (info.lag or 0) // step
        past = step * lag - (info.lag or 0)
        if past > info.past:
            raise self.refuse(
                node, "it takes every other frame from one that is known before its time: pad after that."
            )
        with self.graph.inserting_before(node):
            front = self.graph.call_function(aten.slice.Tensor, (source, info.axis, info.past - past, END))
        node.target, node.args = aten.slice.Tensor, (front, info.axis, 0, END, step)
        rate = info.rate / step
        self.multiple = math.lcm(self.multiple, rate.denominator)
        self.info[node] = replace(info, rate=rate, lag=lag, past=0, waited=lag - info.soonest // step)

    def _select(self, node: fx.Node) -> None:
        value, _, index = node.args
        assert isinstance(value, fx.Node)
        info = self._plain(value)
        at = [self.values[run][index] if isinstance(index, fx.Node) else int(index) for run in (BASE, LONGER)]  # type: ignore[arg-type]
        sizes = [self.values[run][value].shape[info.axis] for run in (BASE, LONGER)]
        if any(i not in (-1, n - 1) for i, n in zip(at, sizes, strict=True)):
            raise self.refuse(node, f"it takes frame {at[0]} of the sequence alone: a stream has only the newest one.")
        node.update_arg(2, -1)
        self.info[node] = Last(Fraction(info.lag or 0) / info.rate)

    def _cat_axis(self, node: fx.Node) -> int:
        dim = node.args[1] if len(node.args) > 1 else 0
        return _positive(dim, self.values[BASE][node].dim())

    def _cat(self, node: fx.Node) -> None:
        parts = [n for n in node.args[0] if self.values[BASE][n].numel()]  # type: ignore[union-attr]
        axis = self._cat_axis(node)
        timed = [i for i, n in enumerate(parts) if self._at(n) == axis]
        if len(timed) != 1 or any(
            isinstance(self.info.get(n), Timed | Last) for i, n in enumerate(parts) if i not in timed
        ):
            raise self.refuse(
                node, "it joins two sequences one behind the other: a stream has no end at which to do so."
            )
        value, front, back = parts[timed[0]], parts[: timed[0]], parts[timed[0] + 1 :]
        if back:
            frames = sum(self.values[BASE][n].shape[axis] for n in back)
            self.ahead.append(f"{place_of(node)} looks {frames} frames ahead (frames joined behind)")
        info = self._plain(value)
        frames = sum(self.values[BASE][n].shape[axis] for n in front)
        if any(n in self.from_state for n in front):
            # The model keeps its own past.
            value = self._trimmed(value, 0, node)
            node.args = ([*front, value], axis)
            info = self._plain(value)
            self.info[node] = replace(info, lag=(info.lag or 0) - frames, past=frames)
            return
        if any(n in self.from_input for n in front):
            raise self.refuse(node, "it puts frames before the sequence that are computed from the input.")
        joined = torch.cat([self.values[BASE][n] for n in front], axis) if front else torch.zeros(1)
        if (info.lag or 0) > 0 and front and float(joined.min()) != float(joined.max()):
            raise self.refuse(node, "it puts frames that are not all the same before a sequence that is late.")
        node.target, node.args = aten.alias.default, (value,)
        self._cut_or_pad(node, info, frames, float(joined.flatten()[0]))

    # --- the end

    def _finish(self) -> tuple[int, list[int]]:
        output = self.graph.output_node()
        given = list(results(self.graph))
        outputs, states = given[: self.outputs], given[self.outputs :]
        lags = [self._output_lag(n, axis) for n, axis in zip(outputs, self.output_time, strict=True)]
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
                outputs[i] = self._trimmed(self._delayed(node, int(delay * info.rate), output), 0, output)
        own = self.fed[len(self.inputs) :]
        with self.graph.inserting_before(output):
            after = [self._own_next(old, new) for old, new in zip(own, states, strict=True)]
            if self.count is not None:
                more = self.graph.call_function(aten.add.Tensor, (self.count, float(self.chunk)))
                more = self.graph.call_function(aten.clamp.default, (more, None, float(self.needed)))
                self.after[self.counter.name] = more
        output.args = ((*outputs, *after, *(self.after[s.name] for s in self.states)),)
        for node in list(self.graph.nodes):
            if node.target in SAME:
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()
        return int(delay), every

    def _own_next(self, old: fx.Node, new: fx.Node) -> fx.Node:
        """The next value of a state that the model has itself; at the graph's insertion point."""
        info = self.info.get(new)
        late = info.late if isinstance(info, Timed | Last) else Fraction(0)
        if late > 0 and (late / self.chunk).denominator != 1:
            raise self.refuse(new, f"a state of the model moves {late} frames late, which is no multiple of the chunk.")
        return self._gated(new, old, self.values[BASE][new].dim(), late)

    def _output_lag(self, node: fx.Node, axis: int | None) -> Fraction:
        """How many frames of the input an output is late."""
        info = self.info.get(node)
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
        ahead = self._count(node) - (self.frames * info.rate - soonest)
        if ahead > 0:
            where = f": {'; '.join(dict.fromkeys(self.ahead))}" if self.ahead else ""
            raise LiftError(
                f"an output looks {ahead} frames ahead, so it cannot stream{where}. Pad on the left only, or drop the "
                f"padding on the right: the stream is then late by as many frames (its delay)."
            )
        self.multiple = math.lcm(self.multiple, info.rate.denominator)
        return Fraction(max(info.lag or 0, soonest - int(ahead))) / info.rate


@dataclass(frozen=True)
class _Batch:
    """Where the rows of B streams stand in a value, with `inner` others behind (major) or before each (not major).

    The row of one stream leaves out `lead` axes of size 1 before the batch.
    """

    axis: int
    inner: int
    major: bool
    lead: int

    def rows(self, value: Tensor, batch: int) -> Tensor:
        """(B, inner, ...) or, with none merged, (B, ...)."""
        moved = value.reshape(value.shape[self.lead :]).movedim(self.axis - self.lead, 0)
        if self.inner == 1:
            return moved
        split = (batch, self.inner) if self.major else (self.inner, batch)
        shaped = moved.reshape(*split, *moved.shape[1:])
        return shaped if self.major else shaped.transpose(0, 1)

    def own_nodes(self, graph: fx.Graph, state: fx.Node, like: Tensor) -> fx.Node:
        """The value from the state (B, ...), at the graph's insertion point."""
        rest = [n for a, n in enumerate(like.shape) if a != self.axis and a >= self.lead]
        axis = self.axis - self.lead
        if self.inner != 1:
            if not self.major:
                state = graph.call_function(aten.transpose.int, (state, 0, 1))
            state = graph.call_function(aten.reshape.default, (state, [-1, *rest]))
        if axis:
            order = [*range(1, axis + 1), 0, *range(axis + 1, len(rest) + 1)]
            state = graph.call_function(aten.permute.default, (state, order))
        for _ in range(self.lead):
            state = graph.call_function(aten.unsqueeze.default, (state, 0))
        return state

    def row_nodes(self, graph: fx.Graph, value: fx.Node, row: Sequence[int]) -> fx.Node:
        """The inverse of `own_nodes`; `row` is the shape of one stream's state."""
        for _ in range(self.lead):
            value = graph.call_function(aten.squeeze.dim, (value, 0))
        axis = self.axis - self.lead
        if axis:
            rank = len(row) + (1 if self.inner == 1 else 0)
            order = [axis, *(a for a in range(rank) if a != axis)]
            value = graph.call_function(aten.permute.default, (value, order))
        if self.inner == 1:
            return value
        shape = [-1, *row] if self.major else [self.inner, -1, *row[1:]]
        value = graph.call_function(aten.reshape.default, (value, shape))
        return value if self.major else graph.call_function(aten.transpose.int, (value, 0, 1))


# Operators that take a window over their last axes, and over how many.
_WINDOWS: dict[Any, int] = {
    aten.conv1d.default: 1,
    aten.conv1d.padding: 1,
    aten.conv2d.default: 2,
    aten.conv2d.padding: 2,
    aten.conv3d.default: 3,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
}
# Operators whose numbers are sizes.
_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default}
_SHAPERS = _RESHAPES | {
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
_REASONS = (
    (("cumsum", "cumprod"), "a running sum over time: keep it in a buffer that each frame adds to"),
    (
        ("attention", "matmul", "bmm", "baddbmm", "einsum"),
        "attention, or another product over time, looks at all frames",
    ),
    (("softmax",), "a softmax over time looks at all frames"),
    (
        ("batch_norm", "instance_norm", "group_norm", "layer_norm"),
        "it normalises over time, with statistics of all frames",
    ),
    (("mean", "sum", "var", "std", "amax", "amin", "max", "min", "norm"), "statistics over time look at all frames"),
    (("flip", "roll", "sort", "topk"), "it moves frames over time"),
    (("fft", "stft"), "a transform over time looks at all frames"),
    (("view", "reshape", "flatten", "unflatten"), "a reshape cuts through time"),
    (("unbind", "split", "chunk"), "it takes the frames of the sequence apart"),
)


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _reason(node: fx.Node) -> str:
    name = _name(node)
    known = next((why for words, why in _REASONS if any(w in name for w in words)), "it mixes frames over time")
    return f"{known} ({name}), so it cannot stream. Use past frames only, kept in a state."


def _context(graph: fx.Graph) -> tuple[int, int]:
    """A number of frames that every stride divides, and at least as many as one output frame depends on."""
    unit, context = 1, 1
    for node in graph.nodes:
        name = str(node.target)
        if node.op == "call_function" and any(
            word in name for word in ("conv", "pool", "unfold", "pad", "slice", "cat")
        ):
            numbers = [n for a in node.args for n in (a if isinstance(a, list | tuple) else (a,)) if type(n) is int]
            weight = node.args[1] if "conv" in name else None
            kernel = max(weight.meta["val"].shape[2:]) if isinstance(weight, fx.Node) else 1
            dilation = max(node.args[5]) if "conv" in name and len(node.args) > 5 else 1  # type: ignore[type-var]
            stride = max(node.args[3]) if "conv" in name and len(node.args) > 3 else 1  # type: ignore[type-var]
            if "pool" in name or "unfold" in name:
                stride = max([n for n in numbers if n < 1000], default=1)
            if "slice" in name and len(node.args) > 4 and isinstance(node.args[4], int):
                stride = node.args[4]
            reach = max([abs(n) for n in numbers if abs(n) < 2**20], default=0) if "conv" not in name else 0
            context += (dilation * kernel + reach) * unit
            unit *= max(int(stride), 1)
    return unit, context


def _positive(dim: Any, rank: int) -> int:
    return int(dim) % rank


def _frame_index(info: Timed, frames: int, t: int) -> Tensor:
    """The places of frame `t` along the axis."""
    outer = torch.arange(info.outer)[:, None] * frames * info.inner
    return (outer + t * info.inner + torch.arange(info.inner)).flatten()


def _exchanged(value: Tensor, info: Timed, frames: int, t: int, other: int) -> Tensor:
    """`value` with frame `other` in the place of frame `t`."""
    new = value.clone()
    source = value.index_select(info.axis, _frame_index(info, frames, other))
    return new.index_copy_(info.axis, _frame_index(info, frames, t), source)


def _differs(a: Any, b: Any) -> Tensor:
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return torch.ones(1, dtype=torch.bool)
    if not a.is_floating_point():
        return a != b
    scale = float(b.abs().nan_to_num(0, 0, 0).max()) if b.numel() else 0.0
    same = torch.isclose(a.double(), b.double(), rtol=0, atol=1e-5 * max(scale, 1e-3), equal_nan=True)
    return ~same


def _within(changed: Tensor, place: tuple[int, int, int], t: int, frames: int) -> bool:
    """Whether only frame `t` changed."""
    axis, outer, inner = place
    along = changed.movedim(axis, 0).flatten(1).any(1) if changed.dim() > 1 else changed
    along = along.clone()
    along[_frame_index(Timed(0, outer, inner, Fraction(1), 0), frames, t)] = False
    return not bool(along.any())


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a.double(), b.double(), rtol=1e-6, atol=1e-7))


def _matching(moved: Tensor, few: Tensor, axis: int) -> int:
    """The axis of `moved` that is the batch axis of `few`, a value or a part of one with the same number of axes."""
    if moved.dim() == few.dim():
        return axis
    return next(a for a in range(moved.dim()) if moved.shape[a] == few.shape[axis])
