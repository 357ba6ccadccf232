/* The trained model's own vectors, through the step: PASS and 0, or FAIL and 1. Written by rnn-export. */
/* Arduino compiles whatever lies here, and has a main of its own. */
#ifndef ARDUINO
#include "lstm.h"

#include <stdio.h>

#include "golden.h"

/* The largest error so far, and the largest magnitude. */
typedef struct {
    double error, scale;
    int wrong;
} comparison;

static void compare(comparison *c, double got, double want)
{
    const double error = got > want ? got - want : want - got, size = want < 0 ? -want : want;
    c->scale = size > c->scale ? size : c->scale;
    c->error = error <= c->error ? c->error : error;
    if (!(error <= GOLDEN_ATOL + GOLDEN_RTOL * c->scale))
        c->wrong = 1;
}

static int said(const char *name, comparison c)
{
    printf("%s: largest error %.1e, of a largest value of %.1e\n", name, c.error, c.scale);
    return c.wrong;
}

int main(int argc, char **argv)
{
    static lstm_state state;
    int wrong = 0;
    static float out0[8];
    comparison of_out0 = {0.0, 0.0, 0};
    comparison of_state0 = {0.0, 0.0, 0};
    comparison of_state1 = {0.0, 0.0, 0};
    (void)argc;
    (void)argv;
    lstm_init(&state);
    for (int s = 0; s < GOLDEN_STEPS; s++) {
        lstm_step(&state, golden_in0 + s * 4, out0);
        if (s < GOLDEN_LATE)
            continue;
        for (int j = 0; j < 8; j++)
            compare(&of_out0, (double)out0[j], (double)golden_out0[(s - GOLDEN_LATE) * 8 + j]);
    }
    for (int j = 0; j < 8; j++)
        compare(&of_state0, (double)state.rnn_l0_h[j], (double)golden_state0[j]);
    for (int j = 0; j < 8; j++)
        compare(&of_state1, (double)state.rnn_l0_c[j], (double)golden_state1[j]);
#ifdef GOLDEN_ENDS
    for (int e = 0, at = 0; e < GOLDEN_ENDS; e++) {
        lstm_init(&state);
        for (int step = 0; step < golden_end_steps[e]; step++, at++) {
            /* What stands behind the end may be anything. */
            const int s = step < GOLDEN_STEPS ? step : 0;
            if (step == golden_end_frames[e] / LSTM_CHUNK)
                lstm_finish(&state, (size_t)(golden_end_frames[e] % LSTM_CHUNK));
            lstm_step(&state, golden_in0 + s * 4, out0);
        }
    }
#endif
    wrong |= said("output", of_out0);
    wrong |= said("rnn.l0.h", of_state0);
    wrong |= said("rnn.l0.c", of_state1);
    puts(wrong ? "FAIL" : "PASS");
    return wrong;
}
#endif
