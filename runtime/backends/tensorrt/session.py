"""A step engine and the memory of its streams: all on the device, one launch a frame, nothing of TensorRT's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import BackendUnavailable, DeviceError, StreamError
from rnn_export.runtime.backends.tensorrt.slots import TensorRTSlots
from rnn_export.runtime.device.api import Buffer, Device, Graph
from rnn_export.runtime.device.ports import Port, saying
from rnn_export.runtime.device.values import decode, encode, holds, storage
from rnn_export.spec import BATCH, StateSpec, StreamSpec, TensorSpec, sized

Shape = tuple[int, ...]


class StepContext(Protocol):
    """One execution of an engine: what it is bound to. Raises DeviceError on what does not fit."""

    def bind(self, name: str, pointer: int) -> None:
        """The address of a tensor."""

    def set_batch(self, name: str, shape: Shape) -> None:
        """The whole shape of an input."""

    def enqueue(self, stream: Any) -> None:
        """Queue the step."""


class StepEngine(Protocol):
    """A deserialised engine. A dimension of `shape` is -1 where it follows the batch."""

    inputs: Sequence[str]
    outputs: Sequence[str]

    def context(self) -> StepContext: ...
    def dtype(self, name: str) -> str: ...
    def shape(self, name: str) -> Shape: ...
    def profile(self, name: str) -> tuple[Shape, Shape, Shape]:
        """The lowest, best and highest shape of an input."""


class TensorRTSession:
    """An engine of the step, shared between threads; each stream has a queue of its own on the device.

    `open_device` opens such a queue, `device` is its name, and `build` the command that builds the engine.

    Raises BackendUnavailable where the engine is not of the contract.
    """

    has_sequence = False

    def __init__(
        self,
        spec: StreamSpec,
        engine: StepEngine,
        open_device: Callable[[], Device],
        device: str,
        precision: str,
        build: str,
    ) -> None:
        self.spec, self.engine, self.open_device = spec, engine, open_device
        self.device, self.precision = device, precision
        _check_contract(spec, engine, build)
        tensor = spec.inputs[0]
        low, _, high = (shape[tensor.axis(BATCH) or 0] for shape in engine.profile(tensor.name))
        self.batches: tuple[int, int | None] = low, high

    def memory(self, batch: int) -> TensorRTMemory:
        with saying(f"tensorrt cannot open a stream of {batch} rows"):
            return TensorRTMemory(self, batch)

    def slots(self) -> TensorRTSlots:
        with saying("tensorrt cannot open a pool"):
            return TensorRTSlots(self)

    def bound(
        self,
        batch: int,
        fed: Iterable[Port],
        given: Iterable[Port],
        before: Mapping[str, Buffer],
        after: Mapping[str, Buffer],
    ) -> StepContext:
        """A context for a step of `batch` rows, from the states `before` to those `after`."""
        context = self.engine.context()
        for port in fed:
            context.set_batch(port.name, port.host.shape)
        for port in (*fed, *given):
            context.bind(port.name, port.buffer.pointer)
        for state in self.spec.states:
            context.set_batch(state.input, (batch, *state.row))
            context.bind(state.input, before[state.name].pointer)
            context.bind(state.output, after[state.name].pointer)
        return context


class TensorRTMemory:
    """Even steps read the first set of states and write the second, odd steps reverse; each is one captured graph.

    A graph holds its addresses (https://docs.nvidia.com/deeplearning/tensorrt, "CUDA Graphs"), so there is one for
    each direction, and a context that is never bound again. No state passes the host but in `read` and `write`.
    """

    def __init__(self, session: TensorRTSession, batch: int) -> None:
        spec, engine = session.spec, session.engine
        # Before the contexts, whose memory is on the thread's current GPU.
        self.device = session.open_device()
        self.states, self.batch = {s.name: (s, engine.dtype(s.input)) for s in spec.states}, batch
        self.fed = [Port(self.device, t, engine.dtype(t.name), batch, spec.chunk) for t in spec.inputs]
        self.given = [Port(self.device, t, engine.dtype(t.name), batch, spec.chunk) for t in spec.outputs]
        self.inputs: Mapping[str, Array] = {port.name: port.host for port in self.fed}
        self.outputs: Mapping[str, Array] = {port.name: port.host for port in self.given}
        self.sets = (self._room(), self._room())
        ports = self.fed, self.given
        self.contexts = [session.bound(batch, *ports, *sets) for sets in (self.sets, self.sets[::-1])]
        self.graphs: list[Graph] = []
        # The first `write` goes to the other set.
        self.now = 1

    def _room(self) -> dict[str, Buffer]:
        return {n: self.device.empty((self.batch, *s.row), storage(kind)) for n, (s, kind) in self.states.items()}

    def step(self) -> None:
        for port in self.fed:
            port.encode()
        try:
            self.graphs[self.now].launch()
            self.device.synchronize()
        except DeviceError as error:
            raise StreamError(f"tensorrt refused the frame: {error}") from error
        for port in self.given:
            port.decode()
        self.now ^= 1

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise NotImplementedError("has_sequence is False")

    def read(self) -> dict[str, Array]:
        raw = {n: np.empty((self.batch, *s.row), storage(kind)) for n, (s, kind) in self.states.items()}
        with saying("tensorrt cannot read the states"):
            for name, buffer in self.sets[self.now].items():
                self.device.download(raw[name], buffer)
            self.device.synchronize()
        return {n: decode(raw[n], kind, np.dtype(s.dtype)) for n, (s, kind) in self.states.items()}

    def write(self, states: Mapping[str, Array]) -> None:
        raw = {n: encode(n, np.asarray(states[n], order="C"), kind) for n, (_, kind) in self.states.items()}
        with saying("tensorrt cannot set the states"):
            # The other set, so that an error leaves the states as they were.
            for name, buffer in self.sets[1 - self.now].items():
                self.device.upload(buffer, raw[name])
            self.device.synchronize()
        self.now ^= 1
        if not self.graphs:
            with saying("tensorrt cannot capture the step as a CUDA graph"):
                self.graphs = self._capture()

    def _capture(self) -> list[Graph]:
        """The even and the odd step as graphs; the states are afterwards what they were.

        A step outside a graph comes first, since an engine sets itself up for its shapes in its first enqueue, which
        no graph can hold (the same source). Captured work does not run.
        """
        saved = self._room()
        for name, buffer in self.sets[self.now].items():
            self.device.copy(saved[name], buffer)
        for direction in (0, 1):
            self._work(direction)
        self.device.synchronize()
        graphs = [self.device.capture(partial(self._work, direction)) for direction in (0, 1)]
        for name, buffer in self.sets[self.now].items():
            self.device.copy(buffer, saved[name])
        self.device.synchronize()
        return graphs

    def _work(self, direction: int) -> None:
        for port in self.fed:
            self.device.upload(port.buffer, port.pinned)
        self.contexts[direction].enqueue(self.device.stream)
        for port in self.given:
            self.device.download(port.pinned, port.buffer)


def _check_contract(spec: StreamSpec, engine: StepEngine, build: str) -> None:
    feeds: dict[str, TensorSpec | StateSpec] = {t.name: t for t in spec.inputs} | {s.input: s for s in spec.states}
    gives: dict[str, TensorSpec | StateSpec] = {t.name: t for t in spec.outputs} | {s.output: s for s in spec.states}
    mend = f"Build it again: `{build} --rebuild`."
    for what, found, wanted in (("takes", engine.inputs, feeds), ("gives", engine.outputs, gives)):
        if set(found) != set(wanted):
            raise BackendUnavailable(
                f"the engine {what} {sorted(found)}, but the contract says {sorted(wanted)}. {mend}"
            )
        for name, port in wanted.items():
            kind, shape = engine.dtype(name), engine.shape(name)
            need = sized(port.shape, -1, spec.chunk)
            fits = len(shape) == len(need) and all(f == n or -1 in (f, n) for f, n in zip(shape, need, strict=True))
            if not fits or not holds(kind, port.dtype, isinstance(port, StateSpec)):
                raise BackendUnavailable(
                    f"the engine {what} {name!r} as {kind} {shape}, but the contract says {port.dtype} {need}. {mend}"
                )
    for state in spec.states:
        before, after = engine.dtype(state.input), engine.dtype(state.output)
        if before != after:
            raise BackendUnavailable(
                f"the engine takes state {state.name!r} as {before} and gives it as {after}. {mend}"
            )
