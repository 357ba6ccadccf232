"""What stands beside a step: its self-test with the golden vectors, a small program, and how to build them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnn_export.arrays import Array
from rnn_export.export.targets.c.text import C_TYPES, FLAGS, Texts, plain, values
from rnn_export.layout import graph_layout
from rnn_export.runtime.replay.golden import Golden
from rnn_export.spec import StreamSpec, TensorSpec

# Numbers of the golden vectors that a microcontroller has room for.
GOLDEN_VALUES = 32768


def golden_header(spec: StreamSpec, golden: Golden) -> str:
    """`golden.h`: the first steps of the first row, as many as `GOLDEN_VALUES` allows, and the states after them."""
    a_step = sum(int(np.prod(t.frame)) for t in (*spec.inputs, *spec.outputs)) * spec.chunk
    fitting = [k for k, at in enumerate(golden.at) if at // spec.chunk * a_step <= GOLDEN_VALUES]
    last = fitting[-1] if fitting else 0
    frames = int(golden.at[last])
    steps = frames // spec.chunk
    late = spec.settling_steps
    lines = [
        "/* What the trained model itself gave. */",
        f"#define GOLDEN_STEPS {steps}",
        "/* Steps whose outputs are of no value. */",
        f"#define GOLDEN_LATE {min(late, steps)}",
        "/* An error may reach GOLDEN_ATOL + GOLDEN_RTOL * (the largest magnitude so far). */",
        f"#define GOLDEN_ATOL {golden.tolerance.atol!r}",
        f"#define GOLDEN_RTOL {golden.tolerance.rtol!r}",
    ]
    for i, tensor in enumerate(spec.inputs):
        lines.append(
            _array(f"golden_in{i}", _by_step(spec, tensor, golden.inputs[tensor.name][:1], 0, steps), tensor.dtype)
        )
    for i, tensor in enumerate(spec.outputs):
        whole = golden.outputs[tensor.name][:1]
        if spec.timed(tensor):
            skipped = spec.frames_out(tensor, late * spec.chunk)
            lines.append(
                _array(f"golden_out{i}", _by_step(spec, tensor, whole[:, skipped:], late, steps), tensor.dtype)
            )
        elif frames == golden.frames:
            lines.append(f"#define GOLDEN_LAST{i}")
            lines.append(_array(f"golden_out{i}", whole, tensor.dtype))
    for i, state in enumerate(spec.states):
        lines.append(_array(f"golden_state{i}", golden.states[state.name][:1, last], state.dtype))
    return "\n".join(lines) + "\n"


def _by_step(spec: StreamSpec, tensor: TensorSpec, frames: Array, first: int, steps: int) -> Array:
    """(1, time, ...) as the arrays of the steps from `first` on, one after the other."""
    if not spec.timed(tensor):
        return np.concatenate([graph_layout(frames, tensor).reshape(-1)] * steps)
    size = tensor.frames_of(spec.chunk)
    pieces = [frames[:, s * size : (s + 1) * size] for s in range(max(steps - first, 0))]
    if not spec.has_time:
        pieces = [piece[:, 0] for piece in pieces]
    return np.concatenate([graph_layout(p, tensor).reshape(-1) for p in pieces] or [np.zeros(1, tensor.dtype)])


def _array(name: str, array: Array, dtype: str) -> str:
    kind = C_TYPES[dtype]
    return f"static const {kind} {name}[{array.size}] = {{\n{values(array, kind)}}};"


def selftest(texts: Texts) -> str:
    """`selftest.c`: the golden vectors through the step, in a closed loop; prints PASS or FAIL, and returns 0 or 1."""
    name = texts.name
    inputs, outputs = texts.ports[: len(texts.spec.inputs)], texts.ports[len(texts.spec.inputs) :]
    lines = [
        "/* The trained model's own vectors, through the step: PASS and 0, or FAIL and 1. Written by rnn-export. */",
        f'#include "{name}.h"',
        "",
        "#include <stdio.h>",
        "",
        '#include "golden.h"',
        "",
        *_weights(texts),
        "/* The largest error so far, and the largest magnitude. */",
        "typedef struct {",
        "    double error, scale;",
        "    int wrong;",
        "} comparison;",
        "",
        "static void compare(comparison *c, double got, double want)",
        "{",
        "    const double error = got > want ? got - want : want - got, size = want < 0 ? -want : want;",
        "    c->scale = size > c->scale ? size : c->scale;",
        "    c->error = error <= c->error ? c->error : error;",
        "    if (!(error <= GOLDEN_ATOL + GOLDEN_RTOL * c->scale))",
        "        c->wrong = 1;",
        "}",
        "",
        "static int said(const char *name, comparison c)",
        "{",
        '    printf("%s: largest error %.1e, of a largest value of %.1e\\n", name, c.error, c.scale);',
        "    return c.wrong;",
        "}",
        "",
        "int main(int argc, char **argv)",
        "{",
        f"    static {name}_state state;",
        "    int wrong = 0;",
    ]
    for i, (_, tensor) in enumerate(outputs):
        lines.append(f"    static {C_TYPES[tensor.dtype]} out{i}[{texts.size(tensor)}];")
        lines.append(f"    comparison of_out{i} = {{0.0, 0.0, 0}};")
    for i in range(len(texts.members)):
        lines.append(f"    comparison of_state{i} = {{0.0, 0.0, 0}};")
    lines += [*_start(texts), "    for (int s = 0; s < GOLDEN_STEPS; s++) {"]
    arguments = [f"golden_in{i} + s * {texts.size(tensor)}" for i, (_, tensor) in enumerate(inputs)]
    arguments += [f"out{i}" for i in range(len(outputs))]
    lines += [
        f"        {name}_step(&state, {', '.join(arguments)});",
        "        if (s < GOLDEN_LATE)",
        "            continue;",
    ]
    for i, (_, tensor) in enumerate(outputs):
        size = texts.size(tensor)
        if texts.spec.timed(tensor):
            want = f"golden_out{i}[(s - GOLDEN_LATE) * {size} + j]"
            lines += [
                f"        for (int j = 0; j < {size}; j++)",
                f"            compare(&of_out{i}, (double)out{i}[j], (double){want});",
            ]
    lines.append("    }")
    for i, (_, tensor) in enumerate(outputs):
        if not texts.spec.timed(tensor):
            lines += [
                f"#ifdef GOLDEN_LAST{i}",
                f"    for (int j = 0; j < {texts.size(tensor)}; j++)",
                f"        compare(&of_out{i}, (double)out{i}[j], (double)golden_out{i}[j]);",
                "#endif",
            ]
    for i, (member, state) in enumerate(texts.members):
        lines += [
            f"    for (int j = 0; j < {int(np.prod(state.row, dtype=np.int64))}; j++)",
            f"        compare(&of_state{i}, (double)state.{member}[j], (double)golden_state{i}[j]);",
        ]
    lines += [f'    wrong |= said("{plain(t.name)}", of_out{i});' for i, (_, t) in enumerate(outputs)]
    lines += [f'    wrong |= said("{plain(s.name)}", of_state{i});' for i, (_, s) in enumerate(texts.members)]
    lines += ['    puts(wrong ? "FAIL" : "PASS");', "    return wrong;", "}"]
    return "\n".join(lines) + "\n"


def main(texts: Texts) -> str:
    """`main.c`: raw values from stdin to stdout, step after step."""
    name = texts.name
    inputs, outputs = texts.ports[: len(texts.spec.inputs)], texts.ports[len(texts.spec.inputs) :]
    what = ", ".join(f"{texts.size(t)} {C_TYPES[t.dtype]} of {plain(t.name)}" for _, t in inputs)
    gives = ", ".join(f"{texts.size(t)} {C_TYPES[t.dtype]} of {plain(t.name)}" for _, t in outputs)
    lines = [
        f"/* Reads steps from stdin, each {what};",
        f" * writes to stdout for each {gives}. Written by rnn-export.",
        *_delayed(texts.spec),
        " */",
        f'#include "{name}.h"',
        "",
        "#include <stdio.h>",
        "",
        *_weights(texts),
        "int main(int argc, char **argv)",
        "{",
        f"    static {name}_state state;",
    ]
    lines += [f"    static {C_TYPES[t.dtype]} in{i}[{texts.size(t)}];" for i, (_, t) in enumerate(inputs)]
    lines += [f"    static {C_TYPES[t.dtype]} out{i}[{texts.size(t)}];" for i, (_, t) in enumerate(outputs)]
    lines += _start(texts)
    read = " && ".join(f"fread(in{i}, sizeof in{i}, 1, stdin) == 1" for i in range(len(inputs)))
    arguments = [*(f"in{i}" for i in range(len(inputs))), *(f"out{i}" for i in range(len(outputs)))]
    late = ["        if (frames <= NAME_DELAY)", "            frames += NAME_CHUNK;"]
    late += ["        if (frames <= NAME_DELAY)", "            continue;"]
    if texts.spec.has_delay:
        lines.append("    unsigned long frames = 0;")
    lines += [
        f"    while ({read}) {{",
        f"        {name}_step(&state, {', '.join(arguments)});",
        *(line.replace("NAME", name.upper()) for line in late if texts.spec.has_delay),
    ]
    write = " || ".join(f"fwrite(out{i}, sizeof out{i}, 1, stdout) != 1" for i in range(len(outputs)))
    lines += [f"        if ({write} || fflush(stdout))", "            return 1;", "    }"]
    lines += ["    return ferror(stdin) ? 1 : 0;", "}"]
    return "\n".join(lines) + "\n"


def _delayed(spec: StreamSpec) -> Sequence[str]:
    """What of the first outputs is left out, and what is not."""
    whole, rest = divmod(spec.delay, spec.chunk)
    lines = [f" * For the first {whole} steps it writes nothing."] * (whole > 0)
    return lines + [f" * Of what it writes first, {rest} frames of the input's time are of no value."] * (rest > 0)


def _weights(texts: Texts) -> Sequence[str]:
    """Where a program has the weights, if they are not in the source."""
    if not texts.large:
        return []
    NAME, name = texts.name.upper(), texts.name
    return [
        f"#ifdef {NAME}_WEIGHTS_EMBEDDED",
        f"extern const unsigned char {name}_weights[];",
        "#else",
        f"static unsigned char {name}_weights[{NAME}_WEIGHTS_BYTES] __attribute__((aligned(64)));",
        "#endif",
        "",
    ]


def _start(texts: Texts) -> Sequence[str]:
    NAME, name = texts.name.upper(), texts.name
    if not texts.large:
        return ["    (void)argc;", "    (void)argv;", f"    {name}_init(&state);"]
    return [
        f"#ifdef {NAME}_WEIGHTS_EMBEDDED",
        "    (void)argc;",
        "    (void)argv;",
        "#else",
        '    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;',
        f"    if (!file || fread({name}_weights, {NAME}_WEIGHTS_BYTES, 1, file) != 1) {{",
        f'        fprintf(stderr, "give the path of {name}.bin\\n");',
        "        return 2;",
        "    }",
        "    fclose(file);",
        "#endif",
        f"    if ({name}_check({name}_weights, {NAME}_WEIGHTS_BYTES)) {{",
        f'        fprintf(stderr, "{name}.bin is not whole, or of another model\\n");',
        "        return 2;",
        "    }",
        f"    {name}_init(&state, {name}_weights);",
    ]


def cmake(texts: Texts) -> str:
    """`CMakeLists.txt`: the library, the program, and the self-test as a test of ctest's."""
    name = texts.name
    argument = f" ${{CMAKE_CURRENT_SOURCE_DIR}}/{name}.bin" if texts.large else ""
    lines = [
        "cmake_minimum_required(VERSION 3.13)",
        f"project({name} C)",
        "",
        "if(NOT CMAKE_BUILD_TYPE)",
        "  set(CMAKE_BUILD_TYPE Release)",
        "endif()",
        "# Of another machine, that compiles for itself, native would be this one.",
        "if(NOT CMAKE_CROSSCOMPILING)",
        "  set(march native)",
        "endif()",
        'set(RNN_MARCH "${march}" CACHE STRING "Of -march: native, x86-64-v3, armv8.2-a+dotprod ...; empty for none")',
        "",
        f"add_library({name} STATIC {name}.c)",
        f"target_include_directories({name} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})",
        f"set_target_properties({name} PROPERTIES C_STANDARD 99 POSITION_INDEPENDENT_CODE ON)",
        f"target_compile_options({name} PRIVATE {FLAGS} $<$<BOOL:${{RNN_MARCH}}>:-march=${{RNN_MARCH}}>)",
        *([f"target_link_libraries({name} PUBLIC m)"] if texts.libm else []),
        "",
        f"add_executable({name}_stream main.c)",
        f"target_link_libraries({name}_stream {name})",
        f"add_executable({name}_selftest selftest.c)",
        f"target_link_libraries({name}_selftest {name})",
        "enable_testing()",
        f"add_test(NAME selftest COMMAND {name}_selftest{argument})",
    ]
    return "\n".join(lines) + "\n"
