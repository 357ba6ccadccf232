"""`rnn-export build --target c` on bundles of real models: for this machine and others, and every way it can go wrong."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from rnn_export.bundle import Bundle, extend_bundle, open_bundle
from rnn_export.cli import main
from rnn_export.errors import BackendUnavailable, BuildError, ParityError
from rnn_export.export import export
from rnn_export.runtime import load
from rnn_export.runtime.build.native.build import build_c
from rnn_export.runtime.build.native.cpu import host_triple
from rnn_export.runtime.build.native.record import Record

from .models import MODELS
from .needs import need

TRIPLE = host_triple()
ARM = "aarch64-linux-gnu"
AARCH64 = ("aarch64-linux-gnu-gcc", "qemu-aarch64")
CORTEX_M = ("arm-none-eabi-gcc", "qemu-system-arm")
PLACE = "targets/c-fp32"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def build(bundle: Path, *options: object) -> Result:
    return invoke("build", bundle, "--target", "c", *options)


def refused(result: Result, code: int = 1) -> str:
    """The message of a command that ended in one clear error."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").rstrip()


@pytest.fixture
def lstm(exported: Callable[..., Bundle], tmp_path: Path) -> Path:
    """Its sources in fp32, compiled for this machine."""
    return Path(shutil.copytree(exported("lstm").path, tmp_path / "lstm.rnnx"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same net without C."""
    model, example, _ = MODELS["lstm"]()
    return export(model, example, tmp_path_factory.mktemp("bare") / "net.rnnx", steps=32).path


@pytest.fixture
def plain(bare: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "net.rnnx"))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A hundred frames that the nets of 8 inputs hear."""
    np.save(tmp_path / "heard.npy", np.random.default_rng(2).standard_normal((100, 8)).astype(np.float32))
    return tmp_path / "heard.npy"


def folders(bundle: Path, precision: str = "fp32") -> set[str]:
    """The machines that it is compiled for."""
    row = open_bundle(bundle).target("c", precision)
    assert row is not None
    return {path.split("/")[-2] for path in row.files if "/build/" in path}


def unchanged(bundle: Path, before: bytes) -> None:
    assert (bundle / "manifest.json").read_bytes() == before
    open_bundle(bundle)


# --- for this machine


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
    assert (engine.backend, engine.passed_over) == ("native", ())
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
    assert {"step", "whole", "pieces", "reset", "snapshot"} <= checks
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


# --- for other machines


def test_aarch64(lstm: Path) -> None:
    need(*AARCH64)
    made = build(lstm, "--triple", ARM)
    assert made.exit_code == 0, made.output
    size = len(open_bundle(lstm).read(f"{PLACE}/build/{ARM}/native.so"))
    assert f"built c (fp32) for {ARM}: {size:,} bytes; self-test passed on qemu-aarch64" in made.stdout
    assert folders(lstm) == {TRIPLE, ARM}
    assert load(lstm).backend == "native"
    assert refused(build(lstm, "--triple", ARM)) == (
        f"{lstm} has c (fp32) compiled for {ARM}: give --rebuild to compile it again."
    )
    assert build(lstm, "--triple", ARM, "--rebuild", "--cpu", "cortex-a76").exit_code == 0


@pytest.mark.parametrize("cpu", ["cortex-m4", "cortex-m7"])
def test_cortex_m(lstm: Path, cpu: str) -> None:
    need(*CORTEX_M)
    made = build(lstm, "--triple", cpu, "--json")
    assert made.exit_code == 0, made.output
    data = json.loads(made.stdout)
    test, weights = data["selftest"], 4 * (4 * 16 * (8 + 16 + 1) + 16 + 1)
    assert (test["passed"], test["ran"].split()[0], test["reason"]) == (True, "qemu-system-arm", "")
    assert test["lines"][-1] == "PASS"
    assert weights < test["flash"] < weights + 16384
    assert 2 * 16 * 4 < test["stack"] + 2 * 16 * 4 == test["ram"] < 4096
    assert data["parity"] is None
    assert sorted(data["files"]) == [f"{PLACE}/build/{cpu}/build.json", f"{PLACE}/build/{cpu}/liblstm.a"]
    again = build(lstm, "--triple", cpu, "--rebuild")
    measured = f"flash {test['flash']:,} bytes, RAM {test['ram']:,} bytes (stack {test['stack']:,})"
    assert f"built c (fp32) for {cpu}: {measured}; self-test passed on {test['ran']}" in again.stdout


def test_a_cortex_m_by_either_name_is_one(lstm: Path) -> None:
    need(*CORTEX_M)
    assert build(lstm, "--triple", "arm-none-eabi", "--cpu", "cortex-m4").exit_code == 0
    assert folders(lstm) == {TRIPLE, "cortex-m4"}
    message = f"{lstm} has c (fp32) compiled for cortex-m4: give --rebuild to compile it again."
    assert refused(build(lstm, "--triple", "cortex-m4")) == message
    assert refused(build(lstm, "--triple", "arm-none-eabi", "--cpu", "cortex-m4")) == message
    assert build(lstm, "--triple", "arm-none-eabi", "--cpu", "cortex-m4", "--rebuild").exit_code == 0


def test_one_that_cannot_be_run_here(lstm: Path) -> None:
    need("arm-none-eabi-gcc")
    made = build(lstm, "--triple", "arm-none-eabi", "--cpu", "cortex-m33")
    assert made.exit_code == 0, made.output
    assert "built c (fp32) for cortex-m33: flash " in made.stdout
    assert "self-test passed" not in made.stdout
    assert "note: the self-test was not run: no board with cortex-m33 is known to qemu-system-arm here." in made.stderr


def test_weights_beside_the_code(exported: Callable[..., Bundle], tmp_path: Path) -> None:
    need(*AARCH64, *CORTEX_M)
    path = Path(shutil.copytree(exported("large").path, tmp_path / "large.rnnx"))
    weights = len(open_bundle(path).read(f"{PLACE}/large.bin"))
    made = build(path, "--triple", ARM, "--json")
    assert made.exit_code == 0, made.output
    data = json.loads(made.stdout)
    assert (data["selftest"]["ran"], data["selftest"]["lines"][-1]) == ("qemu-aarch64", "PASS")
    assert data["bytes"] < weights / 10
    made = build(path, "--triple", "cortex-m7", "--json")
    assert made.exit_code == 0, made.output
    data = json.loads(made.stdout)
    # On a board they are in the flash, and in the library.
    assert weights < data["selftest"]["flash"] < weights + 16384
    assert weights < data["bytes"]


def test_a_library_for_another_machine_is_not_loaded_here(lstm: Path) -> None:
    need(*AARCH64)
    assert build(lstm, "--triple", ARM).exit_code == 0
    bundle = open_bundle(lstm)
    row = bundle.target("c", "fp32")
    kept = tuple(path for path in row.files if f"/build/{TRIPLE}/" not in path)
    extend_bundle(bundle, replace(row, files=kept), {path: bundle.read(path) for path in kept})
    reason = (
        f"target 'c' (fp32) is compiled for {ARM}, not for this machine, {TRIPLE}. Build it here: rnn-export build "
        "NAME.rnnx --target c --precision fp32 --rebuild."
    )
    with pytest.raises(BackendUnavailable) as caught:
        load(lstm, backend="native")
    assert str(caught.value) == reason
    engine = load(lstm)
    assert (engine.backend, engine.passed_over) == ("onnxruntime", (f"native: {reason}",))
    np.save(lstm.parent / "x.npy", np.zeros((4, 8), np.float32))
    said = invoke("run", lstm, lstm.parent / "x.npy")
    assert said.exit_code == 0, said.output
    assert f"note: onnxruntime (fp32) runs, passed over was native: {reason}" in said.stderr
    assert build(lstm).exit_code == 0
    assert load(lstm).backend == "native"


# --- self-tests that fail


def spoiled(bundle: Bundle, other: Bundle) -> Bundle:
    """With the golden vectors of another net in the place of its own."""
    row = bundle.target("c", "fp32")
    files = {path: bundle.read(path) for path in row.files}
    files[f"{PLACE}/golden.h"] = other.read(f"{PLACE}/golden.h")
    return extend_bundle(bundle, row, files)


@pytest.fixture
def wrong(lstm: Path, tmp_path: Path) -> Path:
    """A net with golden vectors of another one of the same shapes."""
    model, example, options = MODELS["lstm"]()
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    other = export(model, example, tmp_path / "other.rnnx", steps=64, targets=("onnx", "c"), **options)
    return spoiled(open_bundle(lstm), other).path


@pytest.mark.parametrize(
    ("triple", "needed", "runner"),
    [(ARM, AARCH64, "qemu-aarch64"), ("cortex-m4", CORTEX_M, r"qemu-system-arm (mps2-an386)")],
)
def test_a_self_test_that_fails(wrong: Path, triple: str, needed: tuple[str, ...], runner: str) -> None:
    need(*needed)
    before = (wrong / "manifest.json").read_bytes()
    said = refused(build(wrong, "--triple", triple), 3)
    assert said.startswith(f"the self-test for {triple} on {runner} departs from the golden vectors: ")
    assert "FAIL" in said
    assert "the bundle is as it was" in said
    unchanged(wrong, before)
    with pytest.raises(ParityError, match=f"the self-test for {triple}"):
        build_c(wrong, triple=triple)
    unchanged(wrong, before)


def test_sources_of_another_net(lstm: Path, wrong: Path) -> None:
    """For this machine it is the bundle's own golden vectors that it is held to."""
    other = open_bundle(wrong.with_name("other.rnnx"))
    bundle = open_bundle(lstm)
    row = bundle.target("c", "fp32")
    files = {path: bundle.read(path) for path in row.files}
    name = f"{PLACE}/lstm.c"
    files[name] = other.read(f"{PLACE}/other.c").replace(b"other", b"lstm")
    extend_bundle(bundle, row, files)
    before = (lstm / "manifest.json").read_bytes()
    with pytest.raises(BackendUnavailable, match="was compiled from other sources than the bundle holds"):
        load(lstm, backend="native")
    said = refused(build(lstm, "--rebuild"), 3)
    assert "departs from the model" in said
    assert said.endswith("The bundle is as it was.")
    unchanged(lstm, before)


# --- options and machines that cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "1:2:4"], "--batch does not go with --target c: leave it out."),
        (
            ["--batch", "4", "--memory", "64", "--compute", "portable", "--state-precision", "fp32"],
            "--batch, --state-precision, --memory, --compute do not go with --target c: leave them out.",
        ),
        (["--calibrate", "x.npy"], "--calibrate is for --precision int8, not for fp32: leave it out."),
        (
            ["--precision", "bf16", "--calibrate", "x.npy"],
            "--calibrate is for --precision int8, not for bf16: leave it out.",
        ),
        (["--precision", "int8", "--calibrate", "x.npy"], "x.npy does not exist or is not a file."),
        (["--precision", "fp16"], "target 'c' is not written in 'fp16': choose from fp32, bf16, int8."),
        (["--cpu", "x.y/z", "--rebuild"], "march='x.y/z': say native, or a level such as x86-64-v3."),
        (["--triple", "arm-none-eabi"], "arm-none-eabi is every Cortex-M: say which, --cpu cortex-m4, as gcc's -mcpu names it."),
        (
            ["--triple", "cortex-m4", "--cpu", "cortex-m7"],
            "cortex-m4 is a CPU already: leave --cpu cortex-m7 out, or give --triple arm-none-eabi.",
        ),
    ],
)
def test_options_that_do_not_go(lstm: Path, options: list[str], message: str) -> None:
    before = (lstm / "manifest.json").read_bytes()
    assert refused(build(lstm, *options)) == message
    unchanged(lstm, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--triple", ARM], "--triple does not go with --target tensorrt: leave it out."),
        (
            ["--triple", ARM, "--cpu", "cortex-a76", "--calibrate", "x.npy"],
            "--triple, --cpu, --calibrate do not go with --target tensorrt: leave them out.",
        ),
    ],
)
def test_options_of_c_alone(lstm: Path, options: list[str], message: str) -> None:
    assert refused(invoke("build", lstm, "--target", "tensorrt", *options)) == message


def test_a_machine_that_is_not_known(lstm: Path, plain: Path) -> None:
    said = refused(build(lstm, "--triple", "mips-linux-gnu"))
    assert said.startswith("no machine 'mips-linux-gnu' is known to compile for, only aarch64-linux-gnu, ")
    # Before anything is written for it.
    assert refused(build(plain, "--triple", "mips-linux-gnu")) == said


def test_two_precisions_of_which_none_is_named(lstm: Path) -> None:
    assert build(lstm, "--precision", "bf16").exit_code == 0
    assert refused(build(lstm, "--rebuild")) == f"{lstm} has 'c' in fp32, bf16: say which, --precision P."


def test_no_compiler(lstm: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    for module in ("toolchain.find_spec", "compiler.importlib.util.find_spec"):
        monkeypatch.setattr(f"rnn_export.runtime.build.native.{module}", lambda name: None)
    none = (
        "no C compiler is here: gcc is not found, clang is not found, zig is not found: sudo apt install gcc, or pip "
        "install ziglang, which needs no root."
    )
    assert refused(build(lstm, "--rebuild")) == none
    assert refused(build(plain)) == none
    said = refused(build(lstm, "--triple", ARM))
    assert said.startswith(f"no compiler for {ARM} is here, neither aarch64-linux-gnu-gcc nor zig: sudo apt install ")
    assert refused(build(lstm, "--triple", "cortex-m4")).startswith("no compiler for cortex-m4 is here")


def test_a_compiler_that_is_none(lstm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-cc")
    assert refused(build(lstm, "--rebuild")) == (
        "CC, 'no-such-cc', is not found: set CC to a compiler, or unset it."
    )


def test_without_the_export_extra(lstm: Path, plain: Path, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is compiled; what is not there cannot be written."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert refused(build(plain)) == (
        f"{plain} has no C sources: write them where torch is, rnn-export export SOURCE --target c."
    )
    assert refused(build(plain, "--precision", "int8")) == (
        f"{plain} has no C sources in int8: write them where torch is, rnn-export export SOURCE --target c "
        "--precision int8."
    )
    assert build(lstm, "--rebuild").exit_code == 0
    with pytest.raises(BuildError, match="has no C sources in bf16"):
        build_c(lstm, "bf16")


def test_scales_are_not_written_without_the_export_extra(
    lstm: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(lstm, "--precision", "int8").exit_code == 0
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert refused(build(lstm, "--precision", "int8", "--calibrate", recording, "--rebuild")) == (
        f"{lstm} has c (int8), and its sources are written again only where the export extra is: pip install "
        "'rnn-export[export,cpu]'."
    )
