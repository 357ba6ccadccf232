"""ONNX Runtime on CPU or CUDA: everything bound once, the states swapped between two sets of buffers at each step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_export.errors import BackendUnavailable, BundleError, StreamError
from rnn_export.runtime.backends import Array, Artefacts, Slots, empty_state, target_row
from rnn_export.runtime.backends.rows import HostRows, turned_nan
from rnn_export.runtime.ports import canonical, graph_layout
from rnn_export.spec import BATCH, StreamSpec, sized

try:
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as native
except ImportError as error:
    raise BackendUnavailable(
        f"onnxruntime is not here ({error}): pip install 'rnn-export[cpu]', or 'rnn-export[gpu]' for CUDA."
    ) from error

# What ONNX Runtime raises has no common base; a bound run raises a bare RuntimeError.
RUN_ERRORS = (
    native.Fail,
    native.InvalidArgument,
    native.RuntimeException,
    native.EPFail,
    native.NotImplemented,
    RuntimeError,
)
# Rows of a piece of a round.
ROWS = 128
# Rounds from one look for NaN in the states to the next, which costs a twelfth of a round: a prime, so that no streams
# that take turns are passed over each time.
LOOK = 17
Pair = tuple[dict[str, Array], dict[str, Array]]
LOAD_ERRORS = (*RUN_ERRORS, native.InvalidGraph, native.InvalidProtobuf, native.NoSuchFile)


def open_session(artefacts: Artefacts, precision: str | None, device: str | None, threads: int) -> OrtSession:
    """Load the bundle's ONNX graphs; `device` is None, "cpu", "cuda" or "cuda:N"."""
    row = target_row(artefacts, "onnx", precision)
    _provider(device)
    graphs = {name.rsplit("/", 1)[-1]: artefacts.read(name) for name in row.files}
    needed = "sequence.onnx" if artefacts.spec.sequence_only else "step.onnx"
    if needed not in graphs:
        raise BundleError(f"target 'onnx' lists {', '.join(row.files)}, but no {needed}. Export the bundle again.")
    return graph_session(artefacts.spec, graphs, device, threads)


def graph_session(
    spec: StreamSpec, graphs: Mapping[str, bytes], device: str | None = None, threads: int = 1
) -> OrtSession:
    """A session of `step.onnx`, of `sequence.onnx` or of both."""
    provider, number = _provider(device)
    sessions = {
        name: _session(graphs[name], provider, number, threads)
        for name in ("step.onnx", "sequence.onnx")
        if name in graphs
    }
    for name, session in sessions.items():
        _check_names(name, session, spec)
    device = "cpu" if provider == "CPUExecutionProvider" else f"cuda:{number}"
    return OrtSession(spec, sessions.get("step.onnx"), sessions.get("sequence.onnx"), device)


def _check_names(graph: str, session: Any, spec: StreamSpec) -> None:
    feeds = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
    gives = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]
    for what, values, wanted in (("takes", session.get_inputs(), feeds), ("gives", session.get_outputs(), gives)):
        names = [value.name for value in values]
        if names != wanted:
            raise BundleError(f"{graph} {what} {names}, but the contract says {wanted}. Export the bundle again.")


def _provider(device: str | None) -> tuple[str, int]:
    named = re.fullmatch("(cpu|cuda)(?::([0-9]+))?", "cpu" if device is None else str(device))
    if named is None or named.group(0).startswith("cpu:"):
        raise BackendUnavailable(f"onnxruntime has no device {device!r}: use 'cpu', 'cuda' or 'cuda:N'.")
    provider = f"{named.group(1).upper()}ExecutionProvider"
    if provider not in ort.get_available_providers():
        raise BackendUnavailable(
            f"device {device!r} needs {provider}, but this onnxruntime {ort.__version__} was built with "
            f"{', '.join(ort.get_available_providers())}: pip install 'rnn-export[gpu]' in place of onnxruntime."
        )
    return provider, int(named.group(2) or 0)


def _session(graph: bytes, provider: str, number: int, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # What is an error is raised, so nothing has to be printed on stderr as well.
    options.log_severity_level = 4
    # For the small tensors of a step the arena costs more than malloc.
    options.enable_cpu_mem_arena = False
    chosen: Any = provider
    if provider == "CUDAExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        chosen = (provider, {"device_id": str(number)})
    try:
        session = ort.InferenceSession(graph, options, providers=[chosen])
    except LOAD_ERRORS as error:
        raise BackendUnavailable(f"onnxruntime {ort.__version__} cannot load the graph: {error}") from error
    # Where the driver is missing, onnxruntime gives a CPU session without a word.
    if session.get_providers()[0] != provider:
        raise BackendUnavailable(
            f"{provider} was asked for, but onnxruntime {ort.__version__} made a session on "
            f"{', '.join(session.get_providers())}: the CUDA driver or libraries are missing or do not fit."
        )
    return session


class OrtSession:
    """The step graph and the sequence graph, where there is one."""

    precision: str = "fp32"
    batches: tuple[int, int | None] = (1, None)

    def __init__(self, spec: StreamSpec, step: Any, sequence: Any, device: str) -> None:
        self.spec, self.graph, self.sequence, self.device = spec, step, sequence, device
        self.has_sequence = sequence is not None

    def memory(self, batch: int) -> OrtMemory:
        return OrtMemory(self, batch)

    def slots(self) -> Slots:
        if self.device != "cpu":
            from rnn_export.runtime.backends.cuda_slots import cuda_slots

            return cuda_slots(self)
        return OrtSlots(self)


class OrtMemory:
    """Bound buffers of one stream: even steps read the first set of states and write the second, odd ones reverse."""

    def __init__(self, session: OrtSession, batch: int) -> None:
        self.session = session
        self.device, _, number = session.device.partition(":")
        self.number = int(number or 0)
        self.names = [t.name for t in session.spec.outputs]
        self.now = 0
        self.sets: tuple[dict[str, Any], ...] = ({}, {})
        self.inputs: dict[str, Array] = {}
        self.outputs: dict[str, Array] = {}
        if session.graph is not None:
            self.bind_step(session, batch)

    def bind_step(self, session: OrtSession, batch: int) -> None:
        self.inputs = {v.name: _buffer(v, batch) for v in session.graph.get_inputs()[: len(session.spec.inputs)]}
        self.outputs = {v.name: _buffer(v, batch) for v in session.graph.get_outputs()[: len(session.spec.outputs)]}
        self.sets = tuple(
            {name: self.place(array) for name, array in empty_state(session.spec, batch).items()} for _ in range(2)
        )
        self.bindings = tuple(self.bind(self.sets[i], self.sets[1 - i]) for i in range(2))
        self.run_step, self.prepared = _direct(session.graph, self.bindings)

    def place(self, array: Array) -> Any:
        """On the CPU an OrtValue shares the array's memory."""
        return ort.OrtValue.ortvalue_from_numpy(array, self.device, self.number)

    def bind(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
        binding = self.session.graph.io_binding()
        for name, array in self.inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in self.outputs.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        self.bind_states(binding, before, after)
        return binding

    def bind_states(self, binding: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        for state in self.session.spec.states:
            binding.bind_ortvalue_input(state.input, before[state.name])
            binding.bind_ortvalue_output(state.output, after[state.name])

    def step(self) -> None:
        try:
            self.run_step(self.prepared[self.now], None)
        except RUN_ERRORS as error:
            raise StreamError(f"onnxruntime refused the frame: {error}") from error
        self.now ^= 1

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        binding = self.session.sequence.io_binding()
        # The binding does not keep what it reads.
        fed = {t.name: graph_layout(inputs[t.name], t) for t in self.session.spec.inputs}
        for name, array in fed.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name in self.names:
            binding.bind_output(name, "cpu")
        self.bind_states(binding, self.sets[self.now], self.sets[1 - self.now])
        try:
            self.session.sequence.run_with_iobinding(binding)
        except RUN_ERRORS as error:
            raise StreamError(f"onnxruntime refused the sequence: {error}") from error
        self.now ^= 1
        given = zip(self.session.spec.outputs, binding.copy_outputs_to_cpu(), strict=False)
        return {tensor.name: canonical(array, tensor) for tensor, array in given}

    def read(self) -> dict[str, Array]:
        return {name: np.array(value.numpy()) for name, value in self.sets[self.now].items()}

    def write(self, states: Mapping[str, Array]) -> None:
        for name, value in self.sets[self.now].items():
            value.update_inplace(np.ascontiguousarray(states[name]))


class OrtSlots:
    """A pool's states in host memory; a round runs in pieces, so that what one touches stays in a core's own cache.

    The states of the last round stay in its pieces until anyone asks: the next round, if it is the same, finds them
    there.
    """

    def __init__(self, session: OrtSession) -> None:
        self.session, self.spec = session, session.spec
        self.pool = HostRows(session.spec)
        self.whole: list[_Piece] = []
        # A round has one piece of fewer rows, so that these share memory for the states of `most`.
        self.rests: dict[int, _Piece] = {}
        self.most, self.shared = 0, _pair(session.spec, 0)
        self.rounds = 0
        self.slots: Array | None = None
        self.round: list[tuple[slice, _Piece]] = []
        self.outputs: dict[str, Array] = {}

    @property
    def nbytes(self) -> int:
        pairs = (self.shared, *(piece.sets for piece in self.whole))
        return self.pool.nbytes + sum(array.nbytes for pair in pairs for states in pair for array in states.values())

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        # The same array, as a pool gives it for the same round.
        if slots is not self.slots:
            self._settle()
            self._begin(slots)
        stepped = []
        try:
            for rows, piece in self.round:
                piece.take(inputs, rows)
                piece.step()
                stepped.append(piece)
                piece.give(self.outputs, rows)
            self.rounds += 1
            return self.outputs, turned_nan(self.spec, self.outputs, () if self.rounds % LOOK else self._states())
        except BaseException:
            for piece in stepped:
                piece.back()
            raise

    def _states(self) -> list[Array]:
        """Those of the last round."""
        pieces = [piece.states for _, piece in self.round]
        return [np.concatenate([states[s.name] for states in pieces]) for s in self.spec.states]

    def _begin(self, slots: Array) -> None:
        n = len(slots)
        for start in range(0, n, ROWS):
            rows = slice(start, min(start + ROWS, n))
            piece = self._piece(start // ROWS, rows.stop - start)
            self.pool.gather(slots[rows], piece.states)
            self.round.append((rows, piece))
        self.slots = slots
        self.outputs = {t.name: np.empty(sized(t.shape, n, self.spec.chunk), t.dtype) for t in self.spec.outputs}

    def _piece(self, number: int, n: int) -> _Piece:
        if n == ROWS:
            if number == len(self.whole):
                self.whole.append(_Piece(self.session, n, _pair(self.spec, n)))
            return self.whole[number]
        if n > self.most:
            self.most = min(2 * n, ROWS)
            self.shared, self.rests = _pair(self.spec, self.most), {}
        if n not in self.rests:
            one, other = ({name: array[:n] for name, array in states.items()} for states in self.shared)
            self.rests[n] = _Piece(self.session, n, (one, other))
        return self.rests[n]

    def _settle(self) -> None:
        """The states of the last round back to where they belong."""
        if self.slots is not None:
            for rows, piece in self.round:
                self.pool.write(self.slots[rows], piece.states)
        self.slots, self.round = None, []

    def grow(self, count: int) -> None:
        self.pool.grow(count)

    def read(self, slots: Array) -> dict[str, Array]:
        self._settle()
        return self.pool.read(slots)

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        self._settle()
        self.pool.write(slots, states)

    def release(self, slots: Array) -> None:
        pass


class _Piece:
    """Buffers of `n` rows, bound to the step graph from either of two `sets` of states to the other."""

    def __init__(self, session: OrtSession, n: int, sets: Pair) -> None:
        graph, spec = session.graph, session.spec
        self.inputs = {t.name: np.zeros(sized(t.shape, n, spec.chunk), t.dtype) for t in spec.inputs}
        self.outputs = {t.name: np.zeros(sized(t.shape, n, spec.chunk), t.dtype) for t in spec.outputs}
        self.sets, self.now = sets, 0
        bindings = []
        for before, after in (self.sets, self.sets[::-1]):
            binding = graph.io_binding()
            for name, array in (self.inputs | {s.input: before[s.name] for s in spec.states}).items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
            for name, array in (self.outputs | {s.output: after[s.name] for s in spec.states}).items():
                binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
            bindings.append(binding)
        self.run, self.prepared = _direct(graph, tuple(bindings))
        self.places = {t.name: _place(t.axis(BATCH)) for t in (*spec.inputs, *spec.outputs)}

    @property
    def states(self) -> dict[str, Array]:
        return self.sets[self.now]

    def step(self) -> None:
        try:
            self.run(self.prepared[self.now], None)
        except RUN_ERRORS as error:
            raise StreamError(f"onnxruntime refused the round: {error}") from error
        self.now ^= 1

    def back(self) -> None:
        """As if the last step had not been."""
        self.now ^= 1

    def take(self, inputs: Mapping[str, Array], rows: slice) -> None:
        for name, buffer in self.inputs.items():
            buffer[...] = inputs[name][(*self.places[name], rows)]

    def give(self, outputs: Mapping[str, Array], rows: slice) -> None:
        for name, buffer in self.outputs.items():
            outputs[name][(*self.places[name], rows)] = buffer


def _pair(spec: StreamSpec, n: int) -> Pair:
    return empty_state(spec, n), empty_state(spec, n)


def _place(axis: int | None) -> tuple[slice, ...]:
    """What comes before the batch in an index."""
    return (slice(None),) * (axis or 0)


def _direct(session: Any, bindings: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """A bound run without the layer of Python around it, where this onnxruntime has it inside."""
    try:
        return session._sess.run_with_iobinding, tuple(binding._iobinding for binding in bindings)
    except AttributeError:
        return session.run_with_iobinding, bindings


def _buffer(value: Any, batch: int) -> Array:
    kinds = {"tensor(float)": "float32", "tensor(double)": "float64"}
    dtype = kinds.get(value.type, value.type.removeprefix("tensor(").removesuffix(")"))
    return np.zeros([d if isinstance(d, int) else batch for d in value.shape], dtype)
