"""A stream belongs to one thread at a time; an engine to all of them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rnn_export.errors import StreamError

from ..messages import raises  # noqa: TID252
from .graphs import frames


@pytest.mark.contract
def test_a_second_thread_inside_a_stream_is_refused(engine, monkeypatch):
    monkeypatch.setattr("rnn_export.runtime.stream.BLOCK", 3)
    stream, xs = engine("by_step").stream(), frames(90_000, 3)
    snapshot, given = stream.snapshot(), []
    runner = threading.Thread(target=lambda: given.append(stream.run(xs)))
    runner.start()
    calls = [
        lambda: stream.states,
        lambda: stream.step(xs[:3]),
        lambda: stream.run(xs[:3]),
        stream.reset,
        stream.snapshot,
        lambda: stream.restore(snapshot),
    ]
    try:
        while runner.is_alive() and _reads(stream):
            pass
        for call in calls:
            with raises("stream-in-use"):
                call()
        assert runner.is_alive()
    finally:
        runner.join()
    np.testing.assert_array_equal(given[0], xs.cumsum(0))
    np.testing.assert_array_equal(stream.step(np.ones((3, 3), np.float32))[-1], xs.sum(0) + 3)


def _reads(stream) -> bool:
    try:
        return bool(stream.states)
    except StreamError:
        return False


def test_a_refused_call_leaves_the_stream_open(engine):
    stream = engine("sum").stream()
    for call in (lambda: stream.step(None), lambda: stream.run(None), lambda: stream.restore(b"")):
        with pytest.raises(StreamError):
            call()
    np.testing.assert_array_equal(stream.step(np.ones(3, np.float32)), [1, 1, 1])


@pytest.mark.contract
@pytest.mark.parametrize("name", ["sum", "timed"])
def test_many_threads_with_a_stream_each(engine, name):
    model, threads = engine(name), 16
    start = threading.Barrier(threads)

    def drive(seed: int) -> bool:
        xs, stream = frames(300, 3, seed=seed), model.stream()
        start.wait()
        given = [stream.step(x) for x in xs[:200]]
        return np.array_equal(np.concatenate([np.stack(given), stream.run(xs[200:])]), xs.cumsum(0))

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(drive, range(threads)))
