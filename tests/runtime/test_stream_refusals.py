"""Refusals of a stream: each with its message, and with the state left as it was."""

import re
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from rnn_export.errors import StreamError
from rnn_export.runtime import Stream

from .graphs import IDS, frames

ONES = np.ones(3, np.float32)
HUGE = np.full(3, 1e30, np.float32)


def poisoned(value: float, shape: tuple[int, ...] = (3,), dtype: str = "float32") -> np.ndarray:
    array = np.ones(shape, dtype)
    array[(-1,) * len(shape)] = value
    return array


class NoArray:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


@contextmanager
def refused(stream: Stream, message: str) -> Iterator[None]:
    """A block must raise StreamError with `message` and leave states, counters and what waits as they were."""
    before = stream.snapshot()
    with pytest.raises(StreamError, match=re.escape(message)):
        yield
    assert stream.snapshot() == before


BAD_FRAMES = {
    "shape": (np.ones(4, np.float32), "'x' has shape (4,), but must be (3,)"),
    "batch axis": (np.ones((1, 3), np.float32), "'x' has shape (1, 3), but must be (3,)"),
    "scalar": (np.float32(1), "'x' has shape (), but must be (3,)"),
    "float64": (np.ones(3), "'x' is float64, but must be float32: convert it with .astype(np.float32)"),
    "int32": (np.ones(3, np.int32), "'x' is int32, but must be float32"),
    "complex": (np.ones(3, np.complex64), "'x' is complex64, but must be float32"),
    "text": (["a", "b", "c"], "'x' is <U1, but must be float32"),
    "none": (None, "'x' is object, but must be float32"),
    "ragged": ([[1], [1, 2]], "'x' is a list that numpy cannot read"),
    "tensor with grad": (NoArray(), "'x' is a NoArray that numpy cannot read: Can't call numpy()"),
    "dict": ({"x": ONES}, "'x' is given as a dict: give the array itself"),
    "nan": (poisoned(np.nan), "'x' holds NaN or Inf at index (2,): it was not fed, the state is unchanged"),
    "inf": (poisoned(np.inf), "'x' holds NaN or Inf at index (2,)"),
    "minus inf": (poisoned(-np.inf), "'x' holds NaN or Inf at index (2,)"),
    "huge and nan": (np.array([1e30, np.nan, 1e30], np.float32), "'x' holds NaN or Inf at index (1,)"),
    "too large for float32": ([1e300, 0, 0], "'x' holds NaN or Inf at index (0,)"),
    "big-endian nan": (poisoned(np.nan).astype(">f4"), "'x' holds NaN or Inf at index (2,)"),
}


@pytest.mark.parametrize(("x", "message"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bad_frames(engine, x, message):
    stream = engine("sum").stream()
    stream.step(ONES)
    with refused(stream, message):
        stream.step(x)
    np.testing.assert_array_equal(stream.step(ONES), [2, 2, 2])


BAD_PIECES = {
    "a frame": (ONES, "a run takes (time, ...) or (batch, time, ...), but was given x (3,)"),
    "four axes": (np.ones((1, 1, 1, 3), np.float32), "but was given x (1, 1, 1, 3)"),
    "frame shape": (np.ones((5, 2), np.float32), "'x' has shape (5, 2), but must be (5, 3)"),
    "rows": (np.ones((2, 5, 3), np.float32), "'x' has shape (2, 5, 3), but must be (1, 5, 3)"),
    "float64": (np.ones((5, 3)), "'x' is float64, but must be float32"),
    "none": (None, "but was given x ()"),
    "text": ("abc", "but was given x ()"),
    "ragged": ([[1, 1, 1], [1]], "'x' is a list that numpy cannot read"),
    "nan": (poisoned(np.nan, (5, 3)), "'x' holds NaN or Inf at index (4, 2)"),
    "inf, batched": (poisoned(np.inf, (1, 5, 3)), "'x' holds NaN or Inf at index (0, 4, 2)"),
    "wrong name": ({"z": np.ones((5, 3), np.float32)}, "the inputs are ['x'], but ['z'] were given"),
}


@pytest.mark.parametrize(("xs", "message"), BAD_PIECES.values(), ids=BAD_PIECES)
@pytest.mark.parametrize("name", ["timed", "chunked", "by_step"])
def test_bad_pieces(engine, name, xs, message):
    stream = engine(name).stream()
    stream.run(frames(4, 3))
    with refused(stream, message):
        stream.run(xs)
    np.testing.assert_array_equal(stream.run(np.zeros((3, 3), np.float32))[-1], frames(4, 3).sum(0))


def test_a_batched_stream_needs_the_batch_axis(engine):
    stream = engine("timed").stream(batch=2)
    with refused(stream, "this stream has 2 rows: a run takes (batch, time, ...) with a batch of 2"):
        stream.run(np.ones((5, 3), np.float32))
    with refused(stream, "'x' has shape (3,), but must be (2, 3)"):
        stream.step(ONES)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_found_in_every_float(engine, dtype, value):
    stream = engine(f"previous_{dtype}").stream()
    for x in (np.array(value, dtype), np.dtype(dtype).type(value), float(value)):
        with refused(stream, "'x' holds NaN or Inf at its only value"):
            stream.step(x)


@pytest.mark.parametrize(
    ("dtype", "x", "message"),
    [
        ("int32", 2**40, "'x' is int64, but must be int32"),
        ("uint8", 256, "'x' is int64, but must be uint8"),
        ("uint8", -1, "'x' is int64, but must be uint8"),
        ("int64", 2**70, "'x' is object, but must be int64"),
        ("int64", 1.5, "'x' is float64, but must be int64"),
        ("bool", 2, "'x' is int64, but must be bool"),
        ("int32", np.int64(1), "'x' is int64, but must be int32"),
    ],
)
def test_a_value_is_never_changed_to_fit(engine, dtype, x, message):
    stream = engine(f"previous_{dtype}").stream()
    with refused(stream, message):
        stream.step(x)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_large_finite_values_pass_without_a_warning(engine, dtype):
    large = np.finfo(dtype).max
    stream = engine(f"previous_{dtype}").stream(batch=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream.step(np.full(9, large))
        np.testing.assert_array_equal(stream.step(np.full(9, -large)), np.full(9, large))


def test_huge_values_after_a_refusal(engine):
    stream = engine("sum").stream()
    with refused(stream, "NaN or Inf"):
        stream.step(poisoned(np.nan))
    np.testing.assert_array_equal(stream.step(HUGE), HUGE)


# --- several inputs


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(2, np.float32), "this stream has 2 inputs: give a dict with ['a', 'b'], not a ndarray"),
        ({"a": [1, 1]}, "the inputs are ['a', 'b'], but ['a'] were given"),
        ({"a": [1, 1], "b": [1, 1], 3: 0}, "the inputs are ['a', 'b'], but ['3', 'a', 'b'] were given"),
        ({"a": [1, 1], "b": [1, np.nan]}, "'b' holds NaN or Inf at index (1,)"),
        ({"a": [1, 1], "b": [1]}, "'b' has shape (1,), but must be (2,)"),
    ],
)
def test_bad_dicts(engine, x, message):
    stream = engine("pair").stream()
    with refused(stream, message):
        stream.step(x)
    given = stream.step({"a": [2, 2], "b": [3, 3]})
    np.testing.assert_array_equal([given["sum"], given["dot"]], [[2, 2], [6, 6]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z": np.ones((4, 1), np.float32)}, "the inputs have [4, 5] frames: all must have the same number"),
        ({"z": np.ones((1, 5, 1), np.float32)}, "but was given x (5, 3), z (1, 5, 1)"),
        ({"gain": np.ones((1, 3), np.float32)}, "'gain' has shape (1, 3), but must be (3,)"),
    ],
)
def test_inputs_that_do_not_go_together(engine, changes, message):
    stream = engine("mixed").stream()
    xs = {"x": np.ones((5, 3), np.float32), "z": np.ones((5, 1), np.float32), "gain": ONES}
    stream.run(xs)
    with refused(stream, message):
        stream.run({**xs, **changes})


# --- out=


def read_only(shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty(4, np.float32), "out for 'y' is float32 (4,), but must be an array of float32 (3,)"),
        (np.empty(3), "out for 'y' is float64 (3,), but must be an array of float32 (3,)"),
        ([0, 0, 0], "out for 'y' is list, but must be an array of float32 (3,)"),
        (read_only((3,)), "out for 'y' is read-only"),
    ],
)
def test_bad_out(engine, out, message):
    stream = engine("sum").stream()
    with refused(stream, message):
        stream.step(ONES, out=out)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty(2, np.float32), "out must be a dict with ['sum', 'dot']"),
        ({"sum": np.empty(2, np.float32)}, "out must be a dict with ['sum', 'dot']"),
        ({"sum": np.empty(2, np.float32), "dot": np.empty(2)}, "out for 'dot' is float64 (2,)"),
    ],
)
def test_bad_out_for_several_outputs(engine, out, message):
    stream = engine("pair").stream()
    with refused(stream, message):
        stream.step({"a": [1, 1], "b": [1, 1]}, out=out)


def test_no_out_where_frames_are_delayed(engine):
    stream = engine("delayed").stream()
    with refused(stream, "out= cannot be used here: the first 2 frames give no output"):
        stream.step(ONES, out=np.empty(3, np.float32))


# --- what the graph itself refuses


@pytest.mark.parametrize("name", ["tokens", "tokens_timed"])
def test_an_id_out_of_range_in_a_step(engine, name, capfd):
    stream = engine(name).stream()
    stream.step(1)
    with refused(stream, f"{engine(name).backend} refused the frame"):
        stream.step(IDS)
    np.testing.assert_array_equal(stream.step(1), [4, 6])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["tokens", "tokens_timed"])
@pytest.mark.parametrize("block", [2, 4096])
def test_an_id_out_of_range_undoes_the_whole_run(engine, name, block, monkeypatch):
    monkeypatch.setattr("rnn_export.runtime.stream.BLOCK", block)
    stream = engine(name).stream()
    stream.run([1, 2, 3])
    with refused(stream, "idx=5 must be within the inclusive range"):
        stream.run([1, 2, 3, 4, IDS, 1])
    np.testing.assert_array_equal(stream.run([0]), [[12, 16]])


# One that comes in a finaliser is dropped by Python, so more than one comes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_in_the_middle_undoes_the_whole_run(engine, monkeypatch):
    # Python looks for signals between blocks alone, and so many frames may be one of them, soon done.
    monkeypatch.setattr("rnn_export.runtime.stream.BLOCK", 3)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    stream, xs = engine("by_step").stream(), frames(300_000, 3)
    stream.run(xs[:4])
    before, usual = stream.snapshot(), signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may come before the run begins
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            stream.run(xs)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
    assert stream.snapshot() == before
