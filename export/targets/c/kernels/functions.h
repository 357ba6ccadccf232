/* Elementary functions of float vectors. A NaN stays one. */

/* a where b is a NaN. */
RNN_INLINE rnn_v rnn_max(rnn_v a, rnn_v b) { return RNN_LARGER(a, b); }
RNN_INLINE rnn_v rnn_min(rnn_v a, rnn_v b) { return RNN_SMALLER(a, b); }
RNN_INLINE rnn_v rnn_abs(rnn_v a) { return rnn_of_bits(rnn_bits(a) & 0x7fffffff); }
RNN_INLINE rnn_v rnn_sign_of(rnn_v a, rnn_v b) { return rnn_of_bits((rnn_bits(a) & 0x7fffffff) | (rnn_bits(b) & ~0x7fffffff)); }

/* Each of `count` vectors x = n ln 2 + r with |r| <= ln 2 / 2 becomes e^r - 1: the polynomial of Cephes' expf, relative error
 * 1e-7. |x| < 87. Step by step over all of them, and the polynomial in pairs, so that little waits for what was just computed.
 */
#define RNN_MOST 8
RNN_INLINE void rnn_reduce(rnn_v *x, rnn_vi *n, int count)
{
    rnn_v square[RNN_MOST], high[RNN_MOST], low[RNN_MOST];
    RNN_UNROLL for (int i = 0; i < count; i++)
        /* Beside 1.5 * 2^23 the nearest whole number is in the lowest bits; without a sign, as that of a NaN may overflow. */
        n[i] = (rnn_vi)((rnn_vu32)rnn_bits(x[i] * 1.44269504f + 12582912.0f) - 0x4b400000u);
    RNN_UNROLL for (int i = 0; i < count; i++) {
        const rnn_v whole = RNN_TO_FLOAT(n[i]);
        x[i] = (x[i] - whole * 0.693359375f) + whole * 2.12194440e-4f;
    }
    RNN_UNROLL for (int i = 0; i < count; i++) {
        square[i] = x[i] * x[i];
        high[i] = x[i] * 1.9875691500e-4f + 1.3981999507e-3f;
        low[i] = x[i] * 8.3334519073e-3f + 4.1665795894e-2f;
    }
    RNN_UNROLL for (int i = 0; i < count; i++)
        high[i] = high[i] * square[i] + low[i];
    RNN_UNROLL for (int i = 0; i < count; i++)
        high[i] = high[i] * square[i] + (x[i] * 1.6666665459e-1f + 5.0000001201e-1f);
    RNN_UNROLL for (int i = 0; i < count; i++)
        x[i] = high[i] * square[i] + x[i];
}
RNN_INLINE rnn_v rnn_reduced(rnn_v x, rnn_vi *n)
{
    rnn_reduce(&x, n, 1);
    return x;
}
RNN_INLINE rnn_v rnn_power_of_2(rnn_vi n) { return rnn_of_bits((rnn_vi)(((rnn_vu32)n + 127u) * 8388608u)); }

/* e^x - 1 for x within 40 of zero, as if it were there elsewhere: enough for what saturates. */
RNN_INLINE void rnn_em1s(rnn_v *x, int count)
{
    rnn_vi n[RNN_MOST];
    RNN_UNROLL for (int i = 0; i < count; i++)
        x[i] = rnn_min(rnn_max(x[i], rnn_all(-40.0f)), rnn_all(40.0f));
    rnn_reduce(x, n, count);
    RNN_UNROLL for (int i = 0; i < count; i++) {
        const rnn_v s = rnn_power_of_2(n[i]);
        x[i] = x[i] * s + (s - 1.0f);
    }
}
RNN_INLINE rnn_v rnn_em1(rnn_v x)
{
    rnn_em1s(&x, 1);
    return x;
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
/* 1 / (1 + e^-x), to the 0 that it is where e^-x is Inf: that by its half, as 2^128 is no number. */
RNN_INLINE rnn_v rnn_sigmoid(rnn_v x)
{
    rnn_vi n;
    const rnn_v p = rnn_reduced(rnn_min(rnn_max(-x, rnn_all(-40.0f)), rnn_all(89.0f)), &n), half = rnn_power_of_2(n - 1);
    return 1.0f / (1.0f + 2.0f * (p * half + half));
}
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
