"""This machine's NVIDIA driver with its GPUs, and its Jetson module if it is one.

The driver is asked through libcuda alone: TensorRT ends the whole process where there is none. Not run on hardware: the
tests drive stand-ins for libcuda and for the files of a Jetson.

Sources: CUDA driver API reference (cuInit, cuDeviceGetAttribute, CUresult); NVIDIA's JetPack archive for `_JETPACKS`.
"""

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnn_export.errors import ToolUnavailable

_LIBRARY = "libcuda.so.1"
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR

_INSTALL = (
    "install NVIDIA's driver and reboot (Ubuntu: sudo ubuntu-drivers install; a Jetson has it from JetPack); "
    "a container has to be started with --gpus all, on a Jetson with --runtime nvidia"
)
_FIXES = {
    34: "the libcuda found is the toolkit's stub: take its folder 'stubs' out of LD_LIBRARY_PATH",
    100: "check that nvidia-smi lists a GPU, that CUDA_VISIBLE_DEVICES does not hide it, and that a container has it",
    803: "the driver was updated while its old kernel module still runs: reboot",
    804: "take the folder 'compat' of the CUDA toolkit out of LD_LIBRARY_PATH, or update the driver",
    999: "load the kernel module (sudo modprobe nvidia_uvm), or reboot",
}

# JetPack by L4T release, where the package nvidia-jetpack is not installed to say it.
_JETPACKS = {"32.6.1": "4.6", "32.7.1": "4.6.1", "32.7.2": "4.6.2", "32.7.3": "4.6.3", "32.7.4": "4.6.4"}
_JETPACKS |= {"35.1.0": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5.0": "5.1.3"}
_JETPACKS |= {"35.6.0": "5.1.4", "36.3.0": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1"}
_JETPACKS |= {"38.2.0": "7.0", "38.4.0": "7.1"}
_MODULES = (
    (r"thor", "jetson-thor"),
    (r"orin nano", "jetson-orin-nano"),
    (r"orin nx", "jetson-orin-nx"),
    (r"agx orin", "jetson-agx-orin"),
    (r"xavier nx", "jetson-xavier-nx"),
    (r"agx xavier|jetson-agx$", "jetson-agx-xavier"),
    (r"\btx2", "jetson-tx2"),
    (r"\bnano\b", "jetson-nano"),
)


@dataclass(frozen=True)
class Gpu:
    """One GPU: its compute capability as `"8.7"`, its memory in bytes (on a Jetson shared with the CPU)."""

    name: str
    compute: str
    memory: int


@dataclass(frozen=True)
class Driver:
    """A driver that works: the newest CUDA it runs, as `"12.6"`, and the GPUs it shows, at least one."""

    version: str
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class Jetson:
    """A Jetson as it describes itself: a model in words, JetPack as `"6.2"`, L4T as `"36.4.3"`; None where unknown."""

    model: str
    jetpack: str | None
    l4t: str | None


def driver(load: Callable[[str], Any] = ctypes.CDLL) -> Driver:
    """Start the driver and list its GPUs; raises BackendUnavailable with the reason where it does not start."""
    try:
        cuda = load(_LIBRARY)
    except OSError as error:
        raise ToolUnavailable(
            f"the NVIDIA driver is not here ({error})", _INSTALL, id="nvidia-driver-missing"
        ) from error
    number = ctypes.c_int()
    _check(cuda, "cuInit", cuda.cuInit(0))
    _check(cuda, "cuDriverGetVersion", cuda.cuDriverGetVersion(ctypes.byref(number)))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    _check(cuda, "cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(number)))
    gpus = tuple(_gpu(cuda, index) for index in range(number.value))
    if not gpus:
        raise ToolUnavailable(
            f"the NVIDIA driver runs (CUDA {version}), but shows no GPU", _FIXES[100], id="nvidia-without-gpu"
        )
    return Driver(version, gpus)


def _gpu(cuda: Any, index: int) -> Gpu:
    device, number, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    _check(cuda, "cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), index))
    _check(cuda, "cuDeviceGetName", cuda.cuDeviceGetName(name, len(name), device))
    _check(cuda, "cuDeviceTotalMem", cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    capability = []
    for attribute in map(ctypes.c_int, _CAPABILITY):
        _check(cuda, "cuDeviceGetAttribute", cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device))
        capability.append(str(number.value))
    return Gpu(name.value.decode(errors="replace"), ".".join(capability), memory.value)


def _check(cuda: Any, call: str, code: int) -> None:
    if code == 0:
        return
    text = ctypes.c_char_p()
    named = cuda.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value
    reason = text.value.decode() if named and text.value else "an error it has no name for"
    fix = _FIXES.get(code, "see what nvidia-smi and dmesg say, then reinstall the driver or reboot")
    raise ToolUnavailable(
        f"the NVIDIA driver does not work: {call} gave {code}, {reason}", fix, id="nvidia-driver-fails"
    )


def jetson(root: Path = Path("/")) -> Jetson | None:
    """The Jetson this machine is, or None on any other machine; `root` is where its file system starts."""
    model = _text(root / "proc/device-tree/model").strip("\0\n ")
    packages = _text(root / "var/lib/dpkg/status")
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    l4t = f"{release[1]}.{release[2]}" if release else _package(packages, "nvidia-l4t-core")
    if l4t is None and "jetson" not in model.lower():
        return None
    padded = f"{l4t}.0" if l4t and l4t.count(".") == 1 else l4t
    return Jetson(model, _package(packages, "nvidia-jetpack") or _JETPACKS.get(padded or ""), l4t)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _package(status: str, name: str) -> str | None:
    """The version of an installed Debian package, without its build number."""
    record = re.search(rf"^Package: {re.escape(name)}\n(?:.+\n?)*", status, re.MULTILINE)
    if record is None or "\nStatus: install ok installed" not in record[0]:
        return None
    version = re.search(r"^Version: (\d[\d.]*\d)", record[0], re.MULTILINE)
    return version[1] if version else None


def target_of(jetson: Jetson) -> str:
    """The name of its row in the target table; raises BackendUnavailable where the model has none."""
    for pattern, target in _MODULES:
        if re.search(pattern, jetson.model.lower()):
            return target
    found = f"this Jetson calls itself {jetson.model!r}, which is none of {', '.join(t for _, t in _MODULES)}"
    raise ToolUnavailable(found, "name the module that it carries with --target", id="jetson-module-unknown")
