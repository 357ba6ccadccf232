"""Streams with a maximum of frames: frames beyond are refused and not fed, until a reset."""

from dataclasses import replace

import numpy as np
import pytest

from rnn_export.contract.spec import StreamSpec
from rnn_export.runtime import load

from ..messages import raises  # noqa: TID252
from .graphs import CHUNKED, SUM, TIMED, frames

MOST = 5
BEYOND = (
    "frames-beyond-limit",
    "5 frames at most (max_frames",
    "5 were fed, and 1 more go beyond. Nothing was fed: reset it",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    model = replace(TIMED, spec=replace(TIMED.spec, max_frames=MOST))
    return load(model.write(tmp_path_factory.mktemp("limited") / "m.rnnx"), backend="onnxruntime")


def test_a_stream_ends_at_the_last_frame(engine):
    stream, xs = engine.stream(), frames(MOST + 1, 3)
    given = [stream.step(x) for x in xs[:MOST]]
    with raises(*BEYOND):
        stream.step(xs[MOST])
    np.testing.assert_array_equal(stream.states["h"][0], given[-1])
    stream.reset()
    np.testing.assert_array_equal(stream.step(xs[0]), given[0])


def test_a_run_takes_all_or_nothing(engine):
    stream, xs = engine.stream(), frames(MOST + 1, 3)
    with raises("frames-beyond-limit", "0 were fed, and 6 more go beyond"):
        stream.run(xs)
    np.testing.assert_array_equal(stream.run(xs[:MOST]), xs[:MOST].cumsum(0))
    restored = engine.stream()
    restored.restore(stream.snapshot())
    with raises(*BEYOND):
        restored.run(xs[:1])


def test_a_pool_counts_each_stream(engine):
    pool, xs = engine.pool(2), frames(MOST + 1, 3)
    early, late = pool.open(), pool.open()
    for x in xs[:MOST]:
        pool.step([early], x[None])
    with raises(BEYOND[0], f"stream {early}", *BEYOND[1:]):
        pool.step([late, early], xs[:2])
    np.testing.assert_array_equal(pool.frames([early, late]), [MOST, 0])
    pool.reset([early])
    np.testing.assert_array_equal(pool.step([late, early], xs[:2]), xs[:2])


def test_the_contract_keeps_a_limit_that_streams_can_have():
    spec = replace(TIMED.spec, max_frames=MOST)
    assert StreamSpec.from_json(spec.to_json()) == spec
    assert "max_frames" not in TIMED.spec.to_json()
    for model, most in ((TIMED, 0), (CHUNKED, 2), (SUM, 5), (TIMED, 2**60)):
        with raises("contract-contradiction", "max_frames"):
            replace(model.spec, max_frames=most)
