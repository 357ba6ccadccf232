"""How frames and states stand in Triton's requests and answers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import BackendUnavailable, StreamError
from rnn_export.layout import canonical
from rnn_export.snapshot import Snapshot, pack, unpack
from rnn_export.spec import StateSpec, StreamSpec, TensorSpec, sized

try:
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.utils import np_to_triton_dtype
except ImportError as error:
    raise BackendUnavailable(f"tritonclient is not here ({error}): pip install 'rnn-export[remote]'.") from error

# The raw values of one frame of each input, in the order of the contract.
Frame = tuple[bytes, ...]
# By name, each of one row: (1, ...).
States = Mapping[str, Array]

SEED = "rnn_seed"
SNAPSHOT = "rnn_snapshot"


class Wire(Protocol):
    """How states go to a server and come back.

    Attributes:
        inputs: name and type of what a request has besides the frame.
        outputs: names to ask for where the states are wanted.
        starts_plain: whether a sequence may start without states, at the model's initial ones.
    """

    inputs: Sequence[tuple[str, str]]
    outputs: Sequence[str]
    starts_plain: bool

    def seed(self, states: States | None) -> list[bytes]:
        """The values of `inputs`; without states the server goes on with its own."""

    def states(self, raw: Mapping[str, bytes]) -> States:
        """The states, from the values of `outputs`."""


class BytesWire:
    """A snapshot each way."""

    inputs: Sequence[tuple[str, str]] = ((SEED, "BYTES"),)
    outputs: Sequence[str] = (SNAPSHOT,)

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        # The server gives no outputs while a delay lasts; here the stream that counts the frames leaves them out.
        self.starts_plain = not spec.has_delay

    def seed(self, states: States | None) -> list[bytes]:
        data = b"" if states is None else pack(self.spec, 1, Snapshot(self.spec.delay, states, {}))
        return [struct.pack("<I", len(data)) + data]

    def states(self, raw: Mapping[str, bytes]) -> States:
        return unpack(self.spec, 1, raw[SNAPSHOT][4:]).states


class TensorsWire:
    """A tensor for each state each way, and a flag that says whether they are to be taken."""

    starts_plain = True

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self.inputs: Sequence[tuple[str, str]] = [
            (SEED, "FP32"),
            *((f"{s.name}.seed", _datatype(s)) for s in spec.states),
        ]
        self.outputs: Sequence[str] = [f"{s.name}.snap" for s in spec.states]
        self.plain = [np.zeros(1, "<f4").tobytes(), *(_raw(np.zeros(s.row, s.dtype)) for s in spec.states)]

    def seed(self, states: States | None) -> list[bytes]:
        if states is None:
            return self.plain
        return [np.ones(1, "<f4").tobytes(), *(_raw(states[s.name]) for s in self.spec.states)]

    def states(self, raw: Mapping[str, bytes]) -> States:
        return {s.name: _array(raw[f"{s.name}.snap"], s.dtype, (1, *s.row)) for s in self.spec.states}


WIRES: Mapping[str, Callable[[StreamSpec], Wire]] = {"bytes": BytesWire, "tensors": TensorsWire}


@dataclass(frozen=True)
class Answer:
    """`outputs` by name, canonical, of one row; `states` where they were asked for."""

    outputs: Mapping[str, Array]
    states: States | None


class Codec:
    """Requests and answers of one model; `shapes` are those of every input in a request of one row."""

    def __init__(self, name: str, spec: StreamSpec, wire: Wire, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.spec, self.wire = spec, wire
        self.plain = pb.ModelInferRequest(model_name=name)
        for key, datatype in (*((t.name, _datatype(t)) for t in spec.inputs), *wire.inputs):
            self.plain.inputs.add(name=key, datatype=datatype, shape=shapes[key])
        for tensor in spec.outputs:
            self.plain.outputs.add(name=tensor.name)
        self.asking = pb.ModelInferRequest()
        self.asking.CopyFrom(self.plain)
        for key in wire.outputs:
            self.asking.outputs.add(name=key)
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
        asks: bool = False,
    ) -> Any:
        """A frame of a sequence, by its id: the first where `start`, with the states to begin from.

        The answer has the states as of this frame where it `asks` for them.
        """
        request = pb.ModelInferRequest()
        request.CopyFrom(self.asking if asks else self.plain)
        request.parameters["sequence_id"].int64_param = sequence
        request.parameters["sequence_start"].bool_param = start
        request.parameters["sequence_end"].bool_param = end
        request.raw_input_contents.extend((*frame, *self.wire.seed(seed)))
        return request

    def answer(self, response: Any, asked: bool) -> Answer:
        """What a server gave; raises StreamError where that is not what was asked for."""
        names = [output.name for output in response.outputs]
        raw = dict(zip(names, response.raw_output_contents, strict=False))
        wanted = [*(t.name for t in self.spec.outputs), *(self.wire.outputs if asked else ())]
        if missing := [name for name in wanted if name not in raw]:
            raise StreamError(f"the server left out {', '.join(missing)}: it does not serve this model.")
        try:
            outputs = {t.name: self._output(raw[t.name], t) for t in self.spec.outputs}
            return Answer(outputs, self.wire.states(raw) if asked else None)
        except ValueError as error:
            raise StreamError(f"the server gave values that do not fit the contract: {error}.") from error

    def _output(self, raw: bytes, tensor: TensorSpec) -> Array:
        buffer = np.empty(sized(tensor.shape, 1, self.spec.chunk), tensor.dtype)
        return _array(raw, tensor.dtype, canonical(buffer, tensor).shape)


def input_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Of one row of each input, by name, as a server's config has them."""
    return {i.name: (1, *i.dims) for i in config.input}


def check_shapes(spec: StreamSpec, wire: Wire, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise BackendUnavailable where a server's inputs are not those of the contract."""
    sizes = {t.name: math.prod(sized(t.shape, 1, spec.chunk)) for t in spec.inputs}
    sizes |= {SEED: 1, **{f"{s.name}.seed": math.prod(s.row) for s in spec.states}}
    wanted = {name: sizes[name] for name in (*(t.name for t in spec.inputs), *(key for key, _ in wire.inputs))}
    found = {name: math.prod(shape) for name, shape in shapes.items()}
    if wanted != found:
        raise BackendUnavailable(
            f"its config takes {found} values a frame, but the contract in it says {wanted}: write the model "
            "repository again with rnn-export triton."
        )


def _datatype(tensor: TensorSpec | StateSpec) -> str:
    return str(np_to_triton_dtype(np.dtype(tensor.dtype)))


def _raw(array: Array) -> bytes:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _array(raw: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)
