/** @file lstm.h
 *  A step of a recurrent network, its state kept by the caller: by rnn-export, in fp32.
 *
 *  No allocation, no library, no global that changes: any number of streams, each with its own state. Only with
 *  RNN_PROFILE there is one, the time of each operator.
 */
#ifndef LSTM_H
#define LSTM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The contract that the model was exported with. */
#define LSTM_DIGEST "51cb0a07ba2ba87faafead19161aba4f47ef142ed0e557cffa72f3ae6507b2dd"
/** Frames in one step. */
#define LSTM_CHUNK 1
/** Frames at the start of a stream that give no output: what a step writes until then is of no value. */
#define LSTM_DELAY 0
/** Multiply-adds of a step. */
#define LSTM_MACS 384
/** Bytes of the stack that a step needs for its tensors. */
#define LSTM_STACK_BYTES 192
/** Values of x in one step. */
#define LSTM_X_SIZE 4
/** Values of output in one step. */
#define LSTM_OUTPUT_SIZE 8

/** The memory of one stream. */
typedef struct {
    float rnn_l0_h[8]; /**< rnn.l0.h (8,) */
    float rnn_l0_c[8]; /**< rnn.l0.c (8,) */
} lstm_state;

/** Bytes of the memory of one stream. */
#define LSTM_STATE_BYTES sizeof(lstm_state)

/** Set a stream to the start. */
void lstm_init(lstm_state *state);

/** Feed one step, and write its outputs after the last input was read: an output may be an input.
 *
 *  @param state the memory of the stream, changed
 *  @param[in] x x: (1, 4), float32, of (time, 4)
 *  @param[out] output output: (1, 8), float32, of (time, 8)
 */
void lstm_step(lstm_state *state, const float *x, float *output);

/** The same for `steps` steps, one after the other.
 *
 *  @param state the memory of the stream, changed
 *  @param[in] x x: steps x (1, 4), float32, of (time, 4)
 *  @param[out] output output: steps x (1, 8), float32, of (time, 8)
 */
void lstm_run(lstm_state *state, const float *x, float *output, size_t steps);

/* There is no lstm_team_step: no operator has 512 KiB of weights in blocks that threads could share. */
#ifdef RNN_PROFILE
/** What an operator of the step took in all steps so far, of all streams of one thread: set both to 0 to start over. */
typedef struct {
    const char *layer;     /**< the module of the model, or the tensor that it gives */
    const char *type;      /**< its name in ONNX */
    uint64_t calls, ticks; /**< ticks are nanoseconds, or what rnn_clock() of the header RNN_CLOCK counts */
} lstm_operator;

/** The last but one is the copy of outputs and states, the last what a reading of the clock takes: each has one. */
#define LSTM_OPERATORS 3
extern lstm_operator lstm_profile[LSTM_OPERATORS];
#endif

#ifdef LSTM_ROWS
/** Streams that lstm_rows feeds at once. */
#define LSTM_ROWS_COUNT 8
/** Bytes of the stack that it needs for its tensors. */
#define LSTM_ROWS_STACK_BYTES 1920

/** Feed a step to each of 1 to 8 streams, which share the reading of weights. Few take as long.
 *
 *  @param states the memory of each stream, distinct, changed
 *  @param[in] x x: rows x (1, 4), float32, of (time, 4)
 *  @param[out] output output: rows x (1, 8), float32, of (time, 8)
 */
void lstm_rows(lstm_state *const *states, size_t rows, const float *x, float *output);
#endif

#ifdef __cplusplus
}
#endif

#endif
