"""A step engine, its streams and its pools: states on the device, one launch a frame, nothing of TensorRT's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rnn_export.contract.spec import BATCH, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import BackendUnavailable, DeviceError, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.tensorrt.log import BuilderLog
from rnn_export.runtime.device.cuda import CudaBuffer, CudaDevice, CudaGraph
from rnn_export.runtime.device.state_store import DeviceStateStore, PaddedBatch
from rnn_export.runtime.device.values import StagedTensor, as_stream_error, decode, encode, holds, storage
from rnn_export.runtime.protocols import Session, StreamBuffers

Shape = tuple[int, ...]
Staged = Iterable[StagedTensor]
States = Mapping[str, CudaBuffer]
# TensorRT's names of its dtypes.
DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
DTYPES |= {dtype.upper(): dtype for dtype in ("int8", "uint8", "int32", "int64", "bool")}


class LoadedEngine:
    """`raw` is an ICudaEngine of TensorRT 8.5 or later, or of TensorRT-RTX, which writes to `log`."""

    def __init__(self, raw: Any, log: BuilderLog) -> None:
        self.raw, self.log = raw, log
        names = [raw.get_tensor_name(i) for i in range(raw.num_io_tensors)]
        self.inputs: Sequence[str] = [name for name in names if raw.get_tensor_mode(name).name == "INPUT"]
        self.outputs: Sequence[str] = [name for name in names if name not in self.inputs]

    def dtype(self, name: str) -> str:
        found: str = self.raw.get_tensor_dtype(name).name
        return DTYPES.get(found, found)

    def shape(self, name: str) -> Shape:
        return tuple(self.raw.get_tensor_shape(name))

    def profile(self, name: str) -> tuple[Shape, Shape, Shape]:
        shape = self.shape(name)
        if -1 not in shape:
            return shape, shape, shape
        low, best, high = map(tuple, self.raw.get_tensor_profile_shape(name, 0))
        return low, best, high

    def context(self) -> LoadedContext:
        config = self.raw.create_runtime_config() if hasattr(self.raw, "create_runtime_config") else None
        strategy = getattr(config, "dynamic_shapes_kernel_specialization_strategy", None)
        if config is not None and strategy is not None:
            # TensorRT-RTX compiles for the shape in the background, but a graph keeps the kernels of its capture.
            config.dynamic_shapes_kernel_specialization_strategy = type(strategy).EAGER
            raw = self.raw.create_execution_context(config)
        else:
            raw = self.raw.create_execution_context()
        if raw is None:
            fix = "Mostly the GPU has no memory left: close streams"
            raise DeviceError(f"TensorRT made no execution context: {self.log.errors()}. {fix}.")
        return LoadedContext(raw, self.log)


class LoadedContext:
    """`raw` is an IExecutionContext of TensorRT, or of TensorRT-RTX, which writes to `log`."""

    def __init__(self, raw: Any, log: BuilderLog) -> None:
        self.raw, self.log = raw, log

    def bind(self, name: str, pointer: int) -> None:
        if not self.raw.set_tensor_address(name, pointer):
            raise DeviceError(f"TensorRT refused the address of {name!r}: {self.log.errors()}.")

    def set_batch(self, name: str, shape: Shape) -> None:
        if not self.raw.set_input_shape(name, shape):
            raise DeviceError(f"TensorRT refused the shape {shape} of {name!r}: {self.log.errors()}.")

    def check_shape(self, name: str, shape: Shape) -> None:
        """Raise DeviceError where an output is not of `shape`, since the engine writes it all the same."""
        found = tuple(self.raw.get_tensor_shape(name))
        if found != shape:
            fix = "Build it again with --rebuild"
            raise DeviceError(f"the engine gives {name!r} as {found}, but the contract says {shape}. {fix}.")

    def enqueue(self, stream: Any) -> None:
        if not self.raw.execute_async_v3(int(stream)):
            raise DeviceError(f"TensorRT refused the step: {self.log.errors()}. Build it again with --rebuild.")


class TensorRTSession(Session):
    """An engine of the step, shared between threads; each stream has a queue of its own on the device.

    `open_device` opens such a queue, `device` is its name, and `build` the command that builds the engine. Raises
    BackendUnavailable where the engine is not of the contract.
    """

    def __init__(
        self,
        spec: StreamSpec,
        engine: LoadedEngine,
        open_device: Callable[[], CudaDevice],
        device: str,
        precision: str,
        build: str,
    ) -> None:
        self.spec, self.engine, self.open_device = spec, engine, open_device
        self.device, self.precision = device, precision
        _check_contract(spec, engine, build)
        tensor = spec.inputs[0]
        low, _, high = (shape[tensor.axis(BATCH) or 0] for shape in engine.profile(tensor.name))
        self.batches = low, high

    def stream_buffers(self, batch: int) -> TensorRTBuffers:
        with as_stream_error(f"tensorrt cannot open a stream of {batch} rows"):
            return TensorRTBuffers(self, batch)

    def state_store(self) -> TensorRTStateStore:
        with as_stream_error("tensorrt cannot open a pool"):
            return TensorRTStateStore(self)

    def bound(self, batch: int, inputs: Staged, outputs: Staged, before: States, after: States) -> LoadedContext:
        """A context for a step of `batch` rows, from the states `before` to those `after`."""
        context = self.engine.context()
        for tensor in inputs:
            context.set_batch(tensor.name, tensor.host.shape)
        for tensor in (*inputs, *outputs):
            context.bind(tensor.name, tensor.buffer.pointer)
        for state in self.spec.states:
            context.set_batch(state.input, (batch, *state.row))
            context.bind(state.input, before[state.name].pointer)
            context.bind(state.output, after[state.name].pointer)
        for tensor in outputs:
            context.check_shape(tensor.name, tensor.host.shape)
        for state in self.spec.states:
            context.check_shape(state.output, (batch, *state.row))
        return context


class TensorRTBuffers(StreamBuffers):
    """Even steps read the first set of states and write the second, odd steps reverse; each is one captured graph.

    A graph holds its addresses (https://docs.nvidia.com/deeplearning/tensorrt, "CUDA Graphs"), so there is one for
    each direction, and a context that is never bound again. No state passes the host but in `read` and `write`.
    """

    def __init__(self, session: TensorRTSession, batch: int) -> None:
        spec, engine = session.spec, session.engine
        # Before the contexts, whose memory is on the thread's current GPU.
        self.device = session.open_device()
        self.states, self.batch = {s.name: (s, engine.dtype(s.input)) for s in spec.states}, batch
        self.chunk = spec.chunk
        self.staged_inputs, self.staged_outputs = (
            [StagedTensor(self.device, t, engine.dtype(t.name), batch, spec.chunk) for t in tensors]
            for tensors in (spec.inputs, spec.outputs)
        )
        self.inputs = {tensor.name: tensor.host for tensor in self.staged_inputs}
        self.outputs = {tensor.name: tensor.host for tensor in self.staged_outputs}
        self.sets = (self._allocate(), self._allocate())
        staged = self.staged_inputs, self.staged_outputs
        self.contexts = [session.bound(batch, *staged, *sets) for sets in (self.sets, self.sets[::-1])]
        self.graphs: list[CudaGraph] = []
        # The first `write` goes to the other set.
        self.now = 1

    def _allocate(self) -> dict[str, CudaBuffer]:
        return {n: self.device.empty((self.batch, *s.row), storage(kind)) for n, (s, kind) in self.states.items()}

    def step(self) -> None:
        for tensor in self.staged_inputs:
            tensor.encode()
        try:
            self.graphs[self.now].launch()
            self.device.synchronize()
        except DeviceError as error:
            raise StreamError(f"tensorrt refused the frame: {error}", id="tensorrt-frame-refused") from error
        for tensor in self.staged_outputs:
            tensor.decode()
        self.now ^= 1
        self.frames += self.chunk

    def read(self) -> dict[str, Array]:
        raw = {n: np.empty((self.batch, *s.row), storage(kind)) for n, (s, kind) in self.states.items()}
        with as_stream_error("tensorrt cannot read the states"):
            for name, buffer in self.sets[self.now].items():
                self.device.download(raw[name], buffer)
            self.device.synchronize()
        return {n: decode(raw[n], kind, np.dtype(s.dtype)) for n, (s, kind) in self.states.items()}

    def write(self, states: Mapping[str, Array]) -> None:
        raw = {n: encode(n, np.asarray(states[n], order="C"), kind) for n, (_, kind) in self.states.items()}
        with as_stream_error("tensorrt cannot set the states"):
            # The other set, so that an error leaves the states as they were.
            for name, buffer in self.sets[1 - self.now].items():
                self.device.upload(buffer, raw[name])
            self.device.synchronize()
        self.now ^= 1
        if not self.graphs:
            with as_stream_error("tensorrt cannot capture the step as a CUDA graph"):
                self.graphs = self._capture()

    def _capture(self) -> list[CudaGraph]:
        """The even and the odd step as graphs, which does not run them; the states are unchanged afterwards.

        A step outside a graph comes first: in its first enqueue, which no graph can hold (the same source), an engine
        sets itself up for its shapes.
        """
        saved = self._allocate()
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
        for tensor in self.staged_inputs:
            self.device.upload(tensor.buffer, tensor.pinned)
        self.contexts[direction].enqueue(self.device.stream)
        for tensor in self.staged_outputs:
            self.device.download(tensor.pinned, tensor.buffer)


class TensorRTStateStore(DeviceStateStore):
    """A round is one launch: each batch has a context that is never bound again, and a graph until the pool grows."""

    backend, captured = "tensorrt", True

    def __init__(self, session: TensorRTSession) -> None:
        self.session = session
        # Before the contexts, whose memory is on the thread's current GPU.
        device = session.open_device()
        super().__init__(session.spec, device, session.engine.dtype, session.batches)

    def bind(self, batch: PaddedBatch) -> Callable[[], None]:
        context = self.session.bound(batch.size, batch.inputs, batch.outputs, batch.before, batch.after)
        return partial(context.enqueue, self.device.stream)


def _check_contract(spec: StreamSpec, engine: LoadedEngine, build: str) -> None:
    feeds: dict[str, TensorSpec | StateSpec] = {t.name: t for t in spec.inputs} | {s.input: s for s in spec.states}
    gives: dict[str, TensorSpec | StateSpec] = {t.name: t for t in spec.outputs} | {s.output: s for s in spec.states}
    fix = f"Build it again: `{build} --rebuild`."
    for what, found, expected in (("takes", engine.inputs, feeds), ("gives", engine.outputs, gives)):
        if set(found) != set(expected):
            names = f"{sorted(found)}, but the contract says {sorted(expected)}"
            raise BackendUnavailable(f"the engine {what} {names}. {fix}", id="tensorrt-engine-names")
        for name, port in expected.items():
            kind, shape = engine.dtype(name), engine.shape(name)
            need = sized(port.shape, -1, spec.chunk)
            fits = len(shape) == len(need) and all(f == n or -1 in (f, n) for f, n in zip(shape, need, strict=True))
            if not fits or not holds(kind, port.dtype, isinstance(port, StateSpec)):
                ports = f"{name!r} as {kind} {shape}, but the contract says {port.dtype} {need}"
                raise BackendUnavailable(f"the engine {what} {ports}. {fix}", id="tensorrt-engine-ports")
    for state in spec.states:
        before, after = engine.dtype(state.input), engine.dtype(state.output)
        if before != after:
            dtypes = f"as {before} and gives it as {after}"
            raise BackendUnavailable(
                f"the engine takes state {state.name!r} {dtypes}. {fix}", id="tensorrt-engine-states"
            )
