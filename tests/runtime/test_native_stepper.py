"""The compiled `step` gives and refuses the same as Python's, leaks and allocates nothing, and shares the GIL."""

import gc
import sys
import threading
import weakref
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from rnn_export.errors import StreamError
from rnn_export.runtime import Engine, Stream
from rnn_export.runtime.backends.native import session
from rnn_export.runtime.build.native.compilation import python_headers

from ..messages import raises  # noqa: TID252
from .graphs import IDS, MODELS, SUM, TABLE, frames, spec, state, tensor
from .native_toys import C_TYPES, PREVIOUS, by_hand, draft, sources

ONES = np.ones(3, np.float32)
pytestmark = pytest.mark.skipif(python_headers() is None, reason="Python.h is not here, so native goes through ctypes")


@pytest.fixture(scope="module")
def compiled(native_bundle: Callable) -> Callable[[str], Engine]:
    """The engine of a model by name, from C by hand; asking for `native_bundle` skips where there is no compiler."""

    def open_engine(name: str) -> Engine:
        model = MODELS[name]
        return Engine.of(draft(by_hand(name, model), model.spec, model.initial, name), "native")

    return cache(open_engine)


def wide(width: int, dtype: str = "float32", **options) -> Engine:
    """The running sum of frames of `width` values."""
    contract = spec(
        f"wide {width} {dtype}",
        [tensor("x", "batch", width, dtype=dtype)],
        [tensor("y", "batch", width, dtype=dtype)],
        [state("h", width, dtype=dtype)],
    )
    body = f"    for (int i = 0; i < {width}; i++) y[i] = s->h[i] += x[i];\n"
    return Engine.of(draft(sources("toy", contract, body, **options), contract), "native")


def slow(macs: int) -> Engine:
    """Sums of which those of x[0] = 1 take 0.1 s each: x is read when the time is over."""
    wait = "    if (x[0] == 1) nanosleep(&(struct timespec){0, 100000000}, 0);\n"
    body = f"{wait}    for (int i = 0; i < 3; i++) y[i] = s->h[i] += x[i];\n"
    files = sources("toy", SUM.spec, body, before="#include <time.h>", macs=macs)
    return Engine.of(draft(files, SUM.spec), "native")


@pytest.fixture
def tried(monkeypatch) -> list:
    """Every call that went on to Python's step."""
    calls, usual = [], Stream._any_step

    def any_step(self, *args, **kwargs):
        calls.append(args)
        return usual(self, *args, **kwargs)

    monkeypatch.setattr(Stream, "_any_step", any_step)
    return calls


# --- what it gives


@pytest.mark.parametrize(
    ("name", "shape"),
    [("sum", (3,)), ("timed", (3,)), ("chunked", (3, 3)), ("time_major", (2, 3)), ("stored", (3,)), ("twins", (3,))],
)
@pytest.mark.parametrize("batch", [1, 4])
def test_simple_steps_stay_in_c(compiled, tried, name, shape, batch):
    stream, other = compiled(name).stream(batch=batch), compiled(name).stream(batch=batch)
    shape = (batch, *shape) if batch > 1 else shape
    out = np.empty(shape, np.float32)
    for x in frames(6, *shape):
        given = stream.step(x)
        assert (given.dtype, given.shape, given.flags.c_contiguous) == (np.float32, shape, True)
        np.testing.assert_array_equal(given, Stream.step(other, x))
        assert stream.step(x, out=out) is out
        np.testing.assert_array_equal(out, Stream.step(other, x))
        assert stream.step(x, out) is out
        np.testing.assert_array_equal(out, Stream.step(other, x))
    assert tried == []
    assert stream.snapshot() == other.snapshot()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_graph_in_another_order_than_its_frames(compiled, tried, batch):
    contract = spec(
        "channels first", [tensor("x", "batch", 3, "time")], [tensor("y", "time", 3, "batch")], [state("h", 3)], chunk=2
    )
    body = """
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < 3; i++) s->h[i] = all[t][i] = s->h[i] + x[2 * i + t];
    memcpy(y, all, sizeof all);
"""
    stream = Engine.of(draft(sources("toy", contract, body), contract), "native").stream(batch=batch)
    xs = frames(batch, 8, 3)
    given = [stream.step(xs[:, i : i + 2] if batch > 1 else xs[0, i : i + 2]) for i in (0, 2)]
    np.testing.assert_array_equal(np.concatenate(given, -2), xs.cumsum(1)[:, :4] if batch > 1 else xs[0, :4].cumsum(0))
    np.testing.assert_array_equal(stream.run(xs[:, 4:]), xs.cumsum(1)[:, 4:])
    assert len(tried) == 2


def odd_frames() -> dict[str, object]:
    unaligned = np.zeros(13, np.uint8)[1:].view(np.float32)
    unaligned[:] = 1
    return {
        "strided": np.ones(6, np.float32)[::2],
        "reversed": np.ones(3, np.float32)[::-1],
        "broadcast": np.broadcast_to(np.float32(1), 3),
        "unaligned": unaligned,
        "big-endian": ONES.astype(">f4"),
        "float16": np.ones(3, np.float16),
        "a subclass": ONES.view(type("Frame", (np.ndarray,), {})),
        "matrix of itself": memoryview(ONES),
        "read-only": np.frombuffer(ONES.tobytes(), np.float32),
        "another dtype object": np.ones(3, np.dtype("float32", metadata={"a": 1})),
    }


@pytest.mark.parametrize("kind", odd_frames())
def test_odd_frames(compiled, kind):
    stream = compiled("sum").stream()
    for count in (1, 2):
        np.testing.assert_array_equal(stream.step(odd_frames()[kind]), count * ONES)


def test_python_and_c_count_together(compiled):
    stream = compiled("sum").stream()
    for feed, x in ((stream.step, ONES), (stream.step, [1, 1, 1]), (stream.run, np.ones((5, 3), np.float32))):
        feed(x)
    stream.step(ONES)
    assert stream._frames == 8
    np.testing.assert_array_equal(stream.states["h"], [[8, 8, 8]])
    snapshot = stream.snapshot()
    stream.reset()
    np.testing.assert_array_equal(stream.step(ONES), ONES)
    stream.restore(snapshot)
    assert stream._frames == 8
    np.testing.assert_array_equal(stream.step(ONES), 9 * ONES)


# --- what it refuses


@pytest.mark.parametrize("width", [1, 37])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_value_is_overlooked(width, dtype):
    stream, x = wide(width, dtype).stream(), np.ones(width, dtype)
    stream.step(x)
    before = stream.snapshot()
    for at in range(width):
        for value in (np.nan, -np.nan, np.inf, -np.inf):
            x[at] = value
            with raises("frame-not-finite", "'x'", f"index ({at},)"):
                stream.step(x)
            x[at] = 1
    assert stream.snapshot() == before
    np.testing.assert_array_equal(stream.step(x), 2 * x)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_all_that_is_finite_passes(dtype, tried, compiled):
    contract = MODELS[f"previous_{dtype}"].spec
    body = PREVIOUS.replace("{type}", C_TYPES[dtype])
    stream = Engine.of(draft(sources("toy", contract, body), contract), "native").stream(batch=9)
    info = np.finfo(dtype)
    values = [0, -0.0, info.max, info.min, info.tiny, info.smallest_subnormal, info.eps, 1, -1]
    x = np.array(values, dtype)
    stream.step(x)
    np.testing.assert_array_equal(stream.step(x), x)
    assert tried == []


BAD_OUTS = {
    "shape": (np.empty((1, 3), np.float32), ("out-does-not-fit", "'y' is float32 (1, 3)")),
    "read-only": (np.frombuffer(bytes(12), np.float32), ("out-read-only", "'y'")),
    "subclass": (np.empty(3, np.float32).view(type("Out", (np.ndarray,), {})), ("out-does-not-fit", "float32 (3,)")),
}


@pytest.mark.parametrize(("out", "message"), BAD_OUTS.values(), ids=BAD_OUTS)
def test_a_bad_out_leaves_the_state(compiled, out, message):
    """By either way to give it; what else is no `out` is refused on every backend (test_stream_refusals.py)."""
    stream = compiled("sum").stream()
    stream.step(ONES)
    for call in (lambda: stream.step(ONES, out=out), lambda: stream.step(ONES, out)):
        with raises(*message):
            call()
    np.testing.assert_array_equal(stream.step(ONES), 2 * ONES)


@pytest.mark.parametrize("out", [slice(0, 3), slice(1, 4), slice(2, 5), slice(3, 8, 2)])
def test_an_out_over_the_frame_or_with_gaps(compiled, out):
    buffer = np.arange(1, 9, dtype=np.float32)
    out, want = buffer[out], buffer[1:4].copy()
    np.testing.assert_array_equal(compiled("sum").stream().step(buffer[1:4], out=out), want)
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing 1 required positional argument: 'x'"),
        ((), {"out": ONES.copy()}, "missing 1 required positional argument: 'x'"),
        ((ONES, None, None), {}, "takes from 2 to 3 positional arguments but 4 were given"),
        ((ONES,), {"into": 1}, "got an unexpected keyword argument 'into'"),
        ((ONES,), {"x": ONES}, "got multiple values for argument 'x'"),
        ((ONES, None), {"out": None}, "got multiple values for argument 'out'"),
        ((ONES,), dict.fromkeys("abcdefgh"), "got an unexpected keyword argument 'a'"),
    ],
)
def test_wrong_arguments(compiled, args, kwargs, message):
    with pytest.raises(TypeError, match=message):
        compiled("sum").stream().step(*args, **kwargs)


def test_every_way_to_name_the_arguments(compiled):
    stream, out = compiled("sum").stream(), np.empty(3, np.float32)
    late = "".join(["o", "ut"])
    np.testing.assert_array_equal(stream.step(x=ONES), ONES)
    for given in (stream.step(out=out, x=ONES), stream.step(ONES, **{late: out})):
        assert given is out
    assert stream.step(ONES, out=None) is not None
    np.testing.assert_array_equal(out, 3 * ONES)


# --- token ids


@pytest.mark.parametrize("token", [3, np.int64(3), np.array(3), -2, np.int64(-2), np.array(-2), True])
def test_ids(compiled, tried, token):
    # True is an index to numpy too, which Python's step reads.
    given = compiled("tokens").stream().step(token)
    np.testing.assert_array_equal(given, TABLE[int(token)])
    assert (tried == []) == (token is not True)


def test_what_is_no_id_of_the_table_leaves_the_state(compiled):
    stream = compiled("tokens").stream()
    stream.step(1)
    for token in (IDS, -IDS - 1, np.int64(IDS), np.array(IDS), 2**63 - 1):
        with raises("index-beyond-table", "native", "frame: 'id'", int(token), "-5,4"):
            stream.step(token)
    for token, dtype in ((2**63, "uint64"), (2**70, "object"), (1.5, "float64")):
        with raises("wrong-dtype-of-input", "'id'", dtype):
            stream.step(token)
    np.testing.assert_array_equal(stream.step(0), TABLE[1] + TABLE[0])


# --- memory


def leaks(call: Callable[[], object], count: int = 2000) -> bool:
    """True if calls leak blocks of Python: more than one in ten calls, which caches do not grow by."""
    for _ in range(100):
        call()
    # A collection also empties the lists of tuples and numbers that Python keeps for their next use.
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(count):
        call()
    gc.collect()
    return sys.getallocatedblocks() - before > count // 10


def refused(stream: Stream, *args: object) -> None:
    try:
        stream.step(*args)
    except StreamError:
        return
    raise AssertionError


@pytest.mark.parametrize("way", ["out", "new", "list", "nan", "bad out", "id"])
def test_nothing_leaks(compiled, way):
    stream, out, nan = compiled("sum").stream(), np.empty(3, np.float32), np.full(3, np.nan, np.float32)
    tokens, bad = compiled("tokens").stream(), np.empty(4, np.float32)
    calls = {
        "out": lambda: stream.step(ONES, out=out),
        "new": lambda: stream.step(ONES),
        "list": lambda: stream.step([1, 1, 1]),
        "nan": lambda: refused(stream, nan),
        "bad out": lambda: refused(stream, ONES, bad),
        "id": lambda: tokens.step(1),
    }
    held = (ONES, out, nan, bad, stream, tokens, np.dtype("float32"), np.dtype("int64"))
    gc.collect()
    before = [sys.getrefcount(thing) for thing in held]
    assert not leaks(calls[way])
    assert [sys.getrefcount(thing) for thing in held] == before


def test_a_step_with_out_allocates_nothing(compiled):
    stream, out = compiled("sum").stream(), np.empty(3, np.float32)
    step, most, before = stream.step, 0, sys.getallocatedblocks()
    for _ in range(10_000):
        step(ONES, out=out)
        most = max(most, sys.getallocatedblocks())
    # The numbers of this loop itself.
    assert most - before < 10


def test_many_streams_leave_nothing(compiled):
    engine = compiled("sum")

    def open_and_step() -> None:
        engine.stream().step(ONES)

    assert not leaks(open_and_step)


def test_a_bound_step_keeps_its_stream(compiled):
    stream = compiled("sum").stream()
    memory, step = weakref.ref(stream._buffers), stream.step
    gc.disable()
    try:
        del stream
        np.testing.assert_array_equal(step(ONES), ONES)
        del step
        assert memory() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("holder", [lambda stream: stream, lambda stream: stream._buffers], ids=["stream", "memory"])
def test_what_holds_its_stream_is_collected(compiled, holder):
    stream = compiled("sum").stream()
    holder(stream).me, memory = stream, weakref.ref(stream._buffers)
    del stream
    gc.collect()
    assert memory() is None


def test_a_stepper_that_is_bound_to_nothing(compiled):
    stepper = compiled("sum")._session.stepper
    alone = stepper()
    with pytest.raises(AttributeError, match="_any_step"):
        alone.step(ONES)
    with pytest.raises(RuntimeError, match="not bound to its memory"):
        alone._advance()
    stream = compiled("sum").stream()
    with pytest.raises(RuntimeError, match="bound already"):
        stream._bind(None, (0, 0, 0), 1, (), (), None, None, 0)
    with pytest.raises(TypeError, match="a buffer is an array"):
        alone._bind(None, (0, 0, 1), 1, (1,), (), None, None, 0)
    with pytest.raises(ValueError, match="a contiguous array of 8 axes at most"):
        alone._bind(None, (0, 0, 1), 1, (ONES,), (ONES,), np.zeros(6)[::2], ONES, 0)


def test_frames_of_many_axes_go_through_python(tried):
    contract = spec("axes", [tensor("x", "batch", *[1] * 9)], [tensor("y", "batch", *[1] * 9)], [state("h", *[1] * 9)])
    engine = Engine.of(draft(sources("toy", contract, "    y[0] = s->h[0] += x[0];\n"), contract), "native")
    assert session.AXES == 8
    stream, x = engine.stream(), np.ones([1] * 9, np.float32)
    assert [stream.step(x).item(), stream.step(x).item()] == [1, 2]
    assert len(tried) == 2


# --- threads


def test_others_run_while_a_long_step_does():
    stream, x, given, begun = slow(macs=10**6).stream(), np.array([1, 2, 3], np.float32), [], threading.Event()

    def step() -> None:
        begun.set()
        given.append(stream.step(x))

    runner = threading.Thread(target=step)
    runner.start()
    begun.wait()
    while runner.is_alive():
        try:
            stream.states  # noqa: B018 - it raises where the other thread is inside
        except StreamError:
            break
    calls = [
        lambda: stream.step(ONES),
        lambda: stream.states,
        lambda: stream.run(np.ones((2, 3), np.float32)),
        stream.reset,
        stream.snapshot,
    ]
    for call in calls:
        with raises("stream-in-use"):
            call()
    x[:] = 100
    assert runner.is_alive()
    runner.join()
    # The frame is that of the call.
    np.testing.assert_array_equal(given, [[1, 2, 3]])
    np.testing.assert_array_equal(stream.step(x), [101, 102, 103])


def test_a_short_step_is_over_before_another_thread_runs():
    stream, done = slow(macs=10).stream(), []
    runner = threading.Thread(target=lambda: done.append(stream.step(ONES)))
    runner.start()
    while not done:
        stream.states  # noqa: B018 - it would raise if the other thread were inside
    runner.join()


def test_a_long_step_into_out():
    stream, out = slow(macs=10**6).stream(), np.empty(3, np.float32)
    assert stream.step(ONES, out=out) is out
    np.testing.assert_array_equal(out, ONES)
    np.testing.assert_array_equal(stream.step(out, out=out), 2 * ONES)
    np.testing.assert_array_equal(stream.step([1, 1, 1]), 3 * ONES)
    with raises("frame-not-finite"):
        stream.step(np.full(3, np.nan, np.float32))
