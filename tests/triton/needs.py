"""Triton for the tests, made by scripts/triton_venv.sh when first needed: without it they skip, in CI they fail."""

import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TRITONSERVER = ROOT / ".venv-triton" / "bin" / "tritonserver"


def need_server() -> Path:
    """The program `tritonserver`; skips where it cannot be made, or fails where CI is set."""
    reason = _made()
    if reason and os.environ.get("CI"):
        pytest.fail(f"Triton is missing: {reason}")
    if reason:
        pytest.skip(f"Triton is missing: {reason}")
    return TRITONSERVER


@cache
def _made() -> str:
    """Why there is no server; empty where there is one."""
    done = subprocess.run([ROOT / "scripts" / "triton_venv.sh"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"scripts/triton_venv.sh: {(done.stderr or done.stdout).strip()[-500:]}"
