/* Reads steps from stdin, each 4 float of x;
 * writes to stdout for each 8 float of output. Written by rnn-export.
 */
#include "lstm.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    static lstm_state state;
    static float in0[4];
    static float out0[8];
    (void)argc;
    (void)argv;
    lstm_init(&state);
    while (fread(in0, sizeof in0, 1, stdin) == 1) {
        lstm_step(&state, in0, out0);
        if (fwrite(out0, sizeof out0, 1, stdout) != 1 || fflush(stdout))
            return 1;
    }
    return ferror(stdin) ? 1 : 0;
}
