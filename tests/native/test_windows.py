"""Windows that slide over their memory: states go in and out as on a backend without sliding."""

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.runtime import load

from ..zoo import store  # noqa: TID252
from .models import Written

STEPS = 100


@pytest.fixture(scope="module")
def both():
    """The engines of ONNX Runtime and of C."""
    path = store.bundle("windows-in-c")
    return load(path, "onnxruntime"), load(path, "native")


def near(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_the_large_ones_slide():
    header = Written.of(open_bundle(store.bundle("windows-in-c")), "fp32").files
    text = next(data for name, data in header.items() if name.endswith(".h") and name != "kernels.h").decode()
    assert "near_frames[16];" in text
    assert "far_frames[192 + 24];" in text
    assert "each_frames[312 + 38];" in text
    assert "uint32_t front[2];" in text


def test_states_are_read_and_set_wherever_they_lie(both):
    """Handed from one to the other at each step, and read at each."""
    theirs, ours = (engine.stream() for engine in both)
    fed = np.random.default_rng(0).standard_normal((STEPS, 8)).astype(np.float32)
    for number, x in enumerate(fed):
        near(ours.step(x), theirs.step(x))
        for name, value in ours.states.items():
            near(value, theirs.states[name])
        if number % 7 == 5:
            snapshot = ours.snapshot()
            ours.restore(theirs.snapshot())
            theirs.restore(snapshot)
        if number == 60:
            ours.reset()
            theirs.reset()


def test_a_snapshot_is_the_same_however_far_a_window_has_slid(both):
    """Streams of one history, one of them set anew at every step."""
    one, other = both[1].stream(), both[1].stream()
    for x in np.random.default_rng(1).standard_normal((STEPS, 8)).astype(np.float32):
        other.restore(one.snapshot())
        np.testing.assert_array_equal(one.step(x), other.step(x))
        assert one.snapshot() == other.snapshot()


def test_rows_and_pools(both):
    """Streams that begin at different times lie at different places of their memory, and are stepped together."""
    theirs, ours = (engine.pool(capacity=16) for engine in both)
    random, ids = np.random.default_rng(2), []
    for number in range(STEPS):
        if number % 9 == 0 and len(ids) < 12:
            ids.append((theirs.open(), ours.open()))
        picked = [ids[i] for i in random.permutation(len(ids))]
        x = random.standard_normal((len(picked), 8)).astype(np.float32)
        near(ours.step([b for _, b in picked], x), theirs.step([a for a, _ in picked], x))
        if number % 13 == 12:
            theirs.reset([picked[0][0]])
            ours.reset([picked[0][1]])
            ours.restore(picked[-1][1], theirs.snapshot(picked[-1][0]))


def test_a_nan_is_reported_as_long_as_it_is_remembered(both):
    """And no longer: in the memory that a window has left there may be one still."""
    pool = both[1].pool(capacity=2, on_nan="keep")
    (stream,) = ids = [pool.open()]
    for number in range(STEPS):
        if number == 3:
            states = pool._store.read(np.array([0]))
            states["far.frames"][:, 2, 20] = np.nan
            pool._store.write(np.array([0]), states)
        pool.step(ids, np.full((1, 8), 0.5, np.float32))
    # It is in the window for 20 steps, meets the next one when it leaves, and is in that for 39.
    assert pool.health(stream)["nan"] == 20 + 1 + 39


def test_two_rows_in_one_stream(both):
    theirs, ours = (engine.stream(batch=2) for engine in both)
    frames = np.random.default_rng(3).standard_normal((STEPS, 2, 8)).astype(np.float32)
    for number, x in enumerate(frames):
        near(ours.step(x), theirs.step(x))
        if number == 50:
            ours.reset(rows=np.array([True, False]))
            theirs.reset(rows=np.array([True, False]))
