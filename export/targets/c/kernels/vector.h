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
#define RNN_ROLLED _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__) && __GNUC__ >= 8
#define RNN_UNROLL _Pragma("GCC unroll 16")
#define RNN_UNROLL_2 _Pragma("GCC unroll 2")
#define RNN_ROLLED
#else
#define RNN_UNROLL
#define RNN_UNROLL_2
#define RNN_ROLLED
#endif

#if defined(__GNUC__)
#define RNN_INLINE static inline __attribute__((always_inline, unused))
#define RNN_ONCE static __attribute__((unused))
#define RNN_PIECE __attribute__((noinline))
#define RNN_ALIGNED __attribute__((aligned(64)))
#else
#define RNN_INLINE static inline
#define RNN_ONCE static
#define RNN_PIECE
#define RNN_ALIGNED
#endif
#if defined(__GNUC__) || defined(_MSC_VER)
#define RNN_APART __restrict
#else
#define RNN_APART
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

#if RNN_LANES > 1 && defined(__SSE2__)
#include <immintrin.h>
/* Intrinsics that gcc has from version 10 on. */
#if defined(__clang__) || __GNUC__ >= 10
#define RNN_ZERO_EXTENDS 1
#else
#define RNN_ZERO_EXTENDS 0
#endif
#endif

#if RNN_LANES > 1
typedef float rnn_v __attribute__((vector_size(4 * RNN_LANES), may_alias));
typedef int32_t rnn_vi __attribute__((vector_size(4 * RNN_LANES), may_alias));
typedef uint32_t rnn_vu32 __attribute__((vector_size(4 * RNN_LANES), may_alias));
typedef float rnn_v4 __attribute__((vector_size(16), may_alias));
typedef float rnn_v8 __attribute__((vector_size(32), may_alias));
typedef float rnn_vu __attribute__((vector_size(4 * RNN_LANES), aligned(4), may_alias));
#define RNN_IF(mask, a, b) ((rnn_v)(((rnn_vi)(a) & (rnn_vi)(mask)) | ((rnn_vi)(b) & ~(rnn_vi)(mask))))
#if defined(__AVX512F__) && RNN_LANES == 16
#define RNN_LARGER(a, b) ((rnn_v)_mm512_max_ps((__m512)(b), (__m512)(a)))
#define RNN_SMALLER(a, b) ((rnn_v)_mm512_min_ps((__m512)(b), (__m512)(a)))
#elif defined(__AVX__) && RNN_LANES == 8
#define RNN_LARGER(a, b) ((rnn_v)_mm256_max_ps((__m256)(b), (__m256)(a)))
#define RNN_SMALLER(a, b) ((rnn_v)_mm256_min_ps((__m256)(b), (__m256)(a)))
#elif defined(__SSE2__) && RNN_LANES == 4
#define RNN_LARGER(a, b) ((rnn_v)_mm_max_ps((__m128)(b), (__m128)(a)))
#define RNN_SMALLER(a, b) ((rnn_v)_mm_min_ps((__m128)(b), (__m128)(a)))
#else
#define RNN_LARGER(a, b) RNN_IF((a) < (b), b, a)
#define RNN_SMALLER(a, b) RNN_IF((a) > (b), b, a)
#endif
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
#define RNN_LARGER(a, b) ((a) < (b) ? (b) : (a))
#define RNN_SMALLER(a, b) ((a) > (b) ? (b) : (a))
/* A NaN is no whole number: C leaves open what becomes of it. */
#define RNN_TO_INT(a) ((a) == (a) ? (int32_t)(a) : 0)
#define RNN_TO_FLOAT(a) ((float)(a))
RNN_INLINE rnn_vi rnn_bits(rnn_v a) { rnn_vi b; memcpy(&b, &a, sizeof b); return b; }
RNN_INLINE rnn_v rnn_of_bits(rnn_vi a) { rnn_v b; memcpy(&b, &a, sizeof b); return b; }
RNN_INLINE rnn_v rnn_all(float a) { return a; }
RNN_INLINE rnn_v rnn_load(const float *p) { return *p; }
RNN_INLINE void rnn_store(float *p, rnn_v a) { *p = a; }
#endif

/* The first m of the lanes; the others are zero. By way of the stack it would wait for several writes to become one. */
RNN_INLINE rnn_v rnn_load_part(const float *p, int m)
{
    if (m == RNN_LANES)
        return rnn_load(p);
#if defined(__AVX512F__) && RNN_LANES == 16
#if RNN_ZERO_EXTENDS
    if (m == 8)
        return (rnn_v)_mm512_zextps256_ps512(_mm256_loadu_ps(p));
    if (m == 4)
        return (rnn_v)_mm512_zextps128_ps512(_mm_loadu_ps(p));
#endif
#if defined(__clang__)
    return (rnn_v)_mm512_maskz_loadu_ps((__mmask16)((1u << m) - 1u), p);
#else
    /* gcc 12 makes aligned loads of some of these intrinsics, whose addresses are not (-ftree-slp-vectorize). */
    rnn_v a;
    __asm__("vmovups %1, %0%{%2%}%{z%}" : "=v"(a) : "m"(*(const float(*)[])p), "Yk"((__mmask16)((1u << m) - 1u)));
    return a;
#endif
#elif defined(__AVX__) && RNN_LANES == 8
    const rnn_vi lane = {0, 1, 2, 3, 4, 5, 6, 7};
#if RNN_ZERO_EXTENDS
    if (m == 4)
        return (rnn_v)_mm256_zextps128_ps256(_mm_loadu_ps(p));
#endif
    return (rnn_v)_mm256_maskload_ps(p, (__m256i)(lane < m));
#elif RNN_LANES == 4
    const rnn_v part = {p[0], m > 1 ? p[1] : 0.0f, m > 2 ? p[2] : 0.0f, 0.0f};
    return part;
#else
    rnn_v a = rnn_all(0.0f);
    memcpy(&a, p, 4 * (size_t)m);
    return a;
#endif
}
RNN_INLINE void rnn_store_part(float *p, rnn_v a, int m)
{
    if (m == RNN_LANES)
        rnn_store(p, a);
#if defined(__AVX512F__) && RNN_LANES == 16
    else if (m == 8)
        _mm256_storeu_ps(p, _mm512_castps512_ps256((__m512)a));
#endif
    else
        memcpy(p, &a, 4 * (size_t)m);
}
/* Halves of the lanes at a time: a row of dependent ones would take as many times the latency. */
RNN_INLINE float rnn_lane_sum(rnn_v a)
{
#if RNN_LANES > 1
#if RNN_LANES > 8
    const rnn_v8 in_8 = ((const rnn_v8 *)&a)[0] + ((const rnn_v8 *)&a)[1];
#elif RNN_LANES > 4
    const rnn_v8 in_8 = a;
#endif
#if RNN_LANES > 4
    const rnn_v4 in_4 = ((const rnn_v4 *)&in_8)[0] + ((const rnn_v4 *)&in_8)[1];
#else
    const rnn_v4 in_4 = a;
#endif
    return (in_4[0] + in_4[2]) + (in_4[1] + in_4[3]);
#else
    return a;
#endif
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
