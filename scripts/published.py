"""The page of published models: each exported as it is, and held to its author's own API."""

from __future__ import annotations

import json
import platform
import re
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.published.models import MODELS

ROOT = Path(__file__).parents[1]
PAGE, PACKAGES = ROOT / "docs" / "published-models.md", ROOT / "tests" / "published" / "packages.txt"
HEAD = """# Published models

Models of other packages, unmodified, with random weights (Silero VAD with its own), exported by one call as a user
would and held to the author's own API over 200 frames, on ONNX Runtime and as compiled C. Written by
`./scripts/published`; `tests/published` runs the same. The packages are installed as their authors publish them, and
none of their code is here.

"""
COLUMNS = ("model", "package", "outcome", "states", "error, ONNX Runtime", "error, C", "export, s", "step, µs: ORT, C")


def outcome(name: str) -> dict[str, Any]:
    """`tests.published.run`'s result for a model."""
    command = [ROOT / ".venv-published" / "bin" / "python", "-m", "tests.published.run", name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        return {"name": name, "outcome": "crashed", "message": done.stderr[-500:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(found: dict[str, Any], versions: dict[str, str]) -> str:
    case = MODELS[found["name"]]
    package = f"{case.package} {versions[case.package]}"
    if found["outcome"] != "exported":
        return f"| {case.title} | {package} | {found['outcome']} | | | | {found.get('seconds', 0):.1f} | |"
    both = [found[backend] for backend in ("onnxruntime", "native")]
    errors, steps = [f"{b['error']:.1e}" for b in both], ", ".join(f"{b['us']:.3g}" for b in both)
    rows = ", one row" if found["rows"] else ""
    cells = [case.title, package, f"exported{rows}", str(found["states"]), *errors, f"{found['seconds']:.1f}", steps]
    return f"| {' | '.join(cells)} |"


def page() -> Iterator[str]:
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)", PACKAGES.read_text(), re.MULTILINE))
    found = [outcome(name) for name in MODELS]
    yield HEAD + f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
    yield from (row(f, versions) for f in found)
    refused = [f for f in found if f["outcome"] != "exported"]
    yield "".join(f"\n- **{MODELS[f['name']].title}**, {f['outcome']}: {f['message']}" for f in refused)
    seconds = [f["seconds"] for f in found if f["outcome"] == "exported"]
    good = len(found) - len(refused)
    machine = f"{platform.machine()}, {torch.get_num_threads()} thread"
    yield (
        f"{good} of {len(found)} exported; seconds per export, with C: median {statistics.median(seconds):.1f}, worst "
        f"{max(seconds):.1f} ({machine}, torch {torch.__version__.split('+')[0]})."
    )


if __name__ == "__main__":
    PAGE.write_text("\n".join(page()) + "\n")
