"""The command for TensorRT: engines are built where they can be, and otherwise one message says what to do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rnn_export.bundle import extend_bundle, open_bundle, write_bundle
from rnn_export.cli.main import EXPORT_PACKAGES, main
from rnn_export.contract.target_table import TARGETS, table_rows
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.tensorrt import nvidia
from rnn_export.runtime.build.tensorrt import builder

from .stages import without_stages
from .test_cli import FACTORY, Run

RTX = "rtx: pip install 'rnn-export[rtx]'"
HARDWARE = "not run on hardware"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engines")
    (path / "nets.py").write_text(FACTORY)
    return path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """On a machine without driver, Jetson or TensorRT, whatever this one has."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(nvidia, "_LIBRARY", "libcuda.so.none")
    monkeypatch.setattr(builder, "jetson", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return invoke


@pytest.fixture(scope="module")
def kept(folder: Path) -> Path:
    """A bundle with portable graphs, and those of two Jetsons."""
    targets = (f"--target={name}" for name in ("onnx", "jetson-orin-nano", "jetson-nano"))
    made = invoke("export", f"{folder}/nets.py:net", "-o", f"{folder}/kept.rnnx", "--steps", 8, *targets)
    assert made.exit_code == 0, made.output
    return folder / "kept.rnnx"


@pytest.fixture
def bundle(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "net.rnnx"))


@pytest.fixture(scope="module")
def half(folder: Path) -> Path:
    """A bundle with TensorRT's graph in fp16 alone, beside the portable one."""
    how = ("--target", "tensorrt", "--precision", "fp16", "--batch", "1:4:16", "--state-precision", "fp16")
    made = invoke("export", f"{folder}/nets.py:net", "-o", f"{folder}/half.rnnx", "--steps", 8, *how)
    assert made.exit_code == 0, made.output
    (folder / "half.txt").write_text(made.stdout)
    (folder / "half.notes").write_text(made.stderr)
    return folder / "half.rnnx"


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def refused(result: Result, message: str, code: int = 1) -> None:
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


# --- export


def test_export_shows_both_sums_and_writes_the_order(half: Path) -> None:
    shown, row = " ".join(half.with_suffix(".txt").read_text().split()), open_bundle(half).target("tensorrt", "fp16")
    for part in ("Parity on tensorrt (fp32 sums)", "Parity on tensorrt (fp16 sums)", HARDWARE, "wrote "):
        assert part in shown
    assert "a GPU may add up in fp16 as well" in half.with_suffix(".notes").read_text()
    assert (row.target, row.precision, row.requires["batch"]) == ("tensorrt", "fp16", [1, 4, 16])
    assert json.loads(open_bundle(half).read(row.files[1]))["state_precision"] == "fp16"


def test_export_as_json(run: Run) -> None:
    how = ("--target", "tensorrt", "--target", "jetson-thor", "--precision", "bf16", "--batch", 4, "--json")
    result = run("export", "nets.py:net", "-o", "json.rnnx", "--steps", 8, *how)
    assert result.exit_code == 0, result.output
    parity = json.loads(result.stdout)["parity"]
    backends = "tensorrt (fp32 sums), jetson-thor (fp32 sums), onnxruntime"
    assert (parity["backend"], parity["fp16_accumulate"]) == (backends, [])
    assert [row.requires.get("batch") for row in open_bundle("json.rnnx").targets] == [*[[4, 4, 4]] * 2, None]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "jetson-orin"), 1, "did you mean jetson-orin-nano or jetson-orin-nx? Otherwise choose from onnx"),
        (("--target", "jetson-tx2", "--precision", "bf16"), 1, "its TensorRT 8.2 has no bf16, which came with 9.0"),
        (("--target", "tensorrt", "--precision", "int8"), 1, "'tensorrt' is not written in 'int8': choose from fp32"),
        (("--precision", "fp16"), 1, "target 'onnx' is not written in 'fp16'"),
        (
            ("--batch", "1:2:4"),
            1,
            "batch (--batch) and state_precision (--state-precision) are for targets that an engine is built for",
        ),
        (("--target", "tensorrt", "--state-precision", "fp16"), 1, "does not go with precision 'fp32'"),
        (("--target", "tensorrt", "--batch", "4:2:1"), 1, "batch is (4, 2, 1), but must be three ints"),
        (("--target", "tensorrt", "--batch", "1:2"), 2, "'1:2' is neither MIN:OPT:MAX nor one number"),
        (("--target", "tensorrt", "--batch", "-4"), 2, "'-4' is neither MIN:OPT:MAX nor one number"),
    ],
)
def test_a_bad_export_writes_nothing(run: Run, arguments: tuple[str, ...], code: int, message: str) -> None:
    refused(run("export", "nets.py:net", "-o", "never.rnnx", *arguments), message, code)
    assert not Path("never.rnnx").exists()


# --- targets and doctor


def test_targets_shows_every_row(run: Run) -> None:
    result = run("targets")
    assert result.exit_code == 0
    assert {line.split()[0] for line in result.stdout.splitlines() if line.strip()} >= set(TARGETS)
    for part in ("8.6 8.9 12.0", "6.0 (8.6), 6.1 (10.3)", "bf16 from JetPack 6.1", "fp32 fp16 bf16"):
        assert part in result.stdout
    assert json.loads(run("targets", "--json").stdout) == {"targets": table_rows()}


@pytest.mark.slow
def test_doctor_says_what_mends_it(run: Run) -> None:
    shown = run("doctor")
    assert shown.exit_code == 0
    for part in ("This machine", "what mends it", "NVIDIA driver", "TensorRT-RTX", "onnxruntime CPU", "torch"):
        assert part in shown.stdout
    data = run("doctor", "--json")
    assert data.exit_code == 0
    findings = json.loads(data.stdout)["findings"]
    assert {frozenset(finding) for finding in findings} == {frozenset({"name", "state", "detail", "mend"})}
    assert all(finding["name"] in shown.stdout for finding in findings)
    assert all(finding["mend"] for finding in findings if finding["state"] != "ok")


# --- build


@pytest.fixture(scope="module")
def built(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The bundle with an engine of TensorRT-RTX, and what the command said."""
    pytest.importorskip("tensorrt_rtx", reason=RTX)
    path = Path(shutil.copytree(kept, tmp_path_factory.mktemp("built") / "net.rnnx"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvidia, "_LIBRARY", "libcuda.so.none")
        return path, invoke("build", path, "--target", "tensorrt-rtx", "--batch", "1:2:4")


def test_an_engine_of_tensorrt_rtx_is_built_without_a_gpu(built: tuple[Path, Result]) -> None:
    path, said = built
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("built tensorrt-rtx (fp32) in ")
    command = f"rnn-export verify {path} --backend tensorrt --precision fp32"
    assert without_stages(said.stderr) == f"note: {HARDWARE}, no such GPU is here; where one is, run {command}\n"
    bundle, place = open_bundle(path), "targets/tensorrt-rtx-fp32"
    row = bundle.target("tensorrt-rtx", "fp32")
    assert row is not None
    assert row.files == tuple(f"{place}/{name}" for name in ("step.onnx", "recipe.json", "step.engine", "build.log"))
    assert (row.requires["compute_capability"], row.requires["batch"]) == (["8.6", "8.9", "12.0"], [1, 2, 4])
    assert f"{bundle.files[f'{place}/step.engine'].bytes:,} bytes" in said.stdout


def test_build_as_json(run: Run, bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason=RTX)
    before = contents(bundle)
    how = ("--precision", "fp16", "--state-precision", "fp16", "--memory", 64, "--compute", "portable", "--json")
    result = run("build", bundle, "--target", "tensorrt-rtx", *how)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["target"], data["precision"], data["elsewhere"], data["notes"]) == ("tensorrt-rtx", "fp16", None, [])
    assert data["parity"] is None
    assert data["requires"]["compute_capability"] == []
    assert "compute_capability any (portable)" in " ".join(run("inspect", bundle).stdout.split())
    assert data["bytes"] == (bundle / "targets/tensorrt-rtx-fp16/step.engine").stat().st_size
    assert json.loads((bundle / "targets/tensorrt-rtx-fp16/recipe.json").read_text())["state_precision"] == "fp16"
    after = contents(bundle)
    renewed = ("README.md", "manifest.json", "manifest.sha256", "report.html")
    assert {name: after[name] for name in before if name not in renewed}.items() <= before.items()


def test_an_engine_that_is_there_is_built_again_by_choice(run: Run, built: tuple[Path, Result], tmp_path: Path) -> None:
    path = Path(shutil.copytree(built[0], tmp_path / "net.rnnx"))
    before = contents(path)
    refused(run("build", path, "--target", "tensorrt-rtx"), "has an engine for tensorrt-rtx (fp32): give --rebuild to")
    assert contents(path) == before
    assert run("build", path, "--target", "tensorrt-rtx", "--rebuild", "--batch", 3).exit_code == 0
    row = open_bundle(path).target("tensorrt-rtx", "fp32")
    assert row is not None
    assert row.requires["batch"] == [3, 3, 3]
    assert len(open_bundle(path).targets) == 4


ELSEWHERE = {
    "jetson-thor": "is built on that module, and this is no Jetson. Copy net.rnnx there and run: rnn-export build",
    "jetson-agx-xavier": "is built by hand: it has JetPack 5.1 (TensorRT 8.5), whose Python is older than this toolkit",
}


@pytest.mark.parametrize("target", ELSEWHERE)
@pytest.mark.parametrize("as_json", [False, True], ids=["human", "json"])
def test_what_is_built_elsewhere_gets_its_graph_here(run: Run, bundle: Path, target: str, as_json: bool) -> None:
    how = ("--target", target, "--precision", "fp16", "--batch", "1:2:4", *(["--json"] * as_json))
    result = run("build", bundle, *how)
    assert result.exit_code == 0, result.output
    if as_json:
        data = json.loads(result.stdout)
        assert ELSEWHERE[target] in data["elsewhere"]
        assert (data["bytes"], data["parity"], data["requires"]["batch"]) == (0, None, [1, 2, 4])
    else:
        assert result.stdout.startswith(f"wrote graph and recipe for {target} (fp16): an engine for {target} ")
        assert ELSEWHERE[target] in result.stdout
    files = {f"targets/{target}-fp16/{name}" for name in ("step.onnx", "recipe.json")}
    assert files <= set(open_bundle(bundle).files)


REFUSED = {
    "no TensorRT": (("--target", "tensorrt"), 1, f"TensorRT is not installed: {pip_install('tensorrt')}."),
    "a Jetson": (
        ("--target", "jetson-orin-nano"),
        1,
        "an engine for jetson-orin-nano is built on that module, and this is no Jetson. Copy net.rnnx there and run: "
        "rnn-export build net.rnnx --target jetson-orin-nano --precision fp32",
    ),
    "an old Jetson": (
        ("--target", "jetson-nano", "--batch", "1:2:4"),
        1,
        "Copy net.rnnx/targets/jetson-nano-fp32/step.onnx there and run, in its folder: trtexec --onnx=step.onnx "
        "--saveEngine=step.engine --minShapes=x:1x1x3,rnn.l0.h:1x5 --optShapes=x:2x1x3,rnn.l0.h:2x5",
    ),
    "nothing to build": (("--target", "onnx"), 1, "target 'onnx' is complete when it is exported: there is nothing to"),
    "target": (("--target", "orin"), 1, "there is no target 'orin': did you mean jetson-orin-nano or jetson-orin-nx"),
    "precision": (("--target", "tensorrt", "--precision", "int8"), 1, "is not written in 'int8': choose from fp32"),
    "hardware": (("--target", "jetson-nano", "--precision", "bf16"), 1, "'bf16': choose from fp32, fp16. The reason:"),
    "states": (
        ("--target", "jetson-thor", "--state-precision", "fp16"),
        1,
        "state_precision 'fp16' does not go with precision 'fp32'",
    ),
    "batch": (("--target", "jetson-thor", "--batch", "4:2:1"), 1, "batch is (4, 2, 1), but must be"),
    "batch of a graph": (("--target", "jetson-nano", "--batch", "4:2:1"), 1, "batch 4:2:1 is no MIN:OPT:MAX"),
    "compute of a Jetson": (("--target", "jetson-nano", "--compute", "8.7"), 1, "leave the compute capability out"),
    "compute": (("--target", "tensorrt-rtx", "--compute", "8.6,7.5"), 1, "but 7.5 was asked for"),
    "batch of two": (("--target", "tensorrt", "--batch", "1:4"), 2, "'1:4' is neither MIN:OPT:MAX nor one number"),
    "no memory": (("--target", "tensorrt", "--memory", "0"), 2, "Invalid value for '--memory'"),
    "memory in words": (("--target", "tensorrt", "--memory", "much"), 2, "'much' is not a valid integer range"),
    "no target": ((), 2, "Missing option '--target'"),
}


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSED.values(), ids=REFUSED)
def test_a_build_that_cannot_be_is_one_message(
    run: Run, bundle: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = contents(bundle)
    result = run("build", bundle, *arguments)
    refused(result, message, code)
    assert code == 2 or without_stages(result.stderr).count("\n") == 1
    assert contents(bundle) == before


def test_the_command_for_elsewhere_keeps_the_batch(run: Run, bundle: Path) -> None:
    refused(run("build", bundle, "--target", "jetson-orin-nano", "--batch", "1:4:16"), "--batch 1:4:16")


def test_states_of_a_graph_that_is_there_are_not_changed(run: Run, built: tuple[Path, Result], tmp_path: Path) -> None:
    path = Path(shutil.copytree(built[0], tmp_path / "built.rnnx"))
    refused(run("build", path, "--target", "tensorrt-rtx", "--rebuild", "--state-precision", "fp16"), "state")


def test_a_build_that_cannot_be_is_json_too(run: Run, bundle: Path) -> None:
    result = run("build", bundle, "--target", "tensorrt", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)
    assert error == {"error": "ToolUnavailable", "id": error["id"], "message": result.stderr[len("error: ") : -1]}
    assert error["id"] in ("nvidia-driver-missing", "tensorrt-library-missing")
    named = run("build", bundle, "--target", "tensorrt", "-v").stderr.splitlines()[-1]
    assert named == f"error ({error['id']}): {error['message']}"


def test_of_two_precisions_fp32_is_meant(run: Run, bundle: Path) -> None:
    assert run("build", bundle, "--target", "jetson-nano", "--precision", "fp16").exit_code == 0
    asked = run("build", bundle, "--target", "jetson-nano", "--precision", "fp32")
    refused(asked, "an engine for jetson-nano is built by hand")
    assert run("build", bundle, "--target", "jetson-nano").output == asked.output


def test_a_bundle_without_portable_graphs_cannot_get_another_target(run: Run, half: Path, tmp_path: Path) -> None:
    """As 0.1.0 wrote it."""
    opened, path = open_bundle(half), tmp_path / "old.rnnx"
    rows = [row for row in opened.targets if row.target != "onnx"]
    files = {name: opened.read(name) for name in opened.files if name not in ("step.onnx", "sequence.onnx")}
    write_bundle(path, spec=opened.spec, producer={}, files=files, targets=rows)
    before = contents(path)
    message = "has no step.onnx to write 'jetson-thor' (fp32) from: export the bundle again, and it has one."
    refused(run("build", path, "--target", "jetson-thor"), message)
    assert contents(path) == before


def test_a_bundle_for_one_device_is_verified_and_gains_targets_anywhere(run: Run, half: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(half, tmp_path / "half.rnnx"))
    verified = run("verify", path, "--json")
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["backend"] == "onnxruntime"
    built = run("build", path, "--target", "jetson-thor", "--precision", "fp16")
    assert built.exit_code == 0, built.output
    assert {row.target for row in open_bundle(path).targets} == {"tensorrt", "onnx", "jetson-thor"}


# --- without torch and onnx


def bare(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command where the export extra is not installed."""
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({EXPORT_PACKAGES}))\n"
        f"from rnn_export.cli.main import main\nmain({[str(a) for a in arguments]})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["build", "targets", "doctor", "verify"])
def test_help_needs_neither_torch_nor_onnx(name: str) -> None:
    done = bare(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--json" in done.stdout


def test_a_graph_that_is_there_is_built_without_torch_and_onnx(built: tuple[Path, Result], tmp_path: Path) -> None:
    path = Path(shutil.copytree(built[0], tmp_path / "net.rnnx"))
    done = bare("build", path, "--target", "tensorrt-rtx", "--rebuild", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] > 0


def test_a_graph_that_is_not_there_needs_the_export_extra(bundle: Path) -> None:
    before = contents(bundle)
    done = bare("build", bundle, "--target", "tensorrt-rtx", "--precision", "fp16")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no graph for 'tensorrt-rtx' in fp16, only onnx (fp32), jetson-orin-nano (fp32)" in done.stderr
    assert "export it where torch is, rnn-export export SOURCE --target tensorrt-rtx --precision fp16." in done.stderr
    assert contents(bundle) == before


# --- inspect and verify


def test_inspect_shows_what_a_target_needs(run: Run, bundle: Path, half: Path) -> None:
    shown = run("inspect", half)
    assert shown.exit_code == 0
    line = next(line for line in shown.stdout.splitlines() if line.startswith(" tensorrt "))
    assert " ".join(line.split()) == "tensorrt fp16 18 step.onnx, recipe.json library tensorrt, batch 1 4 16"
    row, portable = json.loads(run("inspect", half, "--json").stdout)["targets"]
    assert (row["target"], row["precision"], row["opset"]) == ("tensorrt", "fp16", 18)
    assert (portable["target"], portable["precision"]) == ("onnx", "fp32")
    assert row["requires"] == {"library": "tensorrt", "batch": [1, 4, 16]}
    for part in ("jetson-orin-nano   fp32", "jetson-nano        fp32", "onnx               fp32"):
        assert part in run("inspect", bundle).stdout


@pytest.fixture
def engine_here(bundle: Path) -> Path:
    """The bundle as if its graph for jetson-orin-nano had been built on one."""
    opened = open_bundle(bundle)
    row = opened.target("jetson-orin-nano", "fp32")
    assert row is not None
    files = {name: opened.read(name) for name in row.files} | {"targets/jetson-orin-nano-fp32/step.engine": b"plan"}
    requires = {**row.requires, "version": "10.3.0", "compute_capability": "8.7", "onnx_sha256": "0" * 64}
    extend_bundle(opened, type(row)(row.target, row.precision, row.opset, tuple(files), requires), files)
    return bundle


def test_an_engine_without_a_driver_is_not_verified(run: Run, engine_here: Path) -> None:
    before = contents(engine_here)
    refused(run("verify", engine_here, "--backend", "tensorrt"), "the NVIDIA driver is not here (libcuda.so.none: ")
    auto = run("verify", engine_here)
    assert auto.exit_code == 0, auto.output
    assert "note: onnxruntime (fp32) runs, passed over was tensorrt: the NVIDIA driver is not here" in auto.stderr
    assert contents(engine_here) == before


def test_a_graph_without_an_engine_is_not_verified(run: Run, bundle: Path) -> None:
    refused(run("verify", bundle, "--backend", "tensorrt"), "target 'jetson-orin-nano' (fp32) has no engine yet: build")
    auto = run("verify", bundle)
    assert (auto.exit_code, without_stages(auto.stderr)) == (0, "")
