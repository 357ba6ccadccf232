"""`rnn-export bench`, as a shell calls it: one clear message before anything is measured, a table, JSON, a picture."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from rnn_export.cli import plots
from rnn_export.cli.main import main
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.bench import measure, this_machine

from .test_cli import FACTORY, Run

ENGINES = {"onnxruntime fp32", "torchscript fp32", "onnxruntime run(dict)"}
FAST = ("--steps", 50, "--seconds", 1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench")
    (path / "nets.py").write_text(FACTORY)
    for name, more in (("net", ("--target=onnx", "--target=torchscript")), ("bidirectional", ("--sequence-only",))):
        source, output = f"{path}/nets.py:{name}", f"{path}/{name}.rnnx"
        made = CliRunner().invoke(main, ["export", source, "-o", output, "--steps", "16", *more])
        assert made.exit_code == 0, made.output
    return path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(measure, "Sweep", lambda caches: this_machine.Sweep({}))
    return lambda *arguments, **more: CliRunner().invoke(main, [str(a) for a in arguments], **more)


def png_size(path: Path) -> tuple[int, int]:
    """https://www.w3.org/TR/png, 11.2.1: IHDR is the first chunk."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[12:16] == b"IHDR"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_json_has_every_number_and_the_machine(run: Run) -> None:
    before = os.sched_getaffinity(0)
    result = run("bench", "net.rnnx", "--json", "--core", max(before), *FAST)
    assert result.exit_code == 0, result.output
    assert os.sched_getaffinity(0) == before
    found = json.loads(result.stdout)
    assert {row["name"] for row in found["engines"]} == ENGINES
    assert found["machine"]["core"] == max(before)
    assert found["machine"]["cpu"]
    assert {"governor", "caches", "python", "libraries"} <= set(found["machine"])
    for row in found["engines"]:
        assert 0 < row["p50"] <= row["p90"] <= row["p99"]
        assert row["steps"] >= 50
        assert row["steps_per_second"] == pytest.approx(1e6 / row["p50"])
        assert row["cold"] > 0
        assert row["error"] < 1e-5
        assert row["python_blocks_kept"] < 1
    assert found["skipped"] == []
    assert found["preempted"] >= 0
    if found["limit_missing"] is None:
        # nn.GRU(3, 5) and nn.Linear(5, 2).
        (limit,) = found["limits"]
        assert limit["bytes"] == 4 * (3 * 5 * 3 + 3 * 5 * 5 + 2 * 3 * 5 + 2 * 5 + 2)
        assert all(row["times_the_limit"] == pytest.approx(row["p50"] / limit["us"]) for row in found["engines"])
    if found["allocations_missing"] is None:
        assert all(row["allocations"] > 0 for row in found["engines"])


def test_the_table_says_what_was_measured_and_what_was_not(run: Run) -> None:
    result = run("bench", "net.rnnx", "--backend", "onnxruntime", "--backend", "tensorrt", *FAST)
    assert result.exit_code == 0, result.output
    for part in ("net.rnnx: µs of a step on core", "onnxruntime run(dict)", "x limit", "cold: right after 64 MiB"):
        assert part in result.stdout
    assert "torchscript fp32" not in result.stdout
    table = result.stdout.partition("Not timed")[2]
    assert "tensorrt" in table
    assert "the bundle has no target 'tensorrt', only onnx, torchscript" in " ".join(table.split())


def test_without_a_compiler_the_columns_say_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-cc")
    result = run("bench", "net.rnnx", "--backend", "onnxruntime", *FAST)
    assert result.exit_code == 0, result.output
    row = next(line for line in result.stdout.splitlines() if "onnxruntime fp32" in line)
    assert "not measured" in row
    assert "not counted" in row
    assert "no-such-cc" in result.stdout


def test_a_plot_is_a_picture(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "net.png"
    path.write_bytes(b"an older one")
    result = run("bench", "net.rnnx", "--plot", path, *FAST)
    assert result.exit_code == 0, result.output
    width, height = png_size(path)
    assert width == 1800
    assert height > 600
    assert os.listdir(tmp_path) == ["net.png"]


def test_a_plot_grows_with_its_rows_and_needs_no_limit(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    row = {"backend": "native", "device": "cpu", "times_as_fast": None, "times_the_limit": None}
    rows = [
        {**row, "name": f"native {p}", "precision": p, "p50": us, "p90": us, "p99": us * 2, "cold": us * 9}
        for p, us in (("fp32", 1.2), ("bf16", 0.6), ("int8", 0.3))
    ]
    limits = [
        {"precision": p, "bytes": 4e5, "bytes_per_second": 1e11, "us": us} for p, us in (("fp32", 1), ("int8", 0.2))
    ]
    result = {"bundle": "x.rnnx", "frames_a_step": 160, "machine": {"core": 0, "cpu": "A CPU"}}
    sizes = []
    for number, (some, bounds) in enumerate(((rows[:1], []), (rows, limits))):
        plots.bench(tmp_path / f"{number}.png", {**result, "engines": some, "limits": bounds})
        sizes.append(png_size(tmp_path / f"{number}.png"))
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] - sizes[0][1] == pytest.approx(2 * plots.ROW * 150, abs=1)


@pytest.mark.parametrize(
    ("us", "text"), [(0.0123, "12.3 ns"), (0.5, "500 ns"), (7.84, "7.84 µs"), (1234, "1.23 ms"), (2e6, "2.00 s")]
)
def test_a_duration_has_three_digits(us: float, text: str) -> None:
    assert plots.duration(us) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone.rnnx",), "gone.rnnx does not exist"),
        (("nets.py",), "nets.py is not a directory, but a bundle is one"),
        (("bidirectional.rnnx",), "bidirectional.rnnx takes whole sequences only: it has no step that could be timed"),
        (("net.rnnx", "--backend", "abacus"), "there is no backend 'abacus': choose from"),
        (("net.rnnx", "--core", 9999), "core 9999 is none of those that this process may use"),
        (("net.rnnx", "--plot", "x.pdf"), "x.pdf is of no known kind: a plot is written as a .png file"),
        (("net.rnnx", "--plot", "gone/x.png"), "gone/x.png cannot be written: the directory gone does not exist"),
        (("net.rnnx", "--plot", "/proc/x.png"), "/proc/x.png cannot be written: "),
    ],
)
def test_bad_input_is_one_clear_message(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], message: str
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(measure, "runners", lambda *_: pytest.fail("it measures"))
    result = run("bench", *arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_in_the_place_of_the_picture_is_refused(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "x.png").mkdir()
    result = run("bench", "net.rnnx", "--plot", tmp_path / "x.png")
    assert result.exit_code == 1
    assert "x.png cannot be written: a directory stands there" in result.stderr


def test_a_plot_without_matplotlib_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    result = run("bench", "net.rnnx", "--plot", "x.png")
    assert result.exit_code == 1
    assert f"a plot needs matplotlib, which is not here: {pip_install('plot')}" in result.stderr


def test_help() -> None:
    result = CliRunner().invoke(main, ["bench", "--help"])
    for option in ("--backend", "--steps", "--seconds", "--core", "--plot FILE.png", "--json"):
        assert option in result.output
