"""A step written by hand by the contract of the C target: y = W h, h = tanh(A x + B h), with its golden vectors."""

import textwrap

import numpy as np

from rnn_export.contract.spec import BATCH, StateSpec, StreamSpec, TensorSpec

STEPS, INPUTS, HIDDEN, OUTPUTS = 20, 4, 8, 3
SPEC = StreamSpec(
    inputs=(TensorSpec("x", "float32", (BATCH, INPUTS)),),
    outputs=(TensorSpec("y", "float32", (BATCH, OUTPUTS)),),
    states=(StateSpec("h", "h_in", "h_out", "float32", (BATCH, HIDDEN)),),
)

WEIGHTS = (np.random.default_rng(3).standard_normal(120) * 0.3).astype(np.float32)

HEADER = """
#ifndef TOY_H
#define TOY_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
typedef struct { @MEMBER@ float h[8]; } toy_state;
#define TOY_STATE_BYTES sizeof(toy_state)
#define TOY_STACK_BYTES 64
#define TOY_MACS 120
#define TOY_CHUNK 1
#define TOY_DELAY 0
#define TOY_X_SIZE 4
#define TOY_Y_SIZE 3
@DECLARATIONS@
void toy_step(toy_state *state, const float *x, float *y);
void toy_run(toy_state *state, const float *x, float *y, size_t steps);
#ifdef __cplusplus
}
#endif
#endif
"""
INSIDE = "void toy_init(toy_state *state);"
SEPARATE = """
#define TOY_WEIGHTS_BYTES 480
void toy_init(toy_state *state, const void *weights);
int toy_check(const void *weights, size_t bytes);
"""

BODY = """
/* tanh by its continued fraction, within 1e-6 for |x| <= 2. */
static float toy_tanh(float x)
{
    const float s = x * x;
    return x * (10395.0f + s * (1260.0f + s * 21.0f)) / (10395.0f + s * (4725.0f + s * (210.0f + s)));
}
void toy_step(toy_state *state, const float *x, float *y)
{
    @WEIGHTS@
    float h[8];
    for (int i = 0; i < 8; i++) {
        float sum = 0.0f;
        for (int k = 0; k < 4; k++)
            sum += w[4 * i + k] * x[k];
        for (int k = 0; k < 8; k++)
            sum += w[32 + 8 * i + k] * state->h[k];
        h[i] = toy_tanh(sum);
    }
    memcpy(state->h, h, sizeof h);
    for (int i = 0; i < 3; i++) {
        float sum = 0.0f;
        for (int k = 0; k < 8; k++)
            sum += w[96 + 8 * i + k] * h[k];
        y[i] = sum;
    }
}
void toy_run(toy_state *state, const float *x, float *y, size_t steps)
{
    for (; steps; steps--, x += 4, y += 3)
        toy_step(state, x, y);
}
"""

SELFTEST = """
#include <stdio.h>
#include "toy.h"
#include "golden.h"
static float far(float a, float b) { return a < b ? b - a : a - b; }
#if defined(TOY_WEIGHTS_BYTES) && defined(TOY_WEIGHTS_EMBEDDED)
extern const unsigned char toy_weights[];
#elif defined(TOY_WEIGHTS_BYTES)
static unsigned char toy_weights[TOY_WEIGHTS_BYTES + 1] __attribute__((aligned(64)));
#endif
int main(int argc, char **argv)
{
    toy_state state;
    float y[TOY_Y_SIZE], error_y = 0.0f, error_h = 0.0f;
    int i, k;
    (void)argc;
    (void)argv;
#if defined(TOY_WEIGHTS_BYTES)
#if !defined(TOY_WEIGHTS_EMBEDDED)
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (!file || fread(toy_weights, 1, sizeof toy_weights, file) != TOY_WEIGHTS_BYTES)
        return puts("no weights"), 2;
    fclose(file);
#endif
    if (toy_check(toy_weights, TOY_WEIGHTS_BYTES))
        return puts("wrong weights"), 2;
    toy_init(&state, toy_weights);
#else
    toy_init(&state);
#endif
    for (i = 0; i < GOLDEN_STEPS; i++) {
        toy_step(&state, golden_x + i * TOY_X_SIZE, y);
        for (k = 0; k < TOY_Y_SIZE; k++)
            if (!(far(y[k], golden_y[i * TOY_Y_SIZE + k]) <= error_y))
                error_y = far(y[k], golden_y[i * TOY_Y_SIZE + k]);
    }
    for (k = 0; k < 8; k++)
        if (!(far(state.h[k], golden_h[k]) <= error_h))
            error_h = far(state.h[k], golden_h[k]);
    printf("y: largest error %.1e\\n", (double)error_y);
    printf("h: largest error %.1e\\n", (double)error_h);
    if (error_y <= 1e-5f && error_h <= 1e-5f)
        return puts("PASS"), 0;
    return puts("FAIL"), 1;
}
"""

INCLUDES = '#include <string.h>\n#include "toy.h"\n#include "kernels.h"\n'
MAIN = '#include "toy.h"\nint main(void) { return 0; }\n'


def toy(*, separate: bool = False, wrong: bool = False) -> dict[str, bytes]:
    """Its sources by file name; `separate`: weights in toy.bin, `wrong`: golden vectors of another net."""
    weights = WEIGHTS
    x, y, h = recorded()
    golden = {"x": x, "y": y + np.float32(0.5) * wrong, "h": h}
    texts = {
        "toy.h": HEADER.replace("@MEMBER@", "const void *weights;" * separate).replace(
            "@DECLARATIONS@", SEPARATE if separate else INSIDE
        ),
        "toy.c": '#include <string.h>\n#include "toy.h"\n#include "kernels.h"\n'
        + _weights(weights, separate)
        + _body(separate),
        "kernels.h": "typedef float toy_kernel;\n",
        "golden.h": f"#define GOLDEN_STEPS {STEPS}\n" + "".join(_array(f"golden_{n}", a) for n, a in golden.items()),
        "selftest.c": SELFTEST,
        "main.c": MAIN,
        "CMakeLists.txt": "",
    }
    files = {name: textwrap.dedent(text).lstrip().encode() for name, text in texts.items()}
    return files | ({"toy.bin": weights.tobytes()} if separate else {})


def recorded() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs (steps, 4), outputs (steps, 3) and the last state (8,), computed in float64."""
    x = np.random.default_rng(5).standard_normal((STEPS, INPUTS)).astype(np.float32)
    A, B, W = (p.reshape(-1, n).astype(np.float64) for p, n in zip(np.split(WEIGHTS, [32, 96]), (4, 8, 8), strict=True))
    h, y = np.zeros(HIDDEN), []
    for frame in x:
        h = np.tanh(A @ frame + B @ h)
        y.append(W @ h)
    return x, np.array(y, np.float32), h.astype(np.float32)


def _array(name: str, values: np.ndarray) -> str:
    return f"static const float {name}[{values.size}] = {{{', '.join(f'{v:.9e}f' for v in values.ravel())}}};\n"


def _weights(weights: np.ndarray, separate: bool) -> str:
    if not separate:
        return _array("toy_w", weights) + "void toy_init(toy_state *state) { memset(state, 0, sizeof *state); }\n"
    return """
void toy_init(toy_state *state, const void *weights)
{
    memset(state, 0, sizeof *state);
    state->weights = weights;
}
int toy_check(const void *weights, size_t bytes) { return !(weights && bytes == TOY_WEIGHTS_BYTES); }
"""


def _body(separate: bool) -> str:
    return BODY.replace("@WEIGHTS@", f"const float *w = {'state->weights' if separate else 'toy_w'};")
