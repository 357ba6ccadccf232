/* Written by rnn-export: see $name.h. */
#if defined RNN_PROFILE && !defined RNN_CLOCK && !defined _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 199309L
#endif
#include "$name.h"

#include <string.h>
//@if uses_libm

#include <math.h>
//@end uses_libm

#include "kernels.h"

//@include templates/profile.c
$weights

//@if weights_file
int name_check(const void *weights, size_t bytes)
{
    /* CRC-32 of IEEE 802.3. */
    const unsigned char *byte = (const unsigned char *)weights;
    uint32_t sum = 0xffffffffu;
    if (bytes != ${weights_bytes}u)
        return 1;
    if ((uintptr_t)weights % 64)
        return 3;
    for (size_t i = 0; i < bytes; i++) {
        sum ^= byte[i];
        for (int bit = 0; bit < 8; bit++)
            sum = (sum >> 1) ^ (0xedb88320u & (0u - (sum & 1u)));
    }
    return sum == 0x${weights_sum}u ? 0 : 2;
}

void name_init(name_state *state, const void *given)
{
    const char *const weights = (const char *)given;
$init
//@if two_ways
    state->way = 0;
//@end two_ways
    state->weights = weights;
}
//@end weights_file
//@unless weights_file
void name_init(name_state *state)
{
$init
//@if two_ways
    state->way = 0;
//@end two_ways
}
//@end weights_file

void name_step(name_state *state, $parameters)
{
    RNN_CLOCK_STARTS
//@if step_reads_weights
    const char *const weights = (const char *)state->weights;
//@end step_reads_weights
//@if memoryless
    (void)state;
//@end memoryless
$step
//@if two_ways
    state->way ^= 1;
//@end two_ways
}

void name_run(name_state *state, $parameters, size_t steps)
{
    for (size_t s = 0; s < steps; s++)
        name_step(state, $steps_of_run);
}
//@if tail

void name_finish(name_state *state, size_t rest)
{
//@if end_member
    state->$end_member[0] = (float)(NAME_CHUNK - rest);
//@end end_member
//@unless end_member
    (void)state;
    (void)rest;
//@end end_member
}
//@each ports
//@if length

size_t name_length_$parameter(size_t frames)
{
    static const long lengths[$length_count] = {$length_values};
    const long length = (long)(frames / $length_count) * $length_more + lengths[frames % $length_count];
    return length < 0 ? 0 : (size_t)length;
}
//@end length
//@end ports
//@end tail
//@if batch

#ifdef NAME_ROWS
//@if batch_weights
$batch_weights

//@end batch_weights
void name_rows(name_state *const *states, size_t rows, $parameters)
{
//@if batch_reads_weights
    const char *const weights = (const char *)states[0]->weights;
//@end batch_reads_weights
//@if batch_memoryless
    (void)states;
//@end batch_memoryless
$batch_declarations
    for (size_t r = 0; r < $rows; r++) {
        const size_t row = r < rows ? r : 0;
$batch_gather
    }
//@if batch_statements
$batch_statements
//@end batch_statements
    for (size_t r = 0; r < rows; r++) {
$batch_scatter
    }
}
#endif
//@end batch
