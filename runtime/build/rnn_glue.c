/* The same face for every model: every symbol of this library. */
#include "$name.h"

#include <stddef.h>
#include <stdint.h>

#define RNN_EXPORT __attribute__((visibility("default")))
/* Streams that are stepped at once; fewer than so many of them are stepped one after the other, which takes less. */
#define RNN_FEWEST 6
#ifdef NAME_ROWS_COUNT
#define RNN_AT_ONCE NAME_ROWS_COUNT
#else
#define RNN_AT_ONCE 1
#endif
#define RNN_IS(what, yes) typedef char rnn_##what[(yes) ? 1 : -1]

//@each ports
RNN_IS(name_${lower}_has_the_size_of_the_contract, NAME_${macro}_SIZE == $size);
//@end ports
//@each states
#ifdef NAME_${macro}_AT /* a window that moves along over more memory than it fills */
#define RNN_STATE$i(state) NAME_${macro}_AT(state)
RNN_IS(${member}_has_the_size_of_the_contract, sizeof(((name_state *)0)->$member) >= $bytes);
#else
#define RNN_STATE$i(state) (state)->$member
RNN_IS(${member}_has_the_size_of_the_contract, sizeof(((name_state *)0)->$member) == $bytes);
#endif
//@end states

//@each nan
static int rnn_nan_$dtype(const $type *x, size_t n)
{
    int bad = 0;
    for (size_t i = 0; i < n; i++) bad |= $test;
    return bad;
}
//@end nan

static const size_t rnn_offsets[] = {${offsets}0};
static const size_t rnn_in_bytes[] = {$in_bytes};
static const size_t rnn_out_bytes[] = {$out_bytes};

/* The sha256 of the names, types and sizes that this library was compiled for. */
RNN_EXPORT const char *rnn_contract(void) { return "$contract"; }
RNN_EXPORT size_t rnn_state_bytes(void) { return sizeof(name_state); }
RNN_EXPORT size_t rnn_state_offset(size_t i) { return rnn_offsets[i]; }
/* Where a struct has the number (uint32_t) of values between that offset and state i; 0 where there are none ever. */
RNN_EXPORT size_t rnn_state_front(size_t i)
{
    switch (i) {
//@each states
#ifdef NAME_${macro}_FRONT
    case $i: return offsetof(name_state, front) + NAME_${macro}_FRONT * sizeof(uint32_t);
#endif
//@end states
    default: return 0;
    }
}
RNN_EXPORT size_t rnn_macs(void) { return NAME_MACS; }

#ifdef NAME_WEIGHTS_BYTES
RNN_EXPORT size_t rnn_weights_bytes(void) { return NAME_WEIGHTS_BYTES; }
RNN_EXPORT int rnn_check(const void *weights, size_t bytes) { return name_check(weights, bytes); }
RNN_EXPORT void rnn_init(void *state, const void *weights) { name_init(state, weights); }
#else
RNN_EXPORT size_t rnn_weights_bytes(void) { return 0; }
RNN_EXPORT int rnn_check(const void *weights, size_t bytes) { (void)weights; return bytes != 0; }
RNN_EXPORT void rnn_init(void *state, const void *weights) { (void)weights; name_init(state); }
#endif

/* Of an input that is an index into a table: the rows of the table, from -rows to rows - 1; else 0. */
RNN_EXPORT size_t rnn_input_rows(size_t i)
{
    switch (i) {
//@each inputs
#ifdef NAME_${macro}_ROWS
    case $i: return NAME_${macro}_ROWS;
#endif
//@end inputs
    default: return 0;
    }
}

/* What was wrong with an index that a step computed, and where a struct has the number (uint32_t) of that, 0 for nothing. */
#ifdef NAME_WRONG_INDICES
static const char *const rnn_wrong[] = {NAME_WRONG_INDICES};
RNN_EXPORT size_t rnn_wrong_indices(void) { return sizeof rnn_wrong / sizeof *rnn_wrong; }
RNN_EXPORT const char *rnn_wrong_index(size_t number) { return rnn_wrong[number - 1]; }
RNN_EXPORT size_t rnn_wrong_offset(void) { return offsetof(name_state, wrong_index); }
#else
RNN_EXPORT size_t rnn_wrong_indices(void) { return 0; }
#endif

#ifdef RNN_PROFILE
RNN_EXPORT size_t rnn_operators(void) { return NAME_OPERATORS; }
RNN_EXPORT const char *rnn_operator_layer(size_t i) { return name_profile[i].layer; }
RNN_EXPORT const char *rnn_operator_type(size_t i) { return name_profile[i].type; }
RNN_EXPORT uint64_t rnn_operator_calls(size_t i) { return name_profile[i].calls; }
RNN_EXPORT uint64_t rnn_operator_ticks(size_t i) { return name_profile[i].ticks; }
#endif

RNN_EXPORT void rnn_step(void *state, const void *const *in, void *const *out) { name_step(state, $arguments); }

RNN_EXPORT void rnn_run(void *state, const void *const *in, void *const *out, size_t steps)
{
    name_run(state, $arguments, steps);
}

/* By the threads of a team, or by the caller alone where it is NULL. */
static void rnn_step_by(void *team, void *state, const void *const *in, void *const *out)
{
#ifdef NAME_THREADS_MOST
    if (team) {
        name_team_step(team, state, $arguments);
        return;
    }
#endif
    (void)team;
    rnn_step(state, in, out);
}
static void rnn_run_by(void *team, void *state, const void *const *in, void *const *out, size_t steps)
{
    const void *from[$n_in];
    void *to[$n_out];
    if (!team) rnn_run(state, in, out, steps);
    for (size_t step = 0; team && step < steps; step++) {
        for (size_t i = 0; i < $n_in; i++) from[i] = (const char *)in[i] + step * rnn_in_bytes[i];
        for (size_t i = 0; i < $n_out; i++) to[i] = (char *)out[i] + step * rnn_out_bytes[i];
        rnn_step_by(team, state, from, to);
    }
}

/* Whether an output or the state of a stream has a NaN; of windows, what this step put there, or else the `whole`. */
static uint8_t rnn_turned(const name_state *mine, void *const *out, size_t row, int whole)
{
    int found = 0;
    (void)mine, (void)out, (void)row, (void)whole;
//@each float_outputs
    found |= rnn_nan_$dtype((const void *)((const char *)out[$i] + row * rnn_out_bytes[$i]), $size);
//@end float_outputs
//@each float_states
#ifdef NAME_${macro}_NEW
    for (size_t at = NAME_${macro}_ROW; !whole && at <= $size; at += NAME_${macro}_ROW)
        found |= rnn_nan_$dtype(RNN_STATE$i(mine) + at - NAME_${macro}_NEW, NAME_${macro}_NEW);
    if (whole)
#endif
    found |= rnn_nan_$dtype(RNN_STATE$i(mine), $size);
//@end float_states
    return (uint8_t)found;
}

/* One step of `rows` streams, whose states lie `stride` bytes apart, in this order or in that of `slots`; each array
 * has a step of every row, row after row. Says in `bad`, if it is not NULL, which turned NaN, and gives how many; where it
 * says so before, all of a state is looked at.
 */
static size_t rnn_each(void *team, char *states, size_t stride, const int64_t *slots, const void *const *in, void *const *out,
                       size_t rows, uint8_t *bad)
{
    const void *from[$n_in];
    void *to[$n_out];
    size_t turned = 0;
    for (size_t row = 0, count; row < rows; row += count) {
        name_state *at[RNN_AT_ONCE];
        count = rows - row < RNN_AT_ONCE ? rows - row : RNN_AT_ONCE;
        if (count < RNN_FEWEST) count = 1;
        for (size_t i = 0; i < count; i++)
            at[i] = (void *)(states + (slots ? (size_t)slots[row + i] : row + i) * stride);
        for (size_t i = 0; i < $n_in; i++) from[i] = (const char *)in[i] + row * rnn_in_bytes[i];
        for (size_t i = 0; i < $n_out; i++) to[i] = (char *)out[i] + row * rnn_out_bytes[i];
#ifdef NAME_ROWS_COUNT
        if (count > 1) name_rows(at, count, $row_arguments);
        else
#endif
        rnn_step_by(team, at[0], from, to);
        for (size_t i = 0; bad && i < count; i++) {
            bad[row + i] = rnn_turned(at[i], out, row + i, bad[row + i]);
            turned += bad[row + i];
        }
    }
    return turned;
}

/* `rows` streams, whose states lie `stride` bytes apart; each array has `steps` steps of every row, row after row. */
static void rnn_rows_by(void *team, void *state, size_t stride, const void *const *in, void *const *out, size_t rows,
                        size_t steps)
{
    const void *from[$n_in];
    void *to[$n_out];
    if (steps == 1) {
        rnn_each(team, state, stride, NULL, in, out, rows, NULL);
        return;
    }
    for (size_t row = 0; row < rows; row++) {
        for (size_t i = 0; i < $n_in; i++) from[i] = (const char *)in[i] + row * steps * rnn_in_bytes[i];
        for (size_t i = 0; i < $n_out; i++) to[i] = (char *)out[i] + row * steps * rnn_out_bytes[i];
        rnn_run_by(team, (char *)state + row * stride, from, to, steps);
    }
}
RNN_EXPORT void rnn_rows(void *state, size_t stride, const void *const *in, void *const *out, size_t rows, size_t steps)
{
    rnn_rows_by(NULL, state, stride, in, out, rows, steps);
}

/* One step of the streams whose states are `slots` strides from `states` on. Says in `bad` which of them have a NaN in
 * an output or in their state now, and gives how many. Of the windows in a state it looks at what enters them alone, unless
 * `bad` says before that there may be one.
 */
RNN_EXPORT size_t rnn_pool(void *states, size_t stride, const int64_t *slots, const void *const *in, void *const *out,
                           size_t rows, uint8_t *bad)
{
    return rnn_each(NULL, states, stride, slots, in, out, rows, bad);
}
#ifdef NAME_THREADS

/* A team, and what it does: the bytes of its memory, on a cache line, or 0 where it would have nothing to share. */
#ifdef NAME_THREADS_MOST
RNN_EXPORT size_t rnn_team_bytes(void) { return sizeof(name_team); }
RNN_EXPORT int rnn_team_start(void *team, int threads, const int *cores) { return name_team_start(team, threads, cores); }
RNN_EXPORT void rnn_team_stop(void *team) { name_team_stop(team); }
#else
RNN_EXPORT size_t rnn_team_bytes(void) { return 0; }
#endif
RNN_EXPORT void rnn_team_rows(void *team, void *state, size_t stride, const void *const *in, void *const *out, size_t rows,
                              size_t steps)
{
    rnn_rows_by(team, state, stride, in, out, rows, steps);
}
RNN_EXPORT size_t rnn_team_pool(void *team, void *states, size_t stride, const int64_t *slots, const void *const *in,
                                void *const *out, size_t rows, uint8_t *bad)
{
    return rnn_each(team, states, stride, slots, in, out, rows, bad);
}
#endif
