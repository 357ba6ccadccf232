"""A stream: cheap, owns one state, belongs to one thread at a time.

A step of a small model takes less time than a few lines of Python, so `Stream` is made to have none of them where it
can: a session may bring a compiled type with the same `step` (`Session.stepper`). `stream_class` then derives a class
from that type first and `Stream` second. The type's `step` does the whole of a simple step and calls `_any_step`,
Python's, for everything else; its `_locked` and `_turn` stand for the lock, `_advance` for the buffers' step, and
`_frames` and `_pending` are members of its struct. Compiled bundles hold these names, so they stay. Without such a type
they are plain attributes, set in `__init__`, and `_frames` is the buffers' own.

An interrupt (Ctrl-C) is an exception at any line. CPython looks for one after a call, at the start of a function and
where a loop goes back, and nowhere else: not between the lock's own `__enter__`, in C, and the body of its `with`, nor
between two assignments. So the lock is held inside of its `with` alone, and an uninterruptible change is one call in C
or has no call in it: `_advance` changes states and frames so. A longer operation first notes its goal or origin in
`_pending`, as `Unfinished`, and the next call ends it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Generic, overload

import numpy as np
import numpy.typing as npt

from rnn_export.contract.layout import canonical, cut, frames_in
from rnn_export.contract.snapshot import Snapshot, pack
from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.core.ending import Ended, Ending, Unfinished, as_given, held_inputs
from rnn_export.runtime.core.forks import watch, why_over
from rnn_export.runtime.core.frame_io import (
    FrameInput,
    as_array,
    check_limit,
    check_out,
    check_snapshot,
    check_values,
    frame_view,
    without_delay,
)
from rnn_export.runtime.core.row_reset import check_rows, with_rows_reset
from rnn_export.runtime.core.types import Frames, Y
from rnn_export.runtime.core.uncopied import Uncopied
from rnn_export.runtime.protocols import Session

OVER = "the sequence is over, since finish() ended it: reset the stream before another one."
# Frames of one call of the sequence graph; bounds the memory of a long run.
BLOCK = 4096


class Stream(Uncopied, Generic[Y]):
    """One stream, or `batch` streams in lockstep, stepped with the state kept.

    A frame is an input without the batch and time axes where the batch is 1, (batch, ...) otherwise; where the spec's
    chunk is above 1 a step takes (chunk, ...) or (batch, chunk, ...), of an input with `"time*N"` N times as many.
    Several inputs or outputs are dicts by name.

    Every method raises StreamError on a value that does not fit, or where another thread is inside; the state is then
    what it was before. Interrupted, by Ctrl-C or another exception of a signal handler, a method has done all or
    nothing.
    """

    _not_copied = (
        "a stream cannot be copied or pickled, for its memory is the backend's: open another with engine.stream(), and "
        "hand the memory on with restore(stream.snapshot()), or with engine.stream(states=stream.states)."
    )
    _locked: Callable[[], bool]
    _turn: AbstractContextManager[Any]
    _advance: Callable[[], None]
    _pending: dict[str, Array] | Unfinished | Ended
    _over: StreamError | None

    def __init__(
        self,
        spec: StreamSpec,
        session: Session,
        batch: int,
        initial: Mapping[str, Array],
        model_initial: Mapping[str, Array],
    ) -> None:
        self.spec, self.batch = spec, batch
        # A sequence graph does not wait for a context to fill, so the first frames of a delay go through the step.
        self._sequence_graph_runs_delay = session.run_is_steps
        self._has_sequence_graph = session.has_sequence
        # Of this stream, (batch, ...), and of the model, one row each.
        self._initial, self._model_initial = initial, model_initial
        self._buffers = session.stream_buffers(batch)
        # Where the model takes whole sequences only there are none.
        ins, outs = self._buffers.inputs, self._buffers.outputs
        self._inputs = [FrameInput(t, ins[t.name]) for t in spec.inputs if t.name in ins]
        self._outputs = {t.name: frame_view(outs[t.name], t) for t in spec.outputs if t.name in outs}
        # The common case has one tensor each way and no delay: no dict, no loop.
        simple = len(self._outputs) == 1 and not spec.has_delay
        self._output_view = next(iter(self._outputs.values())) if simple else None
        if session.stepper is None:
            turn = threading.Lock()
            self._locked, self._turn, self._advance = turn.locked, turn, self._buffers.step
        else:
            simple &= len(self._inputs) == 1 and spec.max_frames is None
            session.bind(self, self._buffers, *((self._inputs[0].view, self._output_view) if simple else (None, None)))
        self._load_input = self._inputs[0].load if len(self._inputs) == 1 else None
        self._survives_fork, self._over = session.survives_fork, None
        watch(self)
        self._pending = Unfinished(Snapshot(0, initial, {}))
        self._finish()

    def __repr__(self) -> str:
        of = "" if self.batch == 1 else f" of {self.batch} rows"
        ended = ", ended" if isinstance(self._pending, Ended) else ""
        return f"<Stream{of} at frame {self._frames}{ended}: {self.spec.ports}>"

    @property
    def _frames(self) -> int:
        return self._buffers.frames

    @_frames.setter
    def _frames(self, frames: int) -> None:
        self._buffers.frames = frames

    @overload
    def step(self, x: Frames, out: None = None) -> Y | None: ...
    @overload
    def step(self, x: Frames, out: Y) -> Y: ...
    def step(self, x: Any, out: Any = None) -> Any:
        """Feed one frame (one chunk of them) and give the output, in `out` where given.

        The output has the form of a frame: (...) or (batch, ...), and (chunk, ...) or (batch, chunk, ...) where the
        chunk is above 1. It is None, or has fewer frames of a chunk, while the first `spec.delay` frames go by.
        """
        if self._locked():
            raise self._busy()
        with self._turn:
            if self._pending or self.spec.max_frames is not None:
                self._check_takes_more()
            if out is not None:
                self._check_out(out)
            if self._load_input is not None:
                self._load_input(x)
            else:
                values = self._by_name(x)
                for tensor in self._inputs:
                    tensor.load(values[tensor.name])
            self._advance()
            if self._output_view is not None:
                if out is None:
                    return self._output_view.copy()
                out[...] = self._output_view
                return out
            return self._give(out)

    _any_step = step

    @overload
    def run(self: Stream[Array], xs: Frames) -> Array | None: ...
    @overload
    def run(self: Stream[dict[str, Array]], xs: Frames) -> dict[str, Array | None]: ...
    @overload
    def run(self, xs: Frames) -> Array | dict[str, Array | None] | None: ...
    def run(self, xs: Any) -> Any:
        """Feed any piece of a sequence, (time, ...) or (batch, time, ...), and give the outputs in the same form.

        Inputs of several rates have the frames that go together. An input without a time axis is held for the whole
        piece; an output without one is given as of the last frame. Frames left below a whole chunk wait for the next
        run. An output without a time axis is None where no frame gave one yet. A bundle that takes whole sequences only
        takes one of them at each call.
        """
        with self._alone():
            inputs, batch_axis_omitted = self._sequence(xs)
            before = self._get()
            self._pending = Unfinished(before)
            try:
                outputs = self._run(inputs, before)
            except BaseException:
                self._finish()
                raise
            if batch_axis_omitted:
                outputs = {name: None if a is None else a[0] for name, a in outputs.items()}
            return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    @overload
    def finish(self: Stream[Array], held: Frames | None = None) -> Array: ...
    @overload
    def finish(self: Stream[dict[str, Array]], held: Frames | None = None) -> dict[str, Array]: ...
    @overload
    def finish(self, held: Frames | None = None) -> Array | dict[str, Array]: ...
    def finish(self, held: Any = None) -> Any:
        """End the sequence: the frames of every output that only its end gives, (frames, ...) or (batch, frames, ...).

        These are at most `spec.tail`, none where nothing was fed. The outputs of `run`, of `step` and these are the
        model's of the whole sequence. An output without a time axis is not among them: the last one stands. `held` are
        the inputs without a time axis, where there are any. Nothing can be fed after that, until a `reset`.
        """
        with self._alone():
            before = self._get()
            inputs = held_inputs(self.spec, self.batch, held)
            self._pending = Unfinished(before)
            try:
                ending = Ending(self.spec, self.batch, before.pending, inputs)
                self._buffers.write(ending.states(before.states))
                left = ending.left(before.frames, ending.last_outputs(ending.steps(before.frames), self._by_step))
            finally:
                self._finish()
            self._set(Snapshot(before.frames, before.states, {}, ended=True))
            if self.batch == 1:
                left = {name: a[0] for name, a in left.items()}
            return as_given(self.spec, left)

    @property
    def states(self) -> dict[str, Array]:
        """Copies of the states by name, each (batch, ...)."""
        with self._alone():
            self._finish()
            return self._buffers.read()

    def reset(self, rows: npt.ArrayLike | None = None) -> None:
        """Back to the states that the stream was opened with.

        Of a batch with `rows`, a mask of bool (batch,): those where it is True, and the others go on as they are.
        """
        with self._alone():
            if rows is None:
                self._set(Snapshot(0, self._initial, {}))
            else:
                mask = check_rows(self.spec, self.batch, rows)
                self._check_takes_more()
                if mask.any():
                    self._set(with_rows_reset(self._get(), mask, self._initial))

    def snapshot(self) -> bytes:
        """The memory as bytes, for `restore` here, on another backend or another machine."""
        with self._alone():
            pending = self._finish()
            ended = isinstance(pending, Ended)
            waiting = {} if isinstance(pending, Ended) else pending
            return pack(self.spec, self.batch, Snapshot(self._frames, self._buffers.read(), waiting, ended))

    def restore(self, snapshot: bytes) -> None:
        """Go on from where `snapshot` was taken; raises StreamError where it does not fit or holds NaN or Inf."""
        with self._alone():
            self._set(check_snapshot(self.spec, self.batch, snapshot, self._model_initial))

    def after_fork(self) -> None:
        """See `runtime.forks`."""
        self._buffers.after_fork()
        self._over = why_over("this stream", self._survives_fork, self._locked())
        if not self._survives_fork:
            self._locked = _always

    def _busy(self) -> StreamError:
        inside = "another thread is inside this stream: a stream belongs to one thread at a time. Open one each."
        return self._over.with_traceback(None) if self._over else StreamError(inside, id="stream-in-use")

    def _alone(self) -> AbstractContextManager[Any]:
        """The turn, to be entered at once."""
        if self._locked():
            raise self._busy()
        return self._turn

    def _get(self) -> Snapshot:
        if isinstance(pending := self._finish(), Ended):
            raise StreamError(OVER, id="sequence-over")
        return Snapshot(self._frames, self._buffers.read(), pending)

    def _set(self, goal: Snapshot) -> None:
        before = self._pending
        self._pending = Unfinished(goal)
        try:
            self._finish()
        except StreamError:
            self._pending = before
            raise

    def _finish(self) -> dict[str, Array] | Ended:
        """End an interrupted operation; give pending frames."""
        if isinstance(self._pending, Unfinished):
            goal = self._pending.goal
            self._buffers.write(goal.states)
            self._frames = goal.frames
            self._pending = Ended() if goal.ended else dict(goal.pending)
        return self._pending

    def _check_takes_more(self) -> None:
        if isinstance(pending := self._finish(), Ended):
            raise StreamError(OVER, id="sequence-over")
        if pending:
            waiting = frames_in(self.spec, {n: a.shape[1] for n, a in pending.items()})
            rest = f"{waiting} frames of a run still wait for a whole chunk: run the rest, or reset."
            raise StreamError(rest, id="run-frames-waiting")
        check_limit(self.spec, self._frames, self.spec.chunk)

    def _by_name(self, x: Frames) -> Mapping[str, Any]:
        names = [t.name for t in self.spec.inputs]
        if not isinstance(x, Mapping):
            if len(names) == 1:
                return {names[0]: x}
            what = f"give a dict with {names}, not a {type(x).__name__}"
            raise StreamError(f"this stream has {len(names)} inputs: {what}.", id="stream-without-names")
        if set(x) != set(names):
            given = sorted(map(str, x))
            raise StreamError(f"the inputs are {names}, but {given} were given.", id="stream-inputs-unknown")
        return x

    def _check_out(self, out: Any) -> None:
        if self.spec.has_delay:
            raise StreamError(f"out= cannot be used here: {self.spec.delay_note}.", id="out-with-delay")
        several = len(self._outputs) > 1
        for name, view in self._outputs.items():
            if several and (not isinstance(out, Mapping) or name not in out):
                raise StreamError(f"out must be a dict with {list(self._outputs)}.", id="stream-out-not-dict")
            check_out(name, out[name] if several else out, view.dtype, view.shape)

    def _give(self, out: Any) -> Any:
        before = self._frames - self.spec.chunk
        settled = self.spec.settled(before)
        if not settled and self.spec.without_output(before):
            return None
        if out is not None:
            for name, view in self._outputs.items():
                out[name][...] = view
            return out
        rows = () if self.batch == 1 else (slice(None),)
        results = {}
        for tensor in self.spec.outputs:
            whole = settled or not self.spec.timed(tensor)
            view = self._outputs[tensor.name]
            results[tensor.name] = view[... if whole else (*rows, self.spec.valid(tensor, before))].copy()
        return results if len(results) > 1 else next(iter(results.values()))

    def _sequence(self, xs: Frames) -> tuple[dict[str, Array], bool]:
        """Checked inputs in canonical form, and whether the caller left the batch axis out."""
        spec, by_name = self.spec, self._by_name(xs)
        values = {t.name: as_array(t.name, by_name[t.name], np.dtype(t.dtype)) for t in spec.inputs}
        timed = [t for t in spec.inputs if spec.timed(t)]
        rank = {values[t.name].ndim - len(t.frame) for t in timed}
        if not rank <= {1, 2} or len(rank) != 1:
            found = ", ".join(f"{t.name} {values[t.name].shape}" for t in timed)
            raise StreamError(f"a run takes (time, ...) or (batch, time, ...), but was given {found}.", id="run-axes")
        batch_axis_omitted = rank == {1}
        if batch_axis_omitted and self.batch != 1:
            wanted = f"(batch, time, ...) with a batch of {self.batch}"
            raise StreamError(f"this stream has {self.batch} rows: a run takes {wanted}.", id="run-rows-differ")
        times = {t.name: values[t.name].shape[0 if batch_axis_omitted else 1] for t in timed}
        try:
            frames_in(spec, times)
        except ValueError as error:
            raise StreamError(f"{error}.", id="run-frames-unfit") from None
        inputs = {}
        for tensor in spec.inputs:
            rows = () if batch_axis_omitted else (self.batch,)
            shape = (*rows, *((times[tensor.name],) if tensor in timed else ()), *tensor.frame)
            checked = check_values(tensor.name, values[tensor.name], shape, np.dtype(tensor.dtype))
            inputs[tensor.name] = checked[None] if batch_axis_omitted else checked
        return inputs, batch_axis_omitted

    def _run(self, inputs: dict[str, Array], before: Snapshot) -> Mapping[str, Array | None]:
        spec = self.spec
        timed = [t.name for t in spec.inputs if spec.timed(t)]
        if before.pending:
            inputs = {n: np.concatenate([before.pending[n], a], 1) if n in timed else a for n, a in inputs.items()}
        total = frames_in(spec, {n: inputs[n].shape[1] for n in timed})
        check_limit(spec, before.frames, total)
        count = total - total % spec.chunk  # those of whole chunks; the others wait
        outputs = {t.name: self._zeros(t, count) for t in spec.outputs}
        start, runs_delay = 0, self._sequence_graph_runs_delay
        while start < count:
            by_graph = self._has_sequence_graph and (runs_delay or spec.settled(before.frames + start))
            stop = min(start + (max(BLOCK // spec.chunk, 1) if by_graph else 1) * spec.chunk, count)
            drive = self._buffers.run if by_graph else self._by_step
            results = drive(cut(spec, inputs, start, stop))
            for tensor in spec.outputs:
                if spec.timed(tensor):
                    outputs[tensor.name][:, tensor.frames_of(start) : tensor.frames_of(stop)] = results[tensor.name]
                else:
                    outputs[tensor.name][...] = results[tensor.name]
            start = stop
        given = without_delay(spec, outputs, before.frames, count)
        waiting = {n: a.copy() for n, a in cut(spec, inputs, count, total).items() if n in timed and count < total}
        self._frames = before.frames + count
        self._pending = waiting
        return given

    def _zeros(self, tensor: TensorSpec, frames: int) -> Array:
        time = (tensor.frames_of(frames),) if self.spec.timed(tensor) else ()
        return np.zeros((self.batch, *time, *tensor.frame), tensor.dtype)

    def _by_step(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        for tensor in self.spec.inputs:
            buffer = canonical(self._buffers.inputs[tensor.name], tensor)
            buffer[...] = inputs[tensor.name].reshape(buffer.shape)
        self._buffers.step()
        results = {t.name: canonical(self._buffers.outputs[t.name], t) for t in self.spec.outputs}
        return results if self.spec.has_time else {name: a[:, None] for name, a in results.items()}


def _always() -> bool:
    return True
