"""Triton's requests and answers: how frames and states are written into them and read from them."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_export.contract.layout import canonical
from rnn_export.contract.snapshot import Snapshot, pack, unpack
from rnn_export.contract.spec import StreamSpec, TensorSpec, sized
from rnn_export.errors import BackendUnavailable, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.remote.wire import BYTES, SNAPSHOT, TENSORS, WireFormat, snapshot_name

try:
    from tritonclient.grpc import service_pb2 as pb
except ImportError as error:
    raise BackendUnavailable(
        f"tritonclient is not here ({error}): {pip_install('remote')}.", id="tritonclient-missing"
    ) from error

# The raw values of one frame of each input, in the order of the contract.
Frame = tuple[bytes, ...]
# By name, each of one row: (1, ...).
States = Mapping[str, Array]


class SnapshotCodec:
    """All states as the bytes of a snapshot."""

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        # Whether a sequence may start at the model's initial states. While a delay lasts the server gives no outputs;
        # here the stream that counts the frames leaves them out.
        self.starts_without_seed = not spec.has_delay

    def seed(self, states: States | None) -> list[bytes]:
        """The values of a wire format's `seeds`; without states the server goes on with its own."""
        data = b"" if states is None else pack(self.spec, 1, Snapshot(self.spec.delay, states, {}))
        return [struct.pack("<I", len(data)) + data]

    def states(self, raw: Mapping[str, bytes]) -> States:
        """The states, from the values of `snapshots` by name; raises StreamError or ValueError."""
        return unpack(self.spec, 1, raw[SNAPSHOT][4:]).states


class TensorCodec:
    """The same as a tensor for each state, and a flag that says whether they are to be taken."""

    starts_without_seed = True

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self.none = [np.zeros(1, "<f4").tobytes(), *(_raw(np.zeros(s.row, s.dtype)) for s in spec.states)]

    def seed(self, states: States | None) -> list[bytes]:
        if states is None:
            return self.none
        return [np.ones(1, "<f4").tobytes(), *(_raw(states[s.name]) for s in self.spec.states)]

    def states(self, raw: Mapping[str, bytes]) -> States:
        return {s.name: _array(raw[snapshot_name(s)], s.dtype, (1, *s.row)) for s in self.spec.states}


CODECS: Mapping[str, type[SnapshotCodec | TensorCodec]] = {BYTES: SnapshotCodec, TENSORS: TensorCodec}


@dataclass(frozen=True)
class Answer:
    """`outputs` by name, canonical, of one row; `states` where they were asked for."""

    outputs: Mapping[str, Array]
    states: States | None


class Codec:
    """Requests and answers of the model `name`, states in the form `kind`; `shapes` are of each input of one row."""

    def __init__(self, name: str, spec: StreamSpec, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.spec, self.wire, self.state_codec = spec, WireFormat.of(spec, kind), CODECS[kind](spec)
        self.without_states, self.with_states = pb.ModelInferRequest(model_name=name), pb.ModelInferRequest()
        for tensor in self.wire.inputs:
            self.without_states.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shapes[tensor.name])
        for tensor in self.wire.results:
            self.without_states.outputs.add(name=tensor.name)
        self.with_states.CopyFrom(self.without_states)
        for tensor in self.wire.snapshots:
            self.with_states.outputs.add(name=tensor.name)
        self.silence = self.frames({t.name: np.zeros(sized(t.shape, 1, spec.chunk), t.dtype) for t in spec.inputs})[0]

    def frames(self, inputs: Mapping[str, Array]) -> list[Frame]:
        """The frame of each row of `inputs`, which are in the graph's layout."""
        rows = ([_raw(row) for row in canonical(inputs[t.name], t)] for t in self.spec.inputs)
        return list(zip(*rows, strict=True))

    def request(
        self,
        sequence: int,
        frame: Frame,
        *,
        start: bool,
        end: bool = False,
        seed: States | None = None,
        wants_states: bool = False,
    ) -> Any:
        """A frame of a sequence, by its id: the first where `start`, with the states to begin from."""
        request = pb.ModelInferRequest()
        request.CopyFrom(self.with_states if wants_states else self.without_states)
        request.parameters["sequence_id"].int64_param = sequence
        request.parameters["sequence_start"].bool_param = start
        request.parameters["sequence_end"].bool_param = end
        request.raw_input_contents.extend((*frame, *self.state_codec.seed(seed)))
        return request

    def answer(self, response: Any, wants_states: bool) -> Answer:
        """A server's answer; raises StreamError where it is not what was asked for."""
        names = [output.name for output in response.outputs]
        raw = dict(zip(names, response.raw_output_contents, strict=False))
        wanted = self.wire.outputs if wants_states else self.wire.results
        if missing := [tensor.name for tensor in wanted if tensor.name not in raw]:
            raise StreamError(
                f"the server left out {', '.join(missing)}: it does not serve this model.", id="remote-outputs-missing"
            )
        try:
            outputs = {t.name: self._output(raw[t.name], t) for t in self.spec.outputs}
            return Answer(outputs, self.state_codec.states(raw) if wants_states else None)
        except ValueError as error:
            raise StreamError(
                f"the server gave values that do not fit the contract: {error}.", id="remote-values-unfit"
            ) from error

    def _output(self, raw: bytes, tensor: TensorSpec) -> Array:
        buffer = np.empty(sized(tensor.shape, 1, self.spec.chunk), tensor.dtype)
        return _array(raw, tensor.dtype, canonical(buffer, tensor).shape)


def _raw(array: Array) -> bytes:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _array(raw: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)
