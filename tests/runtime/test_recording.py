"""Recordings from files and arrays: what is read, and each way in which one does not fit."""

import io
import re
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rnn_export.errors import SourceError
from rnn_export.runtime import recording
from rnn_export.spec import StreamSpec, TensorSpec


def spec(*frame: int | str, dtype: str = "float32", rate: int | None = 16000, timed: bool = True) -> StreamSpec:
    shape = ("batch", "time", *frame) if timed else ("batch", *frame)
    return StreamSpec((TensorSpec("x", dtype, shape),), (TensorSpec("y", "float32", shape),), (), sample_rate=rate)


MIXED = StreamSpec(
    (
        TensorSpec("x", "float32", ("batch", "time", 2)),
        TensorSpec("id", "int64", ("batch", "time")),
        TensorSpec("speaker", "float32", ("batch", 3)),
    ),
    (TensorSpec("y", "float32", ("batch", "time", 2)),),
    (),
)
GOOD = {
    "x": np.ones((1, 5, 2), np.float32),
    "id": np.arange(5)[None],
    "speaker": np.ones((1, 3), np.float32),
}


def read(source: object, contract: StreamSpec) -> np.ndarray:
    return recording.read(source, contract)["x"]


def saved(path: Path, array: object) -> Path:
    (np.savez if path.suffix == ".npz" else np.save)(path, **array if isinstance(array, dict) else {"arr": array})
    return path


# --- arrays


@pytest.mark.parametrize(
    ("given", "frame", "wanted"),
    [
        ((5, 4), (4,), (1, 5, 4)),
        ((3, 5, 4), (4,), (3, 5, 4)),
        ((20,), (4,), (1, 5, 4)),
        ((18,), (4,), (1, 5, 4)),
        ((5,), (), (1, 5)),
        ((3, 5), (), (3, 5)),
        ((3, 1), (), (3, 1)),
        ((5, 2, 3), (2, 3), (1, 5, 2, 3)),
        ((3, 5, 2, 3), (2, 3), (3, 5, 2, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("timed", [True, False])
def test_arrays_become_rows_of_frames(given, frame, wanted, timed):
    source = np.ones(given, np.float32)
    array = read(source, spec(*frame, timed=timed))
    assert array.shape == wanted
    assert array.dtype == np.float32
    assert array.sum() == source.size


def test_the_last_frame_of_a_signal_is_padded_with_zeros():
    np.testing.assert_array_equal(read(np.arange(1, 6.0, dtype=np.float32), spec(3)), [[[1, 2, 3], [4, 5, 0]]])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(np.arange(4.0), "int64"), (np.arange(4), "uint8"), (np.arange(4), "float32"), ([1.5, 2], "float32")],
    ids=str,
)
def test_values_that_another_dtype_has(values, dtype):
    array = read(values, spec(dtype=dtype))
    assert array.dtype == dtype
    np.testing.assert_array_equal(array[0], values)


def test_inputs_with_and_without_a_time_axis():
    given = recording.read({**GOOD, "speaker": np.ones(3, np.float32)}, MIXED)
    assert {name: a.shape for name, a in given.items()} == {"x": (1, 5, 2), "id": (1, 5), "speaker": (1, 3)}


BAD_ARRAYS = {
    "empty": (np.ones((0, 4), np.float32), spec(4), "the recording: 'x' has shape (1, 0, 4), but a frame has (4,)"),
    "empty signal": (np.ones(0, np.float32), spec(4), "the recording: 'x' has shape (1, 0, 4)"),
    "frame": (np.ones((5, 3), np.float32), spec(4), "has shape (5, 3), but a frame has (4,): it must be (time, ...)"),
    "scalar": (np.float32(1), spec(4), "has shape (), but a frame has (4,)"),
    "axes": (np.ones((1, 1, 5, 4), np.float32), spec(4), "has shape (1, 1, 5, 4)"),
    "nan": ([1, np.nan], spec(), "the recording: 'x' holds NaN or Inf"),
    "inf": ([1, -np.inf], spec(), "the recording: 'x' holds NaN or Inf"),
    "too large": ([1e300], spec(), "the recording: 'x' holds NaN or Inf"),
    "float64": (
        np.ones(4),
        spec(),
        "'x' is float64, but must be float32: convert it with .astype(np.float32) if you mean it.",
    ),
    "no ids": (np.array([0.5]), spec(dtype="int64"), "'x' is float64 with values that int64 does not have"),
    "nan ids": (np.array([np.nan]), spec(dtype="int64"), "'x' is float64 with values that int64 does not have"),
    "large ids": (np.array([2**40]), spec(dtype="int32"), "'x' is int64 with values that int32 does not have"),
    "negative": (np.array([-1]), spec(dtype="uint8"), "'x' is int64 with values that uint8 does not have"),
    "complex": (np.array([1j]), spec(), "'x' is complex128 with values that float32 does not have"),
    "text": (np.array(["1"]), spec(), "'x' is <U1 with values that float32 does not have"),
    "ragged": ([[1], [1, 2]], spec(), "the recording: 'x' is no array"),
    "one for many": (np.ones((5, 2)), MIXED, "is one array, but the model has the inputs ['x', 'id', 'speaker']"),
    "names": ({"x": 1, 2: 2}, spec(), "the recording has ['2', 'x'], but the model's inputs are ['x']"),
    "frames": (
        {**GOOD, "id": np.arange(4)},
        MIXED,
        "the recording: the inputs have [4, 5] frames: all must have the same number.",
    ),
    "rows": ({**GOOD, "id": np.ones((2, 5), int)}, MIXED, "the inputs have [1, 2] rows, but must have the same number"),
    "untimed": ({**GOOD, "speaker": np.ones(4, np.float32)}, MIXED, "'speaker' has shape (4,), but a frame has (3,)"),
}


@pytest.mark.parametrize(("source", "contract", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_do_not_fit(source, contract, message):
    with pytest.raises(SourceError, match=re.escape(message)):
        recording.read(source, contract)


# --- npy and npz


@pytest.mark.parametrize("kind", [str, Path])
def test_npy(tmp_path, kind):
    np.save(tmp_path / "a.NPY.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    np.testing.assert_array_equal(read(kind(tmp_path / "a.NPY.npy"), spec(2)), [[[0, 1], [2, 3], [4, 5]]])


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD)
    given = recording.read(tmp_path / "a.npz", MIXED)
    for name, array in GOOD.items():
        np.testing.assert_array_equal(given[name], array)


def test_npz_with_other_names(tmp_path):
    np.savez(tmp_path / "a.npz", x=GOOD["x"], ids=GOOD["id"])
    with pytest.raises(SourceError, match=r"a\.npz has \['ids', 'x'\], but the model's inputs are \['x', 'id', 'spe"):
        recording.read(tmp_path / "a.npz", MIXED)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return buffer.getvalue()


def damaged(raw: bytes) -> bytes:
    return raw[:45] + bytes(b ^ 255 for b in raw[45:60]) + raw[60:]


PICKLE = npy(np.array([{}], object))
UNREADABLE = {
    "empty.npy": b"",
    "pickled.npy": PICKLE,
    "truncated.npy": npy(np.ones(100))[:-8],
    "text.npy": b"1,2,3",
    "pickled.npz": npz("x.npy", PICKLE),
    "truncated.npz": npz("x.npy", npy(np.ones(100)))[:-30],
    "damaged.npz": damaged(npz("x.npy", npy(np.random.default_rng(0).normal(size=100)))),
    "empty.csv": b"",
    "header only.csv": b"a,b\n\n",
    "words.csv": b"1,2\n3,oops\n",
    "word first.csv": b"1,oops\n3,4\n",
    "ragged.csv": b"1,2\n3\n",
    "binary.csv": b"\xff\xfe\x00\x01",
    "empty.wav": b"",
    "text.wav": b"RIFF but not a wave file at all",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_files_that_cannot_be_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(UNREADABLE[name])
    with pytest.raises(SourceError, match=re.escape(f"{path} cannot be read as {path.suffix}: ") + "."):
        recording.read(path, spec())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.mp3", "is of no known kind: give a .npy, .npz, .csv, .wav file"),
        ("a", "is of no known kind"),
        ("none.npy", "does not exist or is not a file"),
        ("folder.csv", "does not exist or is not a file"),
    ],
)
def test_no_such_file(tmp_path, name, message):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SourceError, match=re.escape(f"{tmp_path / name} {message}")):
        recording.read(tmp_path / name, spec())


# --- csv


@pytest.mark.parametrize(
    "text",
    ["1,2\n3,4\n", "a,b\n1,2\n3,4", " left , right\r\n1.0,2.0\r\n3.0,4e0\r\n", "\n1,2\n\n3,4\n\n", "\ufeff1,2\n3,4\n"],
    ids=repr,
)
def test_csv(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    np.testing.assert_array_equal(read(tmp_path / "a.csv", spec(2)), [[[1, 2], [3, 4]]])


@pytest.mark.parametrize(
    ("contract", "wanted"), [(spec(), [[1, 2, 3]]), (spec(1), [[[1], [2], [3]]]), (spec(2), [[[1, 2], [3, 0]]])]
)
def test_one_column_is_a_signal(tmp_path, contract, wanted):
    (tmp_path / "a.csv").write_text("volt\n1\n2\n3\n")
    np.testing.assert_array_equal(read(tmp_path / "a.csv", contract), wanted)


def test_numbers_and_samples_of_sound_are_rounded_to_what_the_model_takes(tmp_path):
    (tmp_path / "a.csv").write_text("0.1\n1e-3\n")
    half = spec(dtype="float16")
    np.testing.assert_array_equal(read(tmp_path / "a.csv", half), np.array([[0.1, 1e-3]], np.float16))
    sound = write_wav(tmp_path / "a.wav", np.array([1, -(2**14)], "<i2").tobytes(), 2)
    np.testing.assert_array_equal(read(sound, half), np.array([[2**-15, -0.5]], np.float16))


def test_csv_of_ids(tmp_path):
    (tmp_path / "a.csv").write_text("1\n2\n")
    assert read(tmp_path / "a.csv", spec(dtype="int64")).tolist() == [[1, 2]]


def test_csv_with_nan_names_the_file(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\nnan,4\n")
    with pytest.raises(SourceError, match=r"a\.csv: 'x' holds NaN or Inf"):
        read(tmp_path / "a.csv", spec(2))


# --- wav


def write_wav(path: Path, raw: bytes, width: int, rate: int = 16000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_pcm_is_scaled(tmp_path, width):
    half = 2 ** (8 * width - 1)
    samples = [-half, -half // 2, -1, 0, 1, half // 4, half - 1]
    raw = b"".join((s + 128 if width == 1 else s).to_bytes(width, "little", signed=width > 1) for s in samples)
    given = read(write_wav(tmp_path / "a.wav", raw, width), spec(rate=16000))
    assert given.dtype == np.float32
    assert given.min() == -1
    assert given.max() < 1
    np.testing.assert_allclose(given[0], np.array(samples) / half, atol=1e-7)


def test_wav_is_cut_into_frames(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.full(5, 2**14, "<i2").tobytes(), 2)
    np.testing.assert_array_equal(read(path, spec(4, rate=16000)), [[[0.5] * 4, [0.5, 0, 0, 0]]])
    assert read(path, spec(4)).shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("raw", "options", "message"),
    [
        (bytes(8), {"rate": 8000}, "has 8000 Hz, but the model was made for 16000 Hz: resample it first"),
        (bytes(8), {"channels": 2}, "has 2 channels, but one is needed: mix it down"),
        (b"", {}, "'x' has shape (1, 0, 4)"),
    ],
)
def test_wav_that_does_not_fit(tmp_path, raw, options, message):
    path = write_wav(tmp_path / "a.wav", raw, 2, **options)
    with pytest.raises(SourceError, match=re.escape(message)):
        read(path, spec(4, rate=16000))


def test_wav_of_a_width_that_is_not_read(tmp_path):
    path = write_wav(tmp_path / "a.wav", bytes(16), 4)
    raw = bytearray(path.read_bytes())
    raw[32:34], raw[34:36] = b"\x08\0", b"\x40\0"
    path.write_bytes(raw)
    with pytest.raises(SourceError, match="has samples of 64 bits, but 8, 16, 24 and 32 are read"):
        read(path, spec())


def test_wav_with_half_a_sample(tmp_path):
    path = write_wav(tmp_path / "a.wav", bytes(8), 2)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"a\.wav is cut off"):
        read(path, spec())


def test_sound_needs_a_sample_rate_in_the_model(tmp_path):
    path = write_wav(tmp_path / "a.wav", bytes(8), 2)
    with pytest.raises(SourceError, match=r"a\.wav is sound, but the model has no sample rate to hold it to"):
        read(path, spec(4, rate=None))


def test_a_wav_that_is_cut_off_is_refused(tmp_path):
    path = write_wav(tmp_path / "a.wav", bytes(800), 2)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"a\.wav is cut off: its header says 800 bytes of sound, 700 are there"):
        read(path, spec(4, rate=16000))


def test_features_in_one_row_are_no_signal():
    with pytest.raises(SourceError, match=r"has shape \(8,\), but a frame has \(4,\)"):
        read(np.zeros(8, np.float32), spec(4, rate=None))
