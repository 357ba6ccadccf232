"""Refusals of a stream: each with its message, and with the state left as it was."""

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from rnn_export.runtime import Stream

from ..messages import raises  # noqa: TID252
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
def unchanged(stream: Stream) -> Iterator[None]:
    """A block that leaves states, counters and what waits as they were."""
    before = stream.snapshot()
    yield
    assert stream.snapshot() == before


@contextmanager
def refused(stream: Stream, *message: object) -> Iterator[None]:
    """A block must raise `message`, an id and values, and change nothing."""
    with unchanged(stream), raises(*message):
        yield


def wrong(kind: str, name: str = "x") -> tuple[str, ...]:
    return "wrong-dtype-of-input", f"'{name}' is {kind}, but must be float32"


def shape(given: str, wanted: str, name: str = "'x'") -> tuple[str, ...]:
    return "wrong-shape-of-input", name, given, wanted


BAD_FRAMES = {
    "nan": (poisoned(np.nan), ("frame-not-finite", "'x'", "index (2,)")),
    "shape": (np.ones(4, np.float32), shape("(4,)", "(3,)")),
    "batch axis": (np.ones((1, 3), np.float32), shape("(1, 3)", "(3,)")),
    "scalar": (np.float32(1), shape("()", "(3,)")),
    "float64": (np.ones(3), (*wrong("float64"), "convert it with .astype(np.float32")),
    "int32": (np.ones(3, np.int32), wrong("int32")),
    "text": (["a", "b", "c"], wrong("<U1")),
    "none": (None, wrong("object")),
    "ragged": ([[1], [1, 2]], ("frame-unreadable", "'x'", "list")),
    "tensor with grad": (NoArray(), ("frame-unreadable", "'x'", "NoArray", "Can't call numpy()")),
    "dict": ({"x": ONES}, ("frame-not-an-array", "'x'", "dict")),
    "minus inf": (poisoned(-np.inf), ("frame-not-finite", "'x'", "index (2,)")),
    "huge and nan": (np.array([1e30, np.nan, 1e30], np.float32), ("frame-not-finite", "'x'", "index (1,)")),
    "too large for float32": ([1e300, 0, 0], ("frame-not-finite", "'x'", "index (0,)")),
    "big-endian nan": (poisoned(np.nan).astype(">f4"), ("frame-not-finite", "'x'", "index (2,)")),
}


@pytest.mark.contract
@pytest.mark.parametrize(("x", "message"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bad_frames(engine, x, message):
    stream = engine("sum").stream()
    stream.step(ONES)
    with refused(stream, *message):
        stream.step(x)
    np.testing.assert_array_equal(stream.step(ONES), [2, 2, 2])


BAD_PIECES = {
    "a frame": (ONES, ("run-axes", "x (3,)")),
    "four axes": (np.ones((1, 1, 1, 3), np.float32), ("run-axes", "x (1, 1, 1, 3)")),
    "frame shape": (np.ones((5, 2), np.float32), shape("(5, 2)", "(5, 3)")),
    "rows": (np.ones((2, 5, 3), np.float32), shape("(2, 5, 3)", "(1, 5, 3)")),
    "float64": (np.ones((5, 3)), wrong("float64")),
    "none": (None, ("run-axes", "x ()")),
    "ragged": ([[1, 1, 1], [1]], ("frame-unreadable", "'x'", "list")),
    "nan": (poisoned(np.nan, (5, 3)), ("frame-not-finite", "'x'", "index (4, 2)")),
    "inf, batched": (poisoned(np.inf, (1, 5, 3)), ("frame-not-finite", "'x'", "index (0, 4, 2)")),
    "wrong name": ({"z": np.ones((5, 3), np.float32)}, ("stream-inputs-unknown", "['x']", "['z']")),
}


@pytest.mark.contract
@pytest.mark.parametrize(("xs", "message"), BAD_PIECES.values(), ids=BAD_PIECES)
@pytest.mark.parametrize("name", ["timed", "chunked", "by_step"])
def test_bad_pieces(engine, name, xs, message):
    stream = engine(name).stream()
    stream.run(frames(4, 3))
    with refused(stream, *message):
        stream.run(xs)
    np.testing.assert_array_equal(stream.run(np.zeros((3, 3), np.float32))[-1], frames(4, 3).sum(0))


def test_a_batched_stream_needs_the_batch_axis(engine):
    stream = engine("timed").stream(batch=2)
    with refused(stream, "run-rows-differ", "2", "2"):
        stream.run(np.ones((5, 3), np.float32))
    with refused(stream, "wrong-shape-of-input", "'x'", "(3,)", "(2, 3)"):
        stream.step(ONES)


@pytest.mark.contract
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_is_found_in_every_float(engine, dtype):
    stream = engine(f"previous_{dtype}").stream()
    for value in (np.nan, np.inf):
        for x in (np.array(value, dtype), np.dtype(dtype).type(value), float(value)):
            with refused(stream, "frame-not-finite", "'x'", "its only value"):
                stream.step(x)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("dtype", "x", "kind"),
    [
        ("int32", 2**40, "int64"),
        ("uint8", 256, "int64"),
        ("uint8", -1, "int64"),
        ("int64", 2**70, "object"),
        ("int64", 1.5, "float64"),
        ("bool", 2, "int64"),
        ("int32", np.int64(1), "int64"),
    ],
)
def test_a_value_is_never_changed_to_fit(engine, dtype, x, kind):
    stream = engine(f"previous_{dtype}").stream()
    with refused(stream, "wrong-dtype-of-input", f"'x' is {kind}, but must be {dtype}"):
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
    with refused(stream, "frame-not-finite"):
        stream.step(poisoned(np.nan))
    np.testing.assert_array_equal(stream.step(HUGE), HUGE)


# --- several inputs, and out=


def read_only(shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, np.float32)
    array.flags.writeable = False
    return array


TWO = {"a": [1, 1], "b": [1, 1]}
TIMED = {"x": np.ones((5, 3), np.float32), "z": np.ones((5, 1), np.float32), "gain": ONES}
UNFIT = ("run-frames-unfit", "the inputs have [4, 5] frames: all must have the same number")
NOT_DICT = ("stream-out-not-dict", "['sum', 'dot']")
F2 = np.empty(2, np.float32)
# A model, what is fed, `out` (None for none), and the message.
BAD_CALLS = {
    "no names": ("pair", np.ones(2, np.float32), None, ("stream-without-names", "2", "['a', 'b']", "ndarray")),
    "a name too few": ("pair", {"a": [1, 1]}, None, ("stream-inputs-unknown", "['a', 'b']", "['a']")),
    "a name too many": ("pair", {**TWO, 3: 0}, None, ("stream-inputs-unknown", "['a', 'b']", "['3', 'a', 'b']")),
    "nan in one": ("pair", {**TWO, "b": [1, np.nan]}, None, ("frame-not-finite", "'b'", "index (1,)")),
    "shape of one": ("pair", {**TWO, "b": [1]}, None, shape("(1,)", "(2,)", "'b'")),
    "other numbers of frames": ("mixed", {**TIMED, "z": np.ones((4, 1), np.float32)}, None, UNFIT),
    "rows of one": ("mixed", {**TIMED, "z": np.ones((1, 5, 1), np.float32)}, None, ("run-axes", "x (5, 3), z (1, 5")),
    "rows of a value": ("mixed", {**TIMED, "gain": ONES[None]}, None, shape("(1, 3)", "(3,)", "'gain'")),
    "shape of out": ("sum", ONES, np.empty(4, np.float32), ("out-does-not-fit", "'y' is float32 (4,)", "float32 (3,)")),
    "dtype of out": ("sum", ONES, np.empty(3), ("out-does-not-fit", "'y' is float64 (3,)", "float32 (3,)")),
    "out of a list": ("sum", ONES, [0, 0, 0], ("out-does-not-fit", "'y' is list", "float32 (3,)")),
    "read-only out": ("sum", ONES, read_only((3,)), ("out-read-only", "'y'")),
    "out without names": ("pair", TWO, F2, NOT_DICT),
    "a name of out too few": ("pair", TWO, {"sum": F2}, NOT_DICT),
    "dtype of an out": ("pair", TWO, {"sum": F2, "dot": np.empty(2)}, ("out-does-not-fit", "'dot' is float64 (2,)")),
    "out with a delay": ("delayed", ONES, np.empty(3, np.float32), ("out-with-delay", "the first 2 frames give no")),
}


@pytest.mark.parametrize(("name", "x", "out", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls(engine, name, x, out, message):
    stream = engine(name).stream()
    if name == "mixed":
        stream.run(TIMED)
    with refused(stream, *message):
        stream.run(x) if name == "mixed" else stream.step(x, out=out)


# --- what the graph itself refuses

OUT_OF_TABLE = {
    "onnxruntime": "onnxruntime-step-refused",
    "tensorrt": "tensorrt-frame-refused",
    "native": "index-beyond-table",
    "wasm": "index-beyond-table",
    "openvino": "openvino-index-beyond-table",
    "litert": "litert-index-beyond-table",
    "executorch": "executorch-frame-refused",
    "torchscript": "torchscript-frame-refused",
}


@pytest.mark.contract
@pytest.mark.parametrize("name", ["tokens", "tokens_timed"])
def test_an_id_out_of_range_in_a_step(engine, name, capfd):
    stream = engine(name).stream()
    stream.step(1)
    with refused(stream, OUT_OF_TABLE[engine(name).backend]):
        stream.step(IDS)
    np.testing.assert_array_equal(stream.step(1), [4, 6])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["tokens", "tokens_timed"])
@pytest.mark.parametrize("block", [2, 4096])
def test_an_id_out_of_range_undoes_the_whole_run(engine, name, block, monkeypatch):
    monkeypatch.setattr("rnn_export.runtime.stream.BLOCK", block)
    stream = engine(name).stream()
    stream.run([1, 2, 3])
    message = OUT_OF_TABLE[engine(name).backend]
    if name == "tokens_timed":
        message = message.replace("onnxruntime-step", "onnxruntime-sequence")
    with refused(stream, message, "idx=5"):
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
