/* Reads steps from stdin, each 4 float of x;
 * writes to stdout for each 8 float of output. Written by rnn-export.
 * Where the last step is not whole it says so on stderr, and ends with 1.
 */
/* Arduino compiles whatever lies here, and has a main of its own. */
#ifndef ARDUINO
#include "lstm.h"

#include <stdio.h>

#ifdef RNN_PROFILE
/* What a step took, operator by operator, on stderr. */
static void said_profile(void)
{
    uint64_t all = 0;
    for (int i = 0; i < LSTM_OPERATORS; i++)
        all += lstm_profile[i].ticks;
    for (int i = 0; i < LSTM_OPERATORS; i++) {
        const lstm_operator *it = &lstm_profile[i];
        const double ticks = (double)it->ticks;
        fprintf(stderr, "%5.1f %%  %10.1f ticks a step  %-20s %s\n", all ? 100 * ticks / (double)all : 0,
                it->calls ? ticks / (double)it->calls : 0, it->type, it->layer);
    }
}
#endif

int main(int argc, char **argv)
{
    static lstm_state state;
    static float in0[4];
    static float out0[8];
    (void)argc;
    (void)argv;
    lstm_init(&state);
    for (;;) {
        size_t came = 0, step = 0;
        came += came == step ? fread(in0, 1, sizeof in0, stdin) : 0;
        step += sizeof in0;
        if (!came)
            break;
        if (came < step) {
            fprintf(stderr, "stdin ends within a step, after %lu of its %lu bytes: these were not fed\n",
                    (unsigned long)came, (unsigned long)step);
            return 1;
        }
        lstm_step(&state, in0, out0);
        if (fwrite(out0, sizeof out0, 1, stdout) != 1 || fflush(stdout))
            return 1;
    }
#ifdef RNN_PROFILE
    said_profile();
#endif
    return ferror(stdin) ? 1 : 0;
}
#endif
