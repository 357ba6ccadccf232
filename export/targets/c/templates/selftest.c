/* The trained model's own vectors, through the step: PASS and 0, or FAIL and 1. Written by rnn-export. */
/* Arduino compiles whatever lies here, and has a main of its own. */
#ifndef ARDUINO
#include "$name.h"

#include <stdio.h>

#include "golden.h"

//@include templates/weights.c
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
    static name_state state;
    int wrong = 0;
//@each outputs
    static $type out$i[$size];
    comparison of_out$i = {0.0, 0.0, 0};
//@end outputs
//@each states
    comparison of_state$i = {0.0, 0.0, 0};
//@end states
//@include templates/start.c
    for (int s = 0; s < GOLDEN_STEPS; s++) {
        name_step(&state, $golden_step);
        if (s < GOLDEN_LATE)
            continue;
//@each outputs
//@if timed
        for (int j = 0; j < $size; j++)
            compare(&of_out$i, (double)out$i[j], (double)golden_out$i[(s - GOLDEN_LATE) * $size + j]);
//@end timed
//@end outputs
    }
//@each outputs
//@unless timed
#ifdef GOLDEN_LAST$i
    for (int j = 0; j < $size; j++)
        compare(&of_out$i, (double)out$i[j], (double)golden_out$i[j]);
#endif
//@end timed
//@end outputs
//@each states
    for (int j = 0; j < $size; j++)
//@if slides_on
        compare(&of_state$i, (double)NAME_${macro}_AT(&state)[j], (double)golden_state$i[j]);
//@end slides_on
//@unless slides_on
        compare(&of_state$i, (double)state.$member[j], (double)golden_state$i[j]);
//@end slides_on
//@end states
#ifdef GOLDEN_ENDS
    for (int e = 0, at = 0; e < GOLDEN_ENDS; e++) {
//@if weights_file
        name_init(&state, name_weights);
//@end weights_file
//@unless weights_file
        name_init(&state);
//@end weights_file
        for (int step = 0; step < golden_end_steps[e]; step++, at++) {
            /* What stands behind the end may be anything. */
            const int s = step < GOLDEN_STEPS ? step : 0;
            if (step == golden_end_frames[e] / NAME_CHUNK)
                name_finish(&state, (size_t)(golden_end_frames[e] % NAME_CHUNK));
            name_step(&state, $golden_step);
//@each outputs
//@if ends
            for (int j = 0; j < $size; j++)
                if (golden_end_out$i[at * $size + j] == golden_end_out$i[at * $size + j])
                    compare(&of_out$i, (double)out$i[j], (double)golden_end_out$i[at * $size + j]);
//@end ends
//@end outputs
        }
    }
#endif
//@each outputs
    wrong |= said("$label", of_out$i);
//@end outputs
//@each states
    wrong |= said("$label", of_state$i);
//@end states
    puts(wrong ? "FAIL" : "PASS");
    return wrong;
}
#endif
