"""The units of a recurrent cell in C, after its products, against float64 for every vector width.

The bounds are measured with these values and rounded up; they are the same for every width.
"""

import ctypes
import tempfile
from pathlib import Path

import numpy as np
import pytest

from rnn_export.export.targets.c.writer import kernels
from rnn_export.runtime.build.c_compiler import FLAGS
from rnn_export.runtime.build.native.compilers import find_compiler

from .c_sheet import LANES, lanes_of_this_cpu

# Units of a layer: less than a vector, whole ones, and those with a part of one behind one, two and three of them.
UNITS = (1, 5, 8, 12, 16, 20, 32, 40, 60, 48 * 500)
# By the scale of what goes in: how far the next cells and states of an LSTM and the states of a GRU may be off.
BOUNDS = {0.3: (9e-8, 6.2e-8, 1.05e-7), 1.0: (3.4e-7, 1.7e-7, 2.1e-7), 3.0: (1.6e-6, 2.4e-7, 6.1e-7)}
SOURCE = """
#include <stddef.h>
#include <stdint.h>
#include <string.h>
{kernels}
{cells}
"""
LSTM = "void lstm_{n}(const float *gates, int rows, int apart, float *c, float *h)\n"
LSTM += "{{ rnn_lstm(gates, {n}, rows, apart, c, h); }}\n"
GRU = "void gru_{n}(const float *x, const float *h, int rows, int apart, const float *before, float *next)\n"
GRU += "{{ rnn_gru(x, h, {n}, rows, apart, before, next); }}\n"


@pytest.fixture(scope="module", params=lanes_of_this_cpu(), ids=lambda lanes: f"{lanes} lanes")
def library(request):
    cells = "".join((LSTM + GRU).format(n=n) for n in UNITS)
    source = SOURCE.format(kernels=kernels("fp32"), cells=cells)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "f.c").write_text(source)
        march = LANES[request.param] or "native"
        flags = [*FLAGS, f"-march={march}", f"-DRNN_LANES={request.param}", "-shared", "-fPIC"]
        find_compiler().compile([*flags, "f.c", "-o", "f.so"], Path(folder))
        return ctypes.CDLL(str(Path(folder, "f.so")))


def call(function, *arguments):
    function(*(ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_int(a) for a in arguments))


def drawn(units, rows, scale):
    random = np.random.default_rng(units)
    values = (random.standard_normal((10, rows, units)) * scale).astype(np.float32)
    return values[:4], values[4:7], values[7:]


def rows_of(gates):
    """(gates, rows, units) as a product leaves them."""
    return np.ascontiguousarray(gates.swapaxes(0, 1))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("scale", BOUNDS)
@pytest.mark.parametrize("units", UNITS)
def test_close_to_float64(library, units, scale):
    gates, more, (c, h, _) = drawn(units, 1, scale)
    before = np.tanh(h)
    i, o, f, g = gates.astype(np.float64)
    want_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    got_c, got_h, got = c.copy(), np.zeros_like(h), np.zeros_like(h)
    call(library[f"lstm_{units}"], gates, 1, units, got_c, got_h)
    call(library[f"gru_{units}"], gates, more, 1, units, before, got)
    xz, xr, xn, hz, hr, hn = (a.astype(np.float64) for a in (*gates[:3], *more))
    hidden = np.tanh(xn + sigmoid(xr + hr) * hn)
    want = hidden + sigmoid(xz + hz) * (before - hidden)
    pairs = ((got_c, want_c), (got_h, sigmoid(o) * np.tanh(want_c)), (got, want))
    for (mine, exact), bound in zip(pairs, BOUNDS[scale], strict=True):
        assert np.abs(mine - exact).max() <= bound


@pytest.mark.parametrize("units", UNITS[:-1])
def test_rows_are_what_each_is_alone_and_nothing_between_them_is_written(library, units):
    rows, separate = 3, units + 7
    gates, more, states = drawn(units, rows, 1.0)
    separate_rows = np.full((3, rows, separate), -7, np.float32)
    separate_rows[:, :, :units] = states
    c, h, next_h = separate_rows[0].copy(), separate_rows[1].copy(), separate_rows[2].copy()
    dense = rows_of(gates), rows_of(gates[:3]), rows_of(more)
    call(library[f"lstm_{units}"], dense[0], rows, separate, c, h)
    call(library[f"gru_{units}"], dense[1], dense[2], rows, separate, separate_rows[1], next_h)
    for r in range(rows):
        alone_c, alone_h, alone = states[0, r].copy(), np.zeros(units, np.float32), np.zeros(units, np.float32)
        call(library[f"lstm_{units}"], dense[0][r], 1, units, alone_c, alone_h)
        call(library[f"gru_{units}"], dense[1][r], dense[2][r], 1, units, states[1, r].copy(), alone)
        for got, want in ((c, alone_c), (h, alone_h), (next_h, alone)):
            np.testing.assert_array_equal(got[r, :units], want)
            np.testing.assert_array_equal(got[r, units:], -7)


@pytest.mark.parametrize("units", [8, 20, 60])
def test_what_is_far_off_saturates_and_a_nan_stays_one(library, units):
    gates = np.zeros((4, 1, units), np.float32)
    gates[0], gates[1], gates[2], gates[3] = np.inf, 1e30, -np.inf, -1e10
    c, h = np.full((1, units), 5, np.float32), np.zeros((1, units), np.float32)
    call(library[f"lstm_{units}"], gates, 1, units, c, h)
    np.testing.assert_allclose(c, -1, rtol=1e-6)
    np.testing.assert_allclose(h, np.tanh(-1), rtol=1e-6)
    gates[:] = 0
    gates[1, 0, units - 1] = np.nan
    call(library[f"lstm_{units}"], gates, 1, units, c, h)
    np.testing.assert_array_equal(np.isnan(h[0]), np.arange(units) == units - 1)
    assert not np.isnan(c).any()
