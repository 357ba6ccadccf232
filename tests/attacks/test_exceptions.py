"""Finding 11: a malformed file raises an error of the project's own that names the file."""

import io
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.cli.main import main
from rnn_export.platform.arrays import unpack_array, unpack_arrays
from rnn_export.platform.json_parser import parse_json
from rnn_export.runtime import recording
from rnn_export.runtime.backends.native.record import Record
from rnn_export.runtime.build.c_compiler import work_folder
from rnn_export.runtime.build.tensorrt.recipe import Recipe
from rnn_export.runtime.replay.golden import Golden

from ..messages import raises  # noqa: TID252
from .forging import forge, write_manifest

JSON = {
    "nested": (b"[" * 200_000, "nested deeper than 64 levels"),
    "nested, closed": (b"[" * 70 + b"]" * 70, "nested deeper than 64 levels"),
    "not UTF-8": (b'{"a": "\xff"}', "can't decode byte 0xff"),
    "half a pair": (b'{"a": ["\\ud800"]}', "half a surrogate pair"),
    "half a pair as a name": (b'{"\\udc00": 1}', "half a surrogate pair"),
    "twice": (b'{"a": 1, "b": {"c": 1, "c": 2}}', "field 'c' stands there twice"),
    "NaN": (b'{"a": NaN}', "NaN is not a number that JSON has"),
    "overflow": (b'{"a": 1e999}', "1e999 is not a number that JSON has"),
    "digits": (b'{"a": ' + b"9" * 10_000 + b"}", "10000 digits, over the limit of 19"),
    "size": (b" " * (16 * 2**20 + 1), "16777217 bytes, over the limit of 16777216"),
    "cut off": (b'{"a": ', "Expecting value"),
}


@pytest.mark.parametrize(("raw", "message"), JSON.values(), ids=JSON)
def test_json_is_read_or_refused_with_a_reason(path: Path, raw: bytes, message: str, quick) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(raw)
    with raises("build-record-malformed"):
        Record.from_file("build.json", raw)
    with raises("recipe-not-json"):
        Recipe.from_file(raw)
    write_manifest(path, raw)
    too_large = ("bundle-file-too-large", "manifest.json")
    with raises(*(too_large if len(raw) > 16 * 2**20 else ("manifest-unusable", message))):
        open_bundle(path)
    quick(100)


def test_json_that_is_fine_is_read() -> None:
    raw = '{"a": ["\\ud83d\\ude00", 1.5, -3, null, true], "b": ' + "[" * 62 + "]" * 62 + "}"
    assert parse_json(raw)["a"] == ["\U0001f600", 1.5, -3, None, True]


@pytest.mark.parametrize("raw", [b"{}", b"[]", b"null", b'{"triple": 1}', b'{"flags": null}'])
def test_a_record_of_a_build_has_its_fields(raw: bytes) -> None:
    with raises("build-record-field", "build.json", "triple"):
        Record.from_file("build.json", raw)


REPORTS = [
    b"null", b"[]", b'{"drifts": 5}', b'{"drifts": [5]}', b'{"drifts": [{}]}', b'{"drifts": [], "backend": 1}',
    b'{"drifts": [], "backend": "b", "device": "d", "frames": 1, "rows": 1, "not_judged": [1]}',
    b'{"drifts": [], "backend": "b", "device": "d", "frames": 1, "rows": 1, "not_exercised": [{"op": 1}]}',
    b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("raw", REPORTS)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_inspect_passes_over_a_report_that_is_none(path: Path, raw: bytes, flags: list[str], capsys) -> None:
    forge(path, files={"parity.json": raw})
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(path), *flags])
    assert ended.value.code == 0
    assert "Traceback" not in capsys.readouterr().err


def _npz(name: str = "x.npy", data: bytes = b"", flags: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    raw = bytearray(buffer.getvalue())
    raw[6] |= flags
    raw[raw.index(b"PK\x01\x02") + 8] |= flags
    return bytes(raw)


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


ARRAYS = {
    "no header": b"\x93NUMPY\x01\x00",
    "no dict": _npy("1"),
    "deep": _npy("(" * 5000),
    "objects": _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"x" * 8),
    "fields": _npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", b"x" * 4),
    "time": _npy("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)}", b"x" * 8),
    "void": _npy("{'descr': '|V4', 'fortran_order': False, 'shape': (1,)}", b"x" * 4),
    "complex": _npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", b"x" * 8),
    "64 TiB": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (17592186044416,)}"),
    "empty and huge": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807, 9)}"),
    "many axes": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 100 + ")}", b"x" * 4),
    "shape of text": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': ('a',)}", b"x" * 4),
    "shape of truth": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", b"x" * 4),
    "version": b"\x93NUMPY\x03\x00" + b"x" * 100,
    "nothing": b"",
}


@pytest.mark.parametrize("raw", ARRAYS.values(), ids=ARRAYS)
def test_arrays_are_read_or_refused_with_a_reason(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        unpack_array(raw)
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match=r"."):
        unpack_arrays(_npz(data=raw))
    (tmp_path / "a.npy").write_bytes(raw)
    (tmp_path / "a.npz").write_bytes(_npz(data=raw))
    from ..runtime.graphs import MODELS  # noqa: TID252

    for name in ("a.npy", "a.npz"):
        with raises("recording-unreadable", name, ".np"):
            recording.read(tmp_path / name, MODELS["sum"].spec)


@pytest.mark.parametrize("raw", [_npz(flags=1), _npz("x.npy", _npy("1"), 0x20), b"PK\x05\x06" + b"\0" * 18, b"PK"])
def test_archives_are_read_or_refused_with_a_reason(raw: bytes) -> None:
    """Encrypted, patched, empty, cut off."""
    try:
        assert unpack_arrays(raw) == {}
    except ValueError as error:
        assert str(error)  # noqa: PT017


def test_an_archive_unpacks_to_the_order_of_its_size() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", np.lib.format.magic(1, 0) + bytes(65 * 2**20))
    with pytest.raises(ValueError, match="it unpacks to 68157448 bytes, over the limit of 67108864"):
        unpack_arrays(buffer.getvalue())


ODD = (np.array(["a", "b"]), np.array(1.0), np.zeros((2, 1)), np.array([True, False]))


@pytest.mark.parametrize(
    ("tolerance", "found"), [*((odd, "its tolerance is") for odd in ODD), (np.array([-1.0, 0]), "atol=-1")]
)
def test_a_tolerance_is_two_numbers(path: Path, tolerance, found: str) -> None:
    from rnn_export.platform.arrays import pack_arrays

    spec = open_bundle(path).spec
    x = np.zeros((1, 2, 3), np.float32)
    arrays = {"input/x": x, "output/y": x, "state/h": x[:, :1], "at": np.array([2]), "precision": np.array("fp32")}
    raw = pack_arrays({**arrays, "tolerance": tolerance})
    with raises("golden-does-not-fit", found):
        Golden.from_arrays(unpack_arrays(raw), spec)


def test_a_temporary_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full or read-only disk: root may write everywhere, but not where no folder is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with (
        raises("work-folder-unusable", "nowhere", "No such file"),
        work_folder(),
    ):
        pass
