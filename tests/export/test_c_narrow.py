"""Products in int8 and bfloat16 against numpy, exact for whole numbers, on every vector width."""

import numpy as np
import pytest

from rnn_export.export.targets.c.products.matrix import bf16_words

from .c_sheet import Sheet, case, const, lanes_of_this_cpu
from .c_values import floats, from_the_start, within

every_width = pytest.mark.parametrize("lanes", lanes_of_this_cpu())
# Values, outputs: odd, one tile, several, and one that is nearly empty.
SIZES = [(1, 5), (3, 16), (17, 33), (4, 64), (33, 65), (130, 17), (7, 130), (5, 200)]
ROWS = (1, 3, 5)


@pytest.fixture(autouse=True)
def _seeded():
    from_the_start()


def whole(matrix, most=None):
    """Rows in whole numbers up to 127, and what they are multiples of."""
    most = np.abs(matrix).max(1).astype(np.float32) if most is None else np.full(len(matrix), most, np.float32)
    inverse = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    return np.rint(np.clip(matrix * inverse[:, None], -127, 127)).astype(np.int32), most / np.float32(127)


def whole_weights(matrix):
    """(outputs, values): a scale for each output."""
    most = np.abs(matrix).max(1)
    scale = (np.where(most > 0, most, 1) / 127).astype(np.float32)
    return np.rint(matrix / scale[:, None]).astype(np.int32), scale


def products(sizes=SIZES):
    cases, wanted = [], []
    for k, n in sizes:
        for rows in ROWS:
            x, w = floats(rows, k), floats(n, k)
            x[rows // 2] *= rows != 5
            w[n // 2] = 0
            cases.append(case("Gemm", x, const(w), const(np.zeros(n, np.float32)), transB=1))
            wanted.append((x, w))
    return Sheet(cases), wanted


@every_width
def test_the_sums_of_eight_bits_are_whole_numbers(lanes):
    sheet, wanted = products()
    for y, (x, w) in zip(sheet.computed(lanes, "int8").values(), wanted, strict=True):
        (x8, x_scale), (w8, w_scale) = whole(x), whole_weights(w)
        unit = x_scale[:, None].astype(np.float64) * w_scale
        sums = x8 @ w8.T
        got = np.divide(y.reshape(sums.shape), unit, out=np.zeros(sums.shape), where=unit > 0)
        np.testing.assert_allclose(got, sums, rtol=1e-6, atol=1e-3)
        assert (y.reshape(sums.shape)[x_scale == 0] == 0).all()


@every_width
def test_a_scale_that_was_calibrated_cuts_off_what_is_larger(lanes):
    sheet, wanted = products(SIZES[2:5])
    # One row is no longer reshaped when it is written, and goes by the name of the input.
    known = {f"c{number}.0{end}": 0.75 for number in range(len(wanted)) for end in ("", ".fed")}
    for y, (x, w) in zip(sheet.computed(lanes, "int8", known).values(), wanted, strict=True):
        (x8, x_scale), (w8, w_scale) = whole(x, 0.75), whole_weights(w)
        assert (np.abs(x8) == 127).any()
        want = (x8 @ w8.T) * x_scale[:, None].astype(np.float64) * w_scale
        np.testing.assert_allclose(y.reshape(want.shape), want, rtol=1e-6, atol=1e-6)


@every_width
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("scale", [None, 0.75])
def test_a_value_that_is_none_is_none_of_the_sums_either(lanes, bad, scale):
    """In whole numbers there is no NaN: it must not become a zero on the way. Infinity is cut off by a fixed scale."""
    x, w = floats(2, 33), floats(17, 33)
    x[1, 7] = bad
    sheet = Sheet([case("Gemm", x, const(w), const(np.zeros(17, np.float32)), transB=1)])
    known = None if scale is None else {f"c0.0{end}": scale for end in ("", ".fed")}
    (y,) = sheet.computed(lanes, "int8", known).values()
    assert np.isfinite(y.reshape(2, 17)[0]).all()
    assert np.isnan(y.reshape(2, 17)[1]).all() == (np.isnan(bad) or scale is None)


@every_width
def test_two_operands_have_scales_of_their_own(lanes):
    """An RNN cell, tanh(W x + R h + b), with one scale for an output over both matrices."""
    cases, wanted = [], []
    for k, n in ((3, 17), (33, 65), (17, 5)):
        x, h = floats(2, 1, k, scale=5), within(1, 1, n)
        w, r, b = within(1, n, k) / 9, within(1, n, n), within(1, 2 * n)
        cases.append(case("RNN", x, const(w), const(r), const(b), None, h, out=["Y"], hidden_size=n))
        wanted.append((x[:, 0], h[0], w[0], r[0], b[0, :n] + b[0, n:]))
    for y, (x, h, w, r, b) in zip(Sheet(cases).computed(lanes, "int8").values(), wanted, strict=True):
        both, scale = whole_weights(np.concatenate([w, r], 1))
        for frame, got in zip(x, y.reshape(2, -1), strict=True):
            (x8, x_scale), (h8, h_scale) = whole(frame[None]), whole(h)
            sums = x8 @ both[:, : len(frame)].T * float(x_scale[0]) + h8 @ both[:, len(frame) :].T * float(h_scale[0])
            np.testing.assert_allclose(got, np.tanh(sums * scale + b)[0], rtol=0, atol=2e-6)
            h = got[None]


@every_width
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_few_outputs_stay_as_they_are(lanes, precision):
    """A product of up to four outputs."""
    sheet = Sheet([case("Gemm", floats(3, 17), const(floats(n, 17)), transB=1) for n in range(1, 5)])
    for name, y in sheet.computed(lanes, precision).items():
        np.testing.assert_allclose(y, sheet.wanted[name], rtol=0, atol=1e-5)


@every_width
def test_what_a_convolution_reads_keeps_sixteen_bits(lanes):
    """Its weights keep eight bits, so weights that are whole numbers are nearly exact."""
    x, w = floats(1, 5, 33), np.random.default_rng(0).integers(-127, 128, (9, 5, 3)).astype(np.float32)
    w[:, 0, 0], x[0, 0] = 127, x[0, 0] * 100
    sheet = Sheet([case("Conv", x, const(w))])
    (name,) = sheet.wanted
    got, want = sheet.computed(lanes, "int8")[name], sheet.wanted[name]
    rounding = np.abs(x).max() / 127 / 254 / 2 * np.abs(w).sum((1, 2)).max()
    assert np.abs(got - want).max() < rounding < np.abs(want).max() / 300


@every_width
def test_no_weight_in_bfloat16_makes_a_product_that_is_no_normal_float(lanes):
    """Below 2^-60 a weight is 0, or 2^-60: subnormal products cost a CPU a hundred times the time."""
    w = np.array([[1, 0, 1e-30, 1], [0, 0, 1e-40, 1e-40], [3, 1e-42, 0, 5]], np.float32).repeat(6, 0)
    words = bf16_words(w)
    for part in ((words << 16).view(np.float32), words.view(np.float32)):
        assert ((part == 0) | (np.abs(part) >= 2.0**-60)).all()
    assert (words[6:12] == 0).all()
    np.testing.assert_allclose(words.view(np.float32)[0], [2.0**-60, 1], rtol=2**-8)


@every_width
def test_bfloat16_weights_are_the_nearest(lanes):
    """Rows of an identity give the weights as they are; with those in float64 every product is right."""
    sizes = [*SIZES, (2, 8), (16, 48)]
    weights = [floats(n, k) * np.exp(floats(n, k) * 4) for k, n in sizes]
    weights[2][:3] = 0
    inputs = [floats(rows, k) for (k, _), rows in zip(sizes, ROWS * 4, strict=False)]
    cases = []
    for w, x in zip(weights, inputs, strict=True):
        cases += [case("Gemm", m, const(w), transB=1) for m in (np.eye(w.shape[1], dtype=np.float32), x)]
    got = list(Sheet(cases).computed(lanes, "bf16").values())
    relative = []
    for w, x, own, y in zip(weights, inputs, got[::2], got[1::2], strict=True):
        rounded = own.reshape(w.shape[::-1]).T
        error = np.abs(rounded - w)
        assert (error <= np.abs(w) * 2.0**-8 + 2.0**-60).all()
        relative += (error[w != 0] / np.abs(w[w != 0])).tolist()
        want = x.astype(np.float64) @ rounded.T.astype(np.float64)
        scale = np.abs(x).astype(np.float64) @ np.abs(rounded.T)
        assert (np.abs(y.reshape(want.shape) - want) <= 1e-6 * scale + 1e-30).all()
    # Cut off, they would be at 0.7.
    assert np.mean(relative) < 0.4 * 2.0**-8
