/* y = b + W [x, h] with W in bfloat16 or in eight bits. Tiles and rows as in fp32. */
#if defined(__x86_64__) && defined(__SSSE3__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

/* bfloat16: the upper half of a float. A tile is [k / 2][output]: the lower half of a word is the weight of k, and the whole
 * word, read as a float, that of k + 1. Which numbers the lower half adds to it was taken into account when it was rounded,
 * so moving the lower half up and two FMAs are all there is to do. (VDPBF16PS would round x too, and is no faster on
 * Sapphire Rapids.)
 */
RNN_INLINE rnn_v rnn_low_half(rnn_vu32 word)
{
#if defined(__AVX512BW__) && RNN_LANES == 16
    /* A shuffle, since a shift and half of the FMAs would wait for the same port. */
    const __m128i up = _mm_set_epi8(13, 12, -1, -1, 9, 8, -1, -1, 5, 4, -1, -1, 1, 0, -1, -1);
    return (rnn_v)_mm512_shuffle_epi8((__m512i)word, _mm512_broadcast_i32x4(up));
#else
    return rnn_of_bits((rnn_vi)(word << 16));
#endif
}
RNN_INLINE void rnn_step_bf16(rnn_v sum[RNN_ROWS][RNN_PASS / RNN_LANES], int vectors, int rows, const uint32_t *words,
                              const float *x, int x_row, int both)
{
    RNN_UNROLL for (int u = 0; u < vectors; u++) {
        rnn_vu32 word;
        memcpy(&word, words + u * RNN_LANES, sizeof word);
        const rnn_v low = rnn_low_half(word), high = rnn_of_bits((rnn_vi)word);
        RNN_UNROLL for (int r = 0; r < rows; r++) {
            sum[r][u] += x[r * x_row] * low;
            sum[r][u] += (both ? x[r * x_row + 1] : 0.0f) * high;
        }
    }
}
RNN_INLINE void rnn_pass_bf16(const uint32_t *w, int tile, int width, int rows, const float *x, int kx, int x_row,
                              const float *h, int kh, const float *bias, float *y, int y_row, int n)
{
    rnn_v sum[2][RNN_ROWS][RNN_PASS / RNN_LANES];
    const int vectors = width / RNN_LANES, chains = vectors * rows >= 8 ? 1 : 2;
    RNN_UNROLL for (int r = 0; r < rows; r++)
        RNN_UNROLL for (int u = 0; u < vectors; u++) {
            sum[0][r][u] = rnn_load(bias + u * RNN_LANES);
            sum[1][r][u] = rnn_all(0.0f);
        }
    for (int part = 0; part < 2; part++) {
        const float *from = part ? h : x;
        const int count = part ? kh : kx, row = part ? kh : x_row;
        int k = 0;
        for (; k + 2 * chains <= count; k += 2 * chains)
            RNN_UNROLL for (int c = 0; c < chains; c++)
                rnn_step_bf16(sum[c], vectors, rows, w + (k / 2 + c) * tile, from + k + 2 * c, row, 1);
        for (; k < count; k += 2)
            rnn_step_bf16(sum[0], vectors, rows, w + k / 2 * tile, from + k, row, k + 1 < count);
        w += (size_t)((count + 1) / 2) * (size_t)tile;
    }
    RNN_UNROLL for (int r = 0; r < rows; r++)
        RNN_UNROLL for (int u = 0; u < vectors; u++) {
            sum[0][r][u] += sum[1][r][u];
            if ((u + 1) * RNN_LANES <= n)
                rnn_store(y + r * y_row + u * RNN_LANES, sum[0][r][u]);
            else if (u * RNN_LANES < n)
                rnn_store_part(y + r * y_row + u * RNN_LANES, sum[0][r][u], n - u * RNN_LANES);
        }
}
RNN_INLINE void rnn_tile_bf16(const uint32_t *w, int tile, int pass, int rows, const float *x, int kx, int x_row, const float *h,
                              int kh, const float *bias, float *y, int y_row, int n)
{
    const int width = tile < pass ? tile : pass;
    int at = 0;
    for (; at + width <= tile && at < n; at += width)
        rnn_pass_bf16(w + at, tile, width, rows, x, kx, x_row, h, kh, bias + at, y + at, y_row, n - at);
    if (tile % width && at < n)
        rnn_pass_bf16(w + at, tile, tile % width, rows, x, kx, x_row, h, kh, bias + at, y + at, y_row, n - at);
}
RNN_INLINE void rnn_column_bf16(const uint32_t *w, int tile, int rows, const float *x, int kx, int x_row, const float *h, int kh,
                                const float *bias, float *y, int y_row, int n)
{
    /* What is read is moved once for all rows, so that more outputs are worth more than more rows. */
    const int pass = RNN_ROWS > 4 ? RNN_TILE : RNN_ROWS_PASS;
    int r = 0;
    for (; r + 4 <= rows; r += 4)
        rnn_tile_bf16(w, tile, pass, 4, x + r * x_row, kx, x_row, h + r * kh, kh, bias, y + r * y_row, y_row, n);
    for (; r < rows; r++)
        rnn_tile_bf16(w, tile, RNN_PASS, 1, x + r * x_row, kx, x_row, h + r * kh, kh, bias, y + r * y_row, y_row, n);
}
RNN_INLINE void rnn_dense_bf16(const uint32_t *w, const float *bias, int n, int rows, const float *x, int kx, int x_row,
                               const float *h, int kh, float *y)
{
    const size_t size = (size_t)((kx + 1) / 2 + (kh + 1) / 2) * RNN_TILE;
    int i = 0;
    for (; i + RNN_TILE <= n; i += RNN_TILE, w += size)
        rnn_column_bf16(w, RNN_TILE, rows, x, kx, x_row, h, kh, bias + i, y + i, n, RNN_TILE);
    if (n % RNN_TILE)
        rnn_column_bf16(w, RNN_PADDED(n % RNN_TILE), rows, x, kx, x_row, h, kh, bias + i, y + i, n, n % RNN_TILE);
}

/* Eight bits: w = w8 * scale of its output, x = x8 * scale of its row. A tile is [k / 4][output][4]. The sums are whole
 * numbers, so every machine has the same.
 */
RNN_INLINE float rnn_most(const float *x, int k)
{
    rnn_v most = rnn_all(0.0f);
    RNN_EACH(k, most = rnn_max(most, rnn_abs(rnn_load_part(x + i, m))));
    return rnn_lane_max(most);
}
RNN_INLINE int8_t rnn_nearest_i8(float q)
{
    /* Adding 1.5 * 2^23 leaves the nearest whole number in the lowest bits. */
    const float shifted = (q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q) + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, 4);
    return (int8_t)(bits & 0xff);
}
/* VNNI takes x8 + 128, so it is kept like that: with the highest bit turned over. */
#if defined(__AVX512VNNI__)
#define RNN_TURNED(x8) ((int8_t)((x8) ^ -128))
#else
#define RNN_TURNED(x8) (x8)
#endif
/* x8 filled up with zeros to a multiple of four, and its scale: `scale`, or what the largest value asks for if that is 0. */
RNN_INLINE float rnn_quantized(const float *x, int k, float scale, int8_t *x8)
{
    const float most = scale > 0.0f ? scale * 127.0f : rnn_most(x, k);
    const float inverse = most > 0.0f ? 127.0f / most : 0.0f;
    int bad = 0;
    for (int i = 0; i < k; i++) {
        const float q = x[i] * inverse;
        bad |= !(q == q);
        x8[i] = RNN_TURNED(rnn_nearest_i8(q));
    }
    for (int i = k; i % 4; i++)
        x8[i] = RNN_TURNED(0);
    /* A NaN among them is one of every sum. */
    return bad ? 0.0f / 0.0f : most / 127.0f;
}
#if defined(__AVX512VNNI__)
/* Rows that share one reading of the weights. */
#define RNN_ROWS_I8 RNN_ROWS
/* GCC keeps an array of these in registers, and one of __m512i in memory. */
typedef int32_t rnn_v16 __attribute__((vector_size(64)));
RNN_INLINE rnn_v16 rnn_vnni(rnn_v16 sum, const int8_t *x8, const int8_t *w)
{
    int32_t four;
    memcpy(&four, x8, 4);
    return (rnn_v16)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four), _mm512_loadu_si512(w));
}
/* sums[row][output] = w8 x8 of some vectors of a tile; `offset` is 128 times the sum of w8 of each output. */
RNN_INLINE void rnn_sums_part_i8(const int8_t *w, int tile, int vectors, int rows, const int8_t *x8, int row, int groups,
                                 const int32_t *offset, int32_t (*sums)[RNN_TILE], int at)
{
    rnn_v16 sum[2][RNN_ROWS_I8][RNN_TILE / 16];
    const int chains = vectors * rows >= 8 ? 1 : 2;
    int g = 0;
    RNN_UNROLL for (int r = 0; r < rows; r++)
        RNN_UNROLL for (int u = 0; u < vectors; u++) {
            sum[0][r][u] = -(rnn_v16)_mm512_loadu_si512(offset + 16 * u);
            sum[1][r][u] = sum[0][r][u] - sum[0][r][u];
        }
    for (; g + chains <= groups; g += chains)
        RNN_UNROLL for (int c = 0; c < chains; c++)
            RNN_UNROLL for (int r = 0; r < rows; r++)
                RNN_UNROLL for (int u = 0; u < vectors; u++)
                    sum[c][r][u] = rnn_vnni(sum[c][r][u], x8 + r * row + 4 * (g + c), w + 4 * (g + c) * tile + 64 * u);
    for (; g < groups; g++)
        RNN_UNROLL for (int r = 0; r < rows; r++)
            RNN_UNROLL for (int u = 0; u < vectors; u++)
                sum[0][r][u] = rnn_vnni(sum[0][r][u], x8 + r * row + 4 * g, w + 4 * g * tile + 64 * u);
    RNN_UNROLL for (int r = 0; r < rows; r++)
        RNN_UNROLL for (int u = 0; u < vectors; u++)
            _mm512_storeu_si512(sums[r] + at + 16 * u, (__m512i)(sum[0][r][u] + sum[1][r][u]));
}
/* ... of all of them: as many at a time as the registers hold. */
RNN_INLINE void rnn_sums_rows_i8(const int8_t *w, int tile, int rows, const int8_t *x8, int row, int groups,
                                 const int32_t *offset, int32_t (*sums)[RNN_TILE])
{
    const int vectors = tile / 16, part = vectors * rows <= 24 ? vectors : 2;
    for (int u = 0; u < vectors; u += part)
        rnn_sums_part_i8(w + 64 * u, tile, part, rows, x8, row, groups, offset + 16 * u, sums, 16 * u);
}
#else
#define RNN_ROWS_I8 1
RNN_INLINE void rnn_sums_i8(const int8_t *w, int tile, const int8_t *x8, int groups, int32_t *sums)
{
#if defined(__AVX2__)
    __m256i sum[RNN_TILE / 8];
    const int vectors = tile / 8;
    RNN_UNROLL for (int u = 0; u < vectors; u++)
        sum[u] = _mm256_setzero_si256();
    for (int g = 0; g < groups; g++) {
        int32_t four;
        memcpy(&four, x8 + 4 * g, 4);
        const __m256i x = _mm256_set1_epi32(four), magnitude = _mm256_abs_epi8(x), ones = _mm256_set1_epi16(1);
        RNN_UNROLL for (int u = 0; u < vectors; u++) {
            const __m256i w8 = _mm256_loadu_si256((const __m256i *)(const void *)(w + (g * tile + 8 * u) * 4));
            const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w8, x));
            sum[u] = _mm256_add_epi32(sum[u], _mm256_madd_epi16(pairs, ones));
        }
    }
    RNN_UNROLL for (int u = 0; u < vectors; u++)
        _mm256_storeu_si256((__m256i *)(void *)(sums + 8 * u), sum[u]);
#elif defined(__x86_64__) && defined(__SSSE3__)
    for (int at = 0; at < tile; at += 16) {
        __m128i sum[4];
        RNN_UNROLL for (int u = 0; u < 4; u++)
            sum[u] = _mm_setzero_si128();
        for (int g = 0; g < groups; g++) {
            int32_t four;
            memcpy(&four, x8 + 4 * g, 4);
            const __m128i x = _mm_set1_epi32(four), magnitude = _mm_abs_epi8(x), ones = _mm_set1_epi16(1);
            RNN_UNROLL for (int u = 0; u < 4; u++) {
                const __m128i w8 = _mm_loadu_si128((const __m128i *)(const void *)(w + (g * tile + at + 4 * u) * 4));
                const __m128i pairs = _mm_maddubs_epi16(magnitude, _mm_sign_epi8(w8, x));
                sum[u] = _mm_add_epi32(sum[u], _mm_madd_epi16(pairs, ones));
            }
        }
        RNN_UNROLL for (int u = 0; u < 4; u++)
            _mm_storeu_si128((__m128i *)(void *)(sums + at + 4 * u), sum[u]);
    }
#elif defined(__ARM_FEATURE_DOTPROD)
    int32x4_t sum[RNN_TILE / 4];
    const int vectors = tile / 4;
    RNN_UNROLL for (int u = 0; u < vectors; u++)
        sum[u] = vdupq_n_s32(0);
    for (int g = 0; g < groups; g++) {
        int32_t four;
        memcpy(&four, x8 + 4 * g, 4);
        const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
        RNN_UNROLL for (int u = 0; u < vectors; u++)
            sum[u] = vdotq_s32(sum[u], vld1q_s8(w + (g * tile + 4 * u) * 4), x);
    }
    RNN_UNROLL for (int u = 0; u < vectors; u++)
        vst1q_s32(sums + 4 * u, sum[u]);
#else
    for (int i = 0; i < tile; i++)
        sums[i] = 0;
    for (int g = 0; g < groups; g++) {
        const int8_t *four = x8 + 4 * g, *w8 = w + 4 * g * tile;
        for (int i = 0; i < tile; i++)
            sums[i] += four[0] * w8[4 * i] + four[1] * w8[4 * i + 1] + four[2] * w8[4 * i + 2] + four[3] * w8[4 * i + 3];
    }
#endif
}
RNN_INLINE void rnn_sums_rows_i8(const int8_t *w, int tile, int rows, const int8_t *x8, int row, int groups,
                                 const int32_t *offset, int32_t (*sums)[RNN_TILE])
{
    (void)offset;
    for (int r = 0; r < rows; r++)
        rnn_sums_i8(w, tile, x8 + r * row, groups, sums[r]);
}
#endif
RNN_INLINE rnn_v rnn_load_int(const int32_t *p)
{
    rnn_vi a;
    memcpy(&a, p, sizeof a);
    return RNN_TO_FLOAT(a);
}
/* y = bias + sums of x * (scale of output * scale of x) + the same of h, whose weights start at `w_h`, of one tile. The
 * scales of a row follow each other.
 */
RNN_INLINE void rnn_tile_i8(const int8_t *w, const int8_t *w_h, int tile, int rows, const int8_t *x8, int row, int gx, int gh,
                            const float *scales, const float *scale, const int32_t *offset_x, const int32_t *offset_h,
                            const float *bias, float *y, int y_row, int n)
{
    RNN_ALIGNED int32_t sums[2][RNN_ROWS_I8][RNN_TILE];
    rnn_sums_rows_i8(w, tile, rows, x8, row, gx, offset_x, sums[0]);
    if (gh)
        rnn_sums_rows_i8(w_h, tile, rows, x8 + 4 * gx, row, gh, offset_h, sums[1]);
    RNN_UNROLL for (int r = 0; r < rows; r++)
        RNN_UNROLL for (int u = 0; u < tile; u += RNN_LANES) {
            rnn_v sum = rnn_load_int(sums[0][r] + u) * scales[2 * r];
            if (gh)
                sum += rnn_load_int(sums[1][r] + u) * scales[2 * r + 1];
            sum = sum * rnn_load(scale + u) + rnn_load(bias + u);
            if (u + RNN_LANES <= n)
                rnn_store(y + r * y_row + u, sum);
            else if (u < n)
                rnn_store_part(y + r * y_row + u, sum, n - u);
        }
}
RNN_INLINE void rnn_column_i8(const int8_t *w, const int8_t *w_h, int tile, int rows, const int8_t *x8, int gx, int gh,
                              const float *scales, const float *scale, const int32_t *offset_x, const int32_t *offset_h,
                              const float *bias, float *y, int y_row, int n)
{
    const int row = 4 * (gx + gh);
    int r = 0;
    for (; r + RNN_ROWS_I8 <= rows; r += RNN_ROWS_I8)
        rnn_tile_i8(w, w_h, tile, RNN_ROWS_I8, x8 + r * row, row, gx, gh, scales + 2 * r, scale, offset_x, offset_h, bias,
                    y + r * y_row, y_row, n);
    for (; RNN_ROWS_I8 > 4 && r + 4 <= rows; r += 4)
        rnn_tile_i8(w, w_h, tile, 4, x8 + r * row, row, gx, gh, scales + 2 * r, scale, offset_x, offset_h, bias, y + r * y_row,
                    y_row, n);
    for (; r < rows; r++)
        rnn_tile_i8(w, w_h, tile, 1, x8 + r * row, row, gx, gh, scales + 2 * r, scale, offset_x, offset_h, bias, y + r * y_row,
                    y_row, n);
}
/* Rows of x, x_row apart, into rows of x8, `row` apart, with the scale of each at every second place of `scales`. */
RNN_INLINE void rnn_rows_i8(const float *x, int k, int x_row, int rows, float scale, int8_t *x8, int row, float *scales)
{
    for (int r = 0; r < rows; r++)
        scales[2 * r] = rnn_quantized(x + r * x_row, k, scale, x8 + r * row);
}
/* The same in two numbers each, what the first leaves over being the second: x = scale * x8 + scale / 254 * its rest. */
RNN_INLINE void rnn_rows_i16(const float *x, int k, int x_row, int rows, float scale, int8_t *x8, int row, float *scales)
{
    for (int r = 0; r < rows; r++) {
        const float *from = x + r * x_row;
        int8_t *high = x8 + r * row, *low = high + (k + 3) / 4 * 4;
        const float unit = rnn_quantized(from, k, scale, high), inverse = unit > 0.0f ? 254.0f / unit : 0.0f;
        for (int i = 0; i < k; i++)
            low[i] = RNN_TURNED(rnn_nearest_i8((from[i] - unit * (float)RNN_TURNED(high[i])) * inverse));
        for (int i = k; i % 4; i++)
            low[i] = RNN_TURNED(0);
        scales[2 * r] = unit;
        scales[2 * r + 1] = unit / 254.0f;
    }
}
/* With `twice`, h is the rest of x: it meets the same weights. */
RNN_INLINE void rnn_dense_i8(const int8_t *w, const float *scale, const int32_t *offset_x, const int32_t *offset_h,
                             const float *bias, int n, int rows, const int8_t *x8, int kx, int kh, int twice,
                             const float *scales, float *y)
{
    const int gx = (kx + 3) / 4, gh = (kh + 3) / 4, column = 4 * (twice ? gx : gx + gh), rest = RNN_PADDED(n % RNN_TILE);
    int i = 0;
    for (; i + RNN_TILE <= n; i += RNN_TILE, w += (size_t)column * RNN_TILE)
        rnn_column_i8(w, twice ? w : w + 4 * gx * RNN_TILE, RNN_TILE, rows, x8, gx, gh, scales, scale + i, offset_x + i,
                      offset_h + i, bias + i, y + i, n, RNN_TILE);
    if (rest)
        rnn_column_i8(w, twice ? w : w + 4 * gx * rest, rest, rows, x8, gx, gh, scales, scale + i, offset_x + i, offset_h + i,
                      bias + i, y + i, n, n % RNN_TILE);
}
