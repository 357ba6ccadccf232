/* Reads steps from stdin, each $values_read;
 * writes to stdout for each $values_written. Written by rnn-export.
//@if silent_steps
 * For the first $silent_steps steps it writes nothing.
//@end silent_steps
//@if silent_frames
 * Of what it writes first, $silent_frames frames of the input's time are of no value.
//@end silent_frames
 */
#include "$name.h"

#include <stdio.h>

//@include templates/weights.c
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
    while ($read_inputs) {
        name_step(&state, $buffers);
//@if delay
        if (frames <= NAME_DELAY)
            frames += NAME_CHUNK;
        if (frames <= NAME_DELAY)
            continue;
//@end delay
        if ($write_failed || fflush(stdout))
            return 1;
    }
    return ferror(stdin) ? 1 : 0;
}
