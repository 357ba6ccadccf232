"""The wire format of a served model: names, dtypes and dims of its tensors.

`rnn-export triton` writes it into the config of the model, and the client speaks it. Batch is axis 0 and time, where
there is any, axis 1, whatever the graph has. Triton's `dims` leave the batch out, and are never empty: a tensor with
one value a row has [1]. States travel in one of two forms:

"bytes": an input `rnn_seed` (empty, or at START the snapshot to begin from) and an output `rnn_snapshot`, as
rnn_export.snapshot has them, with a batch of 1.

"tensors": an input `rnn_seed` (above 0.5: begin from the seeds) with an input NAME.seed for each state, and an output
NAME.snap for each.
"""

from __future__ import annotations

from dataclasses import dataclass

from rnn_export.contract.spec import TIME, StateSpec, StreamSpec, TensorSpec
from rnn_export.errors import ExportError

BYTES, TENSORS = "bytes", "tensors"
SEED, SNAPSHOT = "rnn_seed", "rnn_snapshot"
CONTROLS = ("START", "READY", "END", "CORRID")

# https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto, enum DataType
TYPES = {dtype: f"TYPE_{dtype.upper()}" for dtype in ("bool", "uint8", "int8", "int16", "int32", "int64")}
TYPES |= {f"float{bits}": f"TYPE_FP{bits}" for bits in (16, 32, 64)} | {"bytes": "TYPE_STRING"}


@dataclass(frozen=True)
class WireTensor:
    """A tensor of the wire; `dims` is its shape without the batch, `dtype` numpy's name or "bytes"."""

    name: str
    dtype: str
    dims: tuple[int, ...]

    @property
    def datatype(self) -> str:
        """As a request names it, "FP32" or "BYTES"."""
        return "BYTES" if self.dtype == "bytes" else TYPES[self.dtype].removeprefix("TYPE_")


@dataclass(frozen=True)
class WireFormat:
    """Tensors of a request, the `frame` and `seeds`, and of an answer, the `results` and `snapshots`.

    `kind` is the form of the states, BYTES or TENSORS: `seeds` are those to begin from, `snapshots` those after the
    frame, where they are asked for.
    """

    kind: str
    frame: tuple[WireTensor, ...]
    seeds: tuple[WireTensor, ...]
    results: tuple[WireTensor, ...]
    snapshots: tuple[WireTensor, ...]

    @staticmethod
    def of(spec: StreamSpec, kind: str) -> WireFormat:
        """That of a model; raises ExportError where one of its own names is taken."""
        frame, results = (
            tuple(WireTensor(t.name, t.dtype, frame_dims(t, spec.chunk)) for t in tensors)
            for tensors in (spec.inputs, spec.outputs)
        )
        seeds, snapshots, others = [WireTensor(SEED, "bytes", (1,))], [WireTensor(SNAPSHOT, "bytes", (1,))], [*CONTROLS]
        if kind == TENSORS:
            flag = WireTensor(SEED, "float32", (1,))
            seeds = [flag, *(WireTensor(seed_name(s), s.dtype, state_dims(s)) for s in spec.states)]
            snapshots = [WireTensor(snapshot_name(s), s.dtype, state_dims(s)) for s in spec.states]
            others = [name for s in spec.states for name in (s.input, s.output)]
        wire = WireFormat(kind, frame, tuple(seeds), results, tuple(snapshots))
        names = [*(tensor.name for tensor in (*wire.inputs, *wire.outputs)), *others]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ExportError(
                f"the model has a tensor {', '.join(map(repr, doubled))}, which is a name that the served one needs "
                "for itself: export it again with other input_names or output_names.",
                id="wire-name-taken",
            )
        return wire

    @property
    def inputs(self) -> tuple[WireTensor, ...]:
        return self.frame + self.seeds

    @property
    def outputs(self) -> tuple[WireTensor, ...]:
        return self.results + self.snapshots


def frame_dims(tensor: TensorSpec, chunk: int) -> tuple[int, ...]:
    """The shape of one row of a step."""
    time = () if tensor.axis(TIME) is None else (tensor.frames_of(chunk),)
    return (*time, *tensor.frame) or (1,)


def state_dims(state: StateSpec) -> tuple[int, ...]:
    return state.row or (1,)


def seed_name(state: StateSpec) -> str:
    return f"{state.name}.seed"


def snapshot_name(state: StateSpec) -> str:
    return f"{state.name}.snap"
