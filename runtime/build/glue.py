"""The glue: C functions around a step whose names and arguments are the same for every model."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rnn_export.contract.spec import StreamSpec, sized
from rnn_export.runtime.build.c_names import C_TYPES, identifiers
from rnn_export.runtime.build.template import render
from rnn_export.runtime.protocols.c_step import contract_sha256

FILE = "rnn_glue.c"
# How a NaN is told, by dtype.
_NAN = {"float16": "(x[i] & 0x7fff) > 0x7c00", "float32": "x[i] != x[i]", "float64": "x[i] != x[i]"}


def glue(name: str, spec: StreamSpec) -> str:
    """The text of the glue; it does not compile where NAME.h is not of the contract."""
    inputs, outputs = len(spec.inputs), len(spec.outputs)
    tensors = (*spec.inputs, *spec.outputs)
    places = (*range(inputs), *range(outputs))
    ports = [
        {"i": i, "macro": n.upper(), "lower": n.lower(), **_sizes(t.dtype, sized(t.shape, 1, spec.chunk))}
        for i, n, t in zip(places, identifiers([t.name for t in tensors]), tensors, strict=True)
    ]
    members = identifiers([s.name for s in spec.states])
    states = [
        {"i": i, "member": n, "macro": n.upper(), **_sizes(s.dtype, s.row)}
        for i, (n, s) in enumerate(zip(members, spec.states, strict=True))
    ]
    float_outputs, float_states = ([row for row in rows if row["dtype"] in _NAN] for rows in (ports[inputs:], states))
    used = {row["dtype"] for row in (*float_outputs, *float_states)}
    values = {
        "ports": ports,
        "inputs": ports[:inputs],
        "states": states,
        "float_outputs": float_outputs,
        "float_states": float_states,
        "nan": [{"dtype": d, "type": C_TYPES[d], "test": test} for d, test in _NAN.items() if d in used],
        "offsets": "".join(f"offsetof({name}_state, {state['member']}), " for state in states),
        "in_bytes": ", ".join(str(port["bytes"]) for port in ports[:inputs]),
        "out_bytes": ", ".join(str(port["bytes"]) for port in ports[inputs:]),
        "arguments": ", ".join([*(f"in[{i}]" for i in range(inputs)), *(f"out[{i}]" for i in range(outputs))]),
        "row_arguments": ", ".join([*(f"from[{i}]" for i in range(inputs)), *(f"to[{i}]" for i in range(outputs))]),
        "contract": contract_sha256(spec),
        "n_in": inputs,
        "n_out": outputs,
    }
    return render("rnn_export.runtime.build", FILE, name, values)


def with_rows(name: str) -> str:
    """The flag that gives `NAME.c` the step of several streams at once, too."""
    return f"-D{name.upper()}_ROWS"


def _sizes(dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    size = math.prod(shape)
    return {"dtype": dtype, "size": size, "bytes": size * np.dtype(dtype).itemsize}
