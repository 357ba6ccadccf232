"""A batcher under callbacks that block or raise, and under long queues."""

import threading
import time

import numpy as np
import pytest

from rnn_export import Batcher
from rnn_export.runtime import load
from rnn_export.runtime.serve.submission import Submission
from rnn_export.runtime.serve.waiting import Waiting

from ..messages import raises  # noqa: TID252
from ..runtime import conftest  # noqa: TID252

bundle = conftest.bundle
ONE = np.ones(3, np.float32)
SOON = 30


@pytest.fixture
def pool(bundle):
    return load(bundle("sum"), "onnxruntime").pool()


def test_a_callback_that_blocks_delays_no_frame(pool):
    one, other, blocked, go = pool.open(), pool.open(), threading.Event(), threading.Event()
    with Batcher(pool, max_delay_ms=0) as batcher:

        def block(_):
            blocked.set()
            assert go.wait(SOON)

        first = batcher.submit(one, ONE)
        first.add_done_callback(block)
        assert blocked.wait(SOON)
        for n in range(1, 4):
            assert batcher.submit(other, ONE).result(SOON)[0] == n
        with raises("callbacks-end-late", "0.1"):
            batcher.close(timeout=0.1)
        go.set()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
def test_a_callback_that_raises_ends_nobody(pool, error, caplog):
    stream, called = pool.open(), []
    with Batcher(pool, max_delay_ms=0) as batcher:

        def fail(_):
            raise error("of the user's")

        first = batcher.submit(stream, ONE)
        first.add_done_callback(fail)
        first.add_done_callback(lambda done: called.append(done.result()[0]))
        assert first.result(SOON)[0] == 1
        assert batcher.submit(stream, ONE).result(SOON)[0] == 2
    assert called == [1]
    assert "a callback of a submitted frame raised" in caplog.text
    assert "of the user's" in caplog.text


def test_a_callback_of_a_closed_batcher_s_frame_is_called(pool):
    stream, called = pool.open(), []
    with Batcher(pool, max_delay_ms=0) as batcher:
        done = batcher.submit(stream, ONE)
    done.add_done_callback(called.append)
    assert called == [done]


def submission(stream: int, deadline: float = np.inf) -> Submission:
    return Submission(stream, {}, 0.0, deadline, lambda _: None, None)


def emptied(count: int) -> float:
    """Seconds to take so many frames of one stream out of a queue, one by one."""
    waiting = Waiting()
    for _ in range(count):
        waiting.add(submission(1, 1e9))
    begin = time.perf_counter()
    while waiting.first(8):
        waiting.oldest(), waiting.deadline(), waiting.expired(0.0)
    return time.perf_counter() - begin


def test_a_queue_is_emptied_in_linear_time():
    # Quadratic, eight times as many would take 64 times as long.
    assert min(emptied(8000) / max(emptied(1000), 1e-4) for _ in range(3)) < 24


def test_a_queue_gives_what_a_list_would():
    random, waiting, plain = np.random.default_rng(0), Waiting(), []
    for _ in range(4000):
        what = random.integers(6)
        if what < 3:
            plain.append(submission(int(random.integers(1, 6)), float(random.choice([np.inf, random.uniform(0, 100)]))))
            waiting.add(plain[-1])
        elif what == 3 and plain:
            gone = plain.pop(int(random.integers(len(plain))))
            assert waiting.remove(gone)
            assert not waiting.remove(gone)
        elif what == 4:
            heads = {}
            for s in plain:
                heads.setdefault(s.stream, s)
            most = int(random.integers(1, 5))
            expected = list(heads.values())[:most]
            assert waiting.first(most) == expected
            plain = [s for s in plain if s not in expected]
        else:
            now = random.uniform(0, 30)
            expected = [s for s in plain if s.deadline <= now]
            assert sorted(s.number for s in waiting.expired(now)) == [s.number for s in expected]
            plain = [s for s in plain if s not in expected]
        assert len(waiting) == len(plain)
        assert waiting.streams == len({s.stream for s in plain})
        assert waiting.oldest() is (plain[0] if plain else None)
        assert waiting.deadline() == min((s.deadline for s in plain), default=np.inf)
