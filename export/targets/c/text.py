"""The files of a step in C, around its statements."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rnn_export.arrays import Array
from rnn_export.export.targets.c.batched import ROWS, Batched
from rnn_export.export.targets.c.program import Program, Tensor
from rnn_export.export.targets.c.weights import Weights, checksum, number
from rnn_export.runtime.build.native.names import identifiers
from rnn_export.spec import StateSpec, StreamSpec, TensorSpec, sized

C_TYPES = {"float32": "float", "int64": "int64_t", "int32": "int32_t", "bool": "uint8_t"}
FLAGS = "-O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math"


@dataclass(frozen=True)
class Texts:
    """Everything that the files say of one model.

    Attributes:
        name: the prefix of all that is public.
        start: the statements that set a state to the start.
        batched: the step of several streams, or why there is none.
    """

    name: str
    spec: StreamSpec
    program: Program
    results: Sequence[Tensor]
    start: Sequence[str]
    precision: str
    batched: Batched | str

    @property
    def ports(self) -> list[tuple[str, TensorSpec]]:
        """Inputs, then outputs, by the name of their parameter."""
        tensors = [*self.spec.inputs, *self.spec.outputs]
        return list(zip(identifiers([t.name for t in tensors]), tensors, strict=True))

    @property
    def members(self) -> list[tuple[str, StateSpec]]:
        return list(zip(identifiers([s.name for s in self.spec.states]), self.spec.states, strict=True))

    @property
    def large(self) -> bool:
        return not self.program.weights.embedded

    @property
    def libm(self) -> bool:
        """Whether the host's mathematical library is called, which a batch of streams needs where one does."""
        return bool(self.program.libm)

    def shape(self, tensor: TensorSpec) -> tuple[int, ...]:
        """Of one step, without the batch axis."""
        axes = sized(tensor.shape, 1, self.spec.chunk)
        batch = tensor.axis("batch")
        return tuple(d for a, d in enumerate(axes) if a != batch)

    def size(self, tensor: TensorSpec) -> int:
        return int(np.prod(self.shape(tensor), dtype=np.int64))

    # --- NAME.h

    def header(self, stack: int, stack_of_rows: int) -> str:
        NAME, name = self.name.upper(), self.name
        lines = [
            f"/** @file {name}.h",
            f" *  A step of a recurrent network, its state kept by the caller: by rnn-export, in {self.precision}.",
            " *",
            " *  No allocation, no library, no global that changes: any number of streams, each with its own state.",
            " */",
            f"#ifndef {NAME}_H",
            f"#define {NAME}_H",
            "",
            "#include <stddef.h>",
            "#include <stdint.h>",
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "",
            "/** The contract that the model was exported with. */",
            f'#define {NAME}_DIGEST "{self.spec.digest}"',
            "/** Frames in one step. */",
            f"#define {NAME}_CHUNK {self.spec.chunk}",
            "/** Frames at the start of a stream that give no output: what a step writes until then is of no value. */",
            f"#define {NAME}_DELAY {self.spec.delay}",
        ]
        if self.spec.sample_rate is not None:
            lines += ["/** Hz of the signal. */", f"#define {NAME}_SAMPLE_RATE {self.spec.sample_rate}"]
        lines += [
            "/** Multiply-adds of a step. */",
            f"#define {NAME}_MACS {self.program.macs}",
            "/** Bytes of the stack that a step needs for its tensors. */",
            f"#define {NAME}_STACK_BYTES {stack}",
        ]
        if self.large:
            lines += [
                f"/** Bytes of {name}.bin, which belongs at an address that is a multiple of 64. */",
                f"#define {NAME}_WEIGHTS_BYTES {len(self.program.weights.blob())}",
            ]
        for i, (parameter, tensor) in enumerate(self.ports):
            lines += [
                f"/** Values of {plain(tensor.name)} in one step. */",
                f"#define {NAME}_{parameter.upper()}_SIZE {self.size(tensor)}",
            ]
            if rows := self.program.tables.get(f"in{i}"):
                lines += [
                    f"/** Rows of the table that {plain(tensor.name)} counts; beyond, the nearest is taken. */",
                    f"#define {NAME}_{parameter.upper()}_ROWS {rows}",
                ]
        lines += ["", "/** The memory of one stream. */", "typedef struct {"]
        if self.large:
            lines.append("    const void *weights; /**< as given to init */")
        for member, state in self.members:
            size = int(np.prod(state.row, dtype=np.int64))
            lines.append(
                f"    {C_TYPES[state.dtype]} {member}[{size}]; /**< {plain(state.name)} {_shape(state.row)} */"
            )
        if not self.members and not self.large:
            lines.append("    char none; /**< the model keeps nothing */")
        lines += [
            f"}} {name}_state;",
            "",
            "/** Bytes of the memory of one stream. */",
            f"#define {NAME}_STATE_BYTES sizeof({name}_state)",
            "",
        ]
        if self.large:
            lines += [
                f"/** Whether `weights`, the content of {name}.bin, is whole: 0, or 1 if its size is wrong, 2 if its",
                " *  checksum is, 3 if its address is no multiple of 64. */",
                f"int {name}_check(const void *weights, size_t bytes);",
                "",
            ]
        lines += [
            f"/** Set a stream to the start{'; it reads `weights` as long as it lives' if self.large else ''}. */",
            f"void {name}_init({self._init_parameters()});",
            "",
            "/** Feed one step, and write its outputs after the last input was read: an output may be an input.",
            " *",
            *self._parameter_docs(""),
            " */",
            f"void {name}_step({self._step_parameters()});",
            "",
            "/** The same for `steps` steps, one after the other.",
            " *",
            *self._parameter_docs("steps x "),
            " */",
            f"void {name}_run({self._step_parameters()}, size_t steps);",
            "",
            *self._rows_header(stack_of_rows),
            "",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "",
            "#endif",
        ]
        return "\n".join(lines) + "\n"

    def _rows_header(self, stack: int) -> list[str]:
        NAME, name = self.name.upper(), self.name
        if isinstance(self.batched, str):
            return [f"/* There is no {name}_rows: {plain(self.batched)} */"]
        return [
            f"#ifdef {NAME}_ROWS",
            f"/** Streams that {name}_rows feeds at once. */",
            f"#define {NAME}_ROWS_COUNT {ROWS}",
            "/** Bytes of the stack that it needs for its tensors. */",
            f"#define {NAME}_ROWS_STACK_BYTES {stack}",
            "",
            f"/** Feed a step to each of 1 to {ROWS} streams, which share the reading of weights. Few take as long.",
            " *",
            *self._parameter_docs("rows x ", "states the memory of each stream, distinct, changed"),
            " */",
            f"void {name}_rows({self._rows_parameters()});",
            "#endif",
        ]

    def _parameter_docs(self, times: str, first: str = "state the memory of the stream, changed") -> list[str]:
        lines = [f" *  @param {first}"]
        for i, (parameter, tensor) in enumerate(self.ports):
            way = "in" if i < len(self.spec.inputs) else "out"
            axes = [str(d) for a, d in enumerate(tensor.shape) if a != tensor.axis("batch")]
            lines.append(
                f" *  @param[{way}] {parameter} {plain(tensor.name)}: "
                f"{times}{_shape(self.shape(tensor))}, {tensor.dtype}"
                + (f", of ({', '.join(axes)})" if any("time" in a for a in axes) else "")
            )
        return lines

    def _init_parameters(self) -> str:
        return f"{self.name}_state *state" + (", const void *weights" if self.large else "")

    def _step_parameters(self, plain: bool = False) -> str:
        """`plain`: under names that nothing else in the source has."""
        return self._parameters([f"{self.name}_state *state"], plain)

    def _rows_parameters(self, plain: bool = False) -> str:
        return self._parameters([f"{self.name}_state *const *states", "size_t rows"], plain)

    def _parameters(self, first: Sequence[str], plain: bool) -> str:
        parameters = [*first]
        inputs = len(self.spec.inputs)
        for i, (parameter, tensor) in enumerate(self.ports):
            kind = C_TYPES[tensor.dtype]
            name = (f"in{i}" if i < inputs else f"out{i - inputs}") if plain else parameter
            parameters.append(f"{'const ' if i < inputs else ''}{kind} *{name}")
        return ", ".join(parameters)

    # --- NAME.c

    def source(self) -> tuple[str, int, int]:
        """The source, and the bytes of stack that the step and the step of several streams take."""
        declarations, stack = self.program.declarations()
        name, init = self.name, list(self.start)
        step = [f"    {line}" for line in declarations] + self.program.statements + self._results()
        rows, stack_of_rows = ([], 0) if isinstance(self.batched, str) else self.batched.body()
        weights = self.program.weights
        weights.keep("\n".join([*init, *step]), "\n".join(rows))
        if self.large:
            init = ["    const char *const weights = given;", *init, "    state->weights = weights;"]
        reads = any("W" in line for line in step) if self.large else False
        lines = [
            f"/* Written by rnn-export: see {name}.h. */",
            f'#include "{name}.h"',
            "",
            "#include <string.h>",
            *(["", "#include <math.h>"] if self.libm else []),
            "",
            '#include "kernels.h"',
            "",
            weights.definitions(),
            "",
        ]
        if self.large:
            lines += _check(name, weights.blob())
        lines += [f"void {name}_init({self._init_parameters()[: -len('weights')]}given)" if self.large else ""]
        if not self.large:
            lines[-1] = f"void {name}_init({self._init_parameters()})"
        lines += ["{", *init, "}", "", f"void {name}_step({self._step_parameters(plain=True)})", "{"]
        if reads:
            lines.append("    const char *const weights = state->weights;")
        if not self.members and not self.large:
            lines.append("    (void)state;")
        lines += [*step, "}", "", f"void {name}_run({self._step_parameters(plain=True)}, size_t steps)", "{"]
        inputs = len(self.spec.inputs)
        arguments = [
            f"{f'in{i}' if i < inputs else f'out{i - inputs}'} + s * {self.size(tensor)}"
            for i, (_, tensor) in enumerate(self.ports)
        ]
        lines += [
            "    for (size_t s = 0; s < steps; s++)",
            f"        {name}_step(state, {', '.join(arguments)});",
            "}",
            *self._rows_source(rows),
        ]
        return "\n".join(lines) + "\n", stack, stack_of_rows

    def _rows_source(self, rows: Sequence[str]) -> list[str]:
        if not rows:
            return []
        lines = ["", f"#ifdef {self.name.upper()}_ROWS"]
        if further := self.program.weights.further_definitions():
            lines += [further, ""]
        lines += [f"void {self.name}_rows({self._rows_parameters(plain=True)})", "{"]
        if self.large and any("W" in line for line in rows):
            lines.append("    const char *const weights = states[0]->weights;")
        elif not self.members:
            lines.append("    (void)states;")
        return [*lines, *rows, "}", "#endif"]

    def _results(self) -> list[str]:
        targets = [f"out{i}" for i in range(len(self.spec.outputs))]
        targets += [f"state->{member}" for member, _ in self.members]
        return [
            f"    memcpy({target}, {result.text}, {result.size} * sizeof({result.kind}));"
            for target, result in zip(targets, self.results, strict=True)
            if result.text != target
        ]


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


def plain(name: str) -> str:
    """A name of the contract as it can stand in a comment and in a string of C."""
    return re.sub(r"[^\w .,:/+()\[\]-]", "_", name)


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"


def _check(name: str, blob: bytes) -> list[str]:
    return [
        f"int {name}_check(const void *weights, size_t bytes)",
        "{",
        "    /* CRC-32 of IEEE 802.3. */",
        "    const unsigned char *byte = weights;",
        "    uint32_t sum = 0xffffffffu;",
        f"    if (bytes != {len(blob)}u)",
        "        return 1;",
        "    if ((uintptr_t)weights % 64)",
        "        return 3;",
        "    for (size_t i = 0; i < bytes; i++) {",
        "        sum ^= byte[i];",
        "        for (int bit = 0; bit < 8; bit++)",
        "            sum = (sum >> 1) ^ (0xedb88320u & (0u - (sum & 1u)));",
        "    }",
        f"    return sum == 0x{checksum(blob) ^ 0xFFFFFFFF:08x}u ? 0 : 2;",
        "}",
        "",
    ]


def values(array: Array, kind: str) -> str:
    flat = array.reshape(-1).tolist()
    texts = [number(v) for v in flat] if kind == "float" else [str(int(v)) for v in flat]
    return ",\n".join(", ".join(texts[i : i + 12]) for i in range(0, len(texts), 12))
