"""--accept of export and --metric of verify: a figure of the task beside the numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rnn_export.bundle import open_bundle
from rnn_export.cli.main import main

NETS = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.GRU(3, 4, batch_first=True).eval(), (torch.zeros(1, 4, 3),)

def with_accept():
    return *net(), {"accept": lambda model, stream: {"own": model.shape[1]}}
"""
TASK = """
import numpy as np

def agreement(model, stream):
    print("looking")
    return {"agreement": (model.argmax(-1) == stream.argmax(-1)).mean(), "frames": model.shape[1]}

def never(model, stream):
    return False

def strict(model, stream):
    assert (model == stream).all() and False, "two values are apart"
"""

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metric")
    (path / "nets.py").write_text(NETS)
    (path / "task.py").write_text(TASK)
    return path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)
    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    how = ["--accept", f"{folder}/task.py:agreement", "--steps", "20"]
    made = CliRunner().invoke(main, ["export", f"{folder}/nets.py:net", "-o", f"{folder}/net.rnnx", *how])
    assert made.exit_code == 0, made.output
    assert "task: agreement 1, frames 20" in made.stdout
    assert "looking" in made.stderr
    assert "looking" not in made.stdout
    return folder / "net.rnnx"


def test_the_report_and_the_page_of_the_bundle_have_them(bundle: Path, run: Run) -> None:
    opened = open_bundle(bundle)
    assert json.loads(opened.read("parity.json"))["figures"] == {"agreement": 1.0, "frames": 20.0}
    assert "The task's own figures: agreement 1, frames 20." in opened.read("README.md").decode()
    assert "task: agreement 1, frames 20" in run("inspect", bundle).stdout


def test_verify_measures_them_here(bundle: Path, run: Run) -> None:
    shown = run("verify", bundle, "--metric", "task.py:agreement")
    assert shown.exit_code == 0, shown.output
    assert "task: agreement 1, frames 20" in shown.stdout
    data = json.loads(run("verify", bundle, "--metric", "task.py:agreement", "--json").stdout)
    assert data["figures"] == {"agreement": 1.0, "frames": 20.0}
    assert json.loads(run("verify", bundle, "--json").stdout)["figures"] == {}


@pytest.mark.parametrize(
    ("metric", "code", "message"),
    [
        ("task.py:never", 3, "never refuses what onnxruntime gives: it returned False."),
        ("task.py:strict", 3, "strict refuses what onnxruntime gives: two values are apart."),
        ("task.py:gone", 1, "task.py has no function 'gone'; it has agreement, never, strict."),
        ("task.py", 1, "'task.py' is no function: give file.py:fn or package.module:fn."),
        ("none.py:fn", 1, "none.py does not exist: check the path before the colon."),
    ],
)
def test_what_refuses_and_what_cannot_be_read(bundle: Path, run: Run, metric: str, code: int, message: str) -> None:
    result = run("verify", bundle, "--metric", metric)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (code, f"error: {message}")


def test_what_is_refused_is_not_written(run: Run, folder: Path) -> None:
    result = run("export", "nets.py:net", "-o", "never.rnnx", "--accept", "task.py:never", "--steps", 8)
    assert result.exit_code == 3
    assert "never refuses what onnxruntime gives" in result.stderr
    assert not (folder / "never.rnnx").exists()


def test_each_backend_has_its_own_and_a_source_may_bring_the_function(run: Run) -> None:
    how = ("--target", "tensorrt", "--precision", "bf16", "--steps", 8, "--json")
    result = run("export", "nets.py:with_accept", "-o", "own.rnnx", *how)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parity"]["figures"] == {"tensorrt (fp32 sums).own": 8, "onnxruntime.own": 8}
