"""A model of `rnn-export triton` as a server describes it, in the `parameters` of its config."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_export.bundle import TargetRow
from rnn_export.contract.precision import PRECISIONS
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BackendUnavailable, ExportError, SpecError
from rnn_export.platform.arrays import Array, unpack_arrays
from rnn_export.platform.json_parser import parse_json
from rnn_export.runtime.backends.remote.codec import CODECS, Codec
from rnn_export.runtime.backends.remote.wire import WireFormat


@dataclass(frozen=True)
class ServedModel:
    """A server's description of a model, in place of a bundle.

    `kind` is the form of the states, of `wire`, `initial` one row of each, and `shapes` are of each input of one row.
    """

    spec: StreamSpec
    kind: str
    precision: str
    initial: Mapping[str, Array]
    shapes: Mapping[str, tuple[int, ...]]
    targets: Sequence[TargetRow] = ()

    def initial_states(self) -> Mapping[str, Array]:
        return self.initial

    def read(self, name: str) -> bytes:
        raise BackendUnavailable(
            f"a server gives no files, so {name} cannot be read: open the bundle itself.", id="remote-gives-no-files"
        )

    def codec(self, name: str) -> Codec:
        return Codec(name, self.spec, self.kind, self.shapes)

    def difference(self, other: ServedModel) -> str:
        """Why a sequence cannot move from here to `other`; empty where it can."""
        if self.spec != other.spec:
            digests = f"{other.spec.digest[:12]}, not {self.spec.digest[:12]}"
            return f"it serves another model: its digest starts with {digests}"
        here, there = ((s.precision, s.kind, dict(s.shapes)) for s in (self, other))
        return "" if here == there else f"it serves this model as {there}, not as {here}"


def read_config(name: str, config: Any) -> ServedModel:
    """Read a ModelConfig; raises BackendUnavailable where `rnn-export triton` did not write it."""
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    needed = ("rnn_export.spec", "rnn_export.wire", "rnn_export.precision")
    if missing := [key for key in needed if key not in parameters]:
        why = f"its config has no parameter {', '.join(missing)}"
        fix = "Write its repository with rnn-export triton NAME.rnnx -o REPO"
        raise BackendUnavailable(
            f"the model {name!r} there was not written by rnn-export triton: {why}. {fix}.", id="remote-not-ours"
        )
    kind = parameters["rnn_export.wire"]
    if kind not in CODECS:
        known = f"this client only {', '.join(CODECS)}: update the older one"
        raise BackendUnavailable(f"the model {name!r} there talks {kind!r}, and {known}.", id="remote-protocol-unknown")
    if parameters["rnn_export.precision"] not in PRECISIONS:
        what = f"is in {parameters['rnn_export.precision']!r}, which this rnn-export does not know"
        raise BackendUnavailable(f"the model {name!r} there {what}: update the older one.", id="remote-version-differs")
    try:
        spec = StreamSpec.from_json(parse_json(parameters["rnn_export.spec"]))
        initial = _initial(spec, parameters.get("rnn_export.initial_states"))
        wire = WireFormat.of(spec, kind)
    except (ValueError, KeyError, SpecError, ExportError) as error:
        why = f"{error}. Write its repository again with rnn-export triton"
        raise BackendUnavailable(
            f"the parameters of the model {name!r} there cannot be read: {why}.", id="remote-parameters-unreadable"
        ) from error
    shapes = {i.name: (1, *i.dims) for i in config.input}
    wanted = {tensor.name: math.prod(tensor.dims) for tensor in wire.inputs}
    found = {name: math.prod(shape) for name, shape in shapes.items()}
    if wanted != found:
        why = f"but the contract in it says {wanted}: write the model repository again with rnn-export triton"
        raise BackendUnavailable(f"its config takes {found} values a frame, {why}.", id="remote-value-count")
    return ServedModel(spec, kind, parameters["rnn_export.precision"], initial, shapes)


def _initial(spec: StreamSpec, text: str | None) -> dict[str, Array]:
    stored = {} if text is None else unpack_arrays(base64.b64decode(text, validate=True))
    initial = {}
    for state in spec.states:
        array = stored.get(state.name, np.zeros(state.row, state.dtype))
        if array.dtype != state.dtype or array.shape not in (state.row, (1, *state.row)):
            found = f"{array.dtype} {array.shape}, not {state.dtype} {state.row}"
            raise ValueError(f"the initial state {state.name!r} is {found}")
        initial[state.name] = array.reshape(state.row)
    if unknown := sorted(set(stored) - set(initial)):
        raise ValueError(f"there are initial states {', '.join(unknown)}, which the contract does not have")
    return initial
