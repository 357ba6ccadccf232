"""The elementary functions of the C kernels, and the units of a cell after its products, against float64.

For every vector width; the bounds are measured on these values and rounded up.
"""

import ctypes
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest

from rnn_export.export.targets.c.writer import kernels
from rnn_export.runtime.build.c_compiler import FLAGS
from rnn_export.runtime.build.native.compilers import find_compiler

from .c_sheet import LANES, lanes_of_this_cpu

TINY, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
NEAR_ZERO = np.concatenate([sign * np.geomspace(1e-37, 1, 20001) for sign in (1, -1)])
ALL_POSITIVE = np.geomspace(TINY, LARGEST, 200001)
TINIEST = np.array([2.0**-149, 1e-42, 1e-40, 1e-39, 1.1e-38])

# By function: what it is, where, and how large the relative error may be.
FUNCTIONS = {
    "exp": (np.exp, [np.linspace(-87, 88.72, 200001), NEAR_ZERO], 2e-7),
    "em1": (np.expm1, [np.linspace(-40, 40, 200001), NEAR_ZERO], 1.3e-7),
    "log": (np.log, [ALL_POSITIVE, np.linspace(0.5, 2, 200001), 1 + NEAR_ZERO / 100, TINIEST], 1e-7),
    "tanh": (np.tanh, [np.linspace(-20, 20, 200001), NEAR_ZERO], 1.7e-7),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), [np.linspace(-39.9, 40, 200001), NEAR_ZERO], 1.7e-7),
    "sqrt": (np.sqrt, [ALL_POSITIVE, np.linspace(0.5, 4, 100001), TINIEST], 1.2e-7),
    "erf": (np.vectorize(math.erf), [np.linspace(-6, 6, 20001), NEAR_ZERO[::20]], 4e-7),
    "softplus": (lambda x: np.logaddexp(0, x), [np.linspace(-86, 90, 200001)], 2.5e-7),
    "floor": (np.floor, [np.linspace(-100, 100, 200001), np.linspace(-1e7, 1e7, 100003), NEAR_ZERO], 0),
    "relu": (lambda x: np.maximum(x, 0), [np.linspace(-5, 5, 1001)], 0),
}
INF, NAN = np.inf, np.nan
# Pairs of argument and result; a sign of zero counts.
ENDS = {
    "exp": [(0, 1), (-0.0, 1), (89, INF), (1e10, INF), (INF, INF), (-104, 0), (-1e10, 0), (-INF, 0), (NAN, NAN)],
    "em1": [(-1e10, -1), (-INF, -1), (0, 0), (NAN, NAN)],
    "log": [(1, 0), (0, -INF), (-0.0, -INF), (-1, NAN), (-INF, NAN), (INF, INF), (NAN, NAN), (-1e-40, NAN)],
    "tanh": [(0, 0), (20, 1), (-20, -1), (1e30, 1), (INF, 1), (-INF, -1), (NAN, NAN)],
    "sigmoid": [(0, 0.5), (20, 1), (INF, 1), (1e30, 1), (NAN, NAN)],
    "sqrt": [(0, 0), (-0.0, -0.0), (1, 1), (4, 2), (INF, INF), (-1e-40, NAN), (-1, NAN), (-INF, NAN), (NAN, NAN)],
    "erf": [(0, 0), (-0.0, -0.0), (6, 1), (-6, -1), (INF, 1), (-INF, -1), (NAN, NAN)],
    "softplus": [(100, 100), (INF, INF), (-INF, 0), (-1e10, 0), (NAN, NAN)],
    "floor": [(-0.0, -0.0), (-0.5, -1), (0.5, 0), (-3, -3), (1e30, 1e30), (INF, INF), (-INF, -INF), (NAN, NAN)],
    "relu": [(0, 0), (-1, 0), (-INF, 0), (INF, INF), (NAN, NAN)],
}


# Units of a layer: less than a vector, whole ones, and those with a part of one behind one, two and three of them.
UNITS = (1, 5, 8, 12, 16, 20, 32, 40, 60, 48 * 500)
# By the scale of what goes in: how far the next cells and states of an LSTM and the states of a GRU may be off.
BOUNDS = {0.3: (9e-8, 6.2e-8, 1.05e-7), 1.0: (3.4e-7, 1.7e-7, 2.1e-7), 3.0: (1.6e-6, 2.4e-7, 6.1e-7)}
CELLS = """void lstm_{n}(const float *gates, int rows, int apart, float *c, float *h)
{{ rnn_lstm(gates, {n}, rows, apart, c, h); }}
void gru_{n}(const float *x, const float *h, int rows, int apart, const float *before, float *next)
{{ rnn_gru(x, h, {n}, rows, apart, before, next); }}"""


@pytest.fixture(scope="module", params=lanes_of_this_cpu(), ids=lambda lanes: f"{lanes} lanes")
def library(request):
    lines = ["#include <stddef.h>", "#include <stdint.h>", "#include <string.h>", kernels("fp32")]
    for name in FUNCTIONS:
        lines += [
            f"void of_{name}(const float *x, float *y, int n)",
            f"{{ RNN_EACH(n, rnn_store_part(y + i, rnn_{name}(rnn_load_part(x + i, m)), m)); }}",
        ]
    lines += [CELLS.format(n=n) for n in UNITS]
    march = LANES[request.param] or "native"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "f.c").write_text("\n".join(lines))
        flags = [*FLAGS, f"-march={march}", f"-DRNN_LANES={request.param}", "-shared", "-fPIC"]
        find_compiler().compile([*flags, "f.c", "-o", "f.so"], Path(folder))
        return ctypes.CDLL(str(Path(folder, "f.so")))


def call(function, *arguments):
    function(*(ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_int(a) for a in arguments))


def of(library, name, x):
    x = np.ascontiguousarray(x, np.float32)
    y = np.full_like(x, np.pi)
    call(library[f"of_{name}"], x, y, len(x))
    return y


@pytest.mark.parametrize("name", FUNCTIONS)
def test_close_to_float64(library, name):
    function, grids, bound = FUNCTIONS[name]
    x = np.concatenate(grids).astype(np.float32)
    got, want = of(library, name, x).astype(np.float64), function(x.astype(np.float64))
    # What is below the smallest normal number has fewer bits.
    error = np.abs(got - want) / np.maximum(np.abs(want), TINY)
    worst = int(error.argmax())
    assert error[worst] <= bound, f"{name}({x[worst]!r}) is {got[worst]!r}, not {want[worst]!r}"


@pytest.mark.parametrize("name", ENDS)
def test_the_ends(library, name):
    x, want = (np.array(a, np.float32) for a in zip(*ENDS[name], strict=True))
    got = of(library, name, x)
    np.testing.assert_array_equal(got, want)
    numbers = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(want[numbers]))


def test_a_sigmoid_falls_to_0_as_torch_does(library):
    x = np.array([-41, -60, -87, -100, -1e10, -np.inf], np.float32)
    want = np.append(1 / (1 + np.exp(-x[:3].astype(np.float64))), [0, 0, 0])
    np.testing.assert_allclose(of(library, "sigmoid", x), want, rtol=3e-7)


def test_what_saturates_does_so_early(library):
    """e^x - 1 is taken as if |x| were at most 40: good to an absolute 1e-17."""
    assert (of(library, "em1", [41, 1e10, np.inf]) > 2e17).all()


@pytest.mark.parametrize("n", [1, 3, 15, 17, 33])
def test_no_value_beyond_the_row_is_written(library, n):
    x, y = np.ones(64, np.float32), np.full(64, -7, np.float32)
    call(library["of_sqrt"], x, y, n)
    np.testing.assert_array_equal(y, np.where(np.arange(64) < n, 1, -7))


# --- cells


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
def test_a_cell_is_close_to_float64(library, units, scale):
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
