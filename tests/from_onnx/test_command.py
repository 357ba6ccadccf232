"""The command on an ONNX file, in a process where torch cannot be imported, and on a device without onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rnn_export.cli.main import main
from rnn_export.platform.installing import pip_install
from rnn_export.runtime import load

from ..stages import without_stages  # noqa: TID252
from . import nets


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def bare(*arguments: object, without: tuple[str, ...] = ("torch", "safetensors")) -> subprocess.CompletedProcess[str]:
    """The command where these packages are not installed."""
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({without}))\n"
        f"from rnn_export.cli.main import main\nmain({[str(a) for a in arguments]})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_from_a_file_to_c_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "net.rnnx"
    made = bare("export", nets.rated(tmp_path / "net.onnx"), "--fix", "sr=8000", "--state", "state=stateN", "--state",
                "x=none", "--steps", 8, "-o", path, "--json")  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert without_stages(made.stderr) == "note: state 'state' comes back as 'stateN', declared\n"
    said = json.loads(made.stdout)
    assert said["spec"]["states"][0]["output"] == "stateN"
    assert said["parity"]["file"]["name"] == "net.onnx"
    built = bare("build", path, "--target", "c", "--json")
    assert built.returncode == 0, built.stderr
    checked = bare("verify", path, "--backend", "native", without=("torch", "onnx", "onnx_ir", "onnxscript"))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("command", ["export", "inspect"])
def test_without_onnx_it_says_what_to_install(command: str, tmp_path: Path) -> None:
    more = ("-o", tmp_path / "net.rnnx") if command == "export" else ()
    done = bare(command, nets.window(tmp_path / "net.onnx"), *more, without=("torch", "onnx"))
    assert done.returncode == 1
    assert f"this needs onnx, which is not here: {pip_install('onnx,cpu')}" in done.stderr


def test_build_refuses_what_is_written_from_torch(tmp_path: Path) -> None:
    path = tmp_path / "net.rnnx"
    assert run("export", nets.window(tmp_path / "net.onnx"), "--steps", 8, "-o", path).exit_code == 0
    done = run("build", path, "--target", "pt2")
    assert (done.exit_code, without_stages(done.stderr)) == (
        1,
        "error: target 'pt2' is written from a program of torch's, which a PyTorch module alone gives: export the "
        "module with --target pt2.\n",
    )


def test_litert_from_a_file_of_others(tmp_path: Path) -> None:
    """By way of torch's operators, and held to ONNX Runtime on the file itself; where torch is not, it says so."""
    pytest.importorskip("litert_torch", reason="litert-export: pip install 'rnn-export[litert-export]'")
    path, net = tmp_path / "net.rnnx", nets.lstm(tmp_path / "net.onnx")
    options = ("--target", "litert", "--steps", 8, "-o", path)
    missing = bare("export", net, *options)
    assert missing.returncode == 1
    assert "what is written in torch's operators needs torch, which is not here" in missing.stderr
    assert not path.exists()
    done = run("export", net, *options, "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["parity"]["file"]["name"] == "net.onnx"
    assert {drift["check"] for drift in said["parity"]["drifts"]} >= {"litert.step", "litert.pool"}
    assert load(path, backend="litert").backend == "litert"


def test_a_question_has_the_options_that_answer_it(tmp_path: Path) -> None:
    file, path = nets.accumulator(tmp_path / "net.onnx"), tmp_path / "net.rnnx"
    asked = run("export", file, "-o", path)
    assert asked.exit_code == 1
    assert "--state a=b, or --state a=none" in asked.stderr
    start = tmp_path / "a.npy"
    np.save(start, np.ones(3, np.float32))
    done = run("export", file, "--state", "a=b", "--state", "x=none", "--initial", f"a={start}", "--shape", "x=batch,3",
               "--steps", 8, "-o", path)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "from a stored tensor" in done.stdout or "stored" in done.stdout


@pytest.mark.parametrize(
    ("command", "what", "options", "code", "message"),
    [
        ("export", "net.onnx", ["--weights", "a.pt"], 2, "--weights is said of a PyTorch module"),
        ("export", "net.onnx", ["--time-axis", "1"], 2, "--time-axis is said of a PyTorch module"),
        ("export", "net.onnx", ["--sequence-only"], 2, "--sequence-only is said of a PyTorch module"),
        ("export", "net.onnx", ["--fix", "sr"], 2, "'sr' is not NAME=VALUE"),
        ("export", "net.onnx", ["--fix", "sr=much"], 2, "'much' is no number and no .npy file"),
        ("export", "net.onnx", ["--fix", "sr=1", "--fix", "sr=2"], 2, "'sr' stands twice"),
        ("export", "net.onnx", ["--initial", "past_x=none.npy"], 1, "none.npy cannot be read as .npy"),
        ("export", "nets.py:net", ["--fix", "sr=1"], 2, "--fix is said of an ONNX file, and nets.py:net is none"),
        ("inspect", "none.onnx", [], 1, "error: none.onnx does not exist or is not a file."),
        ("inspect", "words.onnx", [], 1, "error: words.onnx cannot be read as ONNX: "),
        ("inspect", "words.onnx", ["--weights", "a.pt"], 2, "--weights is said of a PyTorch module"),
        ("inspect", "words.onnx", ["--sequence-only"], 2, "--sequence-only is said of a PyTorch module"),
        ("inspect", "nets.py:net", ["--fix", "a=1"], 2, "--fix is said of an ONNX file, and nets.py:net is none"),
    ],
)
def test_what_is_said_wrongly(
    command: str,
    what: str,
    options: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    nets.window(Path("net.onnx"))
    Path("words.onnx").write_text("no model at all")
    done = run(command, what, *options, *(("-o", "net.rnnx") if command == "export" else ()))
    assert (done.exit_code, message in done.stderr) == (code, True), done.stderr


def test_inspect_says_what_a_file_is_and_the_command_that_comes_next(tmp_path: Path) -> None:
    file = nets.rated(tmp_path / "net.onnx")
    told = bare("inspect", file, "--fix", "sr=8000", "--json")
    assert told.returncode == 0, told.stderr
    said = json.loads(told.stdout)
    assert said["states"] == {"state": "stateN"}
    assert said["file"]["operators"]["If"] == 1
    assert [port["name"] for port in said["takes"]] == ["x", "sr", "state"]
    assert [t["name"] for t in said["spec"]["inputs"]] == ["x"]
    assert said["next"] == f"rnn-export export {file} --fix sr=8000 -o net.rnnx --target c"
    shown = run("inspect", file).stdout
    assert "state, comes back as stateN" in shown
    assert "note: 'sr' is one number: where it is always the same, as a sample rate is, say --fix sr=N" in shown
    # What comes next works as it is said, and finds what was shown.
    path = tmp_path / "net.rnnx"
    done = run(*said["next"].split()[1:-4], "--steps", 8, "-o", path, "--json")
    assert json.loads(done.stdout)["spec"] == said["spec"]


def test_inspect_shows_a_file_whose_states_are_not_clear_and_asks(tmp_path: Path) -> None:
    file = nets.accumulator(tmp_path / "net.onnx")
    done = run("inspect", file)
    assert done.exit_code == 1
    assert "operators: Add 1, MatMul 1, Tanh 1" in done.stdout
    assert "next:" not in done.stdout
    assert done.stderr.startswith("error: it is not clear which inputs are states. The file takes 'x' float32")
    clear = run("inspect", file, "--state", "a=b", "--state", "x=none", "--json")
    assert json.loads(clear.stdout)["next"].endswith("net.onnx --state a=b --state x=none -o net.rnnx --target c")
