"""The doctor on this machine, and on machines where things are missing, broken or end their process."""

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx.reference import ReferenceEvaluator

from rnn_export.cli import probes
from rnn_export.cli.main import main
from rnn_export.cli.probes import DOUBLE, PROBES, Finding, examine
from rnn_export.errors import ToolUnavailable
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.native.cpu import host_triple
from rnn_export.runtime.backends.tensorrt.nvidia import Driver, Gpu
from rnn_export.runtime.build.native.machines import MACHINES

from .test_machine import machine, tegra

OF_EXTRAS = ("openvino", "litert", "executorch", "coremltools", "wasmtime")
# By probe, the module that it imports, and what mends a machine without it.
PACKAGES = {
    "tensorrt": ("tensorrt", pip_install("tensorrt")),
    "tensorrt-rtx": ("tensorrt_rtx", pip_install("rtx")),
    "cuda-python": ("cuda.bindings.__init__", "pip install "),
    "onnxruntime": ("onnxruntime", pip_install("cpu")),
    "openvino": ("openvino", pip_install("openvino")),
    "litert": ("ai_edge_litert.__init__", pip_install("litert")),
    "executorch": ("executorch.__init__", pip_install("executorch")),
    "coremltools": ("coremltools", pip_install("coreml")),
    "torch": ("torch", pip_install("export")),
}


@pytest.fixture(scope="module")
def here() -> dict[str, Finding]:
    return {finding.name: finding for finding in examine()}


def test_everything_is_looked_at_and_what_is_not_ok_has_a_fix(here):
    assert set(here) >= {
        *("NVIDIA driver", "TensorRT", "TensorRT-RTX", "cuda-python", "onnxruntime", "onnxruntime CPU"),
        *("onnxruntime CUDA", "openvino", "litert", "executorch", "coremltools", "torch", "gcc", "clang", "zig"),
        *("Python headers", *({"system", *MACHINES} - {host_triple()})),
    }
    for finding in here.values():
        assert finding.state in ("ok", "not installed", "broken")
        assert finding.detail
        assert bool(finding.fix) == (finding.state != "ok"), finding


def test_the_machines_that_c_is_compiled_for(here, monkeypatch):
    assert here["system"].detail.endswith(f": {host_triple()}")
    monkeypatch.setattr(probes, "zig", lambda: ("zig",))
    known = ("riscv64-linux-musl", "aarch64-macos", "rv32imc")
    monkeypatch.setattr(probes, "MACHINES", {name: MACHINES[name] for name in known})
    monkeypatch.setattr(probes.shutil, "which", lambda program: "/x" if program == "qemu-riscv64" else None)
    picolibc = "sudo apt install gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf (Debian, Ubuntu)"
    bare = Finding("rv32imc", "not installed", "no riscv64-unknown-elf-gcc", picolibc)
    assert list(probes._others()) == [
        Finding("riscv64-linux-musl", "ok", "zig compiles C for it, qemu-riscv64 runs its programs"),
        Finding("aarch64-macos", "ok", "zig compiles C for it, nothing here runs its programs"),
        bare,
    ]
    monkeypatch.setattr(probes, "zig", lambda: ())
    zig = "pip install ziglang, which needs no root"
    assert list(probes._others()) == [
        Finding("riscv64-linux-musl", "not installed", "no riscv64-linux-musl-gcc and no zig", zig),
        Finding("aarch64-macos", "not installed", "no zig", zig),
        bare,
    ]
    monkeypatch.setattr(probes, "MACHINES", {"cortex-m4": MACHINES["cortex-m4"]})
    (finding,) = probes._others()
    assert finding.fix == "sudo apt install gcc-arm-none-eabi libnewlib-arm-none-eabi (Debian, Ubuntu)"


def test_what_is_alike_is_one_row_and_each_name_can_be_asked_for(monkeypatch):
    rows = [Finding(name, "not installed", "no gcc", "apt") for name in ("cortex-m3", "cortex-m4")]
    monkeypatch.setattr(probes, "examine", lambda: [Finding("system", "ok", "Linux"), *rows])
    table = CliRunner().invoke(main, ["doctor"]).output
    assert "cortex-m3, cortex-m4 not installed no gcc apt" in " ".join(table.split())
    assert "missing" not in table
    strict = CliRunner().invoke(main, ["doctor", "--strict", "cortex-m4"])
    assert (strict.exit_code, strict.stderr) == (1, "error: cortex-m4 is not installed (no gcc): apt\n")


def test_what_the_tests_themselves_use_is_ok(here):
    for name in ("onnxruntime", "onnxruntime CPU", *OF_EXTRAS, "torch"):
        assert here[name].state == "ok", here[name]
    assert here["onnxruntime CPU"].detail == "makes a session and computes"


def test_tensorrt_rtx_is_ok_where_it_is_installed(here):
    pytest.importorskip("tensorrt_rtx", reason="rtx: pip install 'rnn-export[rtx]'")
    assert here["TensorRT-RTX"].state == "ok"
    assert here["TensorRT-RTX"].detail.endswith("builds without a GPU")


def test_the_graph_of_the_doctor():
    model = onnx.load_from_string(DOUBLE)
    onnx.checker.check_model(model, full_check=True)
    (y,) = ReferenceEvaluator(model).run(None, {"x": np.array([1.5], np.float32)})
    assert y.tolist() == [3.0]


# --- other machines: fake packages come before the real ones in the process of a probe


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a Python module that hides the real one."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(name: str, text: str) -> None:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with Python, numpy and this package, and nothing else to import."""
    for name in ("numpy", "rnn_export"):
        real = Path(sys.modules[name].__file__).parent
        (tmp_path / name).symlink_to(real)
        for libs in real.parent.glob(f"{name}.libs"):
            (tmp_path / libs.name).symlink_to(libs)
    # A .pth file of cuda-bindings imports the namespace before any path is set, and it keeps its places until others.
    (tmp_path / "cuda").mkdir()
    standard = [p for p in sys.path if p and Path(p).is_relative_to(sys.base_prefix) and "site-packages" not in p]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *standard])
    return tmp_path


@pytest.mark.parametrize("probe", [*PACKAGES, "onnxruntime CPU", "onnxruntime CUDA"])
def test_on_a_bare_machine_it_is_missing(bare, probe):
    found = probes.run_probe(probe)
    if probe not in PACKAGES:
        assert found == []
        return
    (finding,) = found
    assert (finding.name, finding.state, finding.detail != "") == (PROBES[probe].name, "not installed", True)
    assert finding.fix.startswith(PACKAGES[probe][1])


@pytest.mark.parametrize(
    ("probe", "text", "detail"),
    [
        *((name, "raise OSError('libfoo.so.9: not found')", "libfoo.so.9: not found") for name in PACKAGES),
        *((f"onnxruntime {name}", "raise OSError('libfoo')", "libfoo") for name in ("CPU", "CUDA")),
        ("torch", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ends its process with SIGSEGV"),
        ("torch", "import os; os._exit(3)", "ends its process with exit code 3"),
        ("torch", "raise SystemExit(5)", "ends its process with exit code 5"),
        ("torch", "", "AttributeError"),
        ("tensorrt", "", "cannot be imported (AttributeError"),
    ],
)
def test_what_is_broken_is_found_and_survived(package, probe, text, detail):
    package(PACKAGES[probe.removesuffix(" CPU").removesuffix(" CUDA")][0], text)
    (finding,) = probes.run_probe(probe)
    assert (finding.name, finding.state) == (PROBES[probe].name, "broken")
    assert detail in finding.detail
    assert finding.fix


def test_a_probe_that_hangs_and_one_that_chatters(package, monkeypatch):
    package("torch", "print('hello'); __version__ = '9'; cuda = type('cuda', (), {'is_available': lambda: True})")
    assert probes.run_probe("torch") == [Finding("torch", "ok", "9, with CUDA")]
    monkeypatch.setattr(probes, "SECONDS", 1)
    package("torch", "import time; time.sleep(60)")
    assert probes.run_probe("torch") == [Finding("torch", "broken", "gives no answer in 1 s", PROBES["torch"].fix)]


ORT = """
__version__ = "1.0"
class SessionOptions:
    def add_session_config_entry(self, key, value):
        assert (key, value) == ("session.disable_cpu_ep_fallback", "1")
def get_available_providers():
    return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
class InferenceSession:
    def __init__(self, graph, options, providers):
        self.providers = providers
    def get_providers(self):
        return {given}
    def run(self, names, feeds):
        return [feeds["x"] * {factor}]
"""


@pytest.mark.parametrize(
    ("given", "factor", "state", "detail"),
    [
        ("self.providers", 2, "ok", "makes a session and computes"),
        ("['CPUExecutionProvider']", 2, "broken", "gives a session on CPUExecutionProvider"),
        ("self.providers", 3, "broken", "says that 1.5 + 1.5 is [4.5]"),
    ],
)
def test_a_provider_is_asked_for_a_session_and_a_sum(package, given, factor, state, detail):
    package("onnxruntime", ORT.format(given=given, factor=factor))
    (finding,) = probes.run_probe("onnxruntime CUDA")
    assert (finding.state, finding.detail) == (state, detail)
    assert bool(finding.fix) == (state != "ok")


@pytest.mark.parametrize(
    ("driver", "cuda", "state"), [("12.6", "13.1.0", "broken"), ("12.6", "12.9.4", "ok"), ("13.0", "13.1.0", "ok")]
)
def test_cuda_python_must_not_be_newer_than_the_driver(monkeypatch, driver, cuda, state):
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__=cuda))
    monkeypatch.setattr(probes, "driver", lambda: Driver(driver, ()))
    (finding,) = probes._cuda_python()
    assert finding.state == state
    if state == "broken":
        assert "too new for a driver of CUDA 12" in finding.detail
        assert finding.fix == "pip install 'cuda-python>=12.6,<13'"


def test_the_gpus_are_listed_and_a_broken_driver_is_not_a_missing_one(monkeypatch):
    found = Driver("12.6", (Gpu("Orin", "8.7", 8 * 2**30), Gpu("B", "12.0", 2**30)))
    monkeypatch.setattr(probes, "driver", lambda: found)
    assert list(probes._driver()) == [
        Finding("NVIDIA driver", "ok", "runs CUDA up to 12.6"),
        Finding("GPU 0", "ok", "Orin, compute capability 8.7, 8.0 GiB"),
        Finding("GPU 1", "ok", "B, compute capability 12.0, 1.0 GiB"),
    ]

    def broken():
        raise ToolUnavailable("the NVIDIA driver does not work: cuInit gave 999", "reboot")

    monkeypatch.setattr(probes, "driver", broken)
    assert [f.state for f in probes._driver()] == ["broken"]


# --- Jetson, compilers, headers


def test_a_jetson(tmp_path):
    assert list(probes._jetson(tmp_path)) == []
    root = machine(tmp_path / "nano", "NVIDIA Jetson Orin Nano", tegra(36, "4.3"), nvidia_jetpack="6.2+b77")
    assert list(probes._jetson(root)) == [
        Finding("Jetson", "ok", "NVIDIA Jetson Orin Nano, target jetson-orin-nano"),
        Finding("JetPack", "ok", "6.2, L4T 36.4.3"),
    ]
    first, second = probes._jetson(machine(tmp_path / "odd", "NVIDIA Jetson Odd", tegra(99, "1.0")))
    assert (first.state, second.state) == ("broken", "not installed")
    assert "--target" in first.fix
    assert second.fix == "sudo apt install nvidia-jetpack"


SHELL = shutil.which("sh")


def script(path: Path, text: str) -> None:
    path.write_text(f"#!{SHELL}\n{text}\n")
    path.chmod(0o755)


def test_compilers(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, "PATH": str(tmp_path)})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # zig may be a package
    missing = list(probes._compilers())
    assert [(f.name, f.state) for f in missing] == [(name, "not installed") for name in ("gcc", "clang", "zig")]
    assert all(f.fix for f in missing)
    script(tmp_path / "gcc", "echo gcc 99; echo more")
    script(tmp_path / "clang", "exit 1")
    script(tmp_path / "zig", '[ "$1" = version ] && echo 0.15')
    gcc, clang, zig = probes._compilers()
    assert (gcc, zig) == (Finding("gcc", "ok", "gcc 99"), Finding("zig", "ok", "0.15"))
    assert (clang.state, clang.fix) == ("broken", "sudo apt install clang (again)")


def test_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    finding = probes._headers()
    assert finding.state == "not installed"
    assert finding.fix == f"sudo apt install python{sys.version_info.major}.{sys.version_info.minor}-dev"
    (tmp_path / "Python.h").touch()
    assert probes._headers() == Finding("Python headers", "ok", str(tmp_path))
