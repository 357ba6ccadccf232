"""examples/robot_policy, and the programs of docs/policies.md, which are parts of it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from ..published.test_published import ROOT, published_python  # noqa: TID252

PROGRAM = ROOT / "examples" / "robot_policy" / "run.py"


@pytest.mark.slow
def test_its_actions_are_those_of_the_policy(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [published_python(), PROGRAM, tmp_path, "512"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.splitlines()
    found = re.fullmatch(r"1000 steps of 8 robots, (\d+) episodes: of model\.predict off by at most (\S+)", first)
    assert found, first
    assert int(found[1]) > 40
    assert float(found[2]) < 1e-5
    assert second == "pendulum.yaml is what LEAPP runs it by"
    assert (tmp_path / "pendulum.yaml").exists()


def test_the_page_shows_parts_of_it() -> None:
    program = [line.strip() for line in PROGRAM.read_text().splitlines()]
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "policies.md").read_text(), re.DOTALL)
    lines = [line.strip() for block in shown for line in block.splitlines() if line.strip()]
    assert len(lines) > 8
    assert [line for line in lines if line not in program] == []
