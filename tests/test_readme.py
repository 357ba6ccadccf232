"""What the README shows is run as it stands there."""

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_example_works_when_pasted(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKS[0]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
    assert len(BLOCKS[0].strip().splitlines()) <= 12


def test_the_others_work_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    factory = next(b for b in BLOCKS if b.startswith("# detector.py"))
    Path("detector.py").write_text(factory)
    command = Path(sys.executable).with_name("rnn-export")
    done = subprocess.run(
        [command, "export", "detector.py:factory", "-o", "detector.rnnx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for word in ("rnn.l0.h", "lifted", "chunked", "onnx.reference"):
        assert word in done.stdout
        assert word in README
    random = np.random.default_rng(0)
    names = {
        "x": random.standard_normal(40).astype(np.float32),
        "xs": random.standard_normal((7, 40)).astype(np.float32),
        "h": np.zeros((1, 64), np.float32),
        "frames": random.standard_normal((40, 40)).astype(np.float32),
        "asyncio": asyncio,
    }
    own = next(b for b in BLOCKS if b.startswith("# own.py"))
    task = next(b for b in BLOCKS if b.startswith("# task.py"))
    Path("task.py").write_text(task)
    measured = [command, "verify", "detector.rnnx", "--metric", "task.py:agreement"]
    assert "task: agreement 1\n" in subprocess.run(measured, capture_output=True, text=True, check=True).stdout
    rest = [b for b in BLOCKS[1:] if b not in (factory, own, task)]
    assert len(rest) == 4
    exec("import torch\n" + "\n".join(rest), names)
    served = asyncio.run(names["serve"]([names["xs"], names["frames"]]))
    alone = names["engine"].stream().run(names["xs"])
    np.testing.assert_allclose(served[0], alone, atol=1e-6)
    assert len(served[1]) == 40
    assert Path("lstm.safetensors").exists()


@pytest.mark.parametrize("name", ["tagger", "smoother", "amp"])
def test_your_own_model_is_lifted_as_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(next(b for b in BLOCKS if b.startswith("# own.py")))
    command = Path(sys.executable).with_name("rnn-export")
    done = subprocess.run([command, "inspect", f"own.py:{name}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    states = re.findall(
        r"^ ([\w.]+) +(layer|frames|buffer|loop) +(\(batch.*?\)) +(zeros|stored) +(\d+)", done.stdout, re.M
    )
    assert states
    shown = [" ".join(line.split()) for line in README.splitlines()]
    for state in states:
        assert any(line.startswith(" ".join(state)) for line in shown)
    export = [command, "export", f"own.py:{name}", "-o", "own.rnnx", "--steps", "32"]
    done = subprocess.run(export, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(name: str) -> None:
    assert (ROOT / name).exists()


def test_scripts_can_be_run() -> None:
    for name in ("demo", "test", "bench", "load"):
        assert shutil.which(str(ROOT / "scripts" / name)), f"scripts/{name} has no run bit"
