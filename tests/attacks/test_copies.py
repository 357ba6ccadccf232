"""Copies of objects that own memory are refused, and so are masked arrays."""

import copy
import pickle

import numpy as np
import pytest

from rnn_export import Batcher
from rnn_export.runtime import load
from rnn_export.runtime.recording import read

from ..messages import raises  # noqa: TID252
from ..runtime import conftest  # noqa: TID252
from ..runtime.graphs import SUM  # noqa: TID252

bundle, native_bundle = conftest.bundle, conftest.native_bundle
ONE = np.ones(3, np.float32)
MASKED = np.ma.masked_array([1, 2, 3], [0, 1, 0], np.float32)
ADVICE = {
    "stream": ("a stream", "restore(stream.snapshot())"),
    "pool": ("a pool", "open(snapshot=pool.snapshot(id))"),
    "engine": ("an engine", "load the bundle again in each process"),
    "batcher": ("a batcher", "make another on the same pool"),
}


@pytest.fixture(params=["onnxruntime", "native"])
def engine(request, bundle):
    if request.param == "native":
        return load(request.getfixturevalue("native_bundle")("sum"), "native")
    return load(bundle("sum"), "onnxruntime")


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps, lambda x: pickle.dumps(x, 0)])
def test_what_owns_memory_is_not_copied(engine, how):
    stream, pool = engine.stream(), engine.pool()
    stream.step(ONE)
    with Batcher(pool) as batcher:
        for what, owner in {"stream": stream, "pool": pool, "engine": engine, "batcher": batcher}.items():
            with raises("stream-not-copied", *ADVICE[what]):
                how(owner)
    # The advice holds.
    other = engine.stream()
    other.restore(stream.snapshot())
    assert other.step(ONE)[0] == stream.step(ONE)[0] == 2


def test_masked_arrays_are_refused_wherever_arrays_come_in(engine):
    stream, pool = engine.stream(), engine.pool()
    ids = [pool.open()]
    before = stream.snapshot()
    calls = [
        lambda: stream.step(MASKED),
        lambda: stream.run(MASKED[None]),
        lambda: stream.run([MASKED, MASKED]),
        lambda: engine.stream(states={"h": MASKED}),
        lambda: pool.step(ids, MASKED[None]),
        lambda: pool.open(states={"h": MASKED}),
    ]
    for call in calls:
        with raises("frame-masked"):
            call()
    with raises("ids-masked"):
        pool.step(np.ma.masked_array(ids, [True]), [ONE])
    with Batcher(pool) as batcher, raises("frame-masked"):
        batcher.submit(ids[0], MASKED)
    with raises("recording-masked", "the recording: 'x'"):
        read(np.ma.masked_array(np.ones((4, 3)), False), SUM.spec)
    assert stream.snapshot() == before
    assert pool.step(ids, [MASKED.filled(0)])[0].tolist() == [1, 0, 3]
