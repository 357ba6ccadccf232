/* The units of a cell, once the products are there: the equations of ONNX's LSTM, GRU and RNN. */

/* gates: input, output, forget, cell; s(x) = 1 / (1 + e^-x), tanh(x) = E / (E + 2) with E = e^2x - 1. */
RNN_INLINE void rnn_lstm(const float *gates, int units, float *c, float *h)
{
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
RNN_INLINE void rnn_gru(const float *from_x, const float *from_h, int units, const float *h_before, float *h)
{
    RNN_EACH(units, {
        const rnn_v update = rnn_em1(-(rnn_load_part(from_x + i, m) + rnn_load_part(from_h + i, m)));
        const rnn_v reset = rnn_em1(-(rnn_load_part(from_x + units + i, m) + rnn_load_part(from_h + units + i, m)));
        const rnn_v product = rnn_load_part(from_h + 2 * units + i, m);
        const rnn_v hidden = rnn_tanh(rnn_load_part(from_x + 2 * units + i, m) + product / (reset + 2.0f));
        rnn_store_part(h + i, hidden + (rnn_load_part(h_before + i, m) - hidden) / (update + 2.0f), m);
    });
}
/* ... and before it: first the gates and s(reset) h, then, with the product of that, the units. */
RNN_INLINE void rnn_gru_reset(const float *from_x, const float *from_h, int units, const float *h_before, float *reset_h)
{
    RNN_EACH(units, {
        const rnn_v reset = rnn_em1(-(rnn_load_part(from_x + units + i, m) + rnn_load_part(from_h + units + i, m)));
        rnn_store_part(reset_h + i, rnn_load_part(h_before + i, m) / (reset + 2.0f), m);
    });
}
RNN_INLINE void rnn_gru_after_reset(const float *from_x, const float *from_h, const float *product, int units,
                                    const float *h_before, float *h)
{
    RNN_EACH(units, {
        const rnn_v update = rnn_em1(-(rnn_load_part(from_x + i, m) + rnn_load_part(from_h + i, m)));
        const rnn_v hidden = rnn_tanh(rnn_load_part(from_x + 2 * units + i, m) + rnn_load_part(product + i, m));
        rnn_store_part(h + i, hidden + (rnn_load_part(h_before + i, m) - hidden) / (update + 2.0f), m);
    });
}
