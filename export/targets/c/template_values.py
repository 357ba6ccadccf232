"""The values for the templates of a step."""

import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from textwrap import indent

import numpy as np

from rnn_export import __version__
from rnn_export.contract.spec import BATCH, TIME, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.export.graph.passes.module_paths import module_of
from rnn_export.export.targets.c.batch_step import ROWS, BatchStep
from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.constants import Weights
from rnn_export.export.targets.c.code.notation import array_literal
from rnn_export.export.targets.c.code.parallel_regions import phase_values
from rnn_export.export.targets.c.code.tensors import CTensor, Slide
from rnn_export.export.targets.c.function_split import Parts, words
from rnn_export.platform.arrays import Array, Arrays
from rnn_export.runtime.build.c_compiler import FLAGS
from rnn_export.runtime.build.c_names import C_TYPES, identifiers
from rnn_export.runtime.build.template import Values
from rnn_export.runtime.replay.golden import Golden
from rnn_export.runtime.replay.step_vectors import EndVectors, StepVectors


def initial_statements(spec: StreamSpec, initial: Arrays, weights: Weights) -> str:
    """C that sets a state to the start; `initial` is one row of every state."""
    lines = []
    for member, state in zip(identifiers([s.name for s in spec.states]), spec.states, strict=True):
        value = np.asarray(initial[state.name])
        if value.any():
            source = weights.name_of(value.astype(np.bool_) if state.dtype == "bool" else value)
            lines.append(f"memcpy(state->{member}, {source}, {value.size} * sizeof *state->{member});")
        else:
            lines.append(f"memset(state->{member}, 0, sizeof state->{member});")
    return _block(lines or ["memset(state, 0, sizeof *state);"])


def template_values(
    spec: StreamSpec, init: str, code: CodeBuilder, results: Sequence[CTensor], batch: BatchStep | str
) -> Values:
    """Values of the step itself; weights that nothing names are dropped.

    `init` are the statements that set a state to the start, `results` the tensors of outputs and then next states.
    `batch` is the step of several streams, or why not.
    """
    declarations, stack = code.declarations()
    slides = {slide.member.removeprefix("state->"): slide for slide in code.slides.values()}
    declarations += [f"float *const {slide.pointer} = {slide.now};" for slide in slides.values()]
    statements = [*_timed(code), *_results(spec, code, results), [f"    RNN_TOOK({len(code.written)})"]]
    step = "\n".join(chain.from_iterable(statements))
    batch_text = "" if isinstance(batch, str) else batch.text
    names = identifiers([s.name for s in spec.states])
    members = enumerate(zip(names, spec.states, strict=True))
    windows = {_member(code, address): shift.row for address, shift in code.shifts.items()}
    states = [
        {
            "i": i,
            "member": member,
            "macro": member.upper(),
            **_array(state, state.row),
            "packed": _packed(state),
            **_slide(slides.get(member), list(slides).index(member) if member in slides else None),
            **dict(zip(("window", "row", "new"), (member in windows, *windows.get(member, (0, 0))), strict=True)),
        }
        for i, (member, state) in members
    ]
    operators = [{"layer": printable(module_of(node)), "type": node.op_type} for node, _ in code.written]
    # The time of two readings of the clock in a row, of which there is one in that of each operator.
    operators += [{"layer": "outputs and states", "type": "copy"}, {"layer": "a reading", "type": "clock"}]
    weights = code.weights
    weights.keep(f"{init}\n{step}", batch_text)
    blob = weights.blob()
    silent_steps, silent_frames = divmod(spec.delay, spec.chunk)
    ports = list(_ports(spec, code))
    types = {port["array"]: f"{port['const']}{port['type']} *" for port in ports}
    seen = [name for phase in code.phases for name in phase.seen(weights)]
    parts = Parts("rnn_part{}(state, ", declarations, statements, types, weights, seen)
    types |= {name: f"{c_type} *" for name, c_type in code.variables().items()}
    types |= dict.fromkeys(code.slides, "float *")
    return {
        "precision": code.precision,
        "version": __version__,
        "digest": spec.digest,
        "chunk": spec.chunk,
        "delay": spec.delay,
        "tail": spec.tail,
        "end_member": next((m for m, s in zip(names, spec.states, strict=True) if s.name == spec.end), None),
        "silent_steps": silent_steps,
        "silent_frames": silent_frames,
        "sample_rate": spec.sample_rate,
        "macs": code.macs,
        "flags": " ".join(FLAGS),
        "uses_libm": code.uses_libm,
        "weights": weights.definitions(),
        "weights_file": not weights.embedded,
        "weights_bytes": len(blob),
        "weights_sum": f"{zlib.crc32(blob) ^ 0xFFFFFFFF:08x}",
        "states": states,
        "slides": len(slides),
        "two_ways": code.two_ways,
        "notes": ", ".join(f'"{printable(text)}"' for text in code.notes),
        "memoryless": not states and weights.embedded and not code.two_ways and not code.notes,
        "init": init,
        "parts": parts.functions,
        "declarations": _block(parts.declarations),
        "step": "\n".join(parts.statements),
        "operators": operators,
        "operator_count": len(operators),
        "stack": stack,
        "step_reads_weights": weights.reads_file(step),
        **({"batch": False, "no_batch": printable(batch)} if isinstance(batch, str) else _batch(batch)),
        "batch_weights": weights.batch_definitions(),
        "batch_reads_weights": weights.reads_file(batch_text),
        "batch_memoryless": not states and not weights.reads_file(batch_text) and not code.notes,
        **phase_values(code.phases, types, weights),
        **_port_values(ports),
    }


def _member(code: CodeBuilder, address: str) -> str:
    """The member of the state that is at `address`, by its own name."""
    slide = code.slides.get(address)
    return (slide.member if slide else address).removeprefix("state->")


def _operators(code: CodeBuilder) -> Iterator[list[str]]:
    """The statements of each node in order, and those behind the last."""
    edges = [0, *(end for _, end in code.written), len(code.statements)]
    yield from (code.statements[start:end] for start, end in pairwise(edges))


def _timed(code: CodeBuilder) -> Iterator[list[str]]:
    """The same, with a mark behind each to end its time."""
    for number, lines in enumerate(_operators(code)):
        yield [*lines, f"    RNN_TOOK({number})"] if number < len(code.written) else lines


def _batch(batch: BatchStep) -> Values:
    declarations, stack = batch.code.declarations()
    needed = words([*batch.gather(), *batch.scatter()])
    parts = Parts("rnn_rows_part{}(", declarations, _operators(batch.code), {}, batch.code.weights, needed)
    return {
        "batch": True,
        "rows": ROWS,
        "batch_stack": stack,
        "batch_parts": parts.functions,
        "batch_declarations": _block(parts.declarations),
        "batch_gather": _block(batch.gather(), 2),
        "batch_statements": "\n".join(parts.statements),
        "batch_scatter": _block(batch.scatter(), 2),
    }


def _ports(spec: StreamSpec, code: CodeBuilder) -> Iterator[Values]:
    """The inputs and then the outputs: `array` is the name in the source, `parameter` that in the header."""
    tensors = [*(("in", i, t) for i, t in enumerate(spec.inputs)), *(("out", i, t) for i, t in enumerate(spec.outputs))]
    parameters = identifiers([tensor.name for _, _, tensor in tensors])
    for parameter, (way, i, tensor) in zip(parameters, tensors, strict=True):
        sizes = sized(tensor.shape, 1, spec.chunk)
        shape = [size for axis, size in enumerate(sizes) if axis != tensor.axis(BATCH)]
        axes = [str(size) for axis, size in enumerate(tensor.shape) if axis != tensor.axis(BATCH)]
        yield {
            "way": way,
            "i": i,
            "array": f"{way}{i}",
            "parameter": parameter,
            "macro": parameter.upper(),
            "const": "const " if way == "in" else "",
            **_array(tensor, shape),
            "axes": f", of ({', '.join(axes)})" if any(TIME in axis for axis in axes) else "",
            "timed": spec.timed(tensor),
            "ends": spec.timed(tensor) and tensor.dtype.startswith("float") and bool(tensor.lengths),
            **_lengths(tensor),
            "table_rows": code.table_rows.get(f"{way}{i}"),
        }


def _lengths(tensor: TensorSpec) -> Values:
    count = len(tensor.lengths)
    values = ", ".join(map(str, tensor.lengths))
    return {
        "length": count > 0,
        "length_count": count,
        "length_values": values,
        "length_more": tensor.frames_of(count),
    }


def _array(of: TensorSpec | StateSpec, shape: Sequence[int]) -> Values:
    type_, size = C_TYPES[of.dtype], math.prod(shape)
    return {"label": printable(of.name), "dtype": of.dtype, "type": type_, "shape": str(tuple(shape)), "size": size}


def _packed(state: StateSpec) -> str:
    """The offsets of the states packed into a state; empty if none are."""
    lie = ", ".join(f"{printable(part.name)} {part.shape} from {part.offset}" for part in state.parts)
    return f": {lie}" if lie else ""


def _slide(slide: Slide | None, number: int | None) -> Values:
    """A state's number among those that slide, and the values behind it in its memory."""
    return {"slides_on": slide is not None, "slide": number, "room": 0 if slide is None else slide.capacity}


def _port_values(ports: Sequence[Values]) -> Values:
    """The ports, and C of one line for all of them."""
    inputs, outputs = ([port for port in ports if port["way"] == way] for way in ("in", "out"))

    def each(text: str, of: Iterable[Values], separator: str = ", ") -> str:
        return separator.join(text.format_map(port) for port in of)

    return {
        "ports": ports,
        "inputs": inputs,
        "outputs": outputs,
        "public_parameters": each("{const}{type} *{parameter}", ports),
        "parameters": each("{const}{type} *{array}", ports),
        "buffers": each("{array}", ports),
        "steps_of_run": each("{array} + s * {size}", ports),
        "views": each("view<{const}{type}, {parameter}_size> {array}", ports),
        "view_arguments": each("{array}.data()", ports),
        "golden_step": f"{each('golden_{array} + s * {size}', inputs)}, {each('{array}', outputs)}",
        "values_read": each("{size} {type} of {label}", inputs),
        "values_written": each("{size} {type} of {label}", outputs),
        "write_failed": each("fwrite({array}, sizeof {array}, 1, stdout) != 1", outputs, " || "),
    }


def _results(spec: StreamSpec, code: CodeBuilder, results: Sequence[CTensor]) -> Iterator[list[str]]:
    """The statements that put each output and next state in its place."""
    pointers = {slide.member: slide.pointer for slide in code.slides.values()}
    moved = {slide.pointer: slide.now for slide in code.slides.values()}
    members = [f"state->{member}" for member in identifiers([s.name for s in spec.states])]
    targets = [*(f"out{i}" for i in range(len(spec.outputs))), *(pointers.get(member, member) for member in members)]
    for target, result in zip(targets, results, strict=True):
        if target in code.shifts:
            yield [f"    {line}" for line in code.shifts[target].statements()]
        elif result.address not in (target, moved.get(target)):
            yield [f"    memcpy({target}, {result.address}, {result.size} * sizeof({result.c_type}));"]


def golden_values(spec: StreamSpec, golden: Golden) -> Values:
    """For `golden.h`."""
    vectors = StepVectors.of(spec, golden)
    return {
        "steps": vectors.steps,
        "late": vectors.silent_steps,
        "atol": repr(golden.tolerance.atol),
        "rtol": repr(golden.tolerance.rtol),
        "arrays": "\n".join([*_golden_arrays(spec, vectors), *_golden_ends(spec, vectors.ends)]),
    }


def _golden_arrays(spec: StreamSpec, vectors: StepVectors) -> Iterator[str]:
    for i, (tensor, array) in enumerate(zip(spec.inputs, vectors.inputs, strict=True)):
        yield _golden_array(f"in{i}", array, tensor.dtype)
    for i, (tensor, values) in enumerate(zip(spec.outputs, vectors.outputs, strict=True)):
        if values is None:
            continue
        if not spec.timed(tensor):
            yield f"#define GOLDEN_LAST{i}"
        yield _golden_array(f"out{i}", values, tensor.dtype)
    for i, (state, array) in enumerate(zip(spec.states, vectors.states, strict=True)):
        yield _golden_array(f"state{i}", array, state.dtype)


def _golden_ends(spec: StreamSpec, ends: EndVectors | None) -> Iterator[str]:
    if ends is None:
        return
    yield f"#define GOLDEN_ENDS {len(ends.frames)}"
    yield _golden_array("end_frames", np.array(ends.frames), "int32")
    yield _golden_array("end_steps", np.array(ends.steps), "int32")
    for i, array in ends.outputs.items():
        yield _golden_array(f"end_out{i}", array, spec.outputs[i].dtype)


def _golden_array(name: str, array: Array, dtype: str) -> str:
    return f"static const {C_TYPES[dtype]} golden_{name}[{array.size}] = {{\n{array_literal(array)}}};"


def printable(text: str) -> str:
    """`text` made safe for comments and strings of C."""
    return re.sub(r"[^\w .,:/+()\[\]-]", "_", text)


def _block(lines: Iterable[str], depth: int = 1) -> str:
    return indent("\n".join(lines), "    " * depth)
