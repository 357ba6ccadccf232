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
