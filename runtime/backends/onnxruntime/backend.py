"""ONNX Runtime on CPU or CUDA: everything bound once, the states swapped between two sets of buffers at each step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import BackendUnavailable, BundleError, StreamError
from rnn_export.layout import canonical, graph_layout
from rnn_export.runtime.backends.api import Artefacts, Slots, empty_state, target_row
from rnn_export.spec import StreamSpec

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
    spec: StreamSpec, graphs: Mapping[str, bytes], device: str | None = None, threads: int = 1, optimise: bool = True
) -> OrtSession:
    """A session of `step.onnx`, of `sequence.onnx` or of both; without `optimise` each node runs as it was written."""
    provider, number = _provider(device)
    sessions = {
        name: _session(graphs[name], provider, number, threads, optimise)
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


def _session(graph: bytes, provider: str, number: int, threads: int, optimise: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # What is an error is raised, so nothing has to be printed on stderr as well.
    options.log_severity_level = 4
    # For the small tensors of a step the arena costs more than malloc.
    options.enable_cpu_mem_arena = False
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
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
            from rnn_export.runtime.backends.onnxruntime.cuda_slots import cuda_slots

            return cuda_slots(self)
        from rnn_export.runtime.backends.onnxruntime.slots import OrtSlots

        return OrtSlots(self)


class OrtMemory:
    """Bound buffers of one stream: even steps read the first set of states and write the second, odd ones reverse.

    `sets` are the arrays for the states; None makes them.
    """

    what = "frame"

    def __init__(self, session: OrtSession, batch: int, sets: Pair | None = None) -> None:
        self.session = session
        self.device, _, number = session.device.partition(":")
        self.number = int(number or 0)
        self.names = [t.name for t in session.spec.outputs]
        self.now = 0
        self.sets: tuple[dict[str, Any], ...] = ({}, {})
        self.inputs: dict[str, Array] = {}
        self.outputs: dict[str, Array] = {}
        if session.graph is not None:
            self.bind_step(session, batch, sets or pair(session.spec, batch))

    def bind_step(self, session: OrtSession, batch: int, sets: Pair) -> None:
        self.inputs = {v.name: _buffer(v, batch) for v in session.graph.get_inputs()[: len(session.spec.inputs)]}
        self.outputs = {v.name: _buffer(v, batch) for v in session.graph.get_outputs()[: len(session.spec.outputs)]}
        self.sets = tuple({name: self.place(array) for name, array in states.items()} for states in sets)
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
            raise StreamError(f"onnxruntime refused the {self.what}: {error}") from error
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


def pair(spec: StreamSpec, batch: int) -> Pair:
    """Arrays for two sets of states, unset."""
    return empty_state(spec, batch), empty_state(spec, batch)


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
