"""The buffers of a stream on ONNX Runtime: bound once, the states swapped between two sets at each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import StreamError
from rnn_export.layout import canonical, graph_layout
from rnn_export.runtime.backends.api import StreamBuffers, empty_state
from rnn_export.runtime.backends.onnxruntime.library import RUN_ERRORS, ort
from rnn_export.spec import StreamSpec

# Two sets of states by name.
StatePair = tuple[dict[str, Array], dict[str, Array]]


@dataclass(frozen=True)
class Graphs:
    """What ONNX Runtime loaded of a contract: an InferenceSession of the step, of the sequence, or of both."""

    spec: StreamSpec
    step: Any
    sequence: Any
    device: str


class OrtBuffers(StreamBuffers):
    """Bound buffers of one stream: even steps read the first set of states and write the second, odd ones reverse."""

    unit = "frame"

    def __init__(self, graphs: Graphs, batch: int, sets: StatePair | None = None) -> None:
        self.graphs, self.spec = graphs, graphs.spec
        self.device, _, number = graphs.device.partition(":")
        self.number = int(number or 0)
        self.now = 0
        self.sets: tuple[dict[str, Any], ...] = ({}, {})
        self.inputs: dict[str, Array] = {}
        self.outputs: dict[str, Array] = {}
        if graphs.step is not None:
            self.bind_step(graphs.step, batch, sets or state_pair(self.spec, batch))

    def bind_step(self, step: Any, batch: int, sets: StatePair) -> None:
        self.inputs = {v.name: _buffer(v, batch) for v in step.get_inputs()[: len(self.spec.inputs)]}
        self.outputs = {v.name: _buffer(v, batch) for v in step.get_outputs()[: len(self.spec.outputs)]}
        self.sets = tuple({name: self.place(array) for name, array in states.items()} for states in sets)
        self.bindings = tuple(self.bind(step, self.sets[i], self.sets[1 - i]) for i in range(2))
        self.run_step, self.prepared = _direct(step, self.bindings)

    def place(self, array: Array) -> Any:
        """On the CPU an OrtValue shares the array's memory."""
        return ort.OrtValue.ortvalue_from_numpy(array, self.device, self.number)

    def bind(self, step: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
        binding = step.io_binding()
        for name, array in self.inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in self.outputs.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        self.bind_states(binding, before, after)
        return binding

    def bind_states(self, binding: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        for state in self.spec.states:
            binding.bind_ortvalue_input(state.input, before[state.name])
            binding.bind_ortvalue_output(state.output, after[state.name])

    def step(self) -> None:
        try:
            self.run_step(self.prepared[self.now], None)
        except RUN_ERRORS as error:
            raise StreamError(f"onnxruntime refused the {self.unit}: {error}") from error
        self.now ^= 1

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        binding = self.graphs.sequence.io_binding()
        # The binding does not keep what it reads.
        arrays = {t.name: graph_layout(inputs[t.name], t) for t in self.spec.inputs}
        for name, array in arrays.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for tensor in self.spec.outputs:
            binding.bind_output(tensor.name, "cpu")
        self.bind_states(binding, self.sets[self.now], self.sets[1 - self.now])
        try:
            self.graphs.sequence.run_with_iobinding(binding)
        except RUN_ERRORS as error:
            raise StreamError(f"onnxruntime refused the sequence: {error}") from error
        self.now ^= 1
        results = zip(self.spec.outputs, binding.copy_outputs_to_cpu(), strict=False)
        return {tensor.name: canonical(array, tensor) for tensor, array in results}

    def read(self) -> dict[str, Array]:
        return {name: np.array(value.numpy()) for name, value in self.sets[self.now].items()}

    def write(self, states: Mapping[str, Array]) -> None:
        for name, value in self.sets[self.now].items():
            value.update_inplace(np.ascontiguousarray(states[name]))


def state_pair(spec: StreamSpec, batch: int) -> StatePair:
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
