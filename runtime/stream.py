"""A stream: cheap, owns one state, belongs to one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import StreamError
from rnn_export.layout import canonical
from rnn_export.runtime.backends.api import CompiledSession, Memory, Session
from rnn_export.runtime.ports import InputPort, OutputPort, as_array, check_values
from rnn_export.snapshot import Snapshot, pack, unpack
from rnn_export.spec import StreamSpec, TensorSpec

# Frames of one call of the sequence graph; bounds the memory of a long run.
BLOCK = 4096

Frames = Any


class Stream:
    """One stream, or `batch` streams in lockstep, stepped with the state kept.

    A frame is an input without the batch and time axes where the batch is 1, (batch, ...) otherwise; where the spec's
    chunk is above 1 a step takes (chunk, ...) or (batch, chunk, ...). Several inputs or outputs are dicts by name.

    Every method raises StreamError on a value that does not fit, or where another thread is inside; the state is then
    what it was before.
    """

    # A lock's and the memory's methods, or those of a compiled base class.
    _enter: Callable[[bool], bool]
    _leave: Callable[[], None]
    _advance: Callable[[], None]

    def __init__(self, spec: StreamSpec, session: Session, batch: int, initial: Mapping[str, Array]) -> None:
        self.spec, self.batch = spec, batch
        # A sequence graph does not wait for a context to fill, so the first frames of a delay go through the step.
        self._runs_delay = isinstance(session, CompiledSession)
        self._has_sequence = session.has_sequence
        self._initial = initial
        self._memory: Memory = session.memory(batch)
        if spec.sequence_only:
            # Attributes, so that a stream need not ask.
            self.step = self._cannot_stream  # type: ignore[method-assign]
            self.snapshot = self._cannot_stream  # type: ignore[method-assign]
            self.restore = self._cannot_stream  # type: ignore[method-assign]
        self._in = [InputPort(t, self._memory.inputs[t.name]) for t in spec.inputs if t.name in self._memory.inputs]
        self._out = [
            OutputPort(t, self._memory.outputs[t.name]) for t in spec.outputs if t.name in self._memory.outputs
        ]
        self._chunk = spec.chunk
        # The common case has one tensor each way and no delay: no dict, no loop.
        self._load = self._in[0].load if len(self._in) == 1 else None
        self._view = self._out[0].view if len(self._out) == 1 and not spec.has_delay else None
        if isinstance(session, CompiledSession) and session.stepper is not None:
            simple = self._load is not None and self._view is not None
            session.bind(self, self._memory, *((self._in[0].view, self._view) if simple else (None, None)))
        else:
            turn = threading.Lock()
            self._enter, self._leave, self._advance = turn.acquire, turn.release, self._memory.step
        self._set(Snapshot(0, initial, {}))

    def step(self, x: Frames, out: Frames = None) -> Any:
        """Feed one frame (one chunk of them) and give the output, in `out` where given.

        Gives None, or fewer frames of a chunk, while the first `spec.delay` frames go by.
        """
        if not self._enter(False):
            raise self._busy()
        try:
            if self._pending:
                waiting = next(iter(self._pending.values())).shape[1]
                raise StreamError(f"{waiting} frames of a run still wait for a whole chunk: run the rest, or reset.")
            if out is not None:
                self._check_out(out)
            if self._load is not None:
                self._load(x)
            else:
                self._load_all(x)
            self._advance()
            self._frames += self._chunk
            if self._view is not None:
                if out is None:
                    return self._view.copy()
                out[...] = self._view
                return out
            return self._give(out)
        finally:
            self._leave()

    # What a compiled `step` turns to.
    _any_step = step

    def run(self, xs: Frames) -> Any:
        """Feed any piece of a sequence, (time, ...) or (batch, time, ...), and give the outputs in the same form.

        An input without a time axis is held for the whole piece; an output without one is given as of the last frame.
        What is left below a whole chunk waits for the next run. An output without a time axis is None where no frame
        gave one yet. A bundle that takes whole sequences only takes one of them at each call.
        """
        with self._alone():
            inputs, bare = self._sequence(xs)
            before = self._get()
            try:
                outputs = self._run(inputs)
            except BaseException:
                self._set(before)
                raise
            if bare:
                outputs = {name: None if a is None else a[0] for name, a in outputs.items()}
            return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    @property
    def states(self) -> dict[str, Array]:
        """Copies of the states by name, each (batch, ...)."""
        with self._alone():
            return self._memory.read()

    def reset(self) -> None:
        """Back to the states that the stream was opened with."""
        with self._alone():
            self._set(Snapshot(0, self._initial, {}))

    def _cannot_stream(self, *_: Any, **__: Any) -> Any:
        raise StreamError(
            "this bundle cannot stream: the model needs whole sequences (it was exported with sequence_only). "
            "Give each of them to run(xs)."
        )

    def snapshot(self) -> bytes:
        """The memory as bytes, for `restore` here, on another backend or another machine."""
        with self._alone():
            return pack(self.spec, self.batch, self._get())

    def restore(self, snapshot: bytes) -> None:
        """Go on from where `snapshot` was taken."""
        with self._alone():
            self._set(unpack(self.spec, self.batch, snapshot))

    # --- one thread at a time

    def _busy(self) -> StreamError:
        return StreamError(
            "another thread is inside this stream: a stream belongs to one thread at a time. Open one each."
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._enter(False):
            raise self._busy()
        try:
            yield
        finally:
            self._leave()

    # --- memory

    def _get(self) -> Snapshot:
        return Snapshot(self._frames, self._memory.read(), self._pending)

    def _set(self, snapshot: Snapshot) -> None:
        self._memory.write(snapshot.states)
        self._frames = snapshot.frames
        self._pending = dict(snapshot.pending)

    # --- a step with several tensors or a delay

    def _load_all(self, x: Frames) -> None:
        values = self._by_name(x)
        for port in self._in:
            port.load(values[port.name])

    def _by_name(self, x: Frames) -> Mapping[str, Any]:
        names = [t.name for t in self.spec.inputs]
        if not isinstance(x, Mapping):
            if len(names) == 1:
                return {names[0]: x}
            raise StreamError(
                f"this stream has {len(names)} inputs: give a dict with {names}, not a {type(x).__name__}."
            )
        if set(x) != set(names):
            raise StreamError(f"the inputs are {names}, but {sorted(map(str, x))} were given.")
        return x

    def _check_out(self, out: Frames) -> None:
        if self.spec.has_delay:
            raise StreamError(f"out= cannot be used here: {self.spec.delay_note}.")
        for port in self._out:
            if len(self._out) > 1 and (not isinstance(out, Mapping) or port.name not in out):
                raise StreamError(f"out must be a dict with {[p.name for p in self._out]}.")
            port.check(out[port.name] if len(self._out) > 1 else out)

    def _give(self, out: Frames) -> Any:
        fed = self._frames - self._chunk
        settled = self.spec.settled(fed)
        if not settled and self.spec.without_output(fed):
            return None
        if out is not None:
            for port in self._out:
                out[port.name][...] = port.view
            return out
        rows = () if self.batch == 1 else (slice(None),)
        given = {
            t.name: port.view.copy()
            if settled or not self.spec.timed(t)
            else port.view[(*rows, self.spec.valid(t, fed))].copy()
            for t, port in zip(self.spec.outputs, self._out, strict=True)
        }
        return given if len(given) > 1 else next(iter(given.values()))

    # --- a run

    def _sequence(self, xs: Frames) -> tuple[dict[str, Array], bool]:
        """Checked inputs in canonical form, and whether the caller left the batch axis out."""
        spec, given = self.spec, self._by_name(xs)
        values = {t.name: as_array(t.name, given[t.name], np.dtype(t.dtype)) for t in spec.inputs}
        timed = [t for t in spec.inputs if self.spec.timed(t)]
        rank = {values[t.name].ndim - len(t.frame) for t in timed}
        if not rank <= {1, 2} or len(rank) != 1:
            found = ", ".join(f"{t.name} {values[t.name].shape}" for t in timed)
            raise StreamError(f"a run takes (time, ...) or (batch, time, ...), but was given {found}.")
        bare = rank == {1}
        if bare and self.batch != 1:
            raise StreamError(
                f"this stream has {self.batch} rows: a run takes (batch, time, ...) with a batch of {self.batch}."
            )
        times = {values[t.name].shape[0 if bare else 1] for t in timed}
        if len(times) != 1:
            raise StreamError(f"the inputs have {sorted(times)} frames: all must have the same number.")
        (time,) = times
        inputs = {}
        for tensor in spec.inputs:
            rows = () if bare else (self.batch,)
            shape = (*rows, *((time,) if tensor in timed else ()), *tensor.frame)
            checked = check_values(tensor.name, values[tensor.name], shape, np.dtype(tensor.dtype))
            inputs[tensor.name] = checked[None] if bare else checked
        return inputs, bare

    def _run(self, inputs: dict[str, Array]) -> dict[str, Array | None]:
        spec = self.spec
        if spec.sequence_only:
            return dict(self._memory.run(inputs))
        timed = [t.name for t in spec.inputs if self.spec.timed(t)]
        if self._pending:
            inputs = {n: np.concatenate([self._pending[n], a], 1) if n in timed else a for n, a in inputs.items()}
        total = inputs[timed[0]].shape[1]
        whole = total - total % spec.chunk
        outputs = {t.name: self._room(t, whole) for t in spec.outputs}
        for start, stop in self._blocks(whole):
            drive = self._memory.run if self._is_long(start) else self._by_step
            given = drive({n: a[:, start:stop] if n in timed else a for n, a in inputs.items()})
            for tensor in spec.outputs:
                if self.spec.timed(tensor):
                    outputs[tensor.name][:, tensor.frames_of(start) : tensor.frames_of(stop)] = given[tensor.name]
                else:
                    outputs[tensor.name][...] = given[tensor.name]
        fed = self._frames
        self._frames += whole
        self._pending = {n: inputs[n][:, whole:].copy() for n in timed} if whole < total else {}
        last = {t.name: None if spec.without_output(fed, whole) else outputs[t.name] for t in spec.outputs}
        return {
            t.name: outputs[t.name][:, spec.valid(t, fed, whole)] if spec.timed(t) else last[t.name]
            for t in spec.outputs
        }

    def _blocks(self, whole: int) -> Iterator[tuple[int, int]]:
        """Start and stop of each call for `whole` frames."""
        chunk, start = self.spec.chunk, 0
        while start < whole:
            size = max(BLOCK // chunk, 1) * chunk if self._is_long(start) else chunk
            stop = min(start + size, whole)
            yield start, stop
            start = stop

    def _is_long(self, start: int) -> bool:
        """Whether the frames from `start` on go through the memory's `run`."""
        return self._has_sequence and (self._runs_delay or self.spec.settled(self._frames + start))

    def _room(self, tensor: TensorSpec, frames: int) -> Array:
        time = (tensor.frames_of(frames),) if self.spec.timed(tensor) else ()
        return np.zeros((self.batch, *time, *tensor.frame), tensor.dtype)

    def _by_step(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        for tensor in self.spec.inputs:
            buffer = canonical(self._memory.inputs[tensor.name], tensor)
            buffer[...] = inputs[tensor.name].reshape(buffer.shape)
        self._memory.step()
        given = {t.name: canonical(self._memory.outputs[t.name], t) for t in self.spec.outputs}
        return given if self.spec.has_time else {name: a[:, None] for name, a in given.items()}


def stream_class(session: Session) -> type[Stream]:
    """`Stream`, on the compiled base of the session where it has one."""
    if not isinstance(session, CompiledSession) or session.stepper is None:
        return Stream
    return type("Stream", (session.stepper, Stream), {"__doc__": Stream.__doc__, "__module__": Stream.__module__})
