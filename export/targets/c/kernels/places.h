/* Convolutions whose places lie across vectors: a weight is one broadcast, and an image is read as it lies.
 *
 * y[o][p] = bias[o] + the sum over channels c and taps t of w[c][t][o] x[c * plane + taps[t] + p]. The outputs are in
 * blocks of 4, then one of 2, then one of 1. There are at least RNN_LANES places.
 */
#if RNN_LANES == 16 || defined(__aarch64__)
#define RNN_PLACES 4
#else
#define RNN_PLACES 2
#endif

/* A block of outputs at as many vectors of places; `at` is where in the image each begins. */
RNN_INLINE void rnn_places_pass(const float *w, const float *bias, int outputs, int vectors, const float *x, const int *at,
                                int channels, int plane, const int32_t *taps, int count, float *y, int y_row)
{
    rnn_v sum[4][RNN_PLACES];
    RNN_UNROLL for (int o = 0; o < outputs; o++)
        RNN_UNROLL for (int u = 0; u < vectors; u++)
            sum[o][u] = rnn_all(bias[o]);
    for (int c = 0; c < channels; c++, x += plane)
        for (int t = 0; t < count; t++, w += outputs) {
            rnn_v values[RNN_PLACES];
            RNN_UNROLL for (int u = 0; u < vectors; u++)
                values[u] = rnn_load(x + at[u] + taps[t]);
            RNN_UNROLL for (int o = 0; o < outputs; o++)
                RNN_UNROLL for (int u = 0; u < vectors; u++)
                    sum[o][u] += w[o] * values[u];
        }
    RNN_UNROLL for (int o = 0; o < outputs; o++)
        RNN_UNROLL for (int u = 0; u < vectors; u++)
            rnn_store(y + o * y_row + u * RNN_LANES, sum[o][u]);
}

/* All outputs at as many vectors of places, so that what they read of the image stays in the nearest cache. */
RNN_INLINE void rnn_places_column(const float *w, const float *bias, int n, int vectors, const float *x, const int *at,
                                  int channels, int plane, const int32_t *taps, int count, float *y, int y_row)
{
    const int values = channels * count;
    int o = 0;
    for (; o + 4 <= n; o += 4)
        rnn_places_pass(w + o * values, bias + o, 4, vectors, x, at, channels, plane, taps, count, y + o * y_row, y_row);
    if (n & 2) {
        rnn_places_pass(w + o * values, bias + o, 2, vectors, x, at, channels, plane, taps, count, y + o * y_row, y_row);
        o += 2;
    }
    if (n & 1)
        rnn_places_pass(w + o * values, bias + o, 1, vectors, x, at, channels, plane, taps, count, y + o * y_row, y_row);
}

/* In the image each `row` of places is `apart` from the next: whole vectors, or all places are one row. */
RNN_ONCE void rnn_places_f32(const float *w, const float *bias, int n, const float *x, int channels, int plane,
                             const int32_t *taps, int count, float *y, int places, int row, int apart)
{
    const int pass = RNN_PLACES * RNN_LANES;
    int at[RNN_PLACES], p = 0;
    for (; p + pass <= places; p += pass) {
        for (int u = 0, to = p; u < RNN_PLACES; u++, to += RNN_LANES)
            at[u] = to / row * apart + to % row;
        rnn_places_column(w, bias, n, RNN_PLACES, x, at, channels, plane, taps, count, y + p, places);
    }
    for (; p < places; p += RNN_LANES) {
        /* The last vector begins where it ends with the last place. */
        const int to = p + RNN_LANES <= places ? p : places - RNN_LANES;
        at[0] = to / row * apart + to % row;
        rnn_places_column(w, bias, n, 1, x, at, channels, plane, taps, count, y + to, places);
    }
}
