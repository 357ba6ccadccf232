"""Recordings from files and arrays: their values, and each way in which one does not fit."""

import io
import struct
import sys
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.errors import SourceError
from rnn_export.platform.installing import pip_install
from rnn_export.runtime import recording

from ..messages import raises  # noqa: TID252


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
GOOD = {"x": np.ones((1, 5, 2), np.float32), "id": np.arange(5)[None], "speaker": np.ones((1, 3), np.float32)}


def read(source: object, contract: StreamSpec) -> np.ndarray:
    return recording.read(source, contract)["x"]


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
    "empty": (np.ones((0, 4), np.float32), spec(4), ("recording-shape", "the recording: 'x'", "(1, 0, 4)", "(4,)")),
    "empty signal": (np.ones(0, np.float32), spec(4), ("recording-shape", "the recording: 'x'", "(1, 0, 4)")),
    "frame": (np.ones((5, 3), np.float32), spec(4), ("recording-shape", "(5, 3)", "(4,)")),
    "a row of features": (np.ones(8, np.float32), spec(4, rate=None), ("recording-shape", "(8,)", "(4,)")),
    "scalar": (np.float32(1), spec(4), ("recording-shape", "()", "(4,)")),
    "axes": (np.ones((1, 1, 5, 4), np.float32), spec(4), ("recording-shape", "(1, 1, 5, 4)")),
    "nan": ([1, np.nan], spec(), ("recording-not-finite", "the recording: 'x'")),
    "inf": ([1, -np.inf], spec(), ("recording-not-finite", "the recording: 'x'")),
    "too large": ([1e300], spec(), ("recording-not-finite", "the recording: 'x'")),
    "float64": (
        np.ones(4),
        spec(),
        ("recording-dtype", "'x' is float64, but must be float32: convert it with .astype(np.float32) if you mean it"),
    ),
    "no ids": (np.array([0.5]), spec(dtype="int64"), ("recording-values-lost", "'x' is float64", "int64")),
    "nan ids": (np.array([np.nan]), spec(dtype="int64"), ("recording-values-lost", "'x' is float64", "int64")),
    "large ids": (np.array([2**40]), spec(dtype="int32"), ("recording-values-lost", "'x' is int64", "int32")),
    "negative": (np.array([-1]), spec(dtype="uint8"), ("recording-values-lost", "'x' is int64", "uint8")),
    "complex": (np.array([1j]), spec(), ("recording-values-lost", "'x' is complex128", "float32")),
    "text": (np.array(["1"]), spec(), ("recording-values-lost", "'x' is <U1", "float32")),
    "ragged": ([[1], [1, 2]], spec(), ("recording-not-an-array", "the recording: 'x'")),
    "one for many": (np.ones((5, 2)), MIXED, ("recording-one-array", "['x', 'id', 'speaker']")),
    "names": ({"x": 1, 2: 2}, spec(), ("recording-inputs-differ", "the recording", "['2', 'x']", "['x']")),
    "frames": (
        {**GOOD, "id": np.arange(4)},
        MIXED,
        ("recording-frames-unfit", "the recording: the inputs have [4, 5] frames: all must have the same number"),
    ),
    "rows": ({**GOOD, "id": np.ones((2, 5), int)}, MIXED, ("recording-rows-differ", "[1, 2]")),
    "untimed": ({**GOOD, "speaker": np.ones(4, np.float32)}, MIXED, ("recording-shape", "'speaker'", "(4,)", "(3,)")),
}


@pytest.mark.parametrize(("source", "contract", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_do_not_fit(source, contract, message):
    with raises(*message):
        recording.read(source, contract)


# --- npy and npz


@pytest.mark.parametrize("kind", [str, Path])
def test_npy(tmp_path, kind):
    np.save(tmp_path / "a.NPY.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    np.testing.assert_array_equal(read(kind(tmp_path / "a.NPY.npy"), spec(2)), [[[0, 1], [2, 3], [4, 5]]])


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD)
    np.testing.assert_equal(recording.read(tmp_path / "a.npz", MIXED), GOOD)
    np.savez(tmp_path / "b.npz", x=GOOD["x"], ids=GOOD["id"])
    with raises("recording-inputs-differ", "b.npz", "['ids', 'x']", "['x', 'id', 'speaker"):
        recording.read(tmp_path / "b.npz", MIXED)


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
    with raises("recording-unreadable", path, path.suffix):
        recording.read(path, spec())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.mp3", ("recording-suffix-unknown", ".npy, .npz, .csv, .wav, .flac, .ogg")),
        ("a", ("recording-suffix-unknown",)),
        ("none.npy", ("recording-missing",)),
        ("folder.csv", ("recording-missing",)),
    ],
)
def test_no_such_file(tmp_path, name, message):
    (tmp_path / "folder.csv").mkdir()
    with raises(message[0], tmp_path / name, *message[1:]):
        recording.read(tmp_path / name, spec())


# --- csv


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        (" left , right\r\n1.0,2.0\r\n3.0,4e0\r\n", [[1, 2], [3, 4]]),
        ("\n1,2\n\n3,4\n\n", [[1, 2], [3, 4]]),
        ("\ufeff1,2\n3,4\n", [[1, 2], [3, 4]]),
        ('"a, b","c"\n"1","2"\n', [[1, 2]]),
        ('"left ""raw""", right\n 1, "2"\n', [[1, 2]]),
        ('"two\nlines",c\n1,2\n', [[1, 2]]),
    ],
    ids=repr,
)
def test_csv(tmp_path, text, wanted):
    np.testing.assert_array_equal(read(written(tmp_path / "a.csv", text), spec(2)), [wanted])


@pytest.mark.parametrize(
    ("contract", "wanted"),
    [
        (spec(), [[1, 2, 3]]),
        (spec(1), [[[1], [2], [3]]]),
        (spec(2), [[[1, 2], [3, 0]]]),
        (spec(dtype="int64"), [[1, 2, 3]]),
    ],
)
def test_one_column_is_a_signal_picked_or_alone(tmp_path, contract, wanted):
    alone = written(tmp_path / "a.csv", "volt\n1\n2\n3\n")
    picked = recording.Csv(written(tmp_path / "b.csv", "time,volt\n0,1\n1,2\n2,3\n"), ["volt"])
    for source in (alone, picked):
        given = read(source, contract)
        assert given.dtype == contract.inputs[0].dtype
        np.testing.assert_array_equal(given, wanted)


def test_numbers_and_samples_of_sound_are_rounded_to_what_the_model_takes(tmp_path):
    (tmp_path / "a.csv").write_text("0.1\n1e-3\n")
    half = spec(dtype="float16")
    np.testing.assert_array_equal(read(tmp_path / "a.csv", half), np.array([[0.1, 1e-3]], np.float16))
    sound = write_wav(tmp_path / "a.wav", np.array([1, -(2**14)], "<i2").tobytes(), 2)
    np.testing.assert_array_equal(read(sound, half), np.array([[2**-15, -0.5]], np.float16))


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


# As pandas writes a DataFrame with a column of times: its row numbers have no name.
PANDAS = ",timestamp,load,temp\n0,2026-01-01 00:00:00,1,2\n1,2026-01-01 01:00:00,3,4\n"


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [(["load", "temp"], [[1, 2], [3, 4]]), (["temp", 3], [[2, 1], [4, 3]]), (("4", "1"), [[2, 0], [4, 1]])],
)
def test_columns_are_picked_by_name_or_number(tmp_path, columns, wanted):
    source = recording.Csv(written(tmp_path / "a.csv", PANDAS), columns)
    assert read(source, spec(2, rate=None)).tolist() == [wanted]


def test_a_frame_of_several_axes_is_a_line(tmp_path):
    assert read(written(tmp_path / "a.csv", "1,2,3,4,5,6\n"), spec(2, 3)).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]


TWO = StreamSpec(
    (TensorSpec("gain", "float32", ("batch", "time", 1)), TensorSpec("id", "int64", ("batch", "time"))),
    (TensorSpec("y", "float32", ("batch", "time")),),
    (),
)


def test_several_inputs_are_columns_of_their_names(tmp_path):
    path = written(tmp_path / "a.csv", "id,time,gain\n1,0:00,0.1\n2,0:01,0.2\n")
    given = recording.read(recording.Csv(path, ["gain", "id"]), TWO)
    assert given["id"].tolist() == [[1, 2]]
    np.testing.assert_array_equal(given["gain"], np.array([[[0.1], [0.2]]], np.float32))


FIX = "leave the column out, --columns load,temp (in Python Csv('{0}', ['load', 'temp']))"
WRONG_CSV = {
    "timestamp": (
        PANDAS,
        (),
        spec(2),
        "line 2, column 2 ('timestamp') holds '2026-01-01 00:00:00', which is no number: " + FIX,
    ),
    "a cell": ("\n\na,b\n1,2\n3,?\n", (), spec(2), "line 5, column 2 ('b') holds '?', which is no number: correct it."),
    "no header": ("1,2\n3,\n", (), spec(2), "line 2, column 2 holds '', which is no number: correct it."),
    "one column": ("x\n1\n1_0\n", (), spec(), "line 3, column 1 ('x') holds '1_0', which is no number: correct it."),
    "a comma": (
        '"a, b",c\n1,z\n',
        (),
        spec(1),
        "line 2, column 2 ('c') holds 'z', which is no number: leave the column out, --columns 1 (in Python Csv(",
    ),
    "empty line of values": (",\n1,2\n,\n", (), spec(2), "line 3, column 1 holds '', which is no number"),
    "ragged": ("a,b\n1,2\n3\n", (), spec(2), "line 3 has 1 values, but the first line has 2"),
    "quotes": ('a,"b\n1,2\n', (), spec(2), "cannot be read as .csv: unexpected end of data."),
    "name": (
        PANDAS,
        ["lod"],
        spec(2),
        "has no column 'lod': it has timestamp, load, temp; columns have the numbers 1 to 4",
    ),
    "zero": ("1,2\n", ["0"], spec(2), "has no column '0': it has no header; columns have the numbers 1 to 2"),
    "twice": ("a,a\n1,2\n", ["a"], spec(1), "has several columns 'a', so give the number of one: it has a, a"),
    "wide": (
        "time,load,temp\n0,1,2\n",
        (),
        spec(2),
        "has 3 columns (time, load, temp), but a frame of 'x' has 2 values: pick 2, by name or number, --columns (in",
    ),
    "its name": (
        "x,time\n0,1\n",
        (),
        spec(rate=None),
        "has 2 columns (x, time), but a frame of 'x' has 1 value: pick 1, --columns x (in Python",
    ),
    "picked too few": (
        "time,load,temp\n0,1,2\n",
        ["time", "load"],
        spec(3),
        "has 3 columns, of which 2 are picked (time, load), but a frame of 'x' has 3 values: give all of them.",
    ),
    "a cell beside enough": (
        "a,b,c\n1,2,3\n3,?,1\n",
        (),
        spec(2),
        "column 2 ('b') holds '?', which is no number: correct it, or leave the column out, --columns a,c (in Python",
    ),
    "narrow": ("1,2\n", (), spec(3), "has 2 columns, but a frame of 'x' has 3 values: give all of them."),
    "one of features": ("1\n", (), spec(3, rate=None), "has 1 column, but a frame of 'x' has 3 values"),
    "inputs": (
        "id,gein\n1,2\n",
        (),
        TWO,
        "has the columns ['id', 'gein'], but the model has the inputs ['gain', 'id']: name one column after each",
    ),
    "inputs without header": ("1,2\n", (), TWO, "has 2 columns and no header, but the model has the inputs"),
    "wide inputs": ("x,id,speaker\n1,2,3\n", (), MIXED, "['x', 'id', 'speaker']: give an .npz with these names."),
}


@pytest.mark.parametrize(("text", "columns", "contract", "message"), WRONG_CSV.values(), ids=WRONG_CSV)
def test_a_csv_that_does_not_fit_names_the_place_and_what_to_do(tmp_path, text, columns, contract, message):
    path = written(tmp_path / "a.csv", text)
    with pytest.raises(SourceError) as error:
        recording.read(recording.Csv(path, columns), contract)
    assert str(error.value).startswith(str(path))
    assert message.format(path) in str(error.value)


def test_what_is_wrong_with_columns_and_values_of_a_csv(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 2), np.float32))
    path = written(tmp_path / "a.csv", "a,b\n1,2\nnan,4\n")
    for source, *message in (
        (recording.Csv(tmp_path / "a.npy", ["x"]), "recording-without-columns", "a.npy"),
        (recording.Csv(path, "load"), "recording-columns-untyped", "'load'", "'load'"),
        (path, "recording-not-finite", "a.csv: 'x'"),
    ):
        with raises(*message):
            recording.read(source, spec(2))


# --- sound


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
    ("raw", "cut", "options", "rate", "message"),
    [
        (bytes(8), 0, {"rate": 8000}, 16000, ("sound-rate-differs", "8000", "16000")),
        (bytes(8), 0, {"channels": 2}, 16000, ("sound-channels", "2")),
        (bytes(8), 0, {}, None, ("sound-without-rate", "a.wav")),
        (bytes(8), 1, {}, 16000, ("wav-cut-off", "a.wav")),
        (bytes(800), 100, {}, 16000, ("wav-cut-off", "a.wav", "800", "700")),
        (b"", 0, {}, 16000, ("recording-shape", "'x'", "(1, 0, 4)")),
    ],
)
def test_wav_that_does_not_fit(tmp_path, raw, cut, options, rate, message):
    path = write_wav(tmp_path / "a.wav", raw, 2, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    with raises(*message):
        read(path, spec(4, rate=rate))


def test_wav_of_a_width_that_is_not_read(tmp_path):
    path = write_wav(tmp_path / "a.wav", bytes(16), 4)
    raw = bytearray(path.read_bytes())
    raw[32:34], raw[34:36] = b"\x08\0", b"\x40\0"
    path.write_bytes(raw)
    with raises("wav-sample-bits", "64"):
        read(path, spec())


def float_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """RIFF with format 3, written by hand: no library is needed to try what is said without one."""
    data, width = samples.tobytes(), samples.dtype.itemsize
    form = struct.pack("<HHIIHH", 3, 1, rate, rate * width, width, 8 * width)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_wav_of_floats(tmp_path, dtype):
    pytest.importorskip("soundfile")
    samples = np.array([0, 0.5, -1, 1.5, 1e-6], dtype)
    np.testing.assert_array_equal(
        read(float_wav(tmp_path / "a.wav", samples), spec()), samples[None].astype(np.float32)
    )


@pytest.mark.parametrize(("name", "error"), [("a.flac", 1e-4), ("a.ogg", 0.1)])
def test_flac_and_ogg(tmp_path, name, error):
    soundfile = pytest.importorskip("soundfile")
    samples = np.sin(np.arange(1600, dtype=np.float32) / 20) / 2
    soundfile.write(tmp_path / name, samples, 16000)
    given = read(tmp_path / name, spec(16))
    assert given.shape == (1, 100, 16)
    np.testing.assert_allclose(given.reshape(-1), samples, atol=error)
    with raises("sound-rate-differs", name, "16000", "8000"):
        read(tmp_path / name, spec(16, rate=8000))
    soundfile.write(tmp_path / name, np.stack([samples, samples], 1), 16000)
    with raises("sound-channels", name, "2"):
        read(tmp_path / name, spec(16))


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_sound_of_soundfile_that_is_cut_off(tmp_path, name):
    soundfile = pytest.importorskip("soundfile")
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    path = tmp_path / name
    float_wav(path, noise) if name == "a.wav" else soundfile.write(path, noise, 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with raises("sound-cut-off" if name == "a.wav" else "recording-unreadable", f"{path} "):
        read(path, spec(16))


@pytest.mark.parametrize(
    ("name", "what"),
    [("a.wav", "samples other than PCM (unknown format: 3; 3 is floats) are read"), ("a.ogg", ".ogg is read")],
)
def test_sound_without_soundfile_says_what_brings_it(tmp_path, monkeypatch, name, what):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    path = float_wav(tmp_path / name, np.zeros(8, "<f4"))
    with raises("soundfile-missing", what, pip_install("audio"), f"`sox {name}"):
        read(path, spec(4))
