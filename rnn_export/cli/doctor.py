"""What this machine can build and run, what is missing, and the command that mends it.

Everything that loads native code is tried in a process of its own: what ends that process is a finding, not the end of
the examination.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rnn_export.errors import ToolUnavailable
from rnn_export.lazy import load_module
from rnn_export.runtime.backends.tensorrt.library import TITLES, find_library, is_installed
from rnn_export.runtime.backends.tensorrt.log import BuilderLog
from rnn_export.runtime.backends.tensorrt.nvidia import driver, jetson, target_of
from rnn_export.runtime.build.native.compiler import find_compiler

SECONDS = 120

# y = x + x on one float32, opset 13, as ONNX: no onnx is needed to try a provider.
DOUBLE = bytes.fromhex(
    "08083a350a0e0a01780a017812017922034164641201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a0208014204"
    "0a00100d"
)

_CHILD = """
import json, sys
names = json.loads(sys.argv[1])
sys.path[:] = names
from rnn_export.cli import doctor
doctor.answer(sys.argv[2])
"""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `mend` is None where it is "ok", else the command or step that mends it."""

    name: str
    state: Literal["ok", "missing", "broken"]
    detail: str
    mend: str | None = None


def examine(root: Path = Path("/")) -> list[Finding]:
    """Look at everything, and never raise; `root` is where the file system of the machine starts."""
    with ThreadPoolExecutor(2) as pool:
        native = [finding for findings in pool.map(_alone, PROBES) for finding in findings]
    return [*_jetson(root), *native, *_compilers(), _headers()]


def answer(probe: str) -> None:
    """In the process of one probe: print what it finds."""
    try:
        findings = list(PROBES[probe].look())
    except Exception as error:  # whatever native code answers with is a finding
        findings = [Finding(PROBES[probe].name, "broken", f"{type(error).__name__}: {error}", PROBES[probe].mend)]
    print(json.dumps([asdict(finding) for finding in findings]))  # noqa: T201


def _alone(probe: str) -> list[Finding]:
    name, mend = PROBES[probe].name, PROBES[probe].mend
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), probe]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [Finding(name, "broken", f"gives no answer in {SECONDS} s", mend)]
    except OSError as error:
        return [Finding(name, "broken", f"no process can be started: {error}", "free memory, or raise ulimit -u")]
    try:
        return [Finding(**finding) for finding in json.loads(done.stdout.splitlines()[-1])]
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return [Finding(name, "broken", f"ends its process with {_ending(done.returncode)} ({last})", mend)]


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


# --- native code, each in its own process


def _driver() -> Iterator[Finding]:
    try:
        found = driver()
    except ToolUnavailable as error:
        state: Literal["missing", "broken"] = "missing" if "is not here" in error.detail else "broken"
        yield Finding("NVIDIA driver", state, error.detail, error.fix)
        return
    yield Finding("NVIDIA driver", "ok", f"runs CUDA up to {found.version}")
    for number, gpu in enumerate(found.gpus):
        detail = f"{gpu.name}, compute capability {gpu.compute}, {gpu.memory / 2**30:.1f} GiB"
        yield Finding(f"GPU {number}", "ok", detail)


def _library(name: str) -> Iterator[Finding]:
    title = TITLES[name]
    try:
        library = find_library(name)
    except ToolUnavailable as error:
        yield Finding(title, "broken" if is_installed(name) else "missing", error.detail, error.fix)
        return
    if not library.ahead:
        try:
            library.probe()
        except ToolUnavailable as error:
            yield Finding(title, "broken", f"{library.version} needs the NVIDIA driver: {error.detail}", error.fix)
            return
    library.trt.Builder(BuilderLog(library.trt).logger)
    yield Finding(title, "ok", f"{library.version}, builds {'without a GPU' if library.ahead else 'for this GPU'}")


def _cuda_python() -> Iterator[Finding]:
    try:
        version = str(load_module("cuda.bindings").__version__)
    except ModuleNotFoundError:
        yield Finding("cuda-python", "missing", "not installed; TensorRT engines run through it", _cuda_mend())
        return
    load_module("cuda.bindings.runtime")
    major = _driver_major()
    if major is not None and int(version.split(".")[0]) > major:
        yield Finding("cuda-python", "broken", f"{version} is too new for a driver of CUDA {major}", _cuda_mend())
        return
    yield Finding("cuda-python", "ok", version)


def _driver_major() -> int | None:
    try:
        return int(driver().version.split(".")[0])
    except ToolUnavailable:
        return None


def _cuda_mend() -> str:
    major = _driver_major()
    return "pip install 'cuda-python>=12.6'" if major is None else f"pip install 'cuda-python>=12.6,<{major + 1}'"


def _onnxruntime() -> Iterator[Finding]:
    if importlib.util.find_spec("onnxruntime") is None:
        yield Finding("onnxruntime", "missing", "not installed", PROBES["onnxruntime"].mend)
        return
    ort = load_module("onnxruntime")
    yield Finding("onnxruntime", "ok", f"{ort.__version__}")


def _provider(kind: str) -> Iterator[Finding]:
    if importlib.util.find_spec("onnxruntime") is None:
        return
    ort = load_module("onnxruntime")
    provider, name, mend = f"{kind}ExecutionProvider", f"onnxruntime {kind}", PROBES[f"onnxruntime {kind}"].mend
    if provider not in ort.get_available_providers():
        yield Finding(name, "missing", f"onnxruntime {ort.__version__} is built without it", mend)
        return
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if kind != "CPU":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(DOUBLE, options, providers=[provider])
    # The list of providers says what was compiled in, and a session may be a CPU session without a word.
    if session.get_providers()[0] != provider:
        yield Finding(name, "broken", f"gives a session on {', '.join(session.get_providers())}", mend)
        return
    (doubled,) = session.run(None, {"x": np.array([1.5], np.float32)})
    if doubled.tolist() != [3.0]:
        yield Finding(name, "broken", f"says that 1.5 + 1.5 is {doubled.tolist()}", mend)
        return
    yield Finding(name, "ok", "makes a session and computes")


def _torch() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        detail = "not installed; only exporting and the backend torchscript need it"
        yield Finding("torch", "missing", detail, PROBES["torch"].mend)
        return
    torch = load_module("torch")
    where = "with CUDA" if torch.cuda.is_available() else "on the CPU"
    yield Finding("torch", "ok", f"{torch.__version__}, {where}")


@dataclass(frozen=True)
class Probe:
    """What is tried in a process of its own, and what helps where it does not come back."""

    name: str
    look: Callable[[], Iterator[Finding]]
    mend: str


_GPU_WHEEL = "pip uninstall onnxruntime; pip install 'rnn-export[gpu]', on a machine with an NVIDIA driver"
PROBES = {
    "driver": Probe("NVIDIA driver", _driver, "reinstall NVIDIA's driver and reboot"),
    "tensorrt": Probe("TensorRT", lambda: _library("tensorrt"), "pip install --force-reinstall 'rnn-export[tensorrt]'"),
    "tensorrt-rtx": Probe(
        "TensorRT-RTX", lambda: _library("tensorrt-rtx"), "pip install --force-reinstall 'rnn-export[rtx]'"
    ),
    "cuda-python": Probe("cuda-python", _cuda_python, "pip install --force-reinstall cuda-python"),
    "onnxruntime": Probe("onnxruntime", _onnxruntime, "pip install 'rnn-export[cpu]'"),
    "onnxruntime CPU": Probe("onnxruntime CPU", lambda: _provider("CPU"), "pip install --force-reinstall onnxruntime"),
    "onnxruntime CUDA": Probe("onnxruntime CUDA", lambda: _provider("CUDA"), _GPU_WHEEL),
    "torch": Probe("torch", _torch, "pip install 'rnn-export[export]'"),
}


# --- what needs no native code


def _jetson(root: Path) -> Iterator[Finding]:
    found = jetson(root)
    if found is None:
        return
    try:
        yield Finding("Jetson", "ok", f"{found.model}, target {target_of(found)}")
    except ToolUnavailable as error:
        yield Finding("Jetson", "broken", error.detail, error.fix)
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
            yield Finding("CC", "broken", error.detail, error.fix)
    for name, version, mend in (
        ("gcc", "--version", "sudo apt install gcc"),
        ("clang", "--version", "sudo apt install clang"),
        ("zig", "version", "pip install ziglang"),
    ):
        path = shutil.which(name)
        command = [path, version] if path else [sys.executable, "-m", "ziglang", version]
        if not path and (name != "zig" or importlib.util.find_spec("ziglang") is None):
            detail = "not found; one of gcc, clang and zig is enough, to compile the backend native"
            yield Finding(name, "missing", detail, mend)
            continue
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=True
            )
            yield Finding(name, "ok", (done.stdout.splitlines() or [path or "ziglang"])[0])
        except (OSError, subprocess.SubprocessError) as error:
            yield Finding(name, "broken", f"does not run: {error}", f"{mend} (again)")


def _headers() -> Finding:
    folder = sysconfig.get_path("include")
    if Path(folder, "Python.h").is_file():
        return Finding("Python headers", "ok", folder)
    mend = f"sudo apt install python{sys.version_info.major}.{sys.version_info.minor}-dev"
    return Finding(
        "Python headers", "missing", f"no Python.h in {folder}; without it native runs through ctypes, slower", mend
    )
