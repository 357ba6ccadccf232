/* y = b + W [x, h] with W in bfloat16 or in eight bits. Tiles as in fp32; rows follow each other within a tile, which is
 * still in the cache then.
 */
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
RNN_INLINE void rnn_step_bf16(rnn_v *sum, int vectors, const uint32_t *words, float even, float odd)
{
    RNN_UNROLL for (int u = 0; u < vectors; u++) {
        rnn_vu32 word;
        memcpy(&word, words + u * RNN_LANES, sizeof word);
        sum[u] += even * rnn_low_half(word);
        sum[u] += odd * rnn_of_bits((rnn_vi)word);
    }
}
RNN_INLINE void rnn_pass_bf16(const uint32_t *w, int tile, int width, const float *x, int kx, const float *h, int kh,
                              const float *bias, float *y, int n)
{
    rnn_v sum[2][RNN_PASS / RNN_LANES];
    const int vectors = width / RNN_LANES, chains = vectors >= 8 ? 1 : 2;
    RNN_UNROLL for (int u = 0; u < vectors; u++) {
        sum[0][u] = rnn_load(bias + u * RNN_LANES);
        sum[1][u] = rnn_all(0.0f);
    }
    for (int part = 0; part < 2; part++) {
        const float *from = part ? h : x;
        const int count = part ? kh : kx;
        int k = 0;
        for (; k + 2 * chains <= count; k += 2 * chains)
            RNN_UNROLL for (int c = 0; c < chains; c++)
                rnn_step_bf16(sum[c], vectors, w + (k / 2 + c) * tile, from[k + 2 * c], from[k + 2 * c + 1]);
        for (; k < count; k += 2)
            rnn_step_bf16(sum[0], vectors, w + k / 2 * tile, from[k], k + 1 < count ? from[k + 1] : 0.0f);
        w += (size_t)((count + 1) / 2) * (size_t)tile;
    }
    RNN_UNROLL for (int u = 0; u < vectors; u++) {
        sum[0][u] += sum[1][u];
        if ((u + 1) * RNN_LANES <= n)
            rnn_store(y + u * RNN_LANES, sum[0][u]);
        else if (u * RNN_LANES < n)
            rnn_store_part(y + u * RNN_LANES, sum[0][u], n - u * RNN_LANES);
    }
}
RNN_INLINE void rnn_tile_bf16(const uint32_t *w, int tile, int rows, const float *x, int kx, int x_row, const float *h, int kh,
                              const float *bias, float *y, int y_row, int n)
{
    const int width = tile < RNN_PASS ? tile : RNN_PASS;
    for (int r = 0; r < rows; r++) {
        int at = 0;
        for (; at + width <= tile && at < n; at += width)
            rnn_pass_bf16(w + at, tile, width, x + r * x_row, kx, h + r * kh, kh, bias + at, y + r * y_row + at, n - at);
        if (tile % width && at < n)
            rnn_pass_bf16(w + at, tile, tile % width, x + r * x_row, kx, h + r * kh, kh, bias + at, y + r * y_row + at, n - at);
    }
}
RNN_INLINE void rnn_dense_bf16(const uint32_t *w, const float *bias, int n, int rows, const float *x, int kx, int x_row,
                               const float *h, int kh, float *y)
{
    const size_t size = (size_t)((kx + 1) / 2 + (kh + 1) / 2) * RNN_TILE;
    int i = 0;
    for (; i + RNN_TILE <= n; i += RNN_TILE, w += size)
        rnn_tile_bf16(w, RNN_TILE, rows, x, kx, x_row, h, kh, bias + i, y + i, n, RNN_TILE);
    if (n % RNN_TILE)
        rnn_tile_bf16(w, RNN_PADDED(n % RNN_TILE), rows, x, kx, x_row, h, kh, bias + i, y + i, n, n % RNN_TILE);
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
/* x8 filled up with zeros to a multiple of four, and its scale: `scale`, or what the largest value asks for if that is 0. */
RNN_INLINE float rnn_quantized(const float *x, int k, float scale, int8_t *x8)
{
    const float most = scale > 0.0f ? scale * 127.0f : rnn_most(x, k);
    const float inverse = most > 0.0f ? 127.0f / most : 0.0f;
    int bad = 0;
    for (int i = 0; i < k; i++) {
        const float q = x[i] * inverse;
        bad |= !(q == q);
        x8[i] = rnn_nearest_i8(q);
    }
    for (int i = k; i % 4; i++)
        x8[i] = 0;
    /* A NaN among them is one of every sum. */
    return bad ? 0.0f / 0.0f : most / 127.0f;
}
/* sums[output] = w8 x8 of a tile; `offset` is 128 times the sum of w8 of each output, for units that take x8 + 128. */
RNN_INLINE void rnn_sums_i8(const int8_t *w, int tile, const int8_t *x8, int groups, const int32_t *offset, int32_t *sums)
{
#if defined(__AVX512VNNI__)
    __m512i sum[2][RNN_TILE / 16];
    const int vectors = tile / 16;
    RNN_UNROLL for (int u = 0; u < vectors; u++) {
        sum[0][u] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_loadu_si512(offset + 16 * u));
        sum[1][u] = _mm512_setzero_si512();
    }
    for (int g = 0; g < groups; g++) {
        int32_t four;
        memcpy(&four, x8 + 4 * g, 4);
        const __m512i x = _mm512_set1_epi32(four ^ (int32_t)0x80808080);
        RNN_UNROLL for (int u = 0; u < vectors; u++)
            sum[0][u] = _mm512_dpbusd_epi32(sum[0][u], x, _mm512_loadu_si512(w + (g * tile + 16 * u) * 4));
        if (++g == groups)
            break;
        memcpy(&four, x8 + 4 * g, 4);
        const __m512i x2 = _mm512_set1_epi32(four ^ (int32_t)0x80808080);
        RNN_UNROLL for (int u = 0; u < vectors; u++)
            sum[1][u] = _mm512_dpbusd_epi32(sum[1][u], x2, _mm512_loadu_si512(w + (g * tile + 16 * u) * 4));
    }
    RNN_UNROLL for (int u = 0; u < vectors; u++)
        _mm512_storeu_si512(sums + 16 * u, _mm512_add_epi32(sum[0][u], sum[1][u]));
#elif defined(__AVX2__)
    __m256i sum[RNN_TILE / 8];
    const int vectors = tile / 8;
    (void)offset;
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
    (void)offset;
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
    (void)offset;
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
    (void)offset;
    for (int i = 0; i < tile; i++)
        sums[i] = 0;
    for (int g = 0; g < groups; g++) {
        const int8_t *four = x8 + 4 * g, *w8 = w + 4 * g * tile;
        for (int i = 0; i < tile; i++)
            sums[i] += four[0] * w8[4 * i] + four[1] * w8[4 * i + 1] + four[2] * w8[4 * i + 2] + four[3] * w8[4 * i + 3];
    }
#endif
}
RNN_INLINE rnn_v rnn_load_int(const int32_t *p)
{
    rnn_vi a;
    memcpy(&a, p, sizeof a);
    return RNN_TO_FLOAT(a);
}
/* y = bias + sums of x * (scale of output * scale of x) + the same of h, whose weights start at `w_h`, of one tile. */
RNN_INLINE void rnn_tile_i8(const int8_t *w, const int8_t *w_h, int tile, const int8_t *x8, int gx, float x_scale, int gh,
                            float h_scale, const float *scale, const int32_t *offset_x, const int32_t *offset_h, const float *bias, float *y,
                            int n)
{
    RNN_ALIGNED int32_t sums[2][RNN_TILE];
    rnn_sums_i8(w, tile, x8, gx, offset_x, sums[0]);
    if (gh)
        rnn_sums_i8(w_h, tile, x8 + 4 * gx, gh, offset_h, sums[1]);
    RNN_UNROLL for (int u = 0; u < tile; u += RNN_LANES) {
        rnn_v sum = rnn_load_int(sums[0] + u) * x_scale;
        if (gh)
            sum += rnn_load_int(sums[1] + u) * h_scale;
        sum = sum * rnn_load(scale + u) + rnn_load(bias + u);
        if (u + RNN_LANES <= n)
            rnn_store(y + u, sum);
        else if (u < n)
            rnn_store_part(y + u, sum, n - u);
    }
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
            low[i] = rnn_nearest_i8((from[i] - unit * (float)high[i]) * inverse);
        for (int i = k; i % 4; i++)
            low[i] = 0;
        scales[2 * r] = unit;
        scales[2 * r + 1] = unit / 254.0f;
    }
}
/* With `twice`, h is the rest of x: it meets the same weights. */
RNN_INLINE void rnn_dense_i8(const int8_t *w, const float *scale, const int32_t *offset_x, const int32_t *offset_h,
                             const float *bias, int n, int rows, const int8_t *x8, int kx, int kh, int twice,
                             const float *scales, float *y)
{
    const int gx = (kx + 3) / 4, gh = (kh + 3) / 4, row = 4 * (gx + gh), column = twice ? 4 * gx : row;
    int i = 0;
    for (; i + RNN_TILE <= n; i += RNN_TILE, w += (size_t)column * RNN_TILE)
        for (int r = 0; r < rows; r++)
            rnn_tile_i8(w, twice ? w : w + 4 * gx * RNN_TILE, RNN_TILE, x8 + r * row, gx, scales[2 * r], gh, scales[2 * r + 1],
                        scale + i, offset_x + i, offset_h + i, bias + i, y + r * n + i, RNN_TILE);
    if (n % RNN_TILE)
        for (int r = 0; r < rows; r++)
            rnn_tile_i8(w, twice ? w : w + 4 * gx * RNN_PADDED(n % RNN_TILE), RNN_PADDED(n % RNN_TILE), x8 + r * row, gx,
                        scales[2 * r], gh, scales[2 * r + 1], scale + i, offset_x + i, offset_h + i, bias + i, y + r * n + i,
                        n % RNN_TILE);
}
