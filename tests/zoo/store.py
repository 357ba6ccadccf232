"""Bundles of the zoo's nets: each exported once, and kept on disk under a hash of all that makes it.

A changed byte of the toolkit, of a net, or of a library gives another hash, and then everything is made anew. Several
processes may ask at once: one makes a bundle, the others wait for it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock

from rnn_export.export import export
from rnn_export.runtime.backends.native.cpu import this_cpu
from rnn_export.runtime.build.native.compilers import find_compiler

from ..trusting import trusted  # noqa: TID252
from .nets import NETS

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("RNN_EXPORT_ZOO", ROOT / ".cache" / "zoo"))
STEPS = 64
# What makes a bundle: the toolkit, less what only shows, serves or times one; and the nets with their weights.
MAKERS = ("rnn_export", "models", "export", "runtime", "tests/zoo", "tests/models", "tests/parity", "tests/native")
DATA = ("tests/data", "scripts/silero_vad")
NOT_MAKERS = ("rnn_export/cli", "rnn_export/page", "export/triton", "runtime/serve", "runtime/bench")
LIBRARIES = ("torch", "onnx", "onnxruntime", "onnxscript", "onnx-ir", "numpy")
# Of how many states of the sources bundles are kept.
KEPT = 3


def sources(root: Path) -> list[Path]:
    """The files that make bundles, below `root`; of tests only what makes nets."""
    found = [path for folder in (*MAKERS, *DATA) for path in (root / folder).rglob("*") if path.is_file()]
    names = {path.relative_to(root).as_posix(): path for path in found if "__pycache__" not in path.parts}
    linked = tuple(f"rnn_export/{name}/" for name in ("models", "export", "runtime"))
    return [
        path
        for name, path in sorted(names.items())
        if not name.startswith((*(f"{folder}/" for folder in NOT_MAKERS), *linked))
        and not path.name.startswith("test_")
    ]


def fingerprint(root: Path, of_machine: Iterable[str]) -> str:
    """A hash of the files that make bundles below `root`, by name and content, and of what the machine adds."""
    digest = hashlib.sha256()
    for path in sources(root):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode() + data)
    digest.update("\n".join(of_machine).encode())
    return digest.hexdigest()[:16]


def machine() -> list[str]:
    """Other dependencies of a bundle: Python, libraries, the compiler and the features of this CPU."""
    compiler = find_compiler()
    says = subprocess.run([*compiler.command, "--version"], capture_output=True, text=True, check=False).stdout
    cpu = sorted(this_cpu().features)
    return [sys.version, platform.machine(), *(f"{name} {version(name)}" for name in LIBRARIES), says, *cpu]


@cache
def folder() -> Path:
    """The folder of these sources' bundles; the oldest others are removed."""
    place = CACHE / fingerprint(ROOT, machine())
    place.mkdir(parents=True, exist_ok=True)
    os.utime(place)
    others = sorted((p for p in CACHE.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in others[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return place


@cache
def bundle(name: str, precision: str = "fp32") -> Path:
    """The bundle of a net: read it, or copy it before it is changed."""
    place = folder() / f"{name}-{precision}"
    # Sources in C have the name of the bundle.
    path = place / f"{name.removesuffix('-in-c')}.rnnx"
    with FileLock(f"{place}.lock"):
        if not path.exists():
            place.mkdir(exist_ok=True)
            net = NETS[name]
            model, example, options = net.build()
            torch.manual_seed(0)
            targets = net.targets if precision == "fp32" else ("c",)
            export(model, example, path, **{"steps": STEPS, **options}, targets=targets, precision=precision)
    # It may have been made in a session before, which had a record of its own.
    return trusted(path)
