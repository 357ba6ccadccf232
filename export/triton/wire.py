"""What goes over the wire to a served model: names, dtypes and dims of its tensors, the same for every client.

Batch is axis 0 and time, where there is any, axis 1, whatever the graph has. Triton's `dims` leave the batch out, and
are never empty: a tensor with one value a row has [1]. The wire is of one of two kinds:

"bytes": an input `rnn_seed` (empty, or at START the snapshot to begin from) and an output `rnn_snapshot`, as
rnn_export.runtime.snapshot has them, with a batch of 1.

"tensors": an input `rnn_seed` (above 0.5: begin from the seeds) with an input NAME.seed for each state, and an output
NAME.snap for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rnn_export.errors import ExportError
from rnn_export.spec import TIME, StateSpec, StreamSpec, TensorSpec

BYTES, TENSORS = "bytes", "tensors"
SEED, SNAPSHOT = "rnn_seed", "rnn_snapshot"
CONTROLS = ("START", "READY", "END", "CORRID")

# https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto, enum DataType
TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bytes": "TYPE_STRING",
}


@dataclass(frozen=True)
class Port:
    """A tensor of the wire; `dims` is its shape without the batch, `dtype` numpy's name or "bytes"."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Wire:
    """What a request holds and what an answer may."""

    kind: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @staticmethod
    def of(spec: StreamSpec, kind: str) -> Wire:
        """That of a model; raises ExportError where its own names are taken."""
        inputs = [Port(t.name, t.dtype, dims(t, spec.chunk)) for t in spec.inputs]
        outputs = [Port(t.name, t.dtype, dims(t, spec.chunk)) for t in spec.outputs]
        if kind == BYTES:
            inputs.append(Port(SEED, "bytes", (1,)))
            outputs.append(Port(SNAPSHOT, "bytes", (1,)))
        else:
            inputs.append(Port(SEED, "float32", (1,)))
            inputs += [Port(seed(s), s.dtype, state_dims(s)) for s in spec.states]
            outputs += [Port(snap(s), s.dtype, state_dims(s)) for s in spec.states]
        taken = [p.name for p in (*inputs, *outputs)] + list(CONTROLS if kind == BYTES else ())
        if kind == TENSORS:
            taken += [name for s in spec.states for name in (s.input, s.output)]
        _refuse_doubles(taken)
        return Wire(kind, tuple(inputs), tuple(outputs))


def dims(tensor: TensorSpec, chunk: int) -> tuple[int, ...]:
    """The shape of one row of a step."""
    time = () if tensor.axis(TIME) is None else (tensor.frames_of(chunk),)
    return (*time, *tensor.frame) or (1,)


def state_dims(state: StateSpec) -> tuple[int, ...]:
    """The shape of one row."""
    return state.row or (1,)


def seed(state: StateSpec) -> str:
    """The input that a state may begin from."""
    return f"{state.name}.seed"


def snap(state: StateSpec) -> str:
    """The output with the state after the step."""
    return f"{state.name}.snap"


def _refuse_doubles(names: Sequence[str]) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ExportError(
            f"the model has a tensor {', '.join(map(repr, doubled))}, which is a name that the served one needs for "
            "itself: export it again with other input_names or output_names."
        )
