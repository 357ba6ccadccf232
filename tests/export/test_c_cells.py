"""Recurrent cells in a step: states that change where they lie, and weights that are read in alternating order."""

import re

import numpy as np
import pytest

from ..native.needs import need  # noqa: TID252
from ..runtime.graphs import state, tensor  # noqa: TID252
from .c_models import model, written
from .c_streams import Streams

UNITS = 64
X = tensor("x", "batch", 3)
# What of (h, c) before and after a frame is the output, and the next states; and whether the cells change in place.
ENDS = {
    "alone": ("h1", "h1", "c1", True),
    "the cells before are an output": ("c", "h1", "c1", False),
    "its cells are an output": ("c1", "h1", "c1", True),
    "the states change places": ("h1", "c1", "h1", False),
    "the cells stay": ("c1", "h1", "c", False),
}


@pytest.fixture(autouse=True, scope="module")
def _compiler():
    need("gcc|clang")


def layer(kind, frames=1, units=UNITS, ends=("h1", "h1", "c1")):
    """One layer over the three values of x: as one frame, or as three frames of one."""
    gates, random = {"LSTM": 4, "GRU": 3}[kind], np.random.default_rng(0)
    names = ["h", "c"][: 2 if kind == "LSTM" else 1]
    shapes = {"W": (1, gates * units, 3 // frames), "R": (1, gates * units, units), "B": (1, 2 * gates * units)}
    weights = {name: (random.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    taken, given = [f"{name}.first" for name in names], [f"{name}.last" for name in names]
    y, *after = ends
    nodes = [
        ("Transpose", ["x"], ["by_frame"], {"perm": [1, 0]}),
        ("Unsqueeze", ["by_frame" if frames > 1 else "x", "last" if frames > 1 else "first"], ["frames"], {}),
        *(("Unsqueeze", [name, "first"], [to], {}) for name, to in zip(names, taken, strict=True)),
        (kind, ["frames", "W", "R", "B", "", *taken], ["", *given], {"hidden_size": units, **extra}),
        *(("Squeeze", [end, "first"], [f"{name}1"], {}) for name, end in zip(names, given, strict=True)),
        *(("Identity", [end], [f"{name}.next"], {}) for name, end in zip(names, after, strict=False)),
        ("Identity", [y], ["y"], {}),
    ]
    axes, outputs = {"first": np.array([0]), "last": np.array([2])}, (tensor("y", "batch", units),)
    return model(nodes, [state(name, units) for name in names], (X,), outputs, **weights, **axes), weights


def lstm(weights, x, h, c):
    """In float64, one frame."""
    w, r, b = (weights[name][0].astype(np.float64) for name in "WRB")
    i, o, f, g = np.split(w @ x + r @ h + b[: len(w)] + b[len(w) :], 4)
    c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    return np.tanh(c) / (1 + np.exp(-o)), c


@pytest.mark.parametrize(("ends", "units", "frames"), [*((e, 16, 1) for e in ENDS), ("alone", 64, 1), ("alone", 64, 3)])
def test_an_lstm_is_that_of_float64_whatever_becomes_of_its_states(ends, units, frames):
    *ways, in_place = ENDS[ends]
    made, weights = layer("LSTM", frames, units, ways)
    files = written(made)
    alone = files["hand.c"].decode().split("hand_rows")[0]
    assert frames > 1 or (re.search(r"memcpy\(t\d+[^;]*state->c\b", alone) is None) is in_place
    streams, random = Streams(files, "hand", made.spec), np.random.default_rng(1)
    at, h, c = streams.start(1), np.zeros(units), np.zeros(units)
    for _ in range(4):
        x = streams.draw(random, 1)
        values = {"h": h, "c": c, "h1": h, "c1": c}
        for frame in x[0].reshape(frames, -1):
            values["h1"], values["c1"] = lstm(weights, frame.astype(np.float64), values["h1"], values["c1"])
        y, h, c = (values[name] for name in ways)
        np.testing.assert_allclose(streams.step(at, x)[0][0], y, rtol=0, atol=1e-6)
        for got, want in zip(streams.values(at), (h, c), strict=True):
            np.testing.assert_allclose(got[0], want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "frames"), [("LSTM", 3), ("GRU", 1), ("LSTM", 1), ("GRU", 3)])
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


def test_a_layer_that_the_nearest_cache_holds_has_no_member_for_it():
    assert b" way;" not in written(layer("LSTM", 1, 32)[0])["hand.h"]
