/* What steps written by rnn-export are made of. */
#ifndef RNN_KERNELS_H
#define RNN_KERNELS_H

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

/* Elementary functions of float vectors. A NaN stays one. */

/* a where b is a NaN. */
RNN_INLINE rnn_v rnn_max(rnn_v a, rnn_v b) { return RNN_LARGER(a, b); }
RNN_INLINE rnn_v rnn_min(rnn_v a, rnn_v b) { return RNN_SMALLER(a, b); }
RNN_INLINE rnn_v rnn_abs(rnn_v a) { return rnn_of_bits(rnn_bits(a) & 0x7fffffff); }
RNN_INLINE rnn_v rnn_sign_of(rnn_v a, rnn_v b) { return rnn_of_bits((rnn_bits(a) & 0x7fffffff) | (rnn_bits(b) & ~0x7fffffff)); }

/* Each of `count` vectors x = n ln 2 + r with |r| <= ln 2 / 2 becomes e^r - 1: the polynomial of Cephes' expf, relative error
 * 1e-7. |x| < 87. Step by step over all of them, and the polynomial in pairs, so that little waits for what was just computed.
 */
#define RNN_MOST 8
RNN_INLINE void rnn_reduce(rnn_v *x, rnn_vi *n, int count)
{
    rnn_v square[RNN_MOST], high[RNN_MOST], low[RNN_MOST];
    RNN_UNROLL for (int i = 0; i < count; i++)
        /* Beside 1.5 * 2^23 the nearest whole number is in the lowest bits; without a sign, as that of a NaN may overflow. */
        n[i] = (rnn_vi)((rnn_vu32)rnn_bits(x[i] * 1.44269504f + 12582912.0f) - 0x4b400000u);
    RNN_UNROLL for (int i = 0; i < count; i++) {
        const rnn_v whole = RNN_TO_FLOAT(n[i]);
        x[i] = (x[i] - whole * 0.693359375f) + whole * 2.12194440e-4f;
    }
    RNN_UNROLL for (int i = 0; i < count; i++) {
        square[i] = x[i] * x[i];
        high[i] = x[i] * 1.9875691500e-4f + 1.3981999507e-3f;
        low[i] = x[i] * 8.3334519073e-3f + 4.1665795894e-2f;
    }
    RNN_UNROLL for (int i = 0; i < count; i++)
        high[i] = high[i] * square[i] + low[i];
    RNN_UNROLL for (int i = 0; i < count; i++)
        high[i] = high[i] * square[i] + (x[i] * 1.6666665459e-1f + 5.0000001201e-1f);
    RNN_UNROLL for (int i = 0; i < count; i++)
        x[i] = high[i] * square[i] + x[i];
}
RNN_INLINE rnn_v rnn_reduced(rnn_v x, rnn_vi *n)
{
    rnn_reduce(&x, n, 1);
    return x;
}
RNN_INLINE rnn_v rnn_power_of_2(rnn_vi n) { return rnn_of_bits((rnn_vi)(((rnn_vu32)n + 127u) * 8388608u)); }

/* e^x - 1 for x within 40 of zero, as if it were there elsewhere: enough for what saturates. */
RNN_INLINE void rnn_em1s(rnn_v *x, int count)
{
    rnn_vi n[RNN_MOST];
    RNN_UNROLL for (int i = 0; i < count; i++)
        x[i] = rnn_min(rnn_max(x[i], rnn_all(-40.0f)), rnn_all(40.0f));
    rnn_reduce(x, n, count);
    RNN_UNROLL for (int i = 0; i < count; i++) {
        const rnn_v s = rnn_power_of_2(n[i]);
        x[i] = x[i] * s + (s - 1.0f);
    }
}
RNN_INLINE rnn_v rnn_em1(rnn_v x)
{
    rnn_em1s(&x, 1);
    return x;
}
RNN_INLINE rnn_v rnn_exp(rnn_v x)
{
    rnn_vi n;
    const rnn_v p = rnn_reduced(rnn_min(rnn_max(x, rnn_all(-86.0f)), rnn_all(86.0f)), &n);
    const rnn_v e = (p + 1.0f) * rnn_power_of_2(n);
    /* Beyond that in two steps: e^x may be Inf, or below the smallest normal number. */
    rnn_vi far;
    const rnn_v beyond = rnn_min(rnn_max(x, rnn_all(-104.0f)), rnn_all(89.0f)) * 0.5f;
    const rnn_v half = (rnn_reduced(beyond, &far) + 1.0f) * rnn_power_of_2(far);
    return RNN_IF(rnn_abs(x) > 86.0f, half * half, e);
}
/* 1 / (1 + e^-x), to the 0 that it is where e^-x is Inf: that by its half, as 2^128 is no number. */
RNN_INLINE rnn_v rnn_sigmoid(rnn_v x)
{
    rnn_vi n;
    const rnn_v p = rnn_reduced(rnn_min(rnn_max(-x, rnn_all(-40.0f)), rnn_all(89.0f)), &n), half = rnn_power_of_2(n - 1);
    return 1.0f / (1.0f + 2.0f * (p * half + half));
}
RNN_INLINE rnn_v rnn_tanh(rnn_v x)
{
    const rnn_v e = rnn_em1(x + x);
    return e / (e + 2.0f);
}
RNN_INLINE rnn_v rnn_relu(rnn_v x) { return RNN_IF(x < 0.0f, rnn_all(0.0f), x); }

/* 1 / sqrt(x) by the shift of the exponent and three steps of Newton's, then one step for sqrt(x) itself. */
RNN_INLINE rnn_v rnn_sqrt(rnn_v x)
{
    /* Off both ends, where a square is Inf, or the number has few bits. */
    const rnn_v one = rnn_all(1.0f);
    const rnn_v scale = RNN_IF(x < 1.17549435e-38f, one * 16777216.0f, RNN_IF(x > 1e38f, one / 4.0f, one));
    const rnn_v back = RNN_IF(x < 1.17549435e-38f, one / 4096.0f, RNN_IF(x > 1e38f, one * 2.0f, one));
    const rnn_v near = x * scale;
    rnn_v y = rnn_of_bits(0x5f3759df - rnn_bits(near) / 2);
    y = y * (1.5f - 0.5f * near * y * y);
    y = y * (1.5f - 0.5f * near * y * y);
    y = y * (1.5f - 0.5f * near * y * y);
    rnn_v s = near * y;
    s = (s + 0.5f * y * (near - s * s)) * back;
    /* Zero, Inf and NaN are their own roots, nothing negative has one. */
    s = RNN_IF((x > 0.0f) & (x <= 3.40282347e38f), s, x);
    return RNN_IF(x < 0.0f, rnn_all(0.0f) / 0.0f, s);
}

/* ln x as Cephes' logf: x = 2^e m with m in [sqrt(1/2), sqrt(2)). */
RNN_INLINE rnn_v rnn_log(rnn_v x)
{
    const rnn_v normal = RNN_IF(x < 1.17549435e-38f, x * 8388608.0f, x);
    const rnn_vi bits = rnn_bits(normal) - 0x3f3504f3;
    rnn_v e = RNN_TO_FLOAT(bits >> 23);
    const rnn_v m = rnn_of_bits((bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
    e = RNN_IF(x < 1.17549435e-38f, e - 23.0f, e);
    rnn_v p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    const rnn_v z = m * m;
    const rnn_v y = (p * m * z + e * -2.12194440e-4f) - 0.5f * z;
    const rnn_v infinite = rnn_all(1.0f) / 0.0f;
    rnn_v result = (m + y) + e * 0.693359375f;
    result = RNN_IF(x < infinite, result, x);
    result = RNN_IF(x > 0.0f, result, RNN_IF(x < 0.0f, infinite - infinite, -infinite));
    return RNN_IF(x == x, result, x);
}
/* ln(1 + e^x) */
RNN_INLINE rnn_v rnn_softplus(rnn_v x)
{
    const rnn_v e = rnn_exp(-rnn_abs(x)), u = 1.0f + e;
    /* ln(1 + e) = ln u * e / (u - 1): what u lost of e is put back. */
    const rnn_v log1p = RNN_IF(u == 1.0f, e, rnn_log(u) * (e / RNN_IF(u == 1.0f, rnn_all(1.0f), u - 1.0f)));
    return rnn_max(x, rnn_all(0.0f)) + log1p;
}
/* Abramowitz and Stegun 7.1.26 for large x, the series of erf for small x. */
RNN_INLINE rnn_v rnn_erf(rnn_v x)
{
    const rnn_v a = rnn_min(rnn_abs(x), rnn_all(4.0f)), z = a * a;
    rnn_v series = z * -1.4925651e-5f + 1.2055333e-4f;
    series = series * z - 8.5483270e-4f;
    series = series * z + 5.2239776e-3f;
    series = series * z - 2.6866171e-2f;
    series = series * z + 1.1283792e-1f;
    series = series * z - 3.7612639e-1f;
    series = (series * z + 1.1283792f) * a;
    const rnn_v t = 1.0f / (1.0f + 0.3275911f * a);
    rnn_v tail = t * 1.061405429f - 1.453152027f;
    tail = tail * t + 1.421413741f;
    tail = tail * t - 0.284496736f;
    tail = tail * t + 0.254829592f;
    return rnn_sign_of(RNN_IF(a < 0.9f, series, 1.0f - tail * t * rnn_exp(-z)), x);
}
RNN_INLINE rnn_v rnn_floor(rnn_v x)
{
    const rnn_v whole = RNN_TO_FLOAT(RNN_TO_INT(RNN_IF(rnn_abs(x) < 8388608.0f, x, rnn_all(0.0f))));
    return RNN_IF(rnn_abs(x) < 8388608.0f, rnn_sign_of(RNN_IF(whole > x, whole - 1.0f, whole), x), x);
}

/* y = b + W [x, h] for one row or for several rows at once.
 *
 * W is cut into tiles of RNN_TILE outputs, the last one of 16, 32, 48 or 64; a tile is [k][output], so that one broadcast
 * of x[k] feeds them all, in registers, with no sum across a vector.
 */
#define RNN_TILE 64
#if RNN_LANES == 16
#define RNN_PASS 128
#elif RNN_LANES == 8 || defined(__aarch64__)
#define RNN_PASS 64
#elif RNN_LANES == 4
#define RNN_PASS 32
#else
#define RNN_PASS 8
#endif
/* Rows that share one reading of the weights, and of how many outputs: what is read into registers is read once for each
 * row where there are few of these, and a CPU reads one long vector in the time of a product of it.
 */
#if RNN_LANES == 16
#define RNN_ROWS 8
#define RNN_ROWS_PASS 48
#elif RNN_LANES >= 4
#define RNN_ROWS 4
#define RNN_ROWS_PASS 16
#else
#define RNN_ROWS 4
#define RNN_ROWS_PASS 4
#endif
#define RNN_PADDED(n) (((n) + 15) / 16 * 16)

/* The products of `count` values with `width` outputs of a tile, added to `chains` sums, to hide the latency. */
RNN_INLINE void rnn_sums_f32(rnn_v sum[4][RNN_ROWS][RNN_PASS / RNN_LANES], const float *w, int tile, int vectors, int chains,
                             int rows, const float *from, int count, int row)
{
    int k = 0;
    /* clang would write it out, which takes a quarter longer: instructions that have a weight's address in them are long. */
    RNN_ROLLED for (; k + chains <= count; k += chains)
        RNN_UNROLL for (int c = 0; c < chains; c++)
            RNN_UNROLL for (int r = 0; r < rows; r++)
                RNN_UNROLL for (int u = 0; u < vectors; u++)
                    sum[c][r][u] += from[r * row + k + c] * rnn_load(w + (k + c) * tile + u * RNN_LANES);
    for (; k < count; k++)
        RNN_UNROLL for (int r = 0; r < rows; r++)
            RNN_UNROLL for (int u = 0; u < vectors; u++)
                sum[0][r][u] += from[r * row + k] * rnn_load(w + k * tile + u * RNN_LANES);
}
/* The same for many values, in parts that are added up in `whole`: one long sum would round as often as it is long. */
#define RNN_LONG 512
#define RNN_PART 256
RNN_INLINE void rnn_long_sums_f32(rnn_v whole[RNN_ROWS][RNN_PASS / RNN_LANES], rnn_v sum[4][RNN_ROWS][RNN_PASS / RNN_LANES],
                                  const float *w, int tile, int vectors, int chains, int rows, const float *from, int count,
                                  int row)
{
    for (int k = 0; k < count; k += RNN_PART) {
        rnn_sums_f32(sum, w + k * tile, tile, vectors, chains, rows, from + k, count - k < RNN_PART ? count - k : RNN_PART, row);
        RNN_UNROLL for (int c = 0; c < chains; c++)
            RNN_UNROLL for (int r = 0; r < rows; r++)
                RNN_UNROLL for (int u = 0; u < vectors; u++) {
                    whole[r][u] += sum[c][r][u];
                    sum[c][r][u] = rnn_all(0.0f);
                }
    }
}
/* `width` outputs of a tile of `tile`, for `rows` rows. */
RNN_INLINE void rnn_pass_f32(const float *w, int tile, int width, int chains, int rows, const float *x, int kx, int x_row,
                             const float *h, int kh, int h_row, const float *bias, float *y, int y_row, int n)
{
    rnn_v sum[4][RNN_ROWS][RNN_PASS / RNN_LANES];
    const int vectors = width / RNN_LANES;
    RNN_UNROLL for (int c = 0; c < chains; c++)
        RNN_UNROLL for (int r = 0; r < rows; r++)
            RNN_UNROLL for (int u = 0; u < vectors; u++)
                sum[c][r][u] = c ? rnn_all(0.0f) : rnn_load(bias + u * RNN_LANES);
    if (kx + kh > RNN_LONG) {
        rnn_v whole[RNN_ROWS][RNN_PASS / RNN_LANES];
        RNN_UNROLL for (int r = 0; r < rows; r++)
            RNN_UNROLL for (int u = 0; u < vectors; u++)
                whole[r][u] = rnn_all(0.0f);
        rnn_long_sums_f32(whole, sum, w, tile, vectors, chains, rows, x, kx, x_row);
        rnn_long_sums_f32(whole, sum, w + (size_t)kx * (size_t)tile, tile, vectors, chains, rows, h, kh, h_row);
        RNN_UNROLL for (int r = 0; r < rows; r++)
            RNN_UNROLL for (int u = 0; u < vectors; u++)
                sum[0][r][u] = whole[r][u];
    } else {
        rnn_sums_f32(sum, w, tile, vectors, chains, rows, x, kx, x_row);
        rnn_sums_f32(sum, w + (size_t)kx * (size_t)tile, tile, vectors, chains, rows, h, kh, h_row);
    }
    RNN_UNROLL for (int r = 0; r < rows; r++)
        RNN_UNROLL for (int u = 0; u < vectors; u++) {
            RNN_UNROLL for (int c = 1; c < chains; c++)
                sum[0][r][u] += sum[c][r][u];
            if ((u + 1) * RNN_LANES <= n)
                rnn_store(y + r * y_row + u * RNN_LANES, sum[0][r][u]);
            else if (u * RNN_LANES < n)
                rnn_store_part(y + r * y_row + u * RNN_LANES, sum[0][r][u], n - u * RNN_LANES);
        }
}

/* One tile; up to `pass` outputs at a time, as many as the registers hold. */
RNN_INLINE void rnn_tile_f32(const float *w, int tile, int pass, int rows, const float *x, int kx, int x_row,
                             const float *h, int kh, int h_row, const float *bias, float *y, int y_row, int n)
{
    /* The width of each pass is the same constant, so that its sums stay in registers. */
    const int half = tile / 2 <= pass ? tile / 2 : tile / 4, width = tile <= pass ? tile : tile % pass ? half : pass;
    const int vectors = width / RNN_LANES * rows;
    const int chains = vectors >= 8 ? 1 : vectors >= 3 ? 2 : 4;
    for (int at = 0; at + width <= tile && at < n; at += width)
        rnn_pass_f32(w + at, tile, width, chains, rows, x, kx, x_row, h, kh, h_row, bias + at, y + at, y_row, n - at);
}

/* One tile for all rows, which find it in the nearest cache. */
RNN_INLINE void rnn_column_f32(const float *w, int tile, int rows, const float *x, int kx, int x_row, const float *h, int kh,
                               const float *bias, float *y, int y_row, int n)
{
    int r = 0;
    for (; r + RNN_ROWS <= rows; r += RNN_ROWS)
        rnn_tile_f32(w, tile, RNN_ROWS_PASS, RNN_ROWS, x + r * x_row, kx, x_row, h + r * kh, kh, kh, bias, y + r * y_row, y_row, n);
    for (; RNN_ROWS > 4 && r + 4 <= rows; r += 4)
        rnn_tile_f32(w, tile, RNN_TILE, 4, x + r * x_row, kx, x_row, h + r * kh, kh, kh, bias, y + r * y_row, y_row, n);
    for (; r < rows; r++)
        rnn_tile_f32(w, tile, RNN_PASS, 1, x + r * x_row, kx, x_row, h + r * kh, kh, kh, bias, y + r * y_row, y_row, n);
}

/* `rows` rows; those of x are x_row apart, of h and y they are dense. */
RNN_INLINE void rnn_dense_f32(const float *w, const float *bias, int n, int rows, const float *x, int kx, int x_row,
                              const float *h, int kh, float *y)
{
    int i = 0;
    for (; i + RNN_TILE <= n; i += RNN_TILE, w += (size_t)(kx + kh) * RNN_TILE)
        rnn_column_f32(w, RNN_TILE, rows, x, kx, x_row, h, kh, bias + i, y + i, n, RNN_TILE);
    if (n % RNN_TILE)
        rnn_column_f32(w, RNN_PADDED(n % RNN_TILE), rows, x, kx, x_row, h, kh, bias + i, y + i, n, n % RNN_TILE);
}

/* The same where all outputs are one tile, of up to two of RNN_TILE. */
RNN_INLINE void rnn_dense_block_f32(const float *w, const float *bias, int n, int rows, const float *x, int kx, int x_row,
                                    const float *h, int kh, float *y)
{
    rnn_column_f32(w, n, rows, x, kx, x_row, h, kh, bias, y, n, n);
}

/* The same for few outputs: W is [output][k], and a sum across the vector ends each. */
RNN_INLINE float rnn_dot(const float *a, const float *b, int k)
{
    const int chains = k >= 4 * RNN_LANES ? 4 : 1;
    rnn_v sum[4];
    int i = 0;
    RNN_UNROLL for (int c = 0; c < chains; c++)
        sum[c] = rnn_all(0.0f);
    for (; i + chains * RNN_LANES <= k; i += chains * RNN_LANES)
        RNN_UNROLL for (int c = 0; c < chains; c++)
            sum[c] += rnn_load(a + i + c * RNN_LANES) * rnn_load(b + i + c * RNN_LANES);
    for (; i + RNN_LANES <= k; i += RNN_LANES)
        sum[0] += rnn_load(a + i) * rnn_load(b + i);
    if (k % RNN_LANES)
        sum[0] += rnn_load_part(a + i, k % RNN_LANES) * rnn_load_part(b + i, k % RNN_LANES);
    if (chains == 4)
        sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    return rnn_lane_sum(sum[0]);
}
RNN_INLINE void rnn_few_f32(const float *w, const float *bias, int n, int rows, const float *x, int k, int x_row,
                            float *y)
{
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n; i++)
            y[r * n + i] = bias[i] + rnn_dot(w + i * k, x + r * x_row, k);
}

/* The units of a cell, once the products are there: the equations of ONNX's LSTM, GRU and RNN. The products of `rows` rows
 * are dense; the rows of the states are `apart` from each other.
 */

/* Vectors of units whose functions are computed at once, so that one does not wait for another. */
#ifndef RNN_BESIDE
#if RNN_LANES > 1
#define RNN_BESIDE 2
#else
#define RNN_BESIDE 1
#endif
#endif
/* RNN_BESIDE vectors of the units at a time, then one, the last m lanes apart; the statement sees i, m, and how many of them. */
#define RNN_EACH_BESIDE(units, ...)                                                              \
    do {                                                                                         \
        for (int i = 0; i + RNN_BESIDE * RNN_LANES <= (units); i += RNN_BESIDE * RNN_LANES) {    \
            const int m = RNN_LANES, count = RNN_BESIDE;                                         \
            __VA_ARGS__;                                                                         \
        }                                                                                        \
        if (RNN_BESIDE == 2 && (units) / RNN_LANES % 2) {                                        \
            const int i = ((units) / RNN_LANES - 1) * RNN_LANES, m = RNN_LANES, count = 1;       \
            __VA_ARGS__;                                                                         \
        }                                                                                        \
        if ((units) % RNN_LANES) {                                                               \
            const int m = (units) % RNN_LANES, i = (units) - m, count = 1;                       \
            __VA_ARGS__;                                                                         \
        }                                                                                        \
    } while (0)

/* gates: input, output, forget, cell; s(x) = 1 / (1 + e^-x), tanh(x) = E / (E + 2) with E = e^2x - 1. First the cells, and of
 * the output gate 1 / s(x); then, of both, the states.
 */
RNN_INLINE void rnn_lstm_cells(const float *gates, int units, float *c, rnn_v *next, rnn_v *out, int count, int m)
{
    rnn_v e[4 * RNN_BESIDE];
    RNN_UNROLL for (int u = 0; u < count; u++) {
        RNN_UNROLL for (int gate = 0; gate < 3; gate++)
            e[4 * u + gate] = -rnn_load_part(gates + gate * units + u * RNN_LANES, m);
        e[4 * u + 3] = 2.0f * rnn_load_part(gates + 3 * units + u * RNN_LANES, m);
    }
    rnn_em1s(e, 4 * count);
    RNN_UNROLL for (int u = 0; u < count; u++) {
        const rnn_v in = e[4 * u], forget = e[4 * u + 2], cell = e[4 * u + 3];
        next[u] = rnn_load_part(c + u * RNN_LANES, m) / (forget + 2.0f) + cell / ((in + 2.0f) * (cell + 2.0f));
        out[u] = e[4 * u + 1] + 2.0f;
        rnn_store_part(c + u * RNN_LANES, next[u], m);
    }
}
RNN_INLINE void rnn_lstm_states(const rnn_v *next, const rnn_v *out, float *h, int count, int m)
{
    rnn_v last[RNN_BESIDE];
    RNN_UNROLL for (int u = 0; u < count; u++)
        last[u] = 2.0f * next[u];
    rnn_em1s(last, count);
    RNN_UNROLL for (int u = 0; u < count; u++)
        rnn_store_part(h + u * RNN_LANES, last[u] / (out[u] * (last[u] + 2.0f)), m);
}
RNN_INLINE void rnn_lstm(const float *gates, int units, int rows, int apart, float *c, float *h)
{
    rnn_v next[RNN_BESIDE], out[RNN_BESIDE];
    if (rows == 1) {
        RNN_EACH_BESIDE(units, {
            rnn_lstm_cells(gates + i, units, c + i, next, out, count, m);
            rnn_lstm_states(next, out, h + i, count, m);
        });
        return;
    }
    /* First the one of all rows, then the other: each row by itself is a long chain of which few fit into a CPU at once. */
    for (int r = 0; r < rows; r++, gates += 4 * units)
        RNN_EACH_BESIDE(units, {
            rnn_lstm_cells(gates + i, units, c + r * apart + i, next, out, count, m);
            RNN_UNROLL for (int u = 0; u < count; u++)
                rnn_store_part(h + r * apart + i + u * RNN_LANES, out[u], m);
        });
    for (int r = 0; r < rows; r++)
        RNN_EACH_BESIDE(units, {
            RNN_UNROLL for (int u = 0; u < count; u++) {
                next[u] = rnn_load_part(c + r * apart + i + u * RNN_LANES, m);
                out[u] = rnn_load_part(h + r * apart + i + u * RNN_LANES, m);
            }
            rnn_lstm_states(next, out, h + r * apart + i, count, m);
        });
}

/* from_x, from_h: update, reset, hidden; the reset gate after the product (linear_before_reset). */
RNN_INLINE void rnn_gru_units(const float *from_x, const float *from_h, int units, const float *h_before, float *h, int count, int m)
{
    rnn_v e[2 * RNN_BESIDE], last[RNN_BESIDE];
    RNN_UNROLL for (int u = 0; u < count; u++)
        RNN_UNROLL for (int gate = 0; gate < 2; gate++) {
            const int at = gate * units + u * RNN_LANES;
            e[2 * u + gate] = -(rnn_load_part(from_x + at, m) + rnn_load_part(from_h + at, m));
        }
    rnn_em1s(e, 2 * count);
    RNN_UNROLL for (int u = 0; u < count; u++) {
        const int at = 2 * units + u * RNN_LANES;
        const rnn_v hidden = rnn_load_part(from_x + at, m) + rnn_load_part(from_h + at, m) / (e[2 * u + 1] + 2.0f);
        last[u] = hidden + hidden;
    }
    rnn_em1s(last, count);
    RNN_UNROLL for (int u = 0; u < count; u++) {
        const rnn_v hidden = last[u] / (last[u] + 2.0f), before = rnn_load_part(h_before + u * RNN_LANES, m);
        rnn_store_part(h + u * RNN_LANES, hidden + (before - hidden) / (e[2 * u] + 2.0f), m);
    }
}
RNN_INLINE void rnn_gru(const float *from_x, const float *from_h, int units, int rows, int apart, const float *h_before, float *h)
{
    for (int r = 0; r < rows; r++, from_x += 3 * units, from_h += 3 * units, h_before += apart, h += apart)
        RNN_EACH_BESIDE(units, rnn_gru_units(from_x + i, from_h + i, units, h_before + i, h + i, count, m));
}
/* ... and before it, with dense rows: first the gates and s(reset) h, then, with the product of that, the units. */
RNN_INLINE void rnn_gru_reset(const float *from_x, const float *from_h, int units, int rows, const float *h_before, float *reset_h)
{
    for (int r = 0; r < rows; r++, from_x += 3 * units, from_h += 2 * units, h_before += units, reset_h += units)
        RNN_EACH(units, {
            const rnn_v reset = rnn_em1(-(rnn_load_part(from_x + units + i, m) + rnn_load_part(from_h + units + i, m)));
            rnn_store_part(reset_h + i, rnn_load_part(h_before + i, m) / (reset + 2.0f), m);
        });
}
RNN_INLINE void rnn_gru_after_reset(const float *from_x, const float *from_h, const float *product, int units, int rows,
                                    const float *h_before, float *h)
{
    for (int r = 0; r < rows; r++, from_x += 3 * units, from_h += 2 * units, product += units, h_before += units, h += units)
        RNN_EACH(units, {
            const rnn_v update = rnn_em1(-(rnn_load_part(from_x + i, m) + rnn_load_part(from_h + i, m)));
            const rnn_v hidden = rnn_tanh(rnn_load_part(from_x + 2 * units + i, m) + rnn_load_part(product + i, m));
            rnn_store_part(h + i, hidden + (rnn_load_part(h_before + i, m) - hidden) / (update + 2.0f), m);
        });
}

/* y = the sum of n rows of `width` values, v_row apart, each times a value of p, p_step apart. */
RNN_INLINE void rnn_weighted_pass(const float *p, int p_step, int n, const float *v, int v_row, int vectors, int chains,
                                  int width, float *y)
{
    rnn_v sum[4][4];
    int r = 0;
    RNN_UNROLL for (int c = 0; c < chains; c++)
        RNN_UNROLL for (int u = 0; u < vectors; u++)
            sum[c][u] = rnn_all(0.0f);
    for (; r + chains <= n; r += chains)
        RNN_UNROLL for (int c = 0; c < chains; c++)
            RNN_UNROLL for (int u = 0; u < vectors; u++)
                sum[c][u] += p[(r + c) * p_step] * rnn_load_part(v + (r + c) * v_row + u * RNN_LANES, width);
    for (; r < n; r++)
        RNN_UNROLL for (int u = 0; u < vectors; u++)
            sum[0][u] += p[r * p_step] * rnn_load_part(v + r * v_row + u * RNN_LANES, width);
    RNN_UNROLL for (int u = 0; u < vectors; u++) {
        RNN_UNROLL for (int c = 1; c < chains; c++)
            sum[0][u] += sum[c][u];
        rnn_store_part(y + u * RNN_LANES, sum[0][u], width);
    }
}
RNN_INLINE void rnn_weighted(const float *p, int p_step, int n, const float *v, int v_row, int width, float *y)
{
    int i = 0;
    for (; i + 4 * RNN_LANES <= width; i += 4 * RNN_LANES)
        rnn_weighted_pass(p, p_step, n, v + i, v_row, 4, 1, RNN_LANES, y + i);
    for (; i + RNN_LANES <= width; i += RNN_LANES)
        rnn_weighted_pass(p, p_step, n, v + i, v_row, 1, 4, RNN_LANES, y + i);
    if (width % RNN_LANES)
        rnn_weighted_pass(p, p_step, n, v + i, v_row, 1, 4, width % RNN_LANES, y + i);
}

/* What looks at a whole row of values. */

RNN_INLINE float rnn_sum(const float *x, int n)
{
    rnn_v sum = rnn_all(0.0f);
    RNN_EACH(n, sum += rnn_load_part(x + i, m));
    return rnn_lane_sum(sum);
}
RNN_INLINE float rnn_sum_of_squares(const float *x, int n, float around)
{
    float sum = 0.0f;
    rnn_v squares = rnn_all(0.0f);
    for (int i = 0; i + RNN_LANES <= n; i += RNN_LANES) {
        const rnn_v d = rnn_load(x + i) - around;
        squares += d * d;
    }
    for (int i = n - n % RNN_LANES; i < n; i++)
        sum += (x[i] - around) * (x[i] - around);
    return sum + rnn_lane_sum(squares);
}
RNN_INLINE float rnn_scalar(rnn_v a)
{
    float first;
    memcpy(&first, &a, sizeof first);
    return first;
}
/* e^(x - max) over their sum; with `logarithm` the ln of that. */
RNN_INLINE void rnn_softmax(const float *x, int n, int logarithm, float *y)
{
    float most = x[0], sum;
    for (int i = 1; i < n; i++)
        most = x[i] > most || x[i] != x[i] ? x[i] : most;
    RNN_EACH(n, rnn_store_part(y + i, rnn_exp(rnn_load_part(x + i, m) - most), m));
    sum = rnn_sum(y, n);
    if (logarithm) {
        const float below = rnn_scalar(rnn_log(rnn_all(sum)));
        RNN_EACH(n, rnn_store_part(y + i, (rnn_load_part(x + i, m) - most) - below, m));
    } else
        RNN_EACH(n, rnn_store_part(y + i, rnn_load_part(y + i, m) / sum, m));
}
RNN_INLINE void rnn_layer_norm(const float *x, int n, float epsilon, const float *scale, const float *bias, float *y)
{
    const float mean = rnn_sum(x, n) / (float)n, variance = rnn_sum_of_squares(x, n, mean) / (float)n;
    const float below = rnn_scalar(rnn_sqrt(rnn_all(variance + epsilon)));
    RNN_EACH(n, {
        const rnn_v centred = (rnn_load_part(x + i, m) - mean) / below;
        rnn_store_part(y + i, centred * rnn_load_part(scale + i, m) + rnn_load_part(bias + i, m), m);
    });
}
/* The same without a mean. */
RNN_INLINE void rnn_rms_norm(const float *x, int n, float epsilon, const float *scale, const float *bias, float *y)
{
    const float below = rnn_scalar(rnn_sqrt(rnn_all(rnn_sum_of_squares(x, n, 0.0f) / (float)n + epsilon)));
    RNN_EACH(n, {
        const rnn_v scaled = rnn_load_part(x + i, m) / below * rnn_load_part(scale + i, m);
        rnn_store_part(y + i, scaled + rnn_load_part(bias + i, m), m);
    });
}
/* All with one scale and one bias. */
RNN_INLINE void rnn_channel_norm(const float *x, int n, float epsilon, float scale, float bias, float *y)
{
    const float mean = rnn_sum(x, n) / (float)n, variance = rnn_sum_of_squares(x, n, mean) / (float)n;
    const float below = rnn_scalar(rnn_sqrt(rnn_all(variance + epsilon)));
    RNN_EACH(n, rnn_store_part(y + i, (rnn_load_part(x + i, m) - mean) / below * scale + bias, m));
}
/* Where a position beyond a row of n values is taken from: mirrored at the ends, the nearest end, or from the other end. */
RNN_INLINE int rnn_reflect(int i, int n)
{
    i = i < 0 ? -i : i;
    return i < n ? i : 2 * (n - 1) - i;
}
RNN_INLINE int rnn_nearest(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }
RNN_INLINE int rnn_wrap(int i, int n) { return (i % n + n) % n; }

#endif
