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
