/* Written by rnn-export: see $name.h. */
//@if is_shared
#if defined NAME_THREADS && !defined _GNU_SOURCE
#define _GNU_SOURCE
#endif
//@end is_shared
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
//@if slides
    memset(state->front, 0, sizeof state->front);
//@end slides
//@if two_ways
    state->way = 0;
//@end two_ways
//@if notes
    state->wrong_index = 0;
//@end notes
    state->weights = weights;
}
//@end weights_file
//@unless weights_file
void name_init(name_state *state)
{
$init
//@if slides
    memset(state->front, 0, sizeof state->front);
//@end slides
//@if two_ways
    state->way = 0;
//@end two_ways
//@if notes
    state->wrong_index = 0;
//@end notes
}
//@end weights_file

//@each parts
static RNN_PIECE void rnn_part$number(name_state *state, $parameters)
{
    (void)state;
$text
}

//@end parts
//@if is_shared
#ifdef NAME_THREADS
#ifdef RNN_PROFILE
#error "a profile is of one thread: leave NAME_THREADS out"
#endif
#include "rnn_team.h"

/* What the blocks of a step find in it. */
typedef struct {
    name_state *state;
$seen_members
} name_seen;

//@each phases
static void name_phase$number(const void *given, int u, int t)
{
    const name_seen *const seen = (const name_seen *)given;
    name_state *const state = seen->state;
$declarations
    (void)state;
    (void)t;
$text
}

//@end phases
#define RNN_SEEN const name_seen seen = {state$seen_values};
#define RNN_PHASE(number, blocks, t, way) \
    if (team) rnn_phase(team, name_phase##number, &seen, blocks, t, (way) & 1); else

static void name_step_by(rnn_team *team, name_state *state, $parameters)
#else
#define RNN_SEEN
#define RNN_PHASE(number, blocks, t, way)
void name_step(name_state *state, $parameters)
#endif
//@end is_shared
//@unless is_shared
void name_step(name_state *state, $parameters)
//@end is_shared
{
    RNN_CLOCK_STARTS
//@if step_reads_weights
    const char *const weights = (const char *)state->weights;
//@end step_reads_weights
//@if memoryless
    (void)state;
//@end memoryless
$declarations
//@if is_shared
    RNN_SEEN
//@end is_shared
$step
//@if two_ways
    state->way ^= 1;
//@end two_ways
}

//@if is_shared
#ifdef NAME_THREADS
typedef char name_team_is_large_enough[sizeof(rnn_team) <= sizeof(name_team) ? 1 : -1];

void name_step(name_state *state, $parameters) { name_step_by(NULL, state, $buffers); }

int name_team_start(name_team *team, int threads, const int *cores)
{
    return rnn_team_start((rnn_team *)(void *)team, threads, cores);
}

void name_team_stop(name_team *team) { rnn_team_stop((rnn_team *)(void *)team); }

void name_team_step(name_team *given, name_state *state, $parameters)
{
    rnn_team *const team = (rnn_team *)(void *)given;
    const int held = rnn_hold(team);
    name_step_by(held ? team : NULL, state, $buffers);
    if (held)
        rnn_release(team);
}
#endif

//@end is_shared
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
//@each batch_parts
static RNN_PIECE void rnn_rows_part$number($parameters)
{
$text
}

//@end batch_parts
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
