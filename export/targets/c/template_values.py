"""What the templates of a step are filled in with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from rnn_export.arrays import Array
from rnn_export.export.targets.c.batched import ROWS, Batched
from rnn_export.export.targets.c.program import Program, Tensor
from rnn_export.export.targets.c.weights import Weights, checksum
from rnn_export.runtime.build.native.c_types import C_TYPES
from rnn_export.runtime.build.native.flags import FLAGS
from rnn_export.runtime.build.native.names import identifiers
from rnn_export.runtime.build.native.template import Values
from rnn_export.spec import BATCH, TIME, StreamSpec, TensorSpec, sized


def template_values(
    spec: StreamSpec, program: Program, results: Sequence[Tensor], start: Sequence[str], batched: Batched | str
) -> Values:
    """By key of the templates.

    Args:
        spec: the contract of the step.
        program: what it computes.
        results: where the outputs and then the next states lie.
        start: the statements that set a state to the start.
        batched: the step of several streams, or why there is none.

    Weights that nothing names are forgotten.
    """
    declarations, stack = program.declarations()
    states = _states(spec)
    step = [f"    {line}" for line in declarations] + program.statements + _results(spec, states, results)
    rows, stack_of_rows = ([], 0) if isinstance(batched, str) else batched.body()
    weights = program.weights
    weights.keep("\n".join([*start, *step]), "\n".join(rows))
    large, blob = not weights.embedded, weights.blob()
    step_reads, batch_reads = (large and any("W" in line for line in lines) for lines in (step, rows))
    ports = [_port(spec, program, i) for i in range(len(spec.inputs) + len(spec.outputs))]
    whole, rest = divmod(spec.delay, spec.chunk)
    return {
        "precision": program.precision,
        "digest": spec.digest,
        "chunk": spec.chunk,
        "delay": spec.delay,
        "silent_steps": whole,
        "silent_frames": rest,
        "sample_rate": spec.sample_rate,
        "macs": program.macs,
        "flags": " ".join(FLAGS),
        "uses_libm": bool(program.libm),
        "weights_file": large,
        "weights": weights.definitions(),
        "weights_bytes": len(blob),
        "weights_sum": f"{checksum(blob) ^ 0xFFFFFFFF:08x}",
        "memoryless": not states and not large,
        "states": states,
        "init": "\n".join(start),
        "step": "\n".join(step),
        "stack": stack,
        "step_reads_weights": step_reads,
        "rows": ROWS,
        "batch": "\n".join(rows),
        "no_batch": printable(batched) if isinstance(batched, str) else "",
        "batch_stack": stack_of_rows,
        "batch_weights": weights.further_definitions(),
        "batch_reads_weights": batch_reads,
        "batch_memoryless": not states and not batch_reads,
        **_lists_of(ports),
    }


def initial_statements(spec: StreamSpec, initial: Mapping[str, Array], weights: Weights) -> list[str]:
    """What sets a state to the start, one row of every state being `initial`."""
    lines = []
    for member, state in zip(identifiers([s.name for s in spec.states]), spec.states, strict=True):
        value = np.asarray(initial[state.name])
        if value.any():
            source = weights.plain(value.astype(np.bool_) if state.dtype == "bool" else value)
            lines.append(f"    memcpy(state->{member}, {source}, sizeof state->{member});")
        else:
            lines.append(f"    memset(state->{member}, 0, sizeof state->{member});")
    return lines or ["    memset(state, 0, sizeof *state);"]


def _port(spec: StreamSpec, program: Program, index: int) -> Values:
    """An input, or after them an output: `array` is its name in the source, `parameter` that in the header."""
    tensors = [*spec.inputs, *spec.outputs]
    tensor, parameter = tensors[index], identifiers([t.name for t in tensors])[index]
    way, i = ("in", index) if index < len(spec.inputs) else ("out", index - len(spec.inputs))
    shape = _row_shape(spec, tensor)
    axes = [str(d) for a, d in enumerate(tensor.shape) if a != tensor.axis(BATCH)]
    return {
        "way": way,
        "i": i,
        "array": f"{way}{i}",
        "parameter": parameter,
        "macro": parameter.upper(),
        "label": printable(tensor.name),
        "type": C_TYPES[tensor.dtype],
        "dtype": tensor.dtype,
        "shape": _tuple(shape),
        "size": math.prod(shape),
        "axes": f", of ({', '.join(axes)})" if any(TIME in a for a in axes) else "",
        "timed": spec.timed(tensor),
        "table_rows": program.tables.get(f"{way}{i}"),
    }


def _lists_of(ports: Sequence[Values]) -> Values:
    """The ports, and where C has them in a row: as parameters, arguments, and in conditions."""
    inputs, outputs = ([p for p in ports if p["way"] == way] for way in ("in", "out"))
    typed = [f"{'const ' if p['way'] == 'in' else ''}{p['type']} *" for p in ports]
    return {
        "ports": ports,
        "inputs": inputs,
        "outputs": outputs,
        "public_parameters": ", ".join(f"{kind}{p['parameter']}" for kind, p in zip(typed, ports, strict=True)),
        "parameters": ", ".join(f"{kind}{p['array']}" for kind, p in zip(typed, ports, strict=True)),
        "steps_of_run": ", ".join(f"{p['array']} + s * {p['size']}" for p in ports),
        "golden_step": ", ".join(
            [*(f"golden_{p['array']} + s * {p['size']}" for p in inputs), *(p["array"] for p in outputs)]
        ),
        "buffers": ", ".join(p["array"] for p in ports),
        "values_read": ", ".join(f"{p['size']} {p['type']} of {p['label']}" for p in inputs),
        "values_written": ", ".join(f"{p['size']} {p['type']} of {p['label']}" for p in outputs),
        "read_inputs": " && ".join(f"fread({p['array']}, sizeof {p['array']}, 1, stdin) == 1" for p in inputs),
        "write_failed": " || ".join(f"fwrite({p['array']}, sizeof {p['array']}, 1, stdout) != 1" for p in outputs),
    }


def _states(spec: StreamSpec) -> list[Values]:
    return [
        {
            "i": i,
            "member": member,
            "label": printable(state.name),
            "type": C_TYPES[state.dtype],
            "shape": _tuple(state.row),
            "size": math.prod(state.row),
        }
        for i, (member, state) in enumerate(zip(identifiers([s.name for s in spec.states]), spec.states, strict=True))
    ]


def _results(spec: StreamSpec, states: Sequence[Values], results: Sequence[Tensor]) -> list[str]:
    """What writes the outputs and then the next states."""
    targets = [*(f"out{i}" for i in range(len(spec.outputs))), *(f"state->{state['member']}" for state in states)]
    return [
        f"    memcpy({target}, {result.text}, {result.size} * sizeof({result.kind}));"
        for target, result in zip(targets, results, strict=True)
        if result.text != target
    ]


def _row_shape(spec: StreamSpec, tensor: TensorSpec) -> tuple[int, ...]:
    """Of one step of one stream, without the batch axis."""
    batch = tensor.axis(BATCH)
    return tuple(d for a, d in enumerate(sized(tensor.shape, 1, spec.chunk)) if a != batch)


def printable(name: str) -> str:
    """A name of the contract as it can stand in a comment and in a string of C."""
    return re.sub(r"[^\w .,:/+()\[\]-]", "_", name)


def _tuple(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
