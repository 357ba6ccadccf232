/* A team: threads that compute the steps of one caller together. For what is compiled with -DNAME_THREADS, on Linux.
 *
 * Where an operator reads many weights, its blocks of outputs are a phase. Each thread, the caller among them, has a share of
 * the blocks, which it takes one after the other, so that their weights stay in the cache of its core from step to step; then it
 * takes from the other end of others' shares what they have not begun. So nobody waits for a thread that sleeps or is put aside. Each
 * block is computed once, by the same code whoever does it: results do not depend on the threads.
 */
#ifndef RNN_TEAM_H
#define RNN_TEAM_H

#if !defined __linux__ || !defined __LP64__
#error "a team is of Linux on 64 bits: leave NAME_THREADS out"
#endif

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RNN_MATES 64
/* So long a thread waits awake for the next phase, then it sleeps: to be woken takes as long as this. */
#ifndef RNN_AWAKE_NS
#define RNN_AWAKE_NS 50000
#endif
#define RNN_LINE __attribute__((aligned(64)))

/* Computes the outputs of `block` in frame `t` of a step; `seen` is what the step has for it. */
typedef void rnn_block(const void *seen, int block, int t);

typedef struct {
    /* Its share: the number of the phase, and the blocks of it, first and end, that nobody has begun. */
    RNN_LINE uint64_t left;
    struct rnn_team *team;
    pthread_t thread;
    int core;
    uint32_t since;
} rnn_mate;

typedef struct rnn_team {
    /* The phase that is open, by a number that goes up. */
    RNN_LINE uint32_t phase;
    int t, down;
    rnn_block *compute;
    const void *seen;
    RNN_LINE uint32_t done;
    /* Whether anybody sleeps, or is about to. */
    RNN_LINE uint32_t asleep, ended;
    /* Twice the forks that this process comes from, and 1 where a step is under way. */
    uint32_t held, begun;
    int threads, running;
    rnn_mate mates[RNN_MATES];
} rnn_team;

#if defined __x86_64__ || defined __i386__
#define RNN_RELAX() __builtin_ia32_pause()
#elif defined __aarch64__
#define RNN_RELAX() __asm__ volatile("isb")
#else
#define RNN_RELAX() __asm__ volatile("" ::: "memory")
#endif

/* Values that other threads write, for a block: all on their way at once. */
static inline void rnn_fetch(const float *values, int count, int to_write)
{
    for (int i = 0; i < count; i += 16)
        if (to_write)
            __builtin_prefetch(values + i, 1);
        else
            __builtin_prefetch(values + i, 0);
}

static uint32_t rnn_forks;
static void rnn_forked(void) { rnn_forks++; }
static void rnn_watch_forks(void) { pthread_atfork(NULL, NULL, rnn_forked); }

static uint64_t rnn_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- blocks */

/* Blocks of a share, from its start or from its end: how many, of which `block` is the first; 0 where none is left, or the
 * phase is over. Its owner takes half of what is left: to take is to wait for all that is under way, so that of the weights
 * of the next block nothing would be read meanwhile.
 */
static int rnn_take(uint64_t *share, uint32_t phase, int from_end, int own, int *block)
{
    uint64_t left = __atomic_load_n(share, __ATOMIC_RELAXED);
    for (;;) {
        const int first = (int)(left >> 16 & 0xffff), end = (int)(left & 0xffff), count = own ? (end - first + 1) / 2 : 1;
        if ((uint32_t)(left >> 32) != phase || first >= end)
            return 0;
        /* What was read of the phase before this succeeds is of this phase: it ends when all of its blocks are done. */
        if (__atomic_compare_exchange_n(share, &left, from_end ? left - (uint64_t)count : left + ((uint64_t)count << 16), 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            *block = from_end ? end - 1 : first;
            return count;
        }
    }
}

static void rnn_work(rnn_team *team, int me, uint32_t phase)
{
    rnn_block *const compute = __atomic_load_n(&team->compute, __ATOMIC_RELAXED);
    const void *const seen = __atomic_load_n(&team->seen, __ATOMIC_RELAXED);
    const int t = __atomic_load_n(&team->t, __ATOMIC_RELAXED), threads = team->threads;
    const int down = __atomic_load_n(&team->down, __ATOMIC_RELAXED);
    uint32_t done = 0;
    for (int i = 0, block = 0, count; i < threads; i++) {
        uint64_t *const share = &team->mates[(me + i) % threads].left;
        const int from_end = (i > 0) ^ down;
        while ((count = rnn_take(share, phase, from_end, i == 0, &block)) > 0)
            for (done += (uint32_t)count; count > 0; count--, block += from_end ? -1 : 1)
                compute(seen, block, t);
    }
    if (done)
        __atomic_fetch_add(&team->done, done, __ATOMIC_RELEASE);
}

/* All blocks of an operator, by the team of a caller who holds it; with `down`, each share from its end to its start. */
static void rnn_phase(rnn_team *team, rnn_block *compute, const void *seen, int blocks, int t, int down)
{
    const uint32_t phase = team->phase + 1;
    const int threads = team->threads;
    __atomic_store_n(&team->compute, compute, __ATOMIC_RELAXED);
    __atomic_store_n(&team->seen, seen, __ATOMIC_RELAXED);
    __atomic_store_n(&team->t, t, __ATOMIC_RELAXED);
    __atomic_store_n(&team->down, down, __ATOMIC_RELAXED);
    __atomic_store_n(&team->done, 0, __ATOMIC_RELAXED);
    for (int i = 0; i < threads; i++) {
        const uint32_t first = (uint32_t)(blocks * i / threads), end = (uint32_t)(blocks * (i + 1) / threads);
        __atomic_store_n(&team->mates[i].left, (uint64_t)phase << 32 | first << 16 | end, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&team->phase, phase, __ATOMIC_SEQ_CST);
    /* Once: who is awake again may have no core yet. */
    if (__atomic_load_n(&team->asleep, __ATOMIC_SEQ_CST) && __atomic_exchange_n(&team->asleep, 0, __ATOMIC_SEQ_CST))
        syscall(SYS_futex, &team->phase, FUTEX_WAKE_PRIVATE, RNN_MATES, NULL, NULL, 0);
    rnn_work(team, 0, phase);
    for (int tries = 0; __atomic_load_n(&team->done, __ATOMIC_ACQUIRE) != (uint32_t)blocks; tries++) {
        RNN_RELAX();
        /* Who has the last block may have been put aside, for a thread on this very core, too. */
        if (tries > 1000)
            sched_yield();
    }
}

/* --- threads */

/* The phase that follows `before`. */
static uint32_t rnn_next(rnn_team *team, uint32_t before)
{
    uint64_t since = 0;
    for (int tries = 1;; tries++) {
        const uint32_t phase = __atomic_load_n(&team->phase, __ATOMIC_ACQUIRE);
        if (phase != before)
            return phase;
        RNN_RELAX();
        if (tries % 128)
            continue;
        const uint64_t now = rnn_now_ns();
        since = since ? since : now;
        if (now - since < RNN_AWAKE_NS)
            continue;
        __atomic_store_n(&team->asleep, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&team->phase, __ATOMIC_SEQ_CST) == before)
            syscall(SYS_futex, &team->phase, FUTEX_WAIT_PRIVATE, before, NULL, NULL, 0);
    }
}

static void *rnn_mate_main(void *given)
{
    rnn_mate *const mate = (rnn_mate *)given;
    rnn_team *const team = mate->team;
    for (uint32_t phase = mate->since;;) {
        phase = rnn_next(team, phase);
        if (__atomic_load_n(&team->ended, __ATOMIC_ACQUIRE))
            return NULL;
        rnn_work(team, (int)(mate - team->mates), phase);
    }
}

static void rnn_pin(const rnn_mate *mate)
{
    cpu_set_t cores;
    if (mate->core < 0 || mate->core >= CPU_SETSIZE)
        return;
    CPU_ZERO(&cores);
    CPU_SET(mate->core, &cores);
    pthread_setaffinity_np(mate->thread, sizeof cores, &cores);
}

/* The caller may come to the core of a thread, which then goes to where the caller was expected. */
static void rnn_make_way(rnn_team *team)
{
    const int here = sched_getcpu(), expected = team->mates[0].core;
    if (here == expected || here < 0)
        return;
    for (int i = 1; i < team->running; i++)
        if (team->mates[i].core == here) {
            team->mates[i].core = expected;
            team->mates[0].core = here;
            rnn_pin(team->mates + i);
        }
}

/* Let the threads go that run. */
static void rnn_end(rnn_team *team)
{
    __atomic_store_n(&team->ended, 1, __ATOMIC_RELEASE);
    __atomic_store_n(&team->phase, team->phase + 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &team->phase, FUTEX_WAKE_PRIVATE, RNN_MATES, NULL, NULL, 0);
    for (int i = 1; i < team->running; i++)
        pthread_join(team->mates[i].thread, NULL);
    team->running = 1;
}

/* Start the threads beside that of the caller: 0, or the number of the error, and then the caller is alone. */
static int rnn_begin(rnn_team *team)
{
    sigset_t all, before;
    int error = 0;
    team->begun = rnn_forks;
    team->asleep = team->ended = 0;
    team->running = 1;
    /* Signals are the caller's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < team->threads && !error; i++) {
        rnn_mate *const mate = team->mates + i;
        mate->team = team;
        mate->since = team->phase;
        error = pthread_create(&mate->thread, NULL, rnn_mate_main, mate);
        if (!error) {
            team->running++;
            rnn_pin(mate);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        rnn_end(team);
    return error;
}

/* Hold the team for a step: 0 where another caller has it. A fork leaves its memory, and none of its threads. */
static int rnn_hold(rnn_team *team)
{
    const uint32_t forks = rnn_forks * 2;
    uint32_t held = __atomic_load_n(&team->held, __ATOMIC_RELAXED);
    if (held == (forks | 1) || !__atomic_compare_exchange_n(&team->held, &held, forks | 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return 0;
    if (team->begun != rnn_forks)
        rnn_begin(team);
    rnn_make_way(team);
    return 1;
}
static void rnn_release(rnn_team *team) { __atomic_store_n(&team->held, rnn_forks * 2, __ATOMIC_RELEASE); }

/* `cores` are those of the caller and of each further thread; NULL leaves them to the system. */
static int rnn_team_start(rnn_team *team, int threads, const int *cores)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (threads < 1 || threads > RNN_MATES)
        return EINVAL;
    pthread_once(&once, rnn_watch_forks);
    memset(team, 0, sizeof *team);
    team->threads = threads;
    team->held = rnn_forks * 2;
    for (int i = 0; i < threads; i++)
        team->mates[i].core = cores ? cores[i] : -1;
    return rnn_begin(team);
}
static void rnn_team_stop(rnn_team *team)
{
    if (team->begun == rnn_forks)
        rnn_end(team);
}

#endif
