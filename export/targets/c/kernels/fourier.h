/* Discrete Fourier transforms by the algorithm of Stockham, forwards; real and imaginary parts lie apart, a and b.
 *
 * A pass takes x[j][p][q] of (radix, m, s) to y[p][k][q] of (m, radix, s): y[p][k] = w(p k / (radix m)) sum over j of
 * x[j][p] w(j k / radix), w(t) = e^(-2 pi i t). Passes of the radices whose product is n, s being 1 at first and then the
 * product of those before, are the transform, in order. `w` has for each k from 1 on the real parts for all p, and then
 * the imaginary ones.
 */
#define RNN_FFT_PASS \
    const float *RNN_APART a, const float *RNN_APART b, int m, int s, const float *RNN_APART w, float *RNN_APART c, float *RNN_APART d

RNN_INLINE void rnn_fft_put(float re, float im, const float *w, int m, int k, int p, int at, float *c, float *d)
{
    const float wr = w[(2 * k - 2) * m + p], wi = w[(2 * k - 1) * m + p];
    c[at] = re * wr - im * wi;
    d[at] = re * wi + im * wr;
}
RNN_INLINE void rnn_fft_each_2(RNN_FFT_PASS)
{
    for (int p = 0; p < m; p++)
        for (int q = 0; q < s; q++) {
            const int i = p * s + q, to = 2 * p * s + q;
            const float r1 = a[i + m * s], i1 = b[i + m * s];
            c[to] = a[i] + r1;
            d[to] = b[i] + i1;
            rnn_fft_put(a[i] - r1, b[i] - i1, w, m, 1, p, to + s, c, d);
        }
}
RNN_INLINE void rnn_fft_each_3(RNN_FFT_PASS)
{
    for (int p = 0; p < m; p++)
        for (int q = 0; q < s; q++) {
            const int i = p * s + q, to = 3 * p * s + q;
            const float sr = a[i + m * s] + a[i + 2 * m * s], si = b[i + m * s] + b[i + 2 * m * s];
            const float er = (a[i + m * s] - a[i + 2 * m * s]) * 0.866025404f, ei = (b[i + m * s] - b[i + 2 * m * s]) * 0.866025404f;
            const float mr = a[i] - 0.5f * sr, mi = b[i] - 0.5f * si;
            c[to] = a[i] + sr;
            d[to] = b[i] + si;
            rnn_fft_put(mr + ei, mi - er, w, m, 1, p, to + s, c, d);
            rnn_fft_put(mr - ei, mi + er, w, m, 2, p, to + 2 * s, c, d);
        }
}
RNN_INLINE void rnn_fft_each_4(RNN_FFT_PASS)
{
    for (int p = 0; p < m; p++)
        for (int q = 0; q < s; q++) {
            const int i = p * s + q, to = 4 * p * s + q, apart = m * s;
            const float r0 = a[i] + a[i + 2 * apart], i0 = b[i] + b[i + 2 * apart];
            const float r1 = a[i] - a[i + 2 * apart], i1 = b[i] - b[i + 2 * apart];
            const float r2 = a[i + apart] + a[i + 3 * apart], i2 = b[i + apart] + b[i + 3 * apart];
            const float r3 = a[i + apart] - a[i + 3 * apart], i3 = b[i + apart] - b[i + 3 * apart];
            c[to] = r0 + r2;
            d[to] = i0 + i2;
            rnn_fft_put(r1 + i3, i1 - r3, w, m, 1, p, to + s, c, d);
            rnn_fft_put(r0 - r2, i0 - i2, w, m, 2, p, to + 2 * s, c, d);
            rnn_fft_put(r1 - i3, i1 + r3, w, m, 3, p, to + 3 * s, c, d);
        }
}
RNN_INLINE void rnn_fft_each_5(RNN_FFT_PASS)
{
    const float c1 = 0.309016994f, c2 = -0.809016994f, s1 = 0.951056516f, s2 = 0.587785252f;
    for (int p = 0; p < m; p++)
        for (int q = 0; q < s; q++) {
            const int i = p * s + q, to = 5 * p * s + q, apart = m * s;
            const float r1 = a[i + apart] + a[i + 4 * apart], i1 = b[i + apart] + b[i + 4 * apart];
            const float r2 = a[i + 2 * apart] + a[i + 3 * apart], i2 = b[i + 2 * apart] + b[i + 3 * apart];
            const float r3 = a[i + apart] - a[i + 4 * apart], i3 = b[i + apart] - b[i + 4 * apart];
            const float r4 = a[i + 2 * apart] - a[i + 3 * apart], i4 = b[i + 2 * apart] - b[i + 3 * apart];
            const float ur = a[i] + c1 * r1 + c2 * r2, ui = b[i] + c1 * i1 + c2 * i2;
            const float vr = a[i] + c2 * r1 + c1 * r2, vi = b[i] + c2 * i1 + c1 * i2;
            const float er = s1 * r3 + s2 * r4, ei = s1 * i3 + s2 * i4;
            const float fr = s2 * r3 - s1 * r4, fi = s2 * i3 - s1 * i4;
            c[to] = a[i] + r1 + r2;
            d[to] = b[i] + i1 + i2;
            rnn_fft_put(ur + ei, ui - er, w, m, 1, p, to + s, c, d);
            rnn_fft_put(vr + fi, vi - fr, w, m, 2, p, to + 2 * s, c, d);
            rnn_fft_put(vr - fi, vi + fr, w, m, 3, p, to + 3 * s, c, d);
            rnn_fft_put(ur - ei, ui + er, w, m, 4, p, to + 4 * s, c, d);
        }
}
/* While the numbers side by side are few, the loop over p is the one for vectors. */
#define RNN_FFT_RADIX(radix)                            \
    RNN_ONCE void rnn_fft_##radix(RNN_FFT_PASS)         \
    {                                                   \
        if (s == 1)                                     \
            rnn_fft_each_##radix(a, b, m, 1, w, c, d);  \
        else if (s == 4)                                \
            rnn_fft_each_##radix(a, b, m, 4, w, c, d);  \
        else                                            \
            rnn_fft_each_##radix(a, b, m, s, w, c, d);  \
    }
RNN_FFT_RADIX(2)
RNN_FFT_RADIX(3)
RNN_FFT_RADIX(4)
RNN_FFT_RADIX(5)
/* Of any radix: `root` has its roots of one, the real parts and then the imaginary ones. */
RNN_ONCE void rnn_fft_any(int radix, const float *root, RNN_FFT_PASS)
{
    for (int p = 0; p < m; p++)
        for (int k = 0; k < radix; k++)
            for (int q = 0; q < s; q++) {
                const int to = (radix * p + k) * s + q;
                float re = 0.0f, im = 0.0f;
                for (int j = 0, turn = 0; j < radix; j++, turn = (turn + k) % radix) {
                    const float xr = a[(p + m * j) * s + q], xi = b[(p + m * j) * s + q];
                    const float wr = root[turn], wi = root[radix + turn];
                    re += xr * wr - xi * wi;
                    im += xr * wi + xi * wr;
                }
                if (k)
                    rnn_fft_put(re, im, w, m, k, p, to, c, d);
                else {
                    c[to] = re;
                    d[to] = im;
                }
            }
}
/* n values of s numbers, each value times its own w. */
RNN_ONCE void rnn_fft_turn(float *RNN_APART a, float *RNN_APART b, int n, int s, const float *RNN_APART w)
{
    for (int j = 0; j < n; j++)
        for (int q = 0; q < s; q++) {
            const float re = a[j * s + q], im = b[j * s + q];
            a[j * s + q] = re * w[j] - im * w[n + j];
            b[j * s + q] = re * w[n + j] + im * w[j];
        }
}
/* From the transform of h pairs of real values, as if they were complex, the first h + 1 values of that of all 2 h real
 * ones, as pairs in y. w has e^(-pi i k / h).
 */
RNN_ONCE void rnn_fft_real(const float *RNN_APART a, const float *RNN_APART b, int h, int s, const float *RNN_APART w, float *RNN_APART y)
{
    for (int q = 0; q < s; q++) {
        y[2 * q] = a[q] + b[q];
        y[2 * h * s + 2 * q] = a[q] - b[q];
        y[2 * q + 1] = y[2 * h * s + 2 * q + 1] = 0.0f;
    }
    for (int k = 1; k < h; k++)
        for (int q = 0; q < s; q++) {
            const int i = k * s + q, j = (h - k) * s + q;
            const float er = a[i] + a[j], ei = b[i] - b[j], or_ = b[i] + b[j], oi = a[j] - a[i];
            y[2 * i] = 0.5f * (er + w[k] * or_ - w[h + k] * oi);
            y[2 * i + 1] = 0.5f * (ei + w[k] * oi + w[h + k] * or_);
        }
}
/* The way back: from h + 1 values x, z to those whose inverse transform is the real values in pairs. */
RNN_ONCE void rnn_fft_of_real(const float *RNN_APART x, const float *RNN_APART z, int h, int s, const float *RNN_APART w, float *RNN_APART a, float *RNN_APART b)
{
    for (int k = 0; k < h; k++)
        for (int q = 0; q < s; q++) {
            const int i = k * s + q, j = (h - k) * s + q;
            const float er = x[i] + x[j], ei = z[i] - z[j], fr = x[i] - x[j], fi = z[i] + z[j];
            const float or_ = fr * w[k] + fi * w[h + k], oi = fi * w[k] - fr * w[h + k];
            a[i] = 0.5f * (er - oi);
            b[i] = 0.5f * (ei + or_);
        }
}
