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
#elif defined(__SSE2__) || defined(__ARM_NEON)
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
#define RNN_ALIGNED __attribute__((aligned(64)))
#else
#define RNN_INLINE static inline
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
RNN_INLINE rnn_v rnn_all(float a) { return a - (rnn_v){0}; }
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

/* Elementary functions of float vectors. A NaN stays one. */

RNN_INLINE rnn_v rnn_max(rnn_v a, rnn_v b) { return RNN_IF(a < b, b, a); }
RNN_INLINE rnn_v rnn_min(rnn_v a, rnn_v b) { return RNN_IF(a > b, b, a); }
RNN_INLINE rnn_v rnn_abs(rnn_v a) { return rnn_of_bits(rnn_bits(a) & 0x7fffffff); }
RNN_INLINE rnn_v rnn_sign_of(rnn_v a, rnn_v b) { return rnn_of_bits((rnn_bits(a) & 0x7fffffff) | (rnn_bits(b) & ~0x7fffffff)); }

/* x = n ln 2 + r with |r| <= ln 2 / 2, and e^r - 1: the polynomial of Cephes' expf, relative error 1e-7. |x| < 87. */
RNN_INLINE rnn_v rnn_reduced(rnn_v x, rnn_vi *n)
{
    /* Without a sign: of a NaN it is any number, which may not overflow. */
    *n = (rnn_vi)((rnn_vu32)RNN_TO_INT(x * 1.44269504f + 128.5f) - 128u);
    const rnn_v whole = RNN_TO_FLOAT(*n);
    const rnn_v r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    rnn_v q = r * 1.9875691500e-4f + 1.3981999507e-3f;
    q = q * r + 8.3334519073e-3f;
    q = q * r + 4.1665795894e-2f;
    q = q * r + 1.6666665459e-1f;
    q = q * r + 5.0000001201e-1f;
    return q * (r * r) + r;
}
RNN_INLINE rnn_v rnn_power_of_2(rnn_vi n) { return rnn_of_bits((rnn_vi)(((rnn_vu32)n + 127u) * 8388608u)); }

/* e^x - 1 for x within 40 of zero, as if it were there elsewhere: enough for what saturates. */
RNN_INLINE rnn_v rnn_em1(rnn_v x)
{
    rnn_vi n;
    const rnn_v p = rnn_reduced(rnn_min(rnn_max(x, rnn_all(-40.0f)), rnn_all(40.0f)), &n);
    const rnn_v s = rnn_power_of_2(n);
    return p * s + (s - 1.0f);
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
RNN_INLINE rnn_v rnn_sigmoid(rnn_v x) { return 1.0f / (2.0f + rnn_em1(-x)); }
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
#if RNN_LANES >= 8 || defined(__aarch64__)
#define RNN_PASS 64
#elif RNN_LANES == 4
#define RNN_PASS 32
#else
#define RNN_PASS 8
#endif
#if RNN_LANES == 16
#define RNN_ROWS_PASS 64
#elif RNN_LANES >= 4
#define RNN_ROWS_PASS 16
#else
#define RNN_ROWS_PASS 4
#endif
/* Rows that share one reading of the weights. */
#define RNN_ROWS 4
#define RNN_PADDED(n) (((n) + 15) / 16 * 16)

/* `width` outputs from `at` on of a tile of `tile`, for `rows` rows; k is summed in `chains` sums, to hide the latency. */
RNN_INLINE void rnn_pass_f32(const float *w, int tile, int width, int chains, int rows, const float *x, int kx, int x_row,
                             const float *h, int kh, int h_row, const float *bias, float *y, int y_row, int n)
{
    rnn_v sum[4][RNN_ROWS][RNN_PASS / RNN_LANES];
    const int vectors = width / RNN_LANES;
    RNN_UNROLL for (int c = 0; c < chains; c++)
        RNN_UNROLL for (int r = 0; r < rows; r++)
            RNN_UNROLL for (int u = 0; u < vectors; u++)
                sum[c][r][u] = c ? rnn_all(0.0f) : rnn_load(bias + u * RNN_LANES);
    for (int part = 0; part < 2; part++) {
        const float *from = part ? h : x;
        const int count = part ? kh : kx, row = part ? h_row : x_row;
        int k = 0;
        for (; k + chains <= count; k += chains)
            RNN_UNROLL for (int c = 0; c < chains; c++)
                RNN_UNROLL for (int r = 0; r < rows; r++)
                    RNN_UNROLL for (int u = 0; u < vectors; u++)
                        sum[c][r][u] += from[r * row + k + c] * rnn_load(w + (k + c) * tile + u * RNN_LANES);
        for (; k < count; k++)
            RNN_UNROLL for (int r = 0; r < rows; r++)
                RNN_UNROLL for (int u = 0; u < vectors; u++)
                    sum[0][r][u] += from[r * row + k] * rnn_load(w + k * tile + u * RNN_LANES);
        w += (size_t)count * (size_t)tile;
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

/* One tile; `pass` outputs at a time, as many as the registers hold. */
RNN_INLINE void rnn_tile_f32(const float *w, int tile, int pass, int rows, const float *x, int kx, int x_row,
                             const float *h, int kh, int h_row, const float *bias, float *y, int y_row, int n)
{
    const int width = tile < pass ? tile : pass, vectors = width / RNN_LANES * rows;
    const int chains = vectors >= 8 ? 1 : vectors >= 3 ? 2 : 4;
    /* The width of each pass is a constant, so that its sums stay in registers. */
    int at = 0;
    for (; at + width <= tile && at < n; at += width)
        rnn_pass_f32(w + at, tile, width, chains, rows, x, kx, x_row, h, kh, h_row, bias + at, y + at, y_row, n - at);
    if (tile % width && at < n)
        rnn_pass_f32(w + at, tile, tile % width, chains, rows, x, kx, x_row, h, kh, h_row, bias + at, y + at, y_row, n - at);
}

/* One tile for all rows, which find it in the nearest cache. */
RNN_INLINE void rnn_column_f32(const float *w, int tile, int rows, const float *x, int kx, int x_row, const float *h, int kh,
                               const float *bias, float *y, int y_row, int n)
{
    int r = 0;
    for (; r + RNN_ROWS <= rows; r += RNN_ROWS)
        rnn_tile_f32(w, tile, RNN_ROWS_PASS, RNN_ROWS, x + r * x_row, kx, x_row, h + r * kh, kh, kh, bias, y + r * y_row, y_row, n);
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

/* The same for few outputs: W is [output][k], and a sum across the vector ends each. */
RNN_INLINE float rnn_dot(const float *a, const float *b, int k)
{
    rnn_v sum[4];
    int i = 0;
    RNN_UNROLL for (int c = 0; c < 4; c++)
        sum[c] = rnn_all(0.0f);
    for (; i + 4 * RNN_LANES <= k; i += 4 * RNN_LANES)
        RNN_UNROLL for (int c = 0; c < 4; c++)
            sum[c] += rnn_load(a + i + c * RNN_LANES) * rnn_load(b + i + c * RNN_LANES);
    for (; i + RNN_LANES <= k; i += RNN_LANES)
        sum[0] += rnn_load(a + i) * rnn_load(b + i);
    if (k % RNN_LANES)
        sum[1] += rnn_load_part(a + i, k % RNN_LANES) * rnn_load_part(b + i, k % RNN_LANES);
    return rnn_lane_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
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

/* gates: input, output, forget, cell; s(x) = 1 / (1 + e^-x), tanh(x) = E / (E + 2) with E = e^2x - 1. */
RNN_INLINE void rnn_lstm(const float *gates, int units, int rows, int apart, float *c, float *h)
{
    for (int r = 0; r < rows; r++, gates += 4 * units, c += apart, h += apart)
        RNN_EACH(units, {
            const rnn_v in = rnn_em1(-rnn_load_part(gates + i, m)), out = rnn_em1(-rnn_load_part(gates + units + i, m));
            const rnn_v forget = rnn_em1(-rnn_load_part(gates + 2 * units + i, m));
            const rnn_v cell = rnn_em1(2.0f * rnn_load_part(gates + 3 * units + i, m));
            const rnn_v kept = rnn_load_part(c + i, m) / (forget + 2.0f);
            const rnn_v next = kept + cell / ((in + 2.0f) * (cell + 2.0f));
            const rnn_v e = rnn_em1(2.0f * next);
            rnn_store_part(c + i, next, m);
            rnn_store_part(h + i, e / ((out + 2.0f) * (e + 2.0f)), m);
        });
}

/* from_x, from_h: update, reset, hidden; the reset gate after the product (linear_before_reset). */
RNN_INLINE void rnn_gru(const float *from_x, const float *from_h, int units, int rows, int apart, const float *h_before, float *h)
{
    for (int r = 0; r < rows; r++, from_x += 3 * units, from_h += 3 * units, h_before += apart, h += apart)
        RNN_EACH(units, {
            const rnn_v update = rnn_em1(-(rnn_load_part(from_x + i, m) + rnn_load_part(from_h + i, m)));
            const rnn_v reset = rnn_em1(-(rnn_load_part(from_x + units + i, m) + rnn_load_part(from_h + units + i, m)));
            const rnn_v product = rnn_load_part(from_h + 2 * units + i, m);
            const rnn_v hidden = rnn_tanh(rnn_load_part(from_x + 2 * units + i, m) + product / (reset + 2.0f));
            rnn_store_part(h + i, hidden + (rnn_load_part(h_before + i, m) - hidden) / (update + 2.0f), m);
        });
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
/* Where a position beyond a row of n values is taken from: mirrored at the ends, or the nearest end. */
RNN_INLINE int rnn_reflect(int i, int n)
{
    i = i < 0 ? -i : i;
    return i < n ? i : 2 * (n - 1) - i;
}
RNN_INLINE int rnn_nearest(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

#endif
