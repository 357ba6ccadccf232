"""`stream.reset(rows=mask)`: some rows of a batch begin again, the others go on, on every backend."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from rnn_export.runtime import Engine, load

from ..messages import raises  # noqa: TID252
from .graphs import CHUNKED, MODELS, frames
from .triton_stand_in import StandIn, inputs, same

NAMES = ("sum", "chunked", "time_major", "stored", "pair", "mixed", "tokens", "twins", "previous_bool")
MASK = np.array([False, True, True, False, True])


@pytest.fixture(params=["ctypes", "bytes", "tensors"])
def other_engine(request, native_bundle) -> Iterator[Callable[[str], Engine]]:
    """The engine of a model by name, natively without an extension, or on a server by its wire."""
    started: list[StandIn] = []

    def open_engine(name: str) -> Engine:
        if request.param == "ctypes":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("rnn_export.runtime.backends.native.backend.numpy_major", lambda: 0)
                return load(native_bundle(name), backend="native")
        started.append(StandIn(MODELS[name], request.param).start())
        return load(f"grpc://{started[-1].address}/m?snapshot_every=3&deadline_ms=5000")

    yield open_engine
    for server in started:
        server.stop()


def feed(stream, x):
    given = stream.step(x)
    return given if isinstance(given, dict) else {"": given}


def same_rows(got: dict, want: dict, rows) -> None:
    same({name: a[rows] for name, a in got.items()}, {name: a[rows] for name, a in want.items()})


def check_rows_begin_again(engine: Engine) -> None:
    """The masked rows are those of a fresh stream bit for bit, the others those of a stream that was left alone."""
    stream, alone, fresh = (engine.stream(batch=len(MASK)) for _ in range(3))
    for x in inputs(engine.spec, len(MASK), 3):
        feed(stream, x), feed(alone, x)
    stream.reset(rows=MASK)
    for x in (None, *inputs(engine.spec, len(MASK), 4, seed=1)):
        if x is not None:
            got, reset, kept = feed(stream, x), feed(fresh, x), feed(alone, x)
            same_rows(got, reset, MASK)
            same_rows(got, kept, ~MASK)
        same_rows(stream.states, fresh.states, MASK)
        same_rows(stream.states, alone.states, ~MASK)


@pytest.mark.contract
@pytest.mark.parametrize("name", NAMES)
def test_the_rows_begin_again(engine, name):
    check_rows_begin_again(engine(name))


@pytest.mark.parametrize("name", ["sum", "chunked", "stored", "pair"])
def test_the_rows_begin_again_through_ctypes_and_on_a_server(other_engine, name):
    check_rows_begin_again(other_engine(name))


def test_all_rows_and_none(engine):
    stream, xs = engine("sum").stream(batch=3), frames(2, 3, 3)
    stream.step(xs[0])
    stream.reset(rows=np.zeros(3, bool))
    np.testing.assert_array_equal(stream.step(xs[1]), xs.sum(0))
    stream.reset(rows=[True] * 3)
    np.testing.assert_array_equal(stream.step(xs[1]), xs[1])


def test_rows_go_back_to_where_the_stream_was_opened(engine):
    h = np.arange(6, dtype=np.float32).reshape(2, 3)
    stream, x = engine("sum").stream(batch=2, states={"h": h}), np.ones((2, 3), np.float32)
    stream.step(x)
    stream.reset(rows=np.array([False, True]))
    np.testing.assert_array_equal(stream.states["h"], [h[0] + 1, h[1]])


@pytest.mark.contract
@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("sum", [0, 2], ("reset-rows-dtype", "int64")),
        ("sum", np.zeros(3, np.float32), ("reset-rows-dtype", "float32")),
        ("sum", [True, False], ("reset-rows-shape", "(2,)", "3")),
        ("sum", True, ("reset-rows-shape", "()", "3")),
        ("sum", np.ones((3, 1), bool), ("reset-rows-shape", "(3, 1)")),
        ("sum", [[True], [True, False]], ("reset-rows-unreadable", "list")),
        ("sum", np.ma.array([True] * 3), ("reset-rows-masked",)),
        ("delayed", [True] * 3, ("reset-rows-counted", "alone: the first 2 frames give no output")),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_the_state(engine, name, rows, message):
    stream = engine(name).stream(batch=3)
    stream.run(frames(3, 4, 3) if name == "delayed" else frames(3, 3)[:, None].repeat(2, 1))
    before = stream.snapshot()
    with raises(*message):
        stream.reset(rows=rows)
    assert stream.snapshot() == before


def test_one_row_and_frames_that_wait_and_a_sequence_that_is_over(bundle):
    with raises("reset-rows-of-one"):
        load(bundle("sum")).stream().reset(rows=[True])
    stream = load(bundle("chunked")).stream(batch=2)
    stream.run(frames(2, 4, 3))
    before = stream.snapshot()
    with raises("run-frames-waiting", "1"):
        stream.reset(rows=[True, False])
    assert stream.snapshot() == before
    stream.run(frames(2, 2, 3))
    stream.reset(rows=[True, False])
    stream.finish()
    with raises("sequence-over"):
        stream.reset(rows=[True, False])
    stream.reset()


def test_what_counts_frames_for_all_rows_is_refused(tmp_path):
    lengths = replace(CHUNKED.spec.outputs[0], lengths=(1, 1, 1))
    for spec, why in (
        (replace(CHUNKED.spec, max_frames=9), ("reset-rows-counted", "a sequence has 9 frames at most (max_frames")),
        (
            replace(CHUNKED.spec, outputs=(lengths,)),
            ("reset-rows-counted", "finish() gives up to 1 frames of a sequence that ends"),
        ),
    ):
        stream = load(replace(CHUNKED, spec=spec).write(tmp_path / "m.rnnx")).stream(batch=2)
        with raises(*why):
            stream.reset(rows=[True, False])
