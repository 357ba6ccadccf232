"""The end of a sequence on every backend: its last outputs, refused frames after it, and a new sequence."""

from functools import cache

import numpy as np
import pytest
import torch

from rnn_export import Batcher
from rnn_export.runtime import Engine, load

from ..messages import raises  # noqa: TID252
from ..zoo import store  # noqa: TID252
from ..zoo.nets import NETS  # noqa: TID252

OVER = ("sequence-over",)


@cache
def loaded(backend: str) -> Engine:
    return load(store.bundle("look-ahead"), backend=backend, trust=True)


@pytest.fixture(params=["onnxruntime", "native", "torchscript"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return loaded(request.param)


@cache
def case(frames: int, rows: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (rows, frames, 4), and what the model gives of them, (rows, frames, 5)."""
    x = np.random.default_rng(frames).standard_normal((rows, frames, 4), np.float32)
    with torch.no_grad():
        return x, NETS["look-ahead"].build()[0](torch.from_numpy(x).mT).mT.numpy()


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("frames", "rows"), [(1, 1), (2, 1), (3, 1), (4, 1), (9, 1), (10, 1), (7, 3)])
def test_a_run_and_its_end_are_the_whole(engine, frames, rows):
    xs, want = case(frames, rows)
    xs, want, time = (xs, want, 1) if rows > 1 else (xs[0], want[0], 0)
    stream = engine.stream(batch=rows)
    pieces = [stream.run(xs.take(range(a, b), time)) for a, b in ((0, frames // 3), (frames // 3, frames)) if a < b]
    left = stream.finish()
    assert left.shape[time] <= engine.spec.tail
    close(np.concatenate([*pieces, left], time), want)


def test_nothing_goes_on_after_the_end_but_a_reset(engine):
    (xs,), (want,) = case(9)
    stream = engine.stream()
    whole = np.concatenate([stream.run(xs), stream.finish()])
    for feed in (lambda: stream.step(xs[:2]), lambda: stream.run(xs), stream.finish):
        with raises(*OVER):
            feed()
    assert set(stream.states) == {s.name for s in engine.spec.states}
    stream.reset()
    np.testing.assert_array_equal(np.concatenate([stream.run(xs), stream.finish()]), whole)
    close(whole, want)


def test_a_snapshot_says_whether_the_sequence_is_over(engine):
    (xs,), (want,) = case(9)
    first, second = engine.stream(), loaded("onnxruntime").stream()
    pieces = [first.run(xs[:5])]
    second.restore(first.snapshot())
    pieces += [second.run(xs[5:]), second.finish()]
    close(np.concatenate(pieces), want)
    first.restore(second.snapshot())
    with raises(*OVER):
        first.run(xs)
    pool = engine.pool(2)
    stream = pool.open(snapshot=second.snapshot())
    with raises("stream-ended", stream):
        pool.step([stream], xs[None, :2])


def test_the_end_of_some_streams_of_a_pool(engine):
    """Unlike ages, and a rest below a chunk; the others go on."""
    xs, want = case(8, rows=3)
    pool = engine.pool(4)
    old, young, other = (pool.open() for _ in range(3))
    given = {old: [], young: []}
    for start in range(0, 8, 2):
        ids = [old, other] if start < 2 else [old, young, other]
        rows = {old: xs[0, start : start + 2], young: xs[1, start - 2 : start], other: xs[2, start : start + 2]}
        for stream, y in zip(ids, pool.step(ids, np.stack([rows[i] for i in ids])), strict=True):
            if stream != other:
                given[stream].append(y[~np.isnan(y).any(1)])
    left = pool.finish([young, old])
    close(np.concatenate([*given[old], left[1]]), want[0])
    close(np.concatenate([*given[young], left[0]]), whole_of(xs[1, :6]))
    y = pool.step([other], xs[2:, :2])
    assert np.isfinite(y).all()
    with raises("stream-ended"):
        pool.step([other, old], xs[:2, :2])
    pool.reset([old])
    pieces = [pool.step([old], xs[:1, start : start + 2])[0] for start in range(0, 6, 2)]
    (rest,) = pool.finish([old], xs[:1, 6:7])
    close(np.concatenate([*[p[~np.isnan(p).any(1)] for p in pieces], rest]), whole_of(xs[0, :7]))


def whole_of(xs):
    with torch.no_grad():
        return NETS["look-ahead"].build()[0](torch.from_numpy(xs[None]).mT).mT.numpy()[0]


def test_what_cannot_end_a_sequence_is_refused(engine):
    pool = engine.pool(2)
    stream = pool.open()
    with raises("ending-frames-unfit", "2"):
        pool.finish([stream], np.zeros((1, 2, 4), np.float32))
    with raises("wrong-shape-of-input", "'x'", "(1, 1, 5)", "(1, 1, 4)"):
        pool.finish([stream], {"x": np.zeros((1, 1, 5), np.float32)})
    with raises("finish-inputs-given", "[]", "['z']"):
        engine.stream().finish({"z": 1})
    assert engine.stream().finish().shape == (0, 5)
    assert pool.finish([]) == []
    assert pool.finish([stream])[0].shape == (0, 5)


def test_a_batcher_ends_a_stream_whose_frames_were_taken():
    xs, want = case(8)
    pool = loaded("onnxruntime").pool(2)
    stream = pool.open()
    with Batcher(pool, max_delay_ms=50) as batcher:
        submitted = [batcher.submit(stream, xs[0, start : start + 2]) for start in range(0, 8, 2)]
        with raises("batcher-frames-waiting", stream):
            batcher.finish(stream)
        pieces = [y for y in (s.result(10) for s in submitted) if y is not None]
        close(np.concatenate([*pieces, batcher.finish(stream)]), want[0])


def test_an_output_without_time_has_no_end(bundle):
    """The end gives no frames of the running sum, and none of its last value."""
    engine, x = load(bundle("fewer")), np.ones((8, 3), np.float32)
    stream, pool = engine.stream(), engine.pool(2)
    assert set(stream.run(x)) == {"y", "total"}
    assert {name: a.shape for name, a in stream.finish().items()} == {"y": (0, 3)}
    (left,) = pool.finish([pool.open()])
    assert {name: a.shape for name, a in left.items()} == {"y": (0, 3)}
