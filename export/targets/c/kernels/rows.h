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
