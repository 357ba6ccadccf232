/* Reads steps from stdin, each $values_read;
 * writes to stdout for each $values_written. Written by rnn-export.
//@if silent_steps
 * For the first $silent_steps steps it writes nothing.
//@end silent_steps
//@if silent_frames
 * Of what it writes first, $silent_frames frames of the input's time are of no value.
//@end silent_frames
 * Where the last step is not whole it says so on stderr, and ends with 1.
 */
/* Arduino compiles whatever lies here, and has a main of its own. */
#ifndef ARDUINO
#include "$name.h"

#include <stdio.h>

//@include templates/weights.c
#ifdef RNN_PROFILE
/* What a step took, operator by operator, on stderr. */
static void said_profile(void)
{
    uint64_t all = 0;
    for (int i = 0; i < NAME_OPERATORS; i++)
        all += name_profile[i].ticks;
    for (int i = 0; i < NAME_OPERATORS; i++) {
        const name_operator *it = &name_profile[i];
        const double ticks = (double)it->ticks;
        fprintf(stderr, "%5.1f %%  %10.1f ticks a step  %-20s %s\n", all ? 100 * ticks / (double)all : 0,
                it->calls ? ticks / (double)it->calls : 0, it->type, it->layer);
    }
}
#endif

int main(int argc, char **argv)
{
    static name_state state;
//@each inputs
    static $type in$i[$size];
//@end inputs
//@each outputs
    static $type out$i[$size];
//@end outputs
//@include templates/start.c
//@if delay
    unsigned long frames = 0;
//@end delay
    for (;;) {
        size_t came = 0, step = 0;
//@each inputs
        came += came == step ? fread(in$i, 1, sizeof in$i, stdin) : 0;
        step += sizeof in$i;
//@end inputs
        if (!came)
            break;
        if (came < step) {
            fprintf(stderr, "stdin ends within a step, after %lu of its %lu bytes: these were not fed\n",
                    (unsigned long)came, (unsigned long)step);
            return 1;
        }
        name_step(&state, $buffers);
//@if notes
        if (state.wrong_index) {
            static const char *const wrong[] = {NAME_WRONG_INDICES};
            fprintf(stderr, "%s\n", wrong[state.wrong_index - 1]);
            return 1;
        }
//@end notes
//@if delay
        if (frames <= NAME_DELAY)
            frames += NAME_CHUNK;
        if (frames <= NAME_DELAY)
            continue;
//@end delay
        if ($write_failed || fflush(stdout))
            return 1;
    }
#ifdef RNN_PROFILE
    said_profile();
#endif
    return ferror(stdin) ? 1 : 0;
}
#endif
