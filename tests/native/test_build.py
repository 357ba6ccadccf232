"""`rnn-export build --target c` for this machine: sources that are there or not yet, and scales from a recording."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import Bundle, open_bundle
from rnn_export.export import export
from rnn_export.runtime import load
from rnn_export.runtime.backends.native.record import Record

from .command import AARCH64, ARM, PLACE, TRIPLE, build, folders, refused, unchanged
from .models import MODELS
from .needs import need


def test_a_precision_more(lstm: Path) -> None:
    assert load(lstm).precision == "fp32"
    made = build(lstm, "--precision", "int8")
    assert made.exit_code == 0, made.output
    assert f"built c (int8) for {TRIPLE}: " in made.stdout
    engine = load(lstm, precision="int8")
    assert (engine.backend, engine.precision) == ("native", "int8")
    assert load(lstm).precision == "fp32"
    bundle = open_bundle(lstm)
    assert {(row.target, row.precision) for row in bundle.targets} == {("onnx", "fp32"), ("c", "fp32"), ("c", "int8")}
    assert bundle.target("c", "int8").requires == {"name": "lstm", "scales": "at run time"}
    frame = np.ones(8, np.float32)
    want, got = (load(lstm, precision=p).stream().step(frame) for p in ("fp32", "int8"))
    assert 0 < np.abs(want - got).max() < 0.02


def test_the_first_c_of_a_bundle(plain: Path) -> None:
    assert load(plain).backend == "onnxruntime"
    made = build(plain)
    assert made.exit_code == 0, made.output
    assert f"built c (fp32) for {TRIPLE}: " in made.stdout
    engine = load(plain)
    assert (engine.backend, engine.skipped_backends) == ("native", ())
    assert open_bundle(plain).target("c", "fp32").requires == {"name": "net"}


def test_what_is_there_is_compiled_again_when_asked(lstm: Path) -> None:
    before = (lstm / "manifest.json").read_bytes()
    assert refused(build(lstm)) == f"{lstm} has c (fp32) compiled for {TRIPLE}: give --rebuild to compile it again."
    unchanged(lstm, before)
    made = build(lstm, "--rebuild", "--cpu", "x86-64-v2") if TRIPLE.startswith("x86_64") else build(lstm, "--rebuild")
    assert made.exit_code == 0, made.output
    record = Record.from_file("build.json", open_bundle(lstm).read(f"{PLACE}/build/{TRIPLE}/build.json"))
    assert not record.triple.startswith("x86_64") or "-march=x86-64-v2" in record.flags
    assert load(lstm).backend == "native"


def test_json(lstm: Path) -> None:
    made = build(lstm, "--rebuild", "--json")
    assert made.exit_code == 0, made.output
    data = json.loads(made.stdout)
    assert (data["target"], data["precision"], data["requires"]) == ("c", "fp32", {"name": "lstm"})
    assert data["triple"] == TRIPLE
    place = f"{PLACE}/build/{TRIPLE}"
    assert {f"{place}/native.so", f"{place}/build.json"} <= set(data["files"])
    assert data["bytes"] == len(open_bundle(lstm).read(f"{place}/native.so"))
    record = Record.from_file("build.json", open_bundle(lstm).read(f"{place}/build.json"))
    told = (data["compiler"], tuple(data["flags"]), tuple(data["features"]))
    assert told == (record.compiler, record.flags, record.features)
    assert data["notes"] == []
    assert data["selftest"] is None
    assert data["parity"]["ok"] is True
    assert data["parity"]["backend"] == "native"


# --- int8 with scales from a recording


def test_calibrated(lstm: Path, recording: Path) -> None:
    made = build(lstm, "--precision", "int8", "--calibrate", recording, "--json")
    assert made.exit_code == 0, made.output
    data = json.loads(made.stdout)
    assert data["requires"] == {"name": "lstm", "scales": "calibrated"}
    checks = {drift["check"] for drift in data["parity"]["drifts"]}
    assert {"step", "sequence", "chunked", "reset", "snapshot"} <= checks
    assert load(lstm, precision="int8").backend == "native"


def test_calibrated_again(lstm: Path, recording: Path) -> None:
    """Scales are part of the sources: they are written again, and what was compiled of the others goes."""
    need(*AARCH64)
    for options in ([], ["--triple", ARM]):
        made = build(lstm, "--precision", "int8", *options)
        assert made.exit_code == 0, made.output
    assert folders(lstm, "int8") == {TRIPLE, ARM}
    before = (lstm / "manifest.json").read_bytes()
    assert refused(build(lstm, "--precision", "int8", "--calibrate", recording)) == (
        f"{lstm} has c (int8): give --rebuild to write it again; what is compiled for other machines is dropped then."
    )
    unchanged(lstm, before)
    source = open_bundle(lstm).read("targets/c-int8/lstm.c")
    made = build(lstm, "--precision", "int8", "--calibrate", recording, "--rebuild")
    assert made.exit_code == 0, made.output
    assert folders(lstm, "int8") == {TRIPLE}
    assert open_bundle(lstm).target("c", "int8").requires["scales"] == "calibrated"
    assert open_bundle(lstm).read("targets/c-int8/lstm.c") != source


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((3, 5), np.float32), r"heard\.npy.*\(3, 5\)"),
        (np.zeros((0, 8), np.float32), r"heard\.npy.*and not empty"),
        (np.full((9, 8), np.nan, np.float32), r"heard\.npy.*NaN"),
    ],
    ids=["width", "empty", "nan"],
)
def test_recordings_that_cannot_be(lstm: Path, recording: Path, frames: np.ndarray, message: str) -> None:
    np.save(recording, frames)
    before = (lstm / "manifest.json").read_bytes()
    said = refused(build(lstm, "--precision", "int8", "--calibrate", recording))
    assert re.search(message, said), said
    unchanged(lstm, before)


def test_a_recording_of_less_than_a_step(exported: Callable[..., Bundle], tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported("chunk-of-3").path, tmp_path / "net.rnnx"))
    np.save(tmp_path / "short.npy", np.zeros((2, 4), np.float32))
    said = refused(build(path, "--precision", "int8", "--calibrate", tmp_path / "short.npy"))
    assert said == "the recording to calibrate on has not one whole step of 3 frames."


def test_calibrated_in_export(tmp_path: Path, recording: Path) -> None:
    model, example, _ = MODELS["lstm"]()
    heard = np.load(recording)
    bundle = export(
        model, example, tmp_path / "net.rnnx", targets=("c",), precision="int8", data=heard, calibrate=heard, steps=64
    )
    assert bundle.targets[0].requires == {"name": "net", "scales": "calibrated"}
    assert (load(bundle.path).backend, load(bundle.path).precision) == ("native", "int8")
