"""The cell state of an LSTM is updated in place, unless another node reads it or it becomes another state."""

import re

import numpy as np
import pytest

from ..native.needs import need  # noqa: TID252
from ..runtime.graphs import state, tensor  # noqa: TID252
from .c_models import model, written
from .c_streams import Streams

UNITS = 16
X, Y = tensor("x", "batch", 3), tensor("y", "batch", UNITS)
RANDOM = np.random.default_rng(0)
W, R, B = ((RANDOM.standard_normal((1, *shape)) * 0.3).astype(np.float32) for shape in ((64, 3), (64, UNITS), (128,)))
# What of (h, c) before and after a frame is the output, and the next states; and whether the cells change in place.
FORMS = {
    "alone": ("h1", "h1", "c1", True),
    "its cells are an output": ("c1", "h1", "c1", True),
    "the cells before are an output": ("c", "h1", "c1", False),
    "the states change places": ("h1", "c1", "h1", False),
    "the cells stay": ("c1", "h1", "c", False),
}


@pytest.fixture(autouse=True, scope="module")
def _compiler():
    need("gcc|clang")


def step(x, h, c):
    """In float64."""
    i, o, f, g = np.split(W[0] @ x + R[0] @ h + B[0, :64] + B[0, 64:].astype(np.float64), 4)
    c1 = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    return np.tanh(c1) / (1 + np.exp(-o)), c1


@pytest.mark.parametrize("form", FORMS)
def test_cells_change_where_they_lie(form):
    y, next_h, next_c, in_place = FORMS[form]
    taken, given = ["frame", "W", "R", "B", "", "h.first", "c.first"], ["", "h.last", "c.last"]
    nodes = [
        *(("Unsqueeze", [name, "axis"], [to], {}) for name, to in (("x", "frame"), ("h", "h.first"), ("c", "c.first"))),
        ("LSTM", taken, given, {"hidden_size": UNITS}),
        *(("Squeeze", [f"{name}.last", "axis"], [f"{name}1"], {}) for name in "hc"),
        *(("Identity", [name], [to], {}) for name, to in ((next_h, "h.next"), (next_c, "c.next"), (y, "y"))),
    ]
    made = model(nodes, [state(name, UNITS) for name in "hc"], (X,), (Y,), W=W, R=R, B=B, axis=np.array([0]))
    files = written(made)
    alone = files["hand.c"].decode().split("hand_rows")[0]
    assert (re.search(r"memcpy\(t\d+[^;]*state->c\b", alone) is None) is in_place
    streams, random = Streams(files, "hand", made.spec), np.random.default_rng(1)
    at, h, c = streams.start(1), np.zeros(UNITS), np.zeros(UNITS)
    for _ in range(4):
        x = streams.draw(random, 1)
        h1, c1 = step(x[0][0].astype(np.float64), h, c)
        values = {"h": h, "c": c, "h1": h1, "c1": c1}
        np.testing.assert_allclose(streams.step(at, x)[0][0], values[y], rtol=0, atol=1e-6)
        h, c = values[next_h], values[next_c]
        for got, want in zip(streams.values(at), (h, c), strict=True):
            np.testing.assert_allclose(got[0], want, rtol=0, atol=1e-6)
