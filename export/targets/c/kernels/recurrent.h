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
