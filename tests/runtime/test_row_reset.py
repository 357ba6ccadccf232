"""`stream.reset(rows=mask)`: some rows of a batch begin again, the others go on, on every backend."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from rnn_export.errors import StreamError
from rnn_export.runtime import Engine, load

from ..messages import raises  # noqa: TID252
from .graphs import CHUNKED, IDS, MODELS, PAIR, STORED, SUM, frames
from .triton_stand_in import StandIn

NAMES = ("sum", "chunked", "time_major", "stored", "pair", "mixed", "tokens", "twins", "previous_bool")
MASK = np.array([False, True, True, False, True])


@pytest.fixture(scope="session")
def ctypes_engine(native_bundle: Callable) -> Callable[[str], Engine]:
    def open_engine(name: str) -> Engine:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rnn_export.runtime.backends.native.backend.numpy_major", lambda: 0)
            return load(native_bundle(name), backend="native")

    return open_engine


@pytest.fixture(params=["bytes", "tensors"])
def far_engine(request) -> Iterator[Callable[[str], Engine]]:
    started: list[StandIn] = []

    def open_engine(name: str) -> Engine:
        started.append(StandIn(MODELS[name], request.param).start())
        return load(f"grpc://{started[-1].address}/m?snapshot_every=3&deadline_ms=5000")

    yield open_engine
    for server in started:
        server.stop()


def inputs(name: str, rows: int, steps: int, seed: int = 0) -> list:
    """Inputs of each step by name, (rows, chunk, ...)."""
    spec, random = MODELS[name].spec, np.random.default_rng(seed)
    given = []
    for _ in range(steps):
        x = {}
        for tensor in spec.inputs:
            shape = (rows, *(() if spec.chunk == 1 or tensor.axis("time") is None else (spec.chunk,)), *tensor.frame)
            high = IDS if tensor.dtype == "int64" else 2
            x[tensor.name] = random.integers(0, high, shape).astype(tensor.dtype)
        given.append(x)
    return given


def feed(stream, x: dict):
    given = stream.step(x if len(x) > 1 else next(iter(x.values())))
    return given if isinstance(given, dict) else {"": given}


def same(got: dict, want: dict, rows=...) -> None:
    assert list(got) == list(want)
    for name in want:
        np.testing.assert_array_equal(got[name][rows], want[name][rows], strict=True)


def check_rows_begin_again(engine: Engine, name: str) -> None:
    """The masked rows are those of a fresh stream bit for bit, the others those of a stream that was left alone."""
    stream, alone, fresh = (engine.stream(batch=len(MASK)) for _ in range(3))
    for x in inputs(name, len(MASK), 3):
        feed(stream, x), feed(alone, x)
    stream.reset(rows=MASK)
    same(stream.states, fresh.states, MASK)
    same(stream.states, alone.states, ~MASK)
    for x in inputs(name, len(MASK), 4, seed=1):
        got, reset, kept = feed(stream, x), feed(fresh, x), feed(alone, x)
        same(got, reset, MASK)
        same(got, kept, ~MASK)
    same(stream.states, fresh.states, MASK)
    same(stream.states, alone.states, ~MASK)


@pytest.mark.contract
@pytest.mark.parametrize("name", NAMES)
def test_the_rows_begin_again(engine, name):
    check_rows_begin_again(engine(name), name)


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_begin_again_through_ctypes(ctypes_engine, name):
    check_rows_begin_again(ctypes_engine(name), name)


@pytest.mark.parametrize("name", ["sum", "chunked", "stored", "pair"])
def test_the_rows_begin_again_on_a_server(far_engine, name):
    check_rows_begin_again(far_engine(name), name)


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


def test_a_mask_of_torch_is_taken(bundle):
    torch = pytest.importorskip("torch")
    stream = load(bundle("sum")).stream(batch=2)
    stream.step(np.ones((2, 3), np.float32))
    stream.reset(rows=torch.tensor([True, False]))
    np.testing.assert_array_equal(stream.states["h"], [[0, 0, 0], [1, 1, 1]])


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


def test_a_stream_of_one_row_says_what_to_call(engine):
    stream = engine("sum").stream()
    with raises("reset-rows-of-one"):
        stream.reset(rows=[True])


def test_frames_that_wait_and_a_sequence_that_is_over(bundle):
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


def test_a_backend_that_fails_leaves_the_state(bundle, monkeypatch):
    for model in (STORED, PAIR, SUM):
        name = model.spec.states[0].name
        stream = load(bundle(next(n for n, m in MODELS.items() if m is model))).stream(batch=2)
        before = stream.states

        def fail(states):
            raise StreamError("no memory", id="device-call-failed")

        with monkeypatch.context() as patch:
            patch.setattr(stream._buffers, "write", fail)
            with raises("device-call-failed", "no memory"):
                stream.reset(rows=[True, False])
        np.testing.assert_array_equal(stream.states[name], before[name])
