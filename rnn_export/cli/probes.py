"""The checks of doctor. Native code is loaded in a process of its own, so that a crash is a finding too."""

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
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rnn_export.errors import ToolUnavailable
from rnn_export.lazy import load_module
from rnn_export.platform import host
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.native.cpu import host_triple
from rnn_export.runtime.backends.tensorrt.library import TITLES, find_library, is_installed
from rnn_export.runtime.backends.tensorrt.log import BuilderLog
from rnn_export.runtime.backends.tensorrt.nvidia import driver, jetson, target_of
from rnn_export.runtime.build.c_compiler import zig
from rnn_export.runtime.build.native.compilers import find_compiler, fix_of
from rnn_export.runtime.build.native.machines import MACHINES
from rnn_export.runtime.build.native.selftest import find_runner

SECONDS = 120

# y = x + x on one float32, opset 13, as ONNX: no onnx is needed to try a provider.
DOUBLE = bytes.fromhex(
    "08083a350a0e0a01780a017812017922034164641201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a0208014204"
    "0a00100d"
)

EMPTY_MODULE = b"\0asm\1\0\0\0"

_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from rnn_export.cli import probes
probes.answer(sys.argv[2])
"""

State = Literal["ok", "not installed", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `fix` is None where it is "ok", else the command or step that puts it right."""

    name: str
    state: State
    detail: str
    fix: str | None = None

    @staticmethod
    def of(name: str, state: State, error: ToolUnavailable) -> "Finding":
        return Finding(name, state, error.detail, error.fix)


@dataclass(frozen=True)
class Probe:
    """`look` runs in a process of its own; `fix` helps where that does not come back.

    Where `module` is not installed nothing is looked at, and `without` says why it matters.
    """

    name: str
    look: Callable[[], Iterator[Finding]]
    fix: str
    module: str = ""
    without: str = ""

    def findings(self) -> Iterator[Finding]:
        if self.module and importlib.util.find_spec(self.module) is None:
            yield self.finding("not installed", self.without or f"no package {self.module}")
        else:
            yield from self.look()

    def finding(self, state: State, detail: str) -> Finding:
        return Finding(self.name, state, detail, None if state == "ok" else self.fix)


def run_probe(key: str) -> list[Finding]:
    """Run the probe `key` of PROBES in a process of its own; never raises."""
    probe, command = PROBES[key], [sys.executable, "-c", _CHILD, json.dumps(sys.path), key]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [probe.finding("broken", f"gives no answer in {SECONDS} s")]
    except OSError as error:
        fix = "free memory, or raise ulimit -u"
        return [Finding(probe.name, "broken", f"no process can be started: {error}", fix)]
    try:
        return [Finding(**finding) for finding in json.loads(done.stdout.splitlines()[-1])]
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return [probe.finding("broken", f"ends its process with {_ending(done.returncode)} ({last})")]


def answer(key: str) -> None:
    """In the process of a probe: print its findings."""
    try:
        findings = list(PROBES[key].findings())
    except Exception as error:  # whatever native code answers with is a finding
        findings = [PROBES[key].finding("broken", f"{type(error).__name__}: {error}")]
    print(json.dumps([asdict(finding) for finding in findings]))  # noqa: T201


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _driver() -> Iterator[Finding]:
    try:
        found = driver()
    except ToolUnavailable as error:
        yield Finding.of("NVIDIA driver", "not installed" if "is not here" in error.detail else "broken", error)
        return
    yield Finding("NVIDIA driver", "ok", f"runs CUDA up to {found.version}")
    for number, gpu in enumerate(found.gpus):
        memory = f"{gpu.memory / 2**30:.1f} GiB"
        yield Finding(f"GPU {number}", "ok", f"{gpu.name}, compute capability {gpu.compute}, {memory}")


def _tensorrt(name: str) -> Iterator[Finding]:
    title = TITLES[name]
    try:
        library = find_library(name)
    except ToolUnavailable as error:
        yield Finding.of(title, "broken" if is_installed(name) else "not installed", error)
        return
    if not library.ahead:
        try:
            library.probe()
        except ToolUnavailable as error:
            needs = ToolUnavailable(
                f"{library.version} needs the NVIDIA driver: {error.detail}", error.fix, id=error.id
            )
            yield Finding.of(title, "broken", needs)
            return
    library.trt.Builder(BuilderLog(library.trt).logger)
    yield Finding(title, "ok", f"{library.version}, builds {'without a GPU' if library.ahead else 'for this GPU'}")


def _cuda_python() -> Iterator[Finding]:
    name, major = "cuda-python", _driver_major()
    newest = "" if major is None else f",<{major + 1}"
    fix = f"pip install 'cuda-python>=12.6{newest}'"
    try:
        version = str(load_module("cuda.bindings").__version__)
    except ModuleNotFoundError:
        yield Finding(name, "not installed", "not installed; TensorRT engines run through it", fix)
        return
    load_module("cuda.bindings.runtime")
    if major is not None and int(version.split(".")[0]) > major:
        yield Finding(name, "broken", f"{version} is too new for a driver of CUDA {major}", fix)
    else:
        yield Finding(name, "ok", version)


def _driver_major() -> int | None:
    try:
        return int(driver().version.split(".")[0])
    except ToolUnavailable:
        return None


def _onnxruntime() -> Iterator[Finding]:
    yield PROBES["onnxruntime"].finding("ok", str(load_module("onnxruntime").__version__))


def _openvino() -> Iterator[Finding]:
    probe = PROBES["openvino"]
    openvino = load_module("openvino")
    core = openvino.Core()
    doubled = core.compile_model(core.read_model(DOUBLE), "CPU")(np.array([1.5], np.float32))[0]
    if doubled.tolist() != [3.0]:
        yield probe.finding("broken", f"says that 1.5 + 1.5 is {doubled.tolist()}")
    else:
        version = openvino.get_version().partition("-")[0]
        yield probe.finding("ok", f"{version}, computes on {', '.join(core.available_devices)}")


def _litert() -> Iterator[Finding]:
    probe = PROBES["litert"]
    litert = load_module("rnn_export.runtime.backends.litert.library")
    writer = "without" if importlib.util.find_spec("litert_torch") is None else "with"
    yield probe.finding("ok", f"{litert.version()}, {writer} litert-torch, which writes the target")


def _executorch() -> Iterator[Finding]:
    probe = PROBES["executorch"]
    executorch = load_module("rnn_export.runtime.backends.executorch.library")
    has = "with" if executorch.has_xnnpack() else "without"
    yield probe.finding("ok", f"{executorch.version()}, {has} XNNPACK")


def _provider(kind: str) -> Iterator[Finding]:
    if importlib.util.find_spec("onnxruntime") is None:
        return
    ort, provider = load_module("onnxruntime"), f"{kind}ExecutionProvider"
    probe = PROBES[f"onnxruntime {kind}"]
    if provider not in ort.get_available_providers():
        yield probe.finding("not installed", f"onnxruntime {ort.__version__} is built without it")
        return
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if kind != "CPU":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(DOUBLE, options, providers=[provider])
    yield probe.finding(*_computes(session, provider))


def _computes(session: Any, provider: str) -> tuple[State, str]:
    # The list of providers says what was compiled in, and a session may be a CPU session without a word.
    if session.get_providers()[0] != provider:
        return "broken", f"gives a session on {', '.join(session.get_providers())}"
    (doubled,) = session.run(None, {"x": np.array([1.5], np.float32)})
    if doubled.tolist() != [3.0]:
        return "broken", f"says that 1.5 + 1.5 is {doubled.tolist()}"
    return "ok", "makes a session and computes"


def _torch() -> Iterator[Finding]:
    probe = PROBES["torch"]
    torch = load_module("torch")
    yield probe.finding("ok", f"{torch.__version__}, {'with CUDA' if torch.cuda.is_available() else 'on the CPU'}")


def _coremltools() -> Iterator[Finding]:
    probe = PROBES["coremltools"]
    runs = "converts and runs" if sys.platform == "darwin" else "converts; Core ML itself runs on macOS alone"
    yield probe.finding("ok", f"{load_module('coremltools').__version__}, {runs}")


def _wasmtime() -> Iterator[Finding]:
    wasmtime = load_module("wasmtime")
    wasmtime.Module(wasmtime.Engine(), EMPTY_MODULE)
    yield PROBES["wasmtime"].finding("ok", f"{version_of('wasmtime')}, compiles")  # it has no __version__


REINSTALL = "pip install --force-reinstall"
OF_TARGET = "only the target and the backend {} need it"
PROBES = {
    "driver": Probe("NVIDIA driver", _driver, "reinstall NVIDIA's driver and reboot"),
    "tensorrt": Probe("TensorRT", partial(_tensorrt, "tensorrt"), pip_install("tensorrt", again=True)),
    "tensorrt-rtx": Probe("TensorRT-RTX", partial(_tensorrt, "tensorrt-rtx"), pip_install("rtx", again=True)),
    "cuda-python": Probe("cuda-python", _cuda_python, f"{REINSTALL} cuda-python"),
    "onnxruntime": Probe("onnxruntime", _onnxruntime, pip_install("cpu"), "onnxruntime"),
    "onnxruntime CPU": Probe("onnxruntime CPU", partial(_provider, "CPU"), f"{REINSTALL} onnxruntime"),
    "onnxruntime CUDA": Probe(
        "onnxruntime CUDA",
        partial(_provider, "CUDA"),
        f"pip uninstall onnxruntime; {pip_install('gpu')}, on a machine with an NVIDIA driver",
    ),
    "openvino": Probe("openvino", _openvino, pip_install("openvino"), "openvino", OF_TARGET.format("openvino")),
    "litert": Probe("litert", _litert, pip_install("litert"), "ai_edge_litert", OF_TARGET.format("litert")),
    "executorch": Probe(
        "executorch",
        _executorch,
        pip_install("executorch"),
        "executorch",
        OF_TARGET.format("executorch"),
    ),
    "coremltools": Probe("coremltools", _coremltools, pip_install("coreml"), "coremltools", OF_TARGET.format("coreml")),
    "wasmtime": Probe(
        "wasmtime",
        _wasmtime,
        pip_install("wasm"),
        "wasmtime",
        "with zig it builds and runs the target wasm",
    ),
    "torch": Probe(
        "torch",
        _torch,
        pip_install("export"),
        "torch",
        "only exporting and the backend torchscript need it",
    ),
}


def examine(root: Path = Path("/")) -> list[Finding]:
    """Look at everything, and never raise; `root` is where the file system of the machine starts."""
    with ThreadPoolExecutor(2) as pool:
        native = [finding for findings in pool.map(run_probe, PROBES) for finding in findings]
    return [_system(), *_jetson(root), *native, *_compilers(), _headers(), *_others()]


def _system() -> Finding:
    return Finding("system", "ok", f"{host.title()}: {host_triple()}")


def _others() -> Iterator[Finding]:
    """The other machines that C is compiled for: compiler, runner of their programs, or commands that install one."""
    for triple, machine in MACHINES.items():
        if triple == host_triple():
            continue
        compilers = [machine.gcc, *(["zig"] if machine.zig else [])]
        there = [name for name in compilers if name and (zig() if name == "zig" else shutil.which(name))]
        if there:
            runner = find_runner(machine)
            runs = "nothing here" if isinstance(runner, str) else runner.title.partition(" (")[0]
            yield Finding(triple, "ok", f"{there[0]} compiles C for it, {runs} runs its programs")
        else:
            yield Finding(triple, "not installed", f"no {' and no '.join(filter(None, compilers))}", fix_of(machine))


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
        yield Finding("JetPack", "not installed", detail, "sudo apt install nvidia-jetpack")
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
        return Finding(name, "not installed", detail, install)
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
    detail = f"no Python.h in {folder}; without it native runs through ctypes, slower"
    return Finding("Python headers", "not installed", detail, install)
