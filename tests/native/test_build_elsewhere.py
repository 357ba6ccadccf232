"""`rnn-export build --target c` for other machines: messages, loading, and self-tests that fail."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rnn_export import report
from rnn_export.bundle import Bundle, extend_bundle, open_bundle
from rnn_export.errors import BackendUnavailable
from rnn_export.export import export
from rnn_export.runtime import load
from rnn_export.runtime.build.native.native_build import Destination, build_c

from ..messages import raises  # noqa: TID252
from ..trusting import trusted  # noqa: TID252
from .command import AARCH64, ARM, CORTEX_M, PLACE, TRIPLE, build, folders, invoke, refused, unchanged
from .models import MODELS
from .needs import need


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
    # What was seen here is in the bundle, and on the page of it.
    (told,) = [one for one in report(lstm).to_json()["builds"] if one["part"] == cpu]
    shown = re.fullmatch(r"its self-test passed where it was compiled, on (.*) \((.*)\)", told["proof"])
    assert shown
    assert (shown[1], shown[2].count("largest error"), told["ok"]) == (test["ran"], len(test["lines"]) - 1, True)
    assert cpu not in " ".join(report(lstm).to_json()["not_proven"])


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
    assert "note: the self-test was not run: there is no board with cortex-m33 among those known here." in made.stderr


def test_weights_next_to_the_code(exported: Callable[..., Bundle], tmp_path: Path) -> None:
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
    assert (engine.backend, engine.skipped_backends) == ("onnxruntime", (f"native: {reason}",))
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
    changed = extend_bundle(bundle, row, files)
    trusted(changed)
    return changed


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
    assert said.startswith(f"the self-test for {triple} on {runner} diverges from the golden vectors: ")
    assert "FAIL" in said
    assert "the bundle is as it was" in said
    unchanged(wrong, before)
    with raises("selftest-diverges", f"the self-test for {triple}"):
        build_c(open_bundle(wrong), destination=Destination(triple))
    unchanged(wrong, before)


def test_sources_of_another_net(lstm: Path, wrong: Path) -> None:
    """For this machine it is the bundle's own golden vectors that it is held to."""
    other = open_bundle(wrong.with_name("other.rnnx"))
    bundle = open_bundle(lstm)
    row = bundle.target("c", "fp32")
    files = {path: bundle.read(path) for path in row.files}
    name = f"{PLACE}/lstm.c"
    files[name] = other.read(f"{PLACE}/other.c").replace(b"other", b"lstm").replace(b"OTHER", b"LSTM")
    trusted(extend_bundle(bundle, row, files))
    before = (lstm / "manifest.json").read_bytes()
    with raises("native-other-sources"):
        load(lstm, backend="native")
    said = refused(build(lstm, "--rebuild"), 3)
    assert "diverges from the model" in said
    assert said.endswith("The bundle is as it was.")
    unchanged(lstm, before)


def test_builds_at_once_lose_nothing(lstm: Path) -> None:
    """Each opens the bundle before the others have written theirs."""
    need("arm-none-eabi-gcc", "qemu-system-arm")
    triples = ("cortex-m3", "cortex-m4", "cortex-m7")
    command = [str(Path(sys.executable).with_name("rnn-export")), "build", str(lstm), "--target", "c", "--triple"]
    running = [subprocess.Popen([*command, triple], stdout=subprocess.DEVNULL) for triple in triples]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert set(folders(lstm)) == {*triples, TRIPLE}


def test_cmake_compiles_for_another_machine(lstm: Path, tmp_path: Path) -> None:
    """-march=native would be this one."""
    need("cmake", "aarch64-linux-gnu-gcc")
    other = [
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc",
    ]
    for command in (
        ["cmake", "-S", str(lstm / PLACE), "-B", str(tmp_path / "b"), *other],
        ["cmake", "--build", str(tmp_path / "b")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_cortex_m(lstm: Path) -> None:
    message = refused(build(lstm, "--triple", "arm-none-eabi", "--cpu", "cortex-a53"))
    assert message.startswith("--cpu 'cortex-a53' is no Cortex-M, which arm-none-eabi stands for")
