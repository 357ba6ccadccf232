"""What this machine can build and run: native code by its probes, and what can be looked at without loading any."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rnn_export.cli.probes import PROBES, SECONDS, Finding, run_probe
from rnn_export.errors import ToolUnavailable
from rnn_export.runtime.backends.tensorrt.nvidia import jetson, target_of
from rnn_export.runtime.build.native.compiler import find_compiler


def examine(root: Path = Path("/")) -> list[Finding]:
    """Look at everything, and never raise; `root` is where the file system of the machine starts."""
    with ThreadPoolExecutor(2) as pool:
        native = [finding for findings in pool.map(run_probe, PROBES) for finding in findings]
    return [*_jetson(root), *native, *_compilers(), _headers()]


def _jetson(root: Path) -> Iterator[Finding]:
    found = jetson(root)
    if found is None:
        return
    try:
        yield Finding("Jetson", "ok", f"{found.model}, target {target_of(found)}")
    except ToolUnavailable as error:
        yield Finding.of("Jetson", "broken", error)
    if found.jetpack is None:
        detail = f"no package nvidia-jetpack, and L4T {found.l4t} is of no JetPack known here"
        yield Finding("JetPack", "missing", detail, "sudo apt install nvidia-jetpack")
    else:
        yield Finding("JetPack", "ok", f"{found.jetpack}, L4T {found.l4t}")


def _compilers() -> Iterator[Finding]:
    if os.environ.get("CC", "").strip():
        try:
            yield Finding("CC", "ok", f"{find_compiler().title}; it goes before all others")
        except ToolUnavailable as error:
            yield Finding.of("CC", "broken", error)
    yield _compiler("gcc", "--version", "sudo apt install gcc")
    yield _compiler("clang", "--version", "sudo apt install clang")
    yield _compiler("zig", "version", "pip install ziglang")


def _compiler(name: str, version: str, install: str) -> Finding:
    path = shutil.which(name)
    command = [path, version] if path else [sys.executable, "-m", "ziglang", version]
    if not path and (name != "zig" or importlib.util.find_spec("ziglang") is None):
        detail = "not found; one of gcc, clang and zig is enough, to compile the backend native"
        return Finding(name, "missing", detail, install)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(name, "broken", f"does not run: {error}", f"{install} (again)")
    return Finding(name, "ok", (done.stdout.splitlines() or [path or "ziglang"])[0])


def _headers() -> Finding:
    folder = sysconfig.get_path("include")
    if Path(folder, "Python.h").is_file():
        return Finding("Python headers", "ok", folder)
    install = f"sudo apt install python{sys.version_info.major}.{sys.version_info.minor}-dev"
    return Finding(
        "Python headers", "missing", f"no Python.h in {folder}; without it native runs through ctypes, slower", install
    )
