/* A vector of RNN_LANES floats, or one float where the compiler knows no vectors. */
#ifndef RNN_LANES
#if !defined(__GNUC__)
#define RNN_LANES 1
#elif defined(__AVX512F__)
#define RNN_LANES 16
#elif defined(__AVX__)
#define RNN_LANES 8
#elif defined(__SSE2__) || defined(__ARM_NEON) || defined(__wasm_simd128__)
#define RNN_LANES 4
#else
#define RNN_LANES 1
#endif
#endif

#if defined(__clang__)
#define RNN_UNROLL _Pragma("clang loop unroll(full)")
#define RNN_UNROLL_2 _Pragma("clang loop unroll_count(2)")
#elif defined(__GNUC__) && __GNUC__ >= 8
#define RNN_UNROLL _Pragma("GCC unroll 16")
#define RNN_UNROLL_2 _Pragma("GCC unroll 2")
#else
#define RNN_UNROLL
#define RNN_UNROLL_2
#endif

#if defined(__GNUC__)
#define RNN_INLINE static inline __attribute__((always_inline, unused))
#define RNN_ONCE static __attribute__((unused))
#define RNN_ALIGNED __attribute__((aligned(64)))
#else
#define RNN_INLINE static inline
#define RNN_ONCE static
#define RNN_ALIGNED
#endif
#if defined(__GNUC__) && !defined(__clang__)
/* Vectors are arguments of inlined functions alone, so how they would be passed does not matter. */
#pragma GCC diagnostic ignored "-Wpsabi"
/* With sanitizers it warns of copies in loops that no number gets into. */
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#endif
#if defined(__clang__)
/* Sanitizers keep loops from being unrolled. */
#pragma clang diagnostic ignored "-Wpass-failed"
#endif

#if RNN_LANES > 1
typedef float rnn_v __attribute__((vector_size(4 * RNN_LANES), may_alias));
typedef int32_t rnn_vi __attribute__((vector_size(4 * RNN_LANES), may_alias));
typedef uint32_t rnn_vu32 __attribute__((vector_size(4 * RNN_LANES), may_alias));
typedef float rnn_vu __attribute__((vector_size(4 * RNN_LANES), aligned(4), may_alias));
#define RNN_IF(mask, a, b) ((rnn_v)(((rnn_vi)(a) & (rnn_vi)(mask)) | ((rnn_vi)(b) & ~(rnn_vi)(mask))))
#define RNN_TO_INT(a) __builtin_convertvector(a, rnn_vi)
#define RNN_TO_FLOAT(a) __builtin_convertvector(a, rnn_v)
RNN_INLINE rnn_vi rnn_bits(rnn_v a) { return (rnn_vi)a; }
RNN_INLINE rnn_v rnn_of_bits(rnn_vi a) { return (rnn_v)a; }
RNN_INLINE rnn_v rnn_all(float a)
{
    const rnn_v zero = {0};
    return a - zero;
}
RNN_INLINE rnn_v rnn_load(const float *p) { return *(const rnn_vu *)p; }
RNN_INLINE void rnn_store(float *p, rnn_v a) { *(rnn_vu *)p = a; }
#else
typedef float rnn_v;
typedef int32_t rnn_vi;
typedef uint32_t rnn_vu32;
#define RNN_IF(mask, a, b) ((mask) ? (a) : (b))
/* A NaN is no whole number: C leaves open what becomes of it. */
#define RNN_TO_INT(a) ((a) == (a) ? (int32_t)(a) : 0)
#define RNN_TO_FLOAT(a) ((float)(a))
RNN_INLINE rnn_vi rnn_bits(rnn_v a) { rnn_vi b; memcpy(&b, &a, sizeof b); return b; }
RNN_INLINE rnn_v rnn_of_bits(rnn_vi a) { rnn_v b; memcpy(&b, &a, sizeof b); return b; }
RNN_INLINE rnn_v rnn_all(float a) { return a; }
RNN_INLINE rnn_v rnn_load(const float *p) { return *p; }
RNN_INLINE void rnn_store(float *p, rnn_v a) { *p = a; }
#endif

/* The first m of the lanes; the others are zero. */
RNN_INLINE rnn_v rnn_load_part(const float *p, int m)
{
    rnn_v a = rnn_all(0.0f);
    if (m == RNN_LANES)
        return rnn_load(p);
    memcpy(&a, p, 4 * (size_t)m);
    return a;
}
RNN_INLINE void rnn_store_part(float *p, rnn_v a, int m)
{
    if (m == RNN_LANES)
        rnn_store(p, a);
    else
        memcpy(p, &a, 4 * (size_t)m);
}
/* Halves of the lanes at a time: a row of dependent ones would take as many times the latency. */
RNN_INLINE float rnn_lane_sum(rnn_v a)
{
    float lanes[RNN_LANES];
    memcpy(lanes, &a, sizeof a);
    RNN_UNROLL for (int half = RNN_LANES / 2; half; half /= 2)
        RNN_UNROLL for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}
RNN_INLINE float rnn_lane_max(rnn_v a)
{
    float lanes[RNN_LANES];
    memcpy(lanes, &a, sizeof a);
    RNN_UNROLL for (int half = RNN_LANES / 2; half; half /= 2)
        RNN_UNROLL for (int i = 0; i < half; i++)
            lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
    return lanes[0];
}

/* For i over n values, RNN_LANES at a time, the last m of them apart; the statement sees i and m. */
#define RNN_EACH(n, ...)                                         \
    do {                                                         \
        for (int i = 0; i + RNN_LANES <= (n); i += RNN_LANES) {  \
            const int m = RNN_LANES;                             \
            __VA_ARGS__;                                         \
        }                                                        \
        if ((n) % RNN_LANES) {                                   \
            const int m = (n) % RNN_LANES, i = (n) - m;          \
            __VA_ARGS__;                                         \
        }                                                        \
    } while (0)
