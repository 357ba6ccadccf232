"""The glue: C functions around a step whose names and arguments are the same for every model."""

from __future__ import annotations

import math

import numpy as np

from rnn_export.runtime.build.native.c_types import C_TYPES
from rnn_export.runtime.build.native.names import identifiers
from rnn_export.spec import StreamSpec, TensorSpec, sized

FILE = "rnn_glue.c"

# How a NaN is told, by dtype.
_NAN = {
    "float16": "(x[i] & 0x7fff) > 0x7c00",
    "float32": "x[i] != x[i]",
    "float64": "x[i] != x[i]",
}
_HAS_NAN = """\
static int rnn_nan_{dtype}(const {kind} *x, size_t n)
{{
    int bad = 0;
    for (size_t i = 0; i < n; i++) bad |= {test};
    return bad;
}}
"""

_TEXT = """\
/* The same face for every model: every symbol of this library. */
#include "{name}.h"

#include <stddef.h>
#include <stdint.h>

#define RNN_EXPORT __attribute__((visibility("default")))
/* Streams that are stepped at once; fewer than so many of them are stepped one after the other, which takes less. */
#define RNN_FEWEST 6
#ifdef {NAME}_ROWS_COUNT
#define RNN_AT_ONCE {NAME}_ROWS_COUNT
#else
#define RNN_AT_ONCE 1
#endif
#define RNN_IS(what, yes) typedef char rnn_##what[(yes) ? 1 : -1]

{checks}

{nan}
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

/* Whether an output or the state of a stream has a NaN. */
static uint8_t rnn_turned(const {name}_state *mine, void *const *out, size_t row)
{{
    int found = 0;
    (void)mine, (void)out, (void)row;
{found}
    return (uint8_t)found;
}}

/* One step of `rows` streams, whose states lie `stride` bytes apart, in this order or in that of `slots`; each array
 * has a step of every row, row after row. Says in `bad`, if it is not NULL, which turned NaN, and gives how many.
 */
static size_t rnn_each(char *states, size_t stride, const int64_t *slots, const void *const *in, void *const *out,
                       size_t rows, uint8_t *bad)
{{
    const void *from[{n_in}];
    void *to[{n_out}];
    size_t turned = 0;
    for (size_t row = 0, count; row < rows; row += count) {{
        {name}_state *at[RNN_AT_ONCE];
        count = rows - row < RNN_AT_ONCE ? rows - row : RNN_AT_ONCE;
        if (count < RNN_FEWEST) count = 1;
        for (size_t i = 0; i < count; i++)
            at[i] = (void *)(states + (slots ? (size_t)slots[row + i] : row + i) * stride);
        for (size_t i = 0; i < {n_in}; i++) from[i] = (const char *)in[i] + row * rnn_in_bytes[i];
        for (size_t i = 0; i < {n_out}; i++) to[i] = (char *)out[i] + row * rnn_out_bytes[i];
#ifdef {NAME}_ROWS_COUNT
        if (count > 1) {name}_rows(at, count, {several});
        else
#endif
        rnn_step(at[0], from, to);
        for (size_t i = 0; bad && i < count; i++) {{
            bad[row + i] = rnn_turned(at[i], out, row + i);
            turned += bad[row + i];
        }}
    }}
    return turned;
}}

/* `rows` streams, whose states lie `stride` bytes apart; each array has `steps` steps of every row, row after row. */
RNN_EXPORT void rnn_rows(void *state, size_t stride, const void *const *in, void *const *out, size_t rows, size_t steps)
{{
    const void *from[{n_in}];
    void *to[{n_out}];
    if (steps == 1) {{
        rnn_each(state, stride, NULL, in, out, rows, NULL);
        return;
    }}
    for (size_t row = 0; row < rows; row++) {{
        for (size_t i = 0; i < {n_in}; i++) from[i] = (const char *)in[i] + row * steps * rnn_in_bytes[i];
        for (size_t i = 0; i < {n_out}; i++) to[i] = (char *)out[i] + row * steps * rnn_out_bytes[i];
        rnn_run((char *)state + row * stride, from, to, steps);
    }}
}}

/* One step of the streams whose states are `slots` strides from `states` on. Says in `bad` which of them have a NaN in
 * an output or in their state now, and gives how many.
 */
RNN_EXPORT size_t rnn_pool(void *states, size_t stride, const int64_t *slots, const void *const *in, void *const *out,
                           size_t rows, uint8_t *bad)
{{
    return rnn_each(states, stride, slots, in, out, rows, bad);
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
    inputs, outputs = range(len(spec.inputs)), range(len(spec.outputs))
    several = [*(f"from[{i}]" for i in inputs), *(f"to[{i}]" for i in outputs)]
    values = [
        (t.dtype, f"(const void *)((const char *)out[{i}] + row * rnn_out_bytes[{i}])", _count(t, spec))
        for i, t in enumerate(spec.outputs)
    ] + [(s.dtype, f"mine->{member}", math.prod(s.row)) for member, s in zip(members, spec.states, strict=True)]
    found = [f"    found |= rnn_nan_{dtype}({text}, {count});" for dtype, text, count in values if dtype in _NAN]
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
        several=", ".join(several),
        nan="".join(
            _HAS_NAN.format(dtype=dtype, kind=C_TYPES[dtype], test=test)
            for dtype, test in _NAN.items()
            if any(dtype == used for used, _, _ in values)
        ),
        found="\n".join(found),
        n_in=len(spec.inputs),
        n_out=len(spec.outputs),
    )


def with_rows(name: str) -> str:
    """The flag by which `NAME.c` also has what steps several streams at once."""
    return f"-D{name.upper()}_ROWS"


def step_bytes(tensor: TensorSpec, spec: StreamSpec) -> int:
    """What a tensor has in one step of one stream."""
    return _count(tensor, spec) * np.dtype(tensor.dtype).itemsize


def _count(tensor: TensorSpec, spec: StreamSpec) -> int:
    return math.prod(sized(tensor.shape, 1, spec.chunk))
