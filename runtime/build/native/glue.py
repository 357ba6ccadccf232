"""The glue: C functions around a step whose names and arguments are the same for every model."""

from __future__ import annotations

import math

import numpy as np

from rnn_export.runtime.build.native.names import identifiers
from rnn_export.spec import StreamSpec, TensorSpec, sized

FILE = "rnn_glue.c"

_TEXT = """\
/* The same face for every model: every symbol of this library. */
#include "{name}.h"

#include <stddef.h>
#include <stdint.h>

#define RNN_EXPORT __attribute__((visibility("default")))
#define RNN_IS(what, yes) typedef char rnn_##what[(yes) ? 1 : -1]

{checks}

static const size_t rnn_offsets[] = {{{offsets}0}};
static const size_t rnn_in_bytes[] = {{{in_bytes}}};
static const size_t rnn_out_bytes[] = {{{out_bytes}}};

RNN_EXPORT size_t rnn_state_bytes(void) {{ return sizeof({name}_state); }}
RNN_EXPORT size_t rnn_state_offset(size_t i) {{ return rnn_offsets[i]; }}
RNN_EXPORT size_t rnn_macs(void) {{ return {NAME}_MACS; }}

#ifdef {NAME}_WEIGHTS_BYTES
RNN_EXPORT size_t rnn_weights_bytes(void) {{ return {NAME}_WEIGHTS_BYTES; }}
RNN_EXPORT int rnn_check(const void *weights, size_t bytes) {{ return {name}_check(weights, bytes); }}
RNN_EXPORT void rnn_init(void *state, const void *weights) {{ {name}_init(state, weights); }}
#else
RNN_EXPORT size_t rnn_weights_bytes(void) {{ return 0; }}
RNN_EXPORT int rnn_check(const void *weights, size_t bytes) {{ (void)weights; return bytes != 0; }}
RNN_EXPORT void rnn_init(void *state, const void *weights) {{ (void)weights; {name}_init(state); }}
#endif

/* Of an input that is an index into a table: the rows of the table, from -rows to rows - 1; else 0. */
RNN_EXPORT size_t rnn_input_rows(size_t i)
{{
    switch (i) {{
{rows}
    default: return 0;
    }}
}}

RNN_EXPORT void rnn_step(void *state, const void *const *in, void *const *out) {{ {name}_step(state, {arguments}); }}

RNN_EXPORT void rnn_run(void *state, const void *const *in, void *const *out, size_t steps)
{{
    {name}_run(state, {arguments}, steps);
}}

/* `rows` streams, whose states lie `stride` bytes apart; each array has `steps` steps of every row, row after row. */
RNN_EXPORT void rnn_rows(void *state, size_t stride, const void *const *in, void *const *out, size_t rows, size_t steps)
{{
    const void *from[{n_in}];
    void *to[{n_out}];
    for (size_t row = 0; row < rows; row++) {{
        for (size_t i = 0; i < {n_in}; i++) from[i] = (const char *)in[i] + row * steps * rnn_in_bytes[i];
        for (size_t i = 0; i < {n_out}; i++) to[i] = (char *)out[i] + row * steps * rnn_out_bytes[i];
        void *mine = (char *)state + row * stride;
        if (steps == 1) rnn_step(mine, from, to);
        else rnn_run(mine, from, to, steps);
    }}
}}
"""


def glue(name: str, spec: StreamSpec) -> str:
    """The text of the glue; it does not compile where NAME.h is not of the contract."""
    upper = name.upper()
    tensors = (*spec.inputs, *spec.outputs)
    macros = [f"{upper}_{n.upper()}" for n in identifiers([t.name for t in tensors])]
    members = identifiers([s.name for s in spec.states])
    checks = [
        f"RNN_IS({macro.lower()}_has_the_size_of_the_contract, {macro}_SIZE == {_count(t, spec)});"
        for macro, t in zip(macros, tensors, strict=True)
    ] + [
        f"RNN_IS({member}_has_the_size_of_the_contract, sizeof((({name}_state *)0)->{member}) == "
        f"{math.prod(s.row) * np.dtype(s.dtype).itemsize});"
        for member, s in zip(members, spec.states, strict=True)
    ]
    rows = [
        f"#ifdef {macro}_ROWS\n    case {i}: return {macro}_ROWS;\n#endif"
        for i, macro in enumerate(macros[: len(spec.inputs)])
    ]
    arguments = [f"in[{i}]" for i in range(len(spec.inputs))] + [f"out[{i}]" for i in range(len(spec.outputs))]
    return _TEXT.format(
        name=name,
        NAME=upper,
        checks="\n".join(checks),
        offsets="".join(f"offsetof({name}_state, {member}), " for member in members),
        in_bytes=", ".join(str(step_bytes(t, spec)) for t in spec.inputs),
        out_bytes=", ".join(str(step_bytes(t, spec)) for t in spec.outputs),
        rows="\n".join(rows),
        arguments=", ".join(arguments),
        n_in=len(spec.inputs),
        n_out=len(spec.outputs),
    )


def step_bytes(tensor: TensorSpec, spec: StreamSpec) -> int:
    """What a tensor has in one step of one stream."""
    return _count(tensor, spec) * np.dtype(tensor.dtype).itemsize


def _count(tensor: TensorSpec, spec: StreamSpec) -> int:
    return math.prod(sized(tensor.shape, 1, spec.chunk))
