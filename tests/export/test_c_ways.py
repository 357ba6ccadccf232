"""Layers whose weights are read in alternating order, with the same result."""

import numpy as np
import pytest

from ..native.needs import need  # noqa: TID252
from ..runtime.graphs import state, tensor  # noqa: TID252
from .c_models import model, written
from .c_streams import Streams

UNITS = 64
X, Y = tensor("x", "batch", 3), tensor("y", "batch", UNITS)


@pytest.fixture(autouse=True, scope="module")
def _compiler():
    need("gcc|clang")


def layer(kind, frames, units=UNITS):
    """One layer over the three values of x: as one frame, or as three frames of one."""
    gates, random = {"LSTM": 4, "GRU": 3}[kind], np.random.default_rng(0)
    names = ["h", "c"][: 2 if kind == "LSTM" else 1]
    shapes = {"W": (1, gates * units, 3 // frames), "R": (1, gates * units, units), "B": (1, 2 * gates * units)}
    weights = {name: (random.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    ends = [f"{name}.last" for name in names]
    nodes = [
        ("Transpose", ["x"], ["by_frame"], {"perm": [1, 0]}),
        ("Unsqueeze", ["by_frame" if frames > 1 else "x", "last" if frames > 1 else "first"], ["frames"], {}),
        *(("Unsqueeze", [name, "first"], [f"{name}.first"], {}) for name in names),
        (
            kind,
            ["frames", "W", "R", "B", "", *(f"{name}.first" for name in names)],
            ["", *ends],
            {"hidden_size": units, **extra},
        ),
        *(("Squeeze", [end, "first"], [f"{name}.next"], {}) for name, end in zip(names, ends, strict=True)),
        ("Identity", ["h.next"], ["y"], {}),
    ]
    axes = {"first": np.array([0]), "last": np.array([2])}
    outputs = (tensor("y", "batch", units),)
    return model(nodes, [state(name, units) for name in names], (X,), outputs, **weights, **axes), weights


def lstm(weights, x, h, c):
    """In float64, one frame."""
    w, r, b = (weights[name][0].astype(np.float64) for name in "WRB")
    i, o, f, g = np.split(w @ x + r @ h + b[: len(w)] + b[len(w) :], 4)
    c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    return np.tanh(c) / (1 + np.exp(-o)), c


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_both_ways_give_the_same_bits(kind, frames):
    made, _ = layer(kind, frames)
    files = written(made)
    assert b"unsigned char way;" in files["hand.h"]
    assert b"state->way ^= 1;" in files["hand.c"]
    streams = Streams(files, "hand", made.spec)
    (forth,) = streams.start(1)
    random = np.random.default_rng(1)
    for _ in range(4):
        # A stream that starts goes forth, whatever is in its memory: as often as not the other one comes back.
        (anew,) = streams.start(1)
        for i, s in enumerate(made.spec.states):
            at, size = streams.places.places[i].offset, 4 * int(np.prod(s.row))
            anew[at : at + size] = forth[at : at + size]
        x = streams.draw(random, 1)
        for got, want in zip(streams.step([anew], x), streams.step([forth], x), strict=True):
            np.testing.assert_array_equal(got, want)
        for got, want in zip(streams.values([anew]), streams.values([forth]), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("frames", [1, 3])
def test_each_unit_is_computed_once(frames):
    made, weights = layer("LSTM", frames)
    streams = Streams(written(made), "hand", made.spec)
    state, random, h, c = streams.start(1), np.random.default_rng(1), np.zeros(UNITS), np.zeros(UNITS)
    for _ in range(4):
        x = streams.draw(random, 1)
        for frame in x[0].reshape(frames, -1):
            h, c = lstm(weights, frame.astype(np.float64), h, c)
        np.testing.assert_allclose(streams.step(state, x)[0][0], h, rtol=0, atol=1e-6)


def test_a_layer_that_the_nearest_cache_holds_has_no_member_for_it():
    made, _ = layer("LSTM", 1, 32)
    assert b" way;" not in written(made)["hand.h"]
