"""Models of other packages, as they are published: exported as a user would, and held to the author's own API."""

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.published.models import MODELS

ROOT = Path(__file__).parents[2]
# Of the largest magnitude: fp32 in another order.
ERROR = 2e-5


@cache
def _made() -> str:
    """Why there is no venv with the packages; empty where there is one."""
    done = subprocess.run([ROOT / "scripts" / "published_venv.sh"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"scripts/published_venv.sh: {(done.stderr or done.stdout).strip()[-500:]}"


def published_python():
    """The Python of the venv with the packages."""
    if (reason := _made()) and os.environ.get("CI"):
        pytest.fail(f"published models are missing: {reason}")
    if reason:
        pytest.skip(f"published models are missing: {reason}")
    return ROOT / ".venv-published" / "bin" / "python"


def run(name):
    """The result of `tests.published.run` for one model, in its own process."""
    command = [published_python(), "-m", "tests.published.run", name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_published_model_streams_as_its_author_says(name):
    found, case = run(name), MODELS[name]
    if case.refused:
        assert found["outcome"] == "refused", found
        assert re.search(case.refused, found["message"]), found["message"]
        return
    assert found["outcome"] == "exported", found.get("message")
    for backend in ("onnxruntime", "native"):
        assert found[backend]["error"] <= ERROR, (backend, found[backend])


def test_the_page_has_every_model():
    page = (ROOT / "docs" / "published-models.md").read_text()
    assert all(f"| {case.title} |" in page for case in MODELS.values())


def test_every_package_is_pinned_and_has_its_licence():
    lines = (ROOT / "tests" / "published" / "packages.txt").read_text().splitlines()
    rows = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9.]+ +# (MIT|BSD-3-Clause|Apache-2\.0)", row) for row in rows)
    pinned = {row.split("==")[0] for row in rows}
    assert {case.package for case in MODELS.values()} <= pinned
