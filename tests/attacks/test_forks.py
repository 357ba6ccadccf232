"""After a fork, amid steps of other threads too, the child works or gives a reason: nothing hangs."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest

from rnn_export import Batcher
from rnn_export.runtime import load

from ..runtime import conftest  # noqa: TID252
from ..runtime.graphs import SUM  # noqa: TID252
from ..runtime.triton_stand_in import StandIn  # noqa: TID252
from .forking import in_child

bundle, native_bundle, team_bundle = conftest.bundle, conftest.native_bundle, conftest.team_bundle
ONE = np.ones(3, np.float32)
OVER = "StreamError: this {} was opened before a fork, and its backend has threads and locks that only the parent has"
FIX = "Load the bundle in this process, or start processes with the method 'spawn'."
# Newer Pythons warn of a fork amid threads, which is what is tried.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@contextmanager
def extra(work):
    """While another thread runs `work(stop, begun)`, once `begun` is set and until `stop` is."""
    stop, begun = threading.Event(), threading.Event()
    thread = threading.Thread(target=work, args=(stop, begun))
    thread.start()
    assert begun.wait(20)
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def amid(step):
    """While another thread calls `step` again and again."""

    def work(stop, begun):
        while not stop.is_set():
            step()
            begun.set()

    return extra(work)


def held(inside):
    """While another thread is inside of `inside`, a lock's `with`."""

    def work(stop, begun):
        with inside:
            begun.set()
            stop.wait(20)

    return extra(work)


@pytest.fixture(params=[1, 2], ids="threads={}".format)
def native(request):
    """Native by so many threads."""
    bundles = request.getfixturevalue("native_bundle" if request.param == 1 else "team_bundle")
    return load(bundles("sum"), "native", threads=request.param)


def test_native_goes_on_in_the_child(native):
    engine = native
    stream, pool, idle = engine.stream(), engine.pool(), engine.pool()
    stream.step(ONE)
    ids = [idle.open()]

    def work():
        fresh = engine.stream()
        return str([stream.step(ONE).tolist(), fresh.step(ONE).tolist(), idle.step(ids, [ONE])[0].tolist()])

    busy = [pool.open()]
    with amid(lambda: pool.step(busy, [ONE])):
        for _ in range(5):
            assert in_child(work) == "[[2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]"
    assert stream.step(ONE)[0] == 2


def test_what_another_thread_was_inside_says_so(native):
    engine = native
    stream, pool = engine.stream(), engine.pool()
    ids = [pool.open()]
    with held(stream._turn), held(pool._lock):
        told = [in_child(lambda: str(stream.step(ONE))), in_child(lambda: str(pool.step(ids, [ONE])))]
    for what, said in zip(("stream", "pool"), told, strict=True):
        assert said.startswith(f"StreamError: another thread was inside this {what} when this process was forked")
        assert said.endswith(FIX)
    assert stream.step(ONE)[0] == pool.step(ids, [ONE])[0, 0] == 1


@pytest.fixture(params=["onnxruntime", "remote"])
def engine(request, bundle):
    if request.param == "onnxruntime":
        yield load(bundle("sum"), "onnxruntime")
        return
    server = StandIn(SUM, "bytes").start()
    yield load(f"grpc://{server.address}/m?deadline_ms=5000")
    server.stop()


def test_a_backend_with_threads_raises_at_once(engine):
    stream, pool = engine.stream(), engine.pool()
    ids = [pool.open()]
    calls = {
        "stream": lambda: str(stream.step(ONE)),
        "pool": lambda: str(pool.step(ids, [ONE])),
        "engine": lambda: str(engine.stream()),
    }
    with amid(lambda: pool.step(ids, [ONE])):
        for what, call in {
            **calls,
            "stream ": lambda: str(stream.reset()),
            "engine ": lambda: str(engine.pool()),
        }.items():
            said = in_child(call)
            assert said.startswith(OVER.format(what.strip())), said
            assert said.endswith(FIX)
    assert stream.step(ONE)[0] == 1


@pytest.mark.parametrize("backend", ["onnxruntime", "native"])
def test_a_batcher_s_child_fails_what_waits_and_takes_no_more(request, bundle, backend):
    path = bundle("sum") if backend == "onnxruntime" else request.getfixturevalue("native_bundle")("sum")
    pool = load(path, backend).pool()
    stream = pool.open()
    with Batcher(pool, max_delay_ms=3_600_000, max_batch=2) as batcher:
        pool.open()
        waits = batcher.submit(stream, ONE)
        message = "BatcherStopped: the batcher's worker died of StreamError: this batcher was opened before a fork"
        assert in_child(lambda: str(waits.result())).startswith(message)
        assert in_child(lambda: str(batcher.submit(stream, ONE))).startswith(message)
        assert in_child(lambda: str(batcher.close())) == "None"
        with held(waits._condition), held(batcher._changed):
            assert in_child(lambda: str(waits.result())).startswith(message)
    np.testing.assert_array_equal(waits.result(20), ONE)
