"""An example as its README runs it, into a folder of the test."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path) -> list[str]:
    """The lines that `examples/NAME/run.py` prints."""
    command = [sys.executable, str(EXAMPLES / name / "run.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
