"""`rnn-export loadtest`: numbers of streams, the report on them, and refusals."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from rnn_export.cli.console import live_streams, load_test
from rnn_export.cli.main import main
from rnn_export.runtime.bench.live import search

from .test_cli import FACTORY

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("load")
    (folder / "nets.py").write_text(FACTORY)
    for name, more in (("net", ()), ("bidirectional", ("--sequence-only",))):
        source, output = f"{folder}/nets.py:{name}", f"{folder}/{name}.rnnx"
        made = CliRunner().invoke(main, ["export", source, "-o", output, "--steps", "16", *more])
        assert made.exit_code == 0, made.output

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "rnn_export", "loadtest", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)

    return call


def test_numbers_of_streams_are_tried_once_each_in_order(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "load.png"
    words = ("--rate", "20", "--seconds", "0.2", "--streams", "8, 2,8", "--json", "--plot", str(picture))
    done = run("net.rnnx", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [point["streams"] for point in found["points"]] == [2, 8]
    assert found["at_least"] == found["points"][-1]["held"]
    assert found["held_by"] == "one core"
    assert found["preempted"] >= 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_last_line_says_how_many_are_held(run: Run) -> None:
    done = run("net.rnnx", "--rate", "5", "--seconds", "0.2", "--streams", "1")
    assert done.returncode == 0, done.stderr
    held = "at least 1" if " yes\n" in done.stdout else "no"
    assert f"\none core holds {held} live stream of 5 frames/s (p99 < 200 ms), onnxruntime fp32 on cpu\n" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("net.rnnx",), 2, "this model has no sample rate: give --rate"),
        (("net.rnnx", "--rate", "nan"), 2, "nan is no number"),
        (("net.rnnx", "--rate", "inf"), 2, "inf is not in the range"),
        (("net.rnnx", "--rate", "5", "--seconds", "nan"), 2, "nan is no number"),
        (("net.rnnx", "--rate", "0.1", "--seconds", "1"), 2, "1 s is less than a step of a stream takes, 10 s"),
        (("net.rnnx", "--rate", "5", "--streams", "0"), 2, "'0': give whole numbers from 1 to 1048576"),
        (("net.rnnx", "--rate", "5", "--streams", "8,6²"), 2, "'8,6²': give whole numbers"),
        (("net.rnnx", "--rate", "5", "--plot", "a.jpg"), 1, "error: a.jpg is of no known kind"),
        (("bidirectional.rnnx", "--rate", "5"), 1, "error: this bundle cannot stream"),
        (("nothing.rnnx", "--rate", "5"), 1, "error: nothing.rnnx does not exist"),
    ],
)
def test_mistakes_on_the_command_line(run: Run, words: tuple[str, ...], code: int, message: str) -> None:
    done = run(*words)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("preempted", [0, 1092])
def test_a_core_that_was_busy_is_said(preempted: int, capsys: pytest.CaptureFixture[str]) -> None:
    point = {"streams": 4, "rounds": 9.0, "batch": 1.0, "p50": 1.0, "p99": 2.0, "worst": 3.0, "held": True}
    about = {"source": "a.rnnx", "backend": "native", "precision": "fp32", "device": "cpu", "held_by": "one core"}
    rate = {"frames_per_second": 5, "frame_ms": 200}
    load_test({**about, **rate, "points": [point], "held": 4, "at_least": True, "preempted": preempted})
    words = " ".join(capsys.readouterr().out.split())
    said = "the core was taken away 1,092 times meanwhile: on a quiet machine latencies are lower" in words
    assert said == (preempted > 0)


@pytest.mark.parametrize(
    ("tried", "verdict"),
    [
        ({16: False, 64: False}, "one core holds fewer than 16 live streams"),
        ({1: False}, "one core holds no live stream"),
        ({16: True, 64: False}, "one core holds 16 live streams"),
        ({16: True, 2048: True}, "one core holds at least 2,048 live streams"),
        ({1: True}, "one core holds at least 1 live stream"),
    ],
)
def test_the_verdict_claims_what_was_tried(tried: dict[int, bool], verdict: str) -> None:
    points = [{"streams": n, "held": held} for n, held in tried.items()]
    held = max((n for n in tried if tried[n]), default=0)
    result = {"held_by": "one core", "points": points, "held": held, "at_least": points[-1]["held"]}
    assert live_streams(result) == verdict


def test_a_search_tries_until_the_most_is_known_to_a_twentieth() -> None:
    tries = search(16)
    tried = [next(tries)]
    while tried[-1] < 10_000:
        try:
            tried.append(tries.send(tried[-1] <= 700))
        except StopIteration:
            break
    held = [n for n in tried if n <= 700]
    assert 700 / 1.06 < max(held) <= 700
    assert len(tried) < 20
