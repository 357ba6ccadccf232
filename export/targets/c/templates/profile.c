#ifdef RNN_PROFILE
#ifdef RNN_CLOCK
#include RNN_CLOCK
#else
#include <time.h>
#ifndef CLOCK_MONOTONIC
#error "there is no clock_gettime here: give a header with uint32_t rnn_clock(void), as RNN_CLOCK"
#endif
static uint32_t rnn_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)now.tv_sec * 1000000000u + (uint32_t)now.tv_nsec;
}
#endif

name_operator name_profile[NAME_OPERATORS] = {
//@each operators
    {"$layer", "$type", 0, 0},
//@end operators
};

/* What was done since `then` belongs to one operator; what follows belongs to the next. */
static uint32_t rnn_took(name_operator *it, uint32_t then)
{
    const uint32_t now = rnn_clock();
    it->calls += 1;
    it->ticks += (uint32_t)(now - then);
    return now;
}
static uint32_t rnn_then;
#define RNN_CLOCK_STARTS rnn_then = rnn_took(name_profile + NAME_OPERATORS - 1, rnn_clock());
#define RNN_TOOK(i) rnn_then = rnn_took(name_profile + (i), rnn_then);
#else
#define RNN_CLOCK_STARTS
#define RNN_TOOK(i)
#endif

