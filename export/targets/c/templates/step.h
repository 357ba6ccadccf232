/** @file $name.h
 *  A step of a recurrent network, its state kept by the caller: by rnn-export, in $precision.
 *
 *  No allocation, no library, no global that changes: any number of streams, each with its own state. Only with
 *  RNN_PROFILE there is one, the time of each operator.
 */
#ifndef NAME_H
#define NAME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The contract that the model was exported with. */
#define NAME_DIGEST "$digest"
/** Frames in one step. */
#define NAME_CHUNK $chunk
/** Frames at the start of a stream that give no output: what a step writes until then is of no value. */
#define NAME_DELAY $delay
//@if tail
/** Frames of an output, at most, that only the end of a sequence gives: see name_finish. */
#define NAME_TAIL $tail
//@end tail
//@if sample_rate
/** Hz of the signal. */
#define NAME_SAMPLE_RATE $sample_rate
//@end sample_rate
/** Multiply-adds of a step. */
#define NAME_MACS $macs
/** Bytes of the stack that a step needs for its tensors. */
#define NAME_STACK_BYTES $stack
//@if weights_file
/** Bytes of $name.bin, which belongs at an address that is a multiple of 64. */
#define NAME_WEIGHTS_BYTES $weights_bytes
//@end weights_file
//@each ports
/** Values of $label in one step. */
#define NAME_${macro}_SIZE $size
//@if table_rows
/** Rows of the table that $label counts; beyond, the nearest is taken. */
#define NAME_${macro}_ROWS $table_rows
//@end table_rows
//@end ports
//@if notes
/** By number, from 1 on, what wrong_index of a state says. */
#define NAME_WRONG_INDICES $notes
//@end notes

/** The memory of one stream. */
typedef struct {
//@if weights_file
    const void *weights; /**< as given to init */
//@end weights_file
//@each states
//@if slides_on
    $type $member[$size + $room]; /**< $label $shape$packed: where NAME_${macro}_AT says */
//@end slides_on
//@unless slides_on
    $type $member[$size]; /**< $label $shape$packed */
//@end slides_on
//@end states
//@if slides
    uint32_t front[$slides]; /**< values before each of the windows that move along over the memory that they have */
//@end slides
//@if two_ways
    unsigned char way; /**< which way the next step reads weights: no result depends on it */
//@end two_ways
//@if notes
    uint32_t wrong_index; /**< 0, or since the start an index was out of its table, and the nearest row was read */
//@end notes
//@if memoryless
    char none; /**< the model keeps nothing */
//@end memoryless
} name_state;

/** Bytes of the memory of one stream. */
#define NAME_STATE_BYTES sizeof(name_state)
//@each states
//@if slides_on
/** Where in the memory of a stream the $size values of $label lie, until its next step. */
#define NAME_${macro}_AT(state) ((state)->$member + (state)->front[$slide])
/** Which of `front` is of it. */
#define NAME_${macro}_FRONT $slide
//@end slides_on
//@if window
/** A step puts this many values at the end of each row of $label, so long, and moves on the others. */
#define NAME_${macro}_NEW $new
#define NAME_${macro}_ROW $row
//@end window
//@end states

//@if weights_file
#if defined(ARDUINO) || defined(ESP_PLATFORM) || defined(__ZEPHYR__) || defined(NAME_WEIGHTS_EMBEDDED)
/** The content of $name.bin, which ${name}_weights.S puts into the program of a board. */
extern const unsigned char name_weights[];
#endif

/** Whether `weights`, the content of $name.bin, is whole: 0, or 1 if its size is wrong, 2 if its
 *  checksum is, 3 if its address is no multiple of 64. */
int name_check(const void *weights, size_t bytes);

/** Set a stream to the start; it reads `weights` as long as it lives. */
void name_init(name_state *state, const void *weights);
//@end weights_file
//@unless weights_file
/** Set a stream to the start. */
void name_init(name_state *state);
//@end weights_file

/** Feed one step, and write its outputs after the last input was read: an output may be an input.
 *
 *  @param state the memory of the stream, changed
//@each ports
 *  @param[$way] $parameter $label: $shape, $dtype$axes
//@end ports
 */
void name_step(name_state *state, $public_parameters);

/** The same for `steps` steps, one after the other.
 *
 *  @param state the memory of the stream, changed
//@each ports
 *  @param[$way] $parameter $label: steps x $shape, $dtype$axes
//@end ports
 */
void name_run(name_state *state, $public_parameters, size_t steps);

//@if is_shared
#ifdef NAME_THREADS
/** Threads of one team, at most. */
#define NAME_THREADS_MOST 64
/** The memory of a team: threads that compute a step together, on Linux. Link with -pthread. */
typedef struct {
    char memory[4608];
} __attribute__((aligned(64))) name_team;

/** Start a team of `threads`, of which that of the caller is one: 0, or the number of an error as errno has it.
 *
 *  @param cores where each further thread stays, behind the first, where the caller is expected: one that comes to
 *      the core of another thread makes it move there. NULL leaves all of them to the system.
 */
int name_team_start(name_team *team, int threads, const int *cores);

/** End its threads, while no step is under way. */
void name_team_stop(name_team *team);

/** The same as name_step, to the bit, by all threads of the team. Operators of $shared_kib KiB of weights and more are
 *  shared. Where another step of the team is under way, the caller computes this one alone. After a fork the threads
 *  are started again by the first step in the child.
 */
void name_team_step(name_team *, name_state *state, $public_parameters);
#endif

//@end is_shared
//@unless is_shared
/* There is no name_team_step: no operator has $shared_kib KiB of weights in blocks that threads could share. */
//@end is_shared
#ifdef RNN_PROFILE
/** What an operator of the step took in all steps so far, of all streams of one thread: set both to 0 to start over. */
typedef struct {
    const char *layer;     /**< the module of the model, or the tensor that it gives */
    const char *type;      /**< its name in ONNX */
    uint64_t calls, ticks; /**< ticks are nanoseconds, or what rnn_clock() of the header RNN_CLOCK counts */
} name_operator;

/** The last but one is the copy of outputs and states, the last what a reading of the clock takes: each has one. */
#define NAME_OPERATORS $operator_count
extern name_operator name_profile[NAME_OPERATORS];
#endif

//@if tail
/** Say that the sequence ends in the next step, after `rest` of its frames: 0 where it ended with the step before.
 *
 *  What stands behind these frames in that step, and in those that follow, may be anything. Step on until the outputs
 *  have, behind the frames of the delay, as many frames as name_length_... says; then init starts another sequence.
 */
void name_finish(name_state *state, size_t rest);

//@each ports
//@if length
/** Frames of $label of a whole sequence of `frames` frames of the input. */
size_t name_length_$parameter(size_t frames);

//@end length
//@end ports
//@end tail
//@unless batch
/* There is no name_rows: $no_batch */
//@end batch
//@if batch
#ifdef NAME_ROWS
/** Streams that name_rows feeds at once. */
#define NAME_ROWS_COUNT $rows
/** Bytes of the stack that it needs for its tensors. */
#define NAME_ROWS_STACK_BYTES $batch_stack

/** Feed a step to each of 1 to $rows streams, which share the reading of weights. Few take as long.
 *
 *  @param states the memory of each stream, distinct, changed
//@each ports
 *  @param[$way] $parameter $label: rows x $shape, $dtype$axes
//@end ports
 */
void name_rows(name_state *const *states, size_t rows, $public_parameters);
#endif
//@end batch

#ifdef __cplusplus
}
#endif

#endif
