"""A step in C, for one stream and for several, compiled as a user does it, with the memory of each stream."""

import ctypes
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnn_export.bundle import open_bundle
from rnn_export.contract.spec import BATCH, StreamSpec, sized
from rnn_export.export.targets.c.batch_step import ROWS
from rnn_export.export.targets.c.writer import sources
from rnn_export.runtime.build.c_compiler import FLAGS, lay_out
from rnn_export.runtime.build.c_names import identifiers
from rnn_export.runtime.build.native.compilers import find_compiler
from rnn_export.runtime.protocols.c_step import StatePlaces

from ..zoo import store  # noqa: TID252
from .c_sheet import LANES, Array, aligned, in_lanes, loaded

FACE = """
#include <stddef.h>
#include "{name}.h"
size_t state_bytes(void) {{ return sizeof({name}_state); }}
size_t state_offset(int i)
{{
    static const size_t at[] = {{{offsets}0}};
    return at[i];
}}
size_t state_front(int i)
{{
    static const size_t at[] = {{{fronts}0}};
    return at[i];
}}
"""
WHERE = ctypes.c_void_p
# What a user calls.
ALONE = "void {name}_rows({name}_state *const *states, size_t rows, const float *the_rows, const float *the_states, "


def sources_of(name: str, precision: str = "fp32", scales: Any = None) -> tuple[dict[str, bytes], StreamSpec]:
    """Sources of a net of the zoo, under the name `net`, and their contract."""
    bundle = open_bundle(store.bundle(name))
    step = bundle.read("step.onnx")
    return sources(step, bundle.spec, bundle.initial_states(), "net", precision, scales), bundle.spec


class Streams:
    """Streams of a step; their frames are (rows, ...), row after row, as C takes them."""

    def __init__(self, files: Mapping[str, bytes], name: str, spec: StreamSpec, lanes: int | None = None) -> None:
        self.spec = spec
        members = identifiers([s.name for s in spec.states])
        offsets = "".join(f"offsetof({name}_state, {member}), " for member in members)
        header = files[f"{name}.h"].decode()
        sliding = [f"{name}_{member}_FRONT".upper() for member in members]
        fronts = "".join(
            f"offsetof({name}_state, front) + 4 * {macro}, " if f"#define {macro} " in header else "0, "
            for macro in sliding
        )
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            lay_out({**files, **in_lanes(files, lanes)}, folder)
            (folder / "face.c").write_text(FACE.format(name=name, offsets=offsets, fronts=fronts))
            march = f"-march={(LANES[lanes] if lanes else None) or 'native'}"
            flags = [*FLAGS, march, f"-D{name.upper()}_ROWS", "-shared", "-fPIC"]
            find_compiler().compile([*flags, f"{name}.c", "face.c", "-o", "net.so", "-lm"], folder)
            library = loaded((folder / "net.so").read_bytes())
        self.init, self.step_, self.rows_ = (getattr(library, f"{name}_{what}") for what in ("init", "step", "rows"))
        library.state_bytes.restype = library.state_offset.restype = library.state_front.restype = ctypes.c_size_t
        self.bytes = int(library.state_bytes())
        self.places = StatePlaces(spec, library.state_offset, library.state_front)
        self.weights = aligned(files.get(f"{name}.bin", b""))
        self.given = [WHERE(self.weights.ctypes.data)] if self.weights.size else []

    def start(self, count: int) -> list[Array]:
        made = [aligned(b"\xa5" * self.bytes) for _ in range(count)]
        for state in made:
            self.init(WHERE(state.ctypes.data), *self.given)
        return made

    def draw(self, random: np.random.Generator, count: int) -> list[Array]:
        """Frames for so many streams; ids are few."""
        shapes = [self._shape(t, count) for t in self.spec.inputs]
        return [
            (random.standard_normal(shape) if t.dtype == "float32" else random.integers(0, 5, shape)).astype(t.dtype)
            for t, shape in zip(self.spec.inputs, shapes, strict=True)
        ]

    def step(self, states: Sequence[Array], inputs: Sequence[Array]) -> list[Array]:
        """One after the other."""
        outputs = self._capacity(len(states))
        for row, state in enumerate(states):
            self.step_(WHERE(state.ctypes.data), *(WHERE(a[row].ctypes.data) for a in (*inputs, *outputs)))
        return outputs

    def rows(self, states: Sequence[Array], inputs: Sequence[Array]) -> list[Array]:
        """All at once; what lies after the outputs stays as it was."""
        outputs = self._capacity(len(states) + 1)
        after = [array[-1].copy() for array in outputs]
        places = (WHERE * ROWS)(*(state.ctypes.data for state in states))
        self.rows_(places, ctypes.c_size_t(len(states)), *(WHERE(a.ctypes.data) for a in (*inputs, *outputs)))
        for array, before in zip(outputs, after, strict=True):
            np.testing.assert_array_equal(array[-1].view(np.uint8), before.view(np.uint8))
        return [array[:-1] for array in outputs]

    def values(self, states: Sequence[Array]) -> list[Array]:
        """Every state, (rows, values)."""
        return [values.reshape(len(states), -1) for values in self.places.read(np.stack(states)).values()]

    def _capacity(self, count: int) -> list[Array]:
        made = [np.empty(self._shape(t, count), t.dtype) for t in self.spec.outputs]
        for array in made:
            array.view(np.uint8)[...] = 0xFF
        return made

    def _shape(self, tensor, count: int) -> tuple[int, int]:
        sizes = sized([d for d in tensor.shape if d != BATCH], 1, self.spec.chunk)
        return count, int(np.prod(sizes, dtype=int))


# Each number of rows from one on beside the step of each alone, with nothing spare around what is passed.
MAIN = """
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "net.h"
int main(void)
{
    int wrong = 0;
    for (int rows = 1; rows <= NET_ROWS_COUNT; rows++) {
        net_state *alone = malloc((size_t)rows * sizeof *alone), *at[NET_ROWS_COUNT], *together[NET_ROWS_COUNT];
        net_state **given = malloc((size_t)rows * sizeof *given);
        float *in = malloc((size_t)rows * IN * sizeof *in), *out = malloc((size_t)rows * OUT * sizeof *out);
        float *one = malloc(OUT * sizeof *one);
        for (int r = 0; r < rows; r++) {
            net_init(alone + r);
            at[r] = alone + r;
            together[r] = malloc(sizeof **together);
            net_init(together[r]);
            given[r] = together[r];
        }
        for (int step = 0; step < 3; step++) {
            for (int i = 0; i < rows * IN; i++)
                in[i] = (float)((i * 37 + step * 11) % 19) / 19.0f - 0.5f;
            net_rows((net_state *const *)given, (size_t)rows, in, out);
            for (int r = 0; r < rows; r++) {
                net_step(at[r], in + r * IN, one);
                for (int i = 0; i < OUT; i++)
                    wrong |= !(fabsf(one[i] - out[r * OUT + i]) <= 1e-5f);
            }
        }
        printf("%d rows\\n", rows);
        for (int r = 0; r < rows; r++)
            free(together[r]);
        free(alone), free(given), free(in), free(out), free(one);
    }
    puts(wrong ? "different" : "same");
    return wrong;
}
"""


# The same through the glue, as a pool steps its streams: backwards, with nothing between their structs; one hears NaN.
POOL = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "net.h"
extern size_t rnn_pool(void *states, size_t stride, const int64_t *slots, const void *const *in, void *const *out,
                       size_t rows, uint8_t *bad);
extern void rnn_rows(void *state, size_t stride, const void *const *in, void *const *out, size_t rows, size_t steps);
int main(void)
{
    size_t wrong = 0;
    for (size_t rows = 1; rows <= 3 * NET_ROWS_COUNT; rows++) {
        net_state *states = malloc(rows * sizeof *states);
        int64_t *slots = malloc(rows * sizeof *slots);
        uint8_t *bad = malloc(rows);
        float *in = malloc(rows * IN * sizeof *in), *out = malloc(rows * OUT * sizeof *out);
        const void *from[] = {in};
        void *to[] = {out};
        for (size_t r = 0; r < rows; r++) {
            net_init(states + r);
            slots[r] = (int64_t)(rows - 1 - r);
        }
        for (size_t i = 0; i < rows * IN; i++)
            in[i] = (float)(i % 19) / 19.0f - 0.5f;
        wrong += rnn_pool(states, sizeof *states, slots, from, to, rows, bad);
        rnn_rows(states, sizeof *states, from, to, rows, 1);
        in[(rows - 1) * IN] = 0.0f / 0.0f;
        wrong += rnn_pool(states, sizeof *states, slots, from, to, rows, bad) != 1;
        for (size_t r = 0; r < rows; r++)
            wrong += bad[r] != (r == rows - 1);
        free(states), free(slots), free(bad), free(in), free(out);
    }
    puts(wrong ? "wrong" : "right");
    return wrong != 0;
}
"""


def main_of(text: str, spec: StreamSpec) -> bytes:
    """The program `text`, of a step with one input and one output."""
    (x,), (y,) = spec.inputs, spec.outputs
    sizes = [int(np.prod(sized(t.shape, 1, spec.chunk))) for t in (x, y)]
    return f"#define IN {sizes[0]}\n#define OUT {sizes[1]}\n{text}".encode()
