"""Programs in the README and in docs are run as they stand there, and all links lead somewhere.

Programs for one target are run by test_target_pages and the tests of that target.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
COMMAND = Path(sys.executable).with_name("rnn-export")
# Programs that are not run as they stand, and why.
NOT_RUN = {
    "policies.md": "packages of others: tests/examples/test_robot_policy.py runs the program that they are parts of",
    "pipelines.md": "a microphone: tests/test_pipelines.py does it on a clip",
    "from-onnx.md": "Silero's file, which comes in its wheel: tests/from_onnx does it with files that it makes",
}


def blocks(page: str) -> list[str]:
    text = next(p for p in PAGES if p.relative_to(ROOT).as_posix() in (page, f"docs/{page}")).read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False)


def test_the_first_example_works_when_pasted(tmp_path: Path) -> None:
    (example,) = blocks("README.md")
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
    assert len(example.strip().splitlines()) <= 12


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 6_000


def test_the_quickstart_works_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    """Its programs lie beside each other as their first lines name them, and its commands run as they stand there."""
    lines = re.findall(r"^    \$ (.*)$", (ROOT / "docs/quickstart.md").read_text(), re.MULTILINE)
    lines = [line for line in lines if not re.search(r"\b(pip|venv|doctor)\b", line)]
    for code in blocks("quickstart.md"):
        (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code)
    places = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": places, "MPLBACKEND": "Agg"}
    script = "\n".join(["set -e", *lines])
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(lines) == 8
    for word in ("smooth.frames", "rnn.l0.h", "wrote detector.rnnx", "built c (fp32)"):
        assert word in done.stdout
    told = re.search(r"largest difference from the whole sequence: (.*)", done.stdout)
    assert told
    assert float(told[1]) < 1e-6
    assert (tmp_path / "listen.png").read_bytes().startswith(b"\x89PNG")
    assert np.load(tmp_path / "probabilities.npy").shape == (200, 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of docs/exporting.md, with detector.py, task.py and detector.rnnx as the page makes them."""
    folder = tmp_path_factory.mktemp("exported")
    for code in blocks("exporting.md"):
        (folder / code.splitlines()[0].removeprefix("# ")).write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = command("export", "detector.py:factory", "-o", "detector.rnnx")
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout)
    return folder


def test_an_export_says_what_the_page_shows(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported)
    said, page = Path("said.txt").read_text(), (ROOT / "docs/exporting.md").read_text()
    for word in ("rnn.l0.h", "lifted", "chunked", "onnx.reference"):
        assert word in said
        assert word in page
    assert "task: agreement 1\n" in command("verify", "detector.rnnx", "--metric", "task.py:agreement").stdout


def test_streams_pools_and_batchers_work_as_shown(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported)
    random = np.random.default_rng(0)
    names = {
        "x": random.standard_normal(40).astype(np.float32),
        "xs": random.standard_normal((7, 40)).astype(np.float32),
        "h": np.zeros((1, 64), np.float32),
        "frames": random.standard_normal((40, 40)).astype(np.float32),
        "done": np.arange(8) % 3 == 0,
    }
    exec("\n".join(blocks("streams.md")), names)
    served = asyncio.run(names["serve"]([names["xs"], names["frames"]]))
    alone = names["engine"].stream().run(names["xs"])
    np.testing.assert_allclose(served[0], alone, atol=1e-6)
    assert len(served[1]) == 40


def test_a_report_is_written_as_shown(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported)
    names: dict[str, object] = {}
    exec("\n".join(blocks("report.md")), names)
    assert "How it was verified" in Path("report.html").read_text()
    assert names["unproven"]


def test_cells_work_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("cells.md")
    exec(code, {})
    assert Path("lstm.safetensors").exists()


@pytest.mark.parametrize("name", ["tagger", "smoother", "amp"])
def test_your_own_model_is_lifted_as_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("your-model.md")
    Path("own.py").write_text(code)
    done = command("inspect", f"own.py:{name}")
    assert done.returncode == 0, done.stderr
    states = re.findall(
        r"^ ([\w.]+) +(layer|frames|buffer|loop) +(\(batch.*?\)) +(zeros|stored) +(\d+)", done.stdout, re.M
    )
    assert states
    shown = [" ".join(line.split()) for line in (ROOT / "docs/your-model.md").read_text().splitlines()]
    for state in states:
        assert any(line.startswith(" ".join(state)) for line in shown)
    done = command("export", f"own.py:{name}", "-o", "own.rnnx", "--steps", "32")
    assert done.returncode == 0, done.stderr


def test_every_page_with_programs_is_run_or_says_why_not() -> None:
    run = {"README.md", "quickstart.md", "exporting.md", "streams.md", "cells.md", "your-model.md", "report.md"}
    has = {p.name for p in PAGES if "```python" in p.read_text() and p.parent.name != "targets"}
    assert has == run | set(NOT_RUN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        there = (page.parent / link).resolve() if link else page
        assert there.exists(), link
        titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles], anchor


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    words = re.search(r"^\.venv/bin/python (-m sphinx .*) out/docs$", (ROOT / "scripts/docs").read_text(), re.MULTILINE)
    assert words
    build = [sys.executable, *words[1].split(), str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        inside = page.relative_to(ROOT).as_posix()
        assert (tmp_path / inside).with_suffix(".html").exists(), f"{inside} is in no contents: docs/contents.txt"
    assert "max_context" in (tmp_path / "docs/api.html").read_text()


def test_scripts_can_be_run() -> None:
    for name in ("demo", "test", "bench", "docs", "size"):
        assert shutil.which(str(ROOT / "scripts" / name)), f"scripts/{name} has no run bit"
