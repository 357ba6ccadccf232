"""Serving options, and the config.pbtxt of a model: tensors, sequences, and the contract for callers."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from rnn_export.contract.spec import StateSpec, StreamSpec
from rnn_export.errors import ExportError
from rnn_export.export.triton.pbtxt import EnumName
from rnn_export.platform.arrays import Array, Arrays, pack_arrays
from rnn_export.runtime.backends.remote.wire import BYTES, TENSORS, TYPES, WireFormat, WireTensor, state_dims
from rnn_export.runtime.registry import BACKENDS

# Triton's numbers are of 32 bits.
LARGEST = 2**31 - 1
# By backend of Triton, the form in which states travel.
WIRE_KINDS = {"python": BYTES, "onnxruntime": TENSORS, "tensorrt": TENSORS}


@dataclass(frozen=True)
class Serving:
    """The options of `write_repository` for serving a model."""

    name: str
    backend: str
    precision: str
    streams: int
    batch: int
    idle_s: float
    delay_us: int
    runtime_backend: str = "auto"

    @property
    def wire_kind(self) -> str:
        return WIRE_KINDS[self.backend]

    def check(self) -> None:
        """Raise ExportError where an option is out of its range, or does not go with another one."""
        if self.backend not in WIRE_KINDS:
            raise ExportError(
                f"Triton's backend is one of {', '.join(WIRE_KINDS)}, not {self.backend!r}.",
                id="triton-backend-unknown",
            )
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.name):
            raise ExportError(
                f"the model cannot be called {self.name!r}: its name is a folder and part of an address, so it has "
                "letters, digits, '_', '-' and '.' alone. Choose one with --name.",
                id="triton-model-name",
            )
        if not 0.001 <= self.idle_s <= LARGEST:
            raise ExportError(f"--idle {self.idle_s}: give seconds from 0.001 to {LARGEST}.", id="triton-idle-range")
        numbers = {"streams": (self.streams, 1), "batch": (self.batch, 1), "delay-us": (self.delay_us, 0)}
        for flag, (number, least) in numbers.items():
            if type(number) is not int or not least <= number <= LARGEST:
                raise ExportError(
                    f"--{flag} {number!r}: give a whole number from {least} to {LARGEST}.", id="triton-number-range"
                )
        if self.batch > self.streams:
            raise ExportError(
                f"--batch {self.batch} is more than --streams {self.streams}: no step can have more rows than there "
                "are streams. Choose a smaller batch or more streams.",
                id="triton-batch-over-streams",
            )
        option = f"--runtime-backend {self.runtime_backend}"
        if self.runtime_backend != "auto" and self.backend != "python":
            raise ExportError(
                f"{option} is for --backend python, where our runtime runs: leave it out.", id="triton-python-option"
            )
        if self.runtime_backend not in ("auto", *BACKENDS):
            raise ExportError(
                f"{option}: choose auto or one of {', '.join(BACKENDS)}.", id="triton-runtime-backend-unknown"
            )


def config(spec: StreamSpec, initial: Arrays, serving: Serving, trusted: Sequence[str] = ()) -> dict[str, Any]:
    """The message ModelConfig, for `pbtxt.text`; `initial` has a row of each state by name, as the graph has it.

    `trusted` are the digests of the bundle's code that the server may run.
    """
    wire = WireFormat.of(spec, serving.wire_kind)
    runs_on = {"platform": "tensorrt_plan"} if serving.backend == "tensorrt" else {"backend": serving.backend}
    message: dict[str, Any] = {
        "name": serving.name,
        **runs_on,
        "max_batch_size": serving.batch,
        "input": [_tensor(tensor) for tensor in wire.inputs],
        "output": [_tensor(tensor) for tensor in wire.outputs],
        "sequence_batching": _sequences(spec, initial, serving),
    }
    if wire.kind == BYTES:
        # Where there are GPUs, Triton would start one process on each, and each would have a pool of its own.
        message["instance_group"] = {"kind": EnumName("KIND_CPU"), "count": 1}
    parameters = _parameters(spec, initial, serving, wire)
    if trusted:
        parameters["rnn_export.trusted"] = " ".join(trusted)
    message["parameters"] = [{"key": key, "value": {"string_value": value}} for key, value in parameters.items()]
    return message


def data_file(state: StateSpec) -> str:
    """The file of an initial value, under initial_state/."""
    return f"{quote(state.name, safe='')}.raw"


def _tensor(tensor: WireTensor) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": EnumName(TYPES[tensor.dtype]), "dims": list(tensor.dims)}


def _sequences(spec: StreamSpec, initial: Arrays, serving: Serving) -> dict[str, Any]:
    message: dict[str, Any] = {
        "max_sequence_idle_microseconds": round(serving.idle_s * 1e6),
        "oldest": {
            "max_candidate_sequences": serving.streams,
            "preferred_batch_size": sorted({max(1, serving.batch // 2), serving.batch}),
            "max_queue_delay_microseconds": serving.delay_us,
        },
    }
    # The python backend takes `state` without a word and gives zeros; the others want no control that no graph has.
    if serving.wire_kind == BYTES:
        message["control_input"] = _controls()
    else:
        message["state"] = [_state(state, initial[state.name]) for state in spec.states]
    return message


def _controls() -> list[dict[str, Any]]:
    flags = [
        {"name": name, "control": {"kind": EnumName(f"CONTROL_SEQUENCE_{name}"), "int32_false_true": [0, 1]}}
        for name in ("START", "READY", "END")
    ]
    corrid = {"kind": EnumName("CONTROL_SEQUENCE_CORRID"), "data_type": EnumName("TYPE_UINT64")}
    return [*flags, {"name": "CORRID", "control": corrid}]


def _state(state: StateSpec, initial: Array) -> dict[str, Any]:
    """Triton takes memory as it comes if a state has no initial value, so every one has."""
    form = {"data_type": EnumName(TYPES[str(initial.dtype)]), "dims": list(state_dims(state))}
    value: dict[str, Any] = {"data_file": data_file(state)} if np.any(initial) else {"zero_data": True}
    return {
        "input_name": state.input,
        "output_name": state.output,
        **form,
        "initial_state": {"name": f"{state.name}.initial", **form, **value},
    }


def _parameters(spec: StreamSpec, initial: Arrays, serving: Serving, wire: WireFormat) -> dict[str, str]:
    parameters = {
        "rnn_export.spec": spec.dumps(),
        "rnn_export.wire": wire.kind,
        "rnn_export.backend": serving.backend,
        "rnn_export.precision": serving.precision,
    }
    if wire.kind == BYTES:
        parameters["rnn_export.runtime_backend"] = serving.runtime_backend
    if stored := {s.name: initial[s.name].astype(s.dtype) for s in spec.states if np.any(initial[s.name])}:
        parameters["rnn_export.initial_states"] = base64.b64encode(pack_arrays(stored)).decode()
    return parameters
