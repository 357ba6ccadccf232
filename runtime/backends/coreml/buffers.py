"""One stream on a package, on any runtime: frames in and out, and states as the contract has them."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.coreml.package_names import BEGUN, join, part_names, split, tensor_names
from rnn_export.runtime.protocols import StreamBuffers


class Prediction(Protocol):
    """One stream's states and the step on them; names and dtypes are the package's."""

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name; raises StreamError, and then the states stay."""

    def read_state(self, name: str) -> Array: ...
    def write_state(self, name: str, value: Array) -> None: ...


class PackageBuffers(StreamBuffers):
    """The buffers of one stream; `begun` says whether the package has a flag for its first step."""

    def __init__(self, spec: StreamSpec, precision: str, begun: bool, prediction: Prediction) -> None:
        self.spec, self.begun, self.prediction = spec, begun, prediction
        self.names, self.parts = tensor_names(spec), part_names(spec, precision)
        self.inputs = {t.name: _array(t, spec.chunk) for t in spec.inputs}
        self.outputs = {t.name: _array(t, spec.chunk) for t in spec.outputs}

    def step(self) -> None:
        fed = {self.names[name]: exchanged(a) for name, a in self.inputs.items()}
        given, chunk = self.prediction.predict(fed), self.spec.chunk
        self.frames += chunk
        for name, y in self.outputs.items():
            y[...] = np.reshape(given[self.names[name]], y.shape)

    def read(self) -> dict[str, Array]:
        return {s.name: join([self._kept(s, part) for part in self.parts[s.name]], s.dtype) for s in self.spec.states}

    def write(self, states: Mapping[str, Array]) -> None:
        for name, parts in self.parts.items():
            for part, kept in zip(parts, split(np.asarray(states[name]), len(parts)), strict=True):
                self.prediction.write_state(part, np.ascontiguousarray(kept))
        if self.begun:
            self.prediction.write_state(BEGUN, np.ones(1, np.float16))

    def _kept(self, state: StateSpec, part: str) -> Array:
        return np.reshape(self.prediction.read_state(part), sized(state.shape, 1, self.spec.chunk))


def exchanged(array: Array) -> Array:
    """An input as Core ML takes it: fp32, or int32 for all that is whole."""
    return array if array.dtype == np.float32 else array.astype(np.int32)


def _array(tensor: TensorSpec, frames: int) -> Array:
    return np.zeros(sized(tensor.shape, 1, frames), tensor.dtype)
