"""What a server says of a model that `rnn-export triton` wrote, in the `parameters` of its config."""

from __future__ import annotations

import base64
import binascii
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_export.arrays import Array, unpack_arrays
from rnn_export.bundle import TargetRow
from rnn_export.errors import BackendUnavailable, SpecError
from rnn_export.runtime.backends.remote.wire import WIRES, Codec, check_shapes, input_shapes
from rnn_export.spec import StreamSpec


@dataclass(frozen=True)
class Served:
    """A model on a server; `initial` is one row of each state by name, `shapes` those of a request's inputs."""

    spec: StreamSpec
    wire: str
    precision: str
    initial: Mapping[str, Array]
    shapes: Mapping[str, tuple[int, ...]]
    targets: Sequence[TargetRow] = ()

    def initial_states(self) -> Mapping[str, Array]:
        return self.initial

    def read(self, name: str) -> bytes:
        raise BackendUnavailable(f"a server gives no files, so {name} cannot be read: open the bundle itself.")

    def codec(self, name: str) -> Codec:
        """Requests for it as the model `name`."""
        return Codec(name, self.spec, WIRES[self.wire](self.spec), self.shapes)

    def difference(self, other: Served) -> str:
        """Why a sequence cannot move from here to `other`; empty where it can."""
        if self.spec != other.spec:
            return (
                f"it serves another model: its digest starts with {other.spec.digest[:12]}, not {self.spec.digest[:12]}"
            )
        here, there = ((s.precision, s.wire, dict(s.shapes)) for s in (self, other))
        return "" if here == there else f"it serves this model as {there}, not as {here}"


def read_config(name: str, config: Any) -> Served:
    """What a ModelConfig says; raises BackendUnavailable where `rnn-export triton` did not write it."""
    given = {key: value.string_value for key, value in config.parameters.items()}
    needed = ("rnn_export.spec", "rnn_export.wire", "rnn_export.precision")
    if missing := [key for key in needed if key not in given]:
        raise BackendUnavailable(
            f"the model {name!r} there was not written by rnn-export triton: its config has no parameter "
            f"{', '.join(missing)}. Write its repository with rnn-export triton NAME.rnnx -o REPO."
        )
    wire = given["rnn_export.wire"]
    if wire not in WIRES:
        raise BackendUnavailable(
            f"the model {name!r} there talks {wire!r}, and this client only {', '.join(WIRES)}: update the older one."
        )
    try:
        spec = StreamSpec.from_json(json.loads(given["rnn_export.spec"]))
        initial = _initial(spec, given.get("rnn_export.initial_states"))
    except (ValueError, KeyError, SpecError, binascii.Error, zipfile.BadZipFile) as error:
        raise BackendUnavailable(
            f"the parameters of the model {name!r} there cannot be read: {error}. Write its repository again with "
            "rnn-export triton."
        ) from error
    shapes = input_shapes(config)
    check_shapes(spec, WIRES[wire](spec), shapes)
    return Served(spec, wire, given["rnn_export.precision"], initial, shapes)


def _initial(spec: StreamSpec, text: str | None) -> dict[str, Array]:
    stored = {} if text is None else unpack_arrays(base64.b64decode(text, validate=True))
    initial = {}
    for state in spec.states:
        array = stored.get(state.name, np.zeros(state.row, state.dtype))
        if array.dtype != state.dtype or array.shape not in (state.row, (1, *state.row)):
            raise ValueError(
                f"the initial state {state.name!r} is {array.dtype} {array.shape}, not {state.dtype} {state.row}"
            )
        initial[state.name] = array.reshape(state.row)
    if unknown := sorted(set(stored) - set(initial)):
        raise ValueError(f"there are initial states {', '.join(unknown)}, which the contract does not have")
    return initial
