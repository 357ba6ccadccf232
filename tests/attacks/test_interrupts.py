"""Ctrl-C at any instruction of a method leaves its work done or undone as a whole, and no lock held."""

from collections.abc import Callable

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.runtime import Engine, load

from ..runtime import conftest  # noqa: TID252
from ..runtime.graphs import MODELS, frames  # noqa: TID252
from ..runtime.host_engine import host_engine  # noqa: TID252
from ..runtime.triton_stand_in import StandIn  # noqa: TID252
from .interrupting import everywhere

bundle, engines = conftest.bundle, conftest.engines
native_bundle, team_bundle = conftest.native_bundle, conftest.team_bundle
BACKENDS = ("onnxruntime", "tensorrt", "native", "team", "ctypes", "torchscript", "executorch", "bytes", "tensors")
X = np.ones(3, np.float32)
FEWEST = 5
# Every interrupt of a call to a server makes a new channel.
EACH = {"bytes": 61, "tensors": 61, "tensorrt": 5, "torchscript": 5, "executorch": 3}
# What is raised in a finalizer goes no further.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def each(engine, request) -> int:
    return EACH.get(request.node.callspec.params["engine"], 1)


@pytest.fixture(params=BACKENDS)
def engine(request, monkeypatch) -> Callable[[str], Engine]:
    """The engine of "sum" or "chunked" by name on each backend.

    `team` is native by two threads, `ctypes` is native without the compiled step.
    """
    kind, started = request.param, []

    def open_engine(name: str) -> Engine:
        if kind in ("native", "ctypes"):
            if kind == "ctypes":
                monkeypatch.setattr("rnn_export.runtime.backends.native.backend.numpy_major", lambda: 0)
            return load(request.getfixturevalue("native_bundle")(name), "native")
        if kind == "team":
            return load(request.getfixturevalue("team_bundle")(name), "native", threads=2)
        if kind in ("torchscript", "executorch"):
            return request.getfixturevalue("engines")(kind)(name)
        if kind in ("bytes", "tensors"):
            started.append(StandIn(MODELS[name], kind).start())
            return load(f"grpc://{started[-1].address}/m?snapshot_every=3&deadline_ms=5000")
        path = request.getfixturevalue("bundle")(name)
        return host_engine(open_bundle(path)) if kind == "tensorrt" else load(path, "onnxruntime")

    yield open_engine
    for server in started:
        server.stop()


def acts(name: str, other: bytes) -> dict[str, Callable]:
    xs = frames(5, 3)
    if name == "chunked":
        return {"run": lambda s: s.run(xs), "restore": lambda s: s.restore(other), "reset": lambda s: s.reset()}
    out = np.zeros(3, np.float32)
    return {
        "step": lambda s: s.step(X),
        "step a list": lambda s: s.step([1, 1, 1]),
        "step out": lambda s: s.step(X, out),
        "run": lambda s: s.run(xs),
        "restore": lambda s: s.restore(other),
        "reset": lambda s: s.reset(),
        "snapshot": lambda s: s.snapshot(),
    }


def test_rows_of_a_batch_begin_again_or_not(engine, each):
    stream, mask = engine("sum").stream(batch=2), np.array([True, False])
    stream.step(frames(2, 3))
    before = stream.snapshot()
    stream.reset(rows=mask)
    allowed = {before, stream.snapshot()}
    assert len(allowed) == 2

    def check():
        assert stream.snapshot() in allowed

    assert everywhere(lambda: stream.reset(rows=mask), check, lambda: stream.restore(before), each) >= 1


@pytest.mark.parametrize("name", ["sum", "chunked"])
def test_a_stream_did_all_or_nothing(engine, each, name):
    model = engine(name)
    stream, twin = model.stream(), model.stream()
    twin.run(frames(7, 3, seed=1))
    other, count = twin.snapshot(), 0
    stream.run(frames(3, 3, seed=2))
    before = stream.snapshot()
    for what, act in acts(name, other).items():
        twin.restore(before)
        act(twin)
        allowed = {before, twin.snapshot()}

        def check(what=what, allowed=allowed):
            assert stream.snapshot() in allowed, what

        count += everywhere(lambda act=act: act(stream), check, lambda: stream.restore(before), each)
        stream.restore(before)
        act(stream)
        assert stream.snapshot() == twin.snapshot()
    assert count > FEWEST


def test_a_round_is_of_all_its_streams_or_of_none(engine, each, monkeypatch):
    # Rounds of several pieces.
    monkeypatch.setattr("rnn_export.runtime.backends.onnxruntime.buffers.ROWS", 2)
    monkeypatch.setattr("rnn_export.runtime.backends.native.session.MACS_OF_A_CALL", 20)
    pool = engine("sum").pool(capacity=64)
    if hasattr(pool._store, "high"):
        pool._store.high = 2
    ids, twins = [pool.open() for _ in range(5)], [pool.open() for _ in range(5)]
    xs = frames(5, 3)
    pool.step([*ids, *twins], np.tile(xs, (2, 1)))
    before = [pool.snapshot(i) for i in ids]
    other = pool.snapshot(twins[0])
    rounds = {
        "step": lambda ids: pool.step(ids, xs),
        "reset": lambda ids: pool.reset(ids),
        "restore": lambda ids: pool.restore(ids[0], other),
        "snapshot": lambda ids: pool.snapshot(ids[1]),
    }

    def put_back(ids):
        for stream, snapshot in zip(ids, before, strict=True):
            pool.restore(stream, snapshot)

    for what, act in rounds.items():
        put_back(twins)
        act(twins)
        allowed = [before, [pool.snapshot(i) for i in twins]]

        def check(what=what, allowed=allowed):
            assert [pool.snapshot(i) for i in ids] in allowed, what

        assert everywhere(lambda act=act: act(ids), check, lambda: put_back(ids), each) >= 1


def test_streams_are_open_or_not(engine, each):
    pool = engine("sum").pool(capacity=8)
    everywhere(lambda: pool.open(), lambda: None, lambda: pool.close(pool.ids), each)
    held = []

    def prepare():
        pool.close(pool.ids)
        held[:] = [pool.open() for _ in range(2)]
        pool.step(held, np.ones((2, 3), np.float32))

    def check():
        for stream in pool.ids:
            np.testing.assert_array_equal(pool.step([stream], [[1, 1, 1]]), [[2, 2, 2]])
        assert sorted(pool.ids) in ([], sorted(held))

    everywhere(lambda: pool.close(held), check, prepare, each)
    pool.close(pool.ids)
    ids = [pool.open() for _ in range(8)]
    np.testing.assert_array_equal(pool.step(ids, np.ones((8, 3), np.float32)), np.ones((8, 3)))
