"""Products in int8 and bfloat16 against numpy, exact for whole numbers, on every vector width."""

from functools import cache
from itertools import islice

import numpy as np
import pytest

from rnn_export.export.targets.c.products.matrix import bf16_words

from .c_cases import floats, from_the_start, within
from .c_sheet import Sheet, case, const, lanes_of_this_cpu

every_width = pytest.mark.parametrize("lanes", lanes_of_this_cpu())
# Values, outputs: odd, one tile, several, and one that is nearly empty.
SIZES = [(1, 5), (3, 16), (17, 33), (4, 64), (33, 65), (130, 17), (7, 130), (5, 200)]
ROWS = (1, 3, 5)
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


def gemm(x, w):
    return case("Gemm", x, const(w), const(np.zeros(len(w), np.float32)), transB=1)


# By subject: what each case is made of, and the cases. All of a precision are compiled as one step.
PRODUCTS = []
for k, n in SIZES:
    for rows in ROWS:
        x, w = floats(rows, k), floats(n, k)
        x[rows // 2] *= rows != 5
        w[n // 2] = 0
        PRODUCTS.append((x, w))
SPOILED = []
for bad in (np.nan, np.inf):
    x = floats(2, 33)
    x[1, 7] = bad
    SPOILED.append((x, floats(17, 33)))
CELLS, CELL_CASES = [], []
for k, n in ((3, 17), (33, 65), (17, 5)):
    x, h = floats(2, 1, k, scale=5), within(1, 1, n)
    w, r, b = within(1, n, k) / 9, within(1, n, n), within(1, 2 * n)
    CELL_CASES.append(case("RNN", x, const(w), const(r), const(b), None, h, out=["Y"], hidden_size=n))
    CELLS.append((x[:, 0], h[0], w[0], r[0], b[0, :n] + b[0, n:]))
FEW = [case("Gemm", floats(3, 17), const(floats(n, 17)), transB=1) for n in range(1, 5)]
HEARD, KERNELS = floats(1, 5, 33), np.random.default_rng(0).integers(-127, 128, (9, 5, 3)).astype(np.float32)
KERNELS[:, 0, 0], HEARD[0, 0] = 127, HEARD[0, 0] * 100
MATRICES = [floats(n, k) * np.exp(floats(n, k) * 4) for k, n in [*SIZES, (2, 8), (16, 48)]]
MATRICES[2][:3] = 0
INPUTS = [floats(rows, w.shape[1]) for rows, w in zip(ROWS * 4, MATRICES, strict=False)]
PAIRS = [
    case("Gemm", m, const(w), transB=1)
    for w, x in zip(MATRICES, INPUTS, strict=True)
    for m in (np.eye(w.shape[1], dtype=np.float32), x)
]
SUBJECTS = {
    "int8": {
        "products": [gemm(x, w) for x, w in PRODUCTS],
        "spoiled": [gemm(x, w) for x, w in SPOILED],
        "cells": CELL_CASES,
        "few": FEW,
        "convolution": [case("Conv", HEARD, const(KERNELS))],
    },
    "calibrated": {"products": [gemm(x, w) for x, w in PRODUCTS[6:15]], "spoiled": [gemm(x, w) for x, w in SPOILED]},
    "bf16": {"pairs": PAIRS, "few": FEW},
}
SCALE = 0.75


@cache
def computed(lanes, precision):
    """By subject, each output that the C gives with what ONNX Runtime has in fp32."""
    subjects = SUBJECTS[precision]
    sheet = Sheet([one for cases in subjects.values() for one in cases])
    # One row is no longer reshaped when it is written, and goes by the name of the input.
    known = {f"c{i}.0{end}": SCALE for i in range(len(sheet.cases)) for end in ("", ".fed")}
    is_known = precision == "calibrated"
    got = sheet.computed(lanes, "int8" if is_known else precision, known if is_known else None)
    values = iter([(y, sheet.wanted[name]) for name, y in got.items()])
    return {name: list(islice(values, len(cases))) for name, cases in subjects.items()}


@every_width
def test_the_sums_of_eight_bits_are_whole_numbers(lanes):
    for (y, _), (x, w) in zip(computed(lanes, "int8")["products"], PRODUCTS, strict=True):
        (x8, x_scale), (w8, w_scale) = whole(x), whole_weights(w)
        unit = x_scale[:, None].astype(np.float64) * w_scale
        sums = x8 @ w8.T
        got = np.divide(y.reshape(sums.shape), unit, out=np.zeros(sums.shape), where=unit > 0)
        np.testing.assert_allclose(got, sums, rtol=1e-6, atol=1e-3)
        assert (y.reshape(sums.shape)[x_scale == 0] == 0).all()


@every_width
def test_a_scale_that_was_calibrated_cuts_off_what_is_larger(lanes):
    for (y, _), (x, w) in zip(computed(lanes, "calibrated")["products"], PRODUCTS[6:15], strict=True):
        (x8, x_scale), (w8, w_scale) = whole(x, SCALE), whole_weights(w)
        assert (np.abs(x8) == 127).any()
        want = (x8 @ w8.T) * x_scale[:, None].astype(np.float64) * w_scale
        np.testing.assert_allclose(y.reshape(want.shape), want, rtol=1e-6, atol=1e-6)


@every_width
def test_a_value_that_is_none_is_none_of_the_sums_either(lanes):
    """In whole numbers there is no NaN: it must not become a zero on the way. Infinity is cut off by a fixed scale."""
    for precision in ("int8", "calibrated"):
        for (y, _), (x, _) in zip(computed(lanes, precision)["spoiled"], SPOILED, strict=True):
            assert np.isfinite(y.reshape(2, 17)[0]).all()
            assert np.isnan(y.reshape(2, 17)[1]).all() == (np.isnan(x).any() or precision == "int8")


@every_width
def test_two_operands_have_scales_of_their_own(lanes):
    """An RNN cell, tanh(W x + R h + b), with one scale for an output over both matrices."""
    for (y, _), (x, h, w, r, b) in zip(computed(lanes, "int8")["cells"], CELLS, strict=True):
        both, scale = whole_weights(np.concatenate([w, r], 1))
        for frame, got in zip(x, y.reshape(2, -1), strict=True):
            (x8, x_scale), (h8, h_scale) = whole(frame[None]), whole(h)
            sums = x8 @ both[:, : len(frame)].T * float(x_scale[0]) + h8 @ both[:, len(frame) :].T * float(h_scale[0])
            np.testing.assert_allclose(got, np.tanh(sums * scale + b)[0], rtol=0, atol=2e-6)
            h = got[None]


@every_width
def test_up_to_four_outputs_of_a_product_stay_as_they_are(lanes):
    for precision in ("bf16", "int8"):
        for y, want in computed(lanes, precision)["few"]:
            np.testing.assert_allclose(y, want, rtol=0, atol=1e-5)


@every_width
def test_what_a_convolution_reads_keeps_sixteen_bits(lanes):
    """Its weights keep eight bits, so weights that are whole numbers are nearly exact."""
    ((got, want),) = computed(lanes, "int8")["convolution"]
    rounding = np.abs(HEARD).max() / 127 / 254 / 2 * np.abs(KERNELS).sum((1, 2)).max()
    assert np.abs(got - want).max() < rounding < np.abs(want).max() / 300


def test_no_weight_in_bfloat16_makes_a_product_that_is_no_normal_float():
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
    got, relative = [y for y, _ in computed(lanes, "bf16")["pairs"]], []
    for w, x, own, y in zip(MATRICES, INPUTS, got[::2], got[1::2], strict=True):
        rounded = own.reshape(w.shape[::-1]).T
        error = np.abs(rounded - w)
        assert (error <= np.abs(w) * 2.0**-8 + 2.0**-60).all()
        relative += (error[w != 0] / np.abs(w[w != 0])).tolist()
        want = x.astype(np.float64) @ rounded.T.astype(np.float64)
        scale = np.abs(x).astype(np.float64) @ np.abs(rounded.T)
        assert (np.abs(y.reshape(want.shape) - want) <= 1e-6 * scale + 1e-30).all()
    # Cut off, they would be at 0.7.
    assert np.mean(relative) < 0.4 * 2.0**-8
