"""The driver through a stand-in for libcuda, and Jetson modules by the files that they have. Not run on hardware."""

import ctypes
from pathlib import Path
from typing import Any

import pytest

from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import BackendUnavailable, ToolUnavailable
from rnn_export.runtime.backends.tensorrt.nvidia import Driver, Gpu, Jetson, driver, jetson, target_of

from ..messages import raises  # noqa: TID252

ERRORS = {34: b"CUDA_ERROR_STUB_LIBRARY", 100: b"CUDA_ERROR_NO_DEVICE", 803: b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}


class Cuda:
    """libcuda as ctypes gives it: every function returns a CUresult and writes behind its pointers."""

    def __init__(self, gpus: list[tuple[str, int, int, int]], version: int = 12060, **fails: int) -> None:
        self.gpus, self.version, self.fails, self.calls = gpus, version, fails, []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return self.fails.get(name) or getattr(self, f"_{name.lower()}")(*arguments) or 0

        return call

    def _cuinit(self, flags):
        assert flags == 0

    def _cudrivergetversion(self, number):
        number._obj.value = self.version

    def _cudevicegetcount(self, number):
        number._obj.value = len(self.gpus)

    def _cudeviceget(self, device, index):
        device._obj.value = 100 + index

    def _cudevicegetname(self, text, size, device):
        assert size == 256
        text.value = self.gpus[device.value - 100][0].encode()

    def _cudevicetotalmem_v2(self, size, device):
        assert isinstance(size._obj, ctypes.c_size_t)
        size._obj.value = self.gpus[device.value - 100][3]

    def _cudevicegetattribute(self, number, attribute, device):
        number._obj.value = self.gpus[device.value - 100][{75: 1, 76: 2}[attribute.value]]

    def _cugeterrorname(self, code, text):
        text._obj.value = ERRORS.get(code)
        return code not in ERRORS


ORIN = ("Orin", 8, 7, 8 * 2**30)
RTX = ("NVIDIA GeForce RTX 5090", 12, 0, 32 * 2**30)


def test_the_gpus_of_a_driver():
    asked = []
    found = driver(lambda name: asked.append(name) or Cuda([ORIN, RTX], 13000))
    assert asked == ["libcuda.so.1"]
    assert found == Driver("13.0", (Gpu("Orin", "8.7", 8 * 2**30), Gpu("NVIDIA GeForce RTX 5090", "12.0", 32 * 2**30)))
    assert driver(lambda name: Cuda([ORIN], 11040)).version == "11.4"


def test_no_driver():
    def load(name):
        raise OSError("libcuda.so.1: cannot open shared object file")

    with raises("nvidia-driver-missing", "libcuda.so.1: cannot", "--gpus all") as error:
        driver(load)
    assert isinstance(error.value, ToolUnavailable)
    assert error.value.fix.startswith("install NVIDIA's driver")
    with raises("nvidia-without-gpu", "12.6", "nvidia-smi"):
        driver(lambda name: Cuda([]))


def test_no_driver_on_this_machine_or_a_gpu():
    """This machine has GPUs, or the error names the driver."""
    try:
        assert driver().gpus
    except BackendUnavailable as error:
        assert "the NVIDIA driver" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("code", "values"),
    [
        (100, ("CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES")),
        (803, ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "reboot")),
        (34, ("CUDA_ERROR_STUB_LIBRARY", "LD_LIBRARY_PATH")),
        (999, ("an error it has no name for", "modprobe")),
        (4711, ("an error it has no name for", "dmesg")),
    ],
)
def test_a_driver_that_does_not_start(code, values):
    cuda = Cuda([ORIN], cuInit=code)
    with raises("nvidia-driver-fails", "cuInit", code, *values):
        driver(lambda name: cuda)
    assert cuda.calls == ["cuInit", "cuGetErrorName"]


CALLS = ["DriverGetVersion", "DeviceGetCount", "DeviceGet", "DeviceGetName", "DeviceGetAttribute", "DeviceTotalMem_v2"]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_checked(call):
    with raises("nvidia-driver-fails", f"cu{call.removesuffix('_v2')}", "100"):
        driver(lambda name: Cuda([ORIN], **{f"cu{call}": 100}))


# --- Jetson


def machine(root: Path, model: str = "", release: str = "", **packages: str) -> Path:
    """The files of a machine below `root`; a package's name has `_` for `-`."""
    status = "".join(
        f"Package: {name.replace('_', '-')}\nStatus: install ok installed\nPriority: standard\nVersion: {version}\n"
        f"Depends: nvidia-jetpack-runtime (= {version})\n\n"
        for name, version in packages.items()
    )
    for path, text in (
        ("proc/device-tree/model", f"{model}\0" if model else ""),
        ("etc/nv_tegra_release", release),
        ("var/lib/dpkg/status", status),
    ):
        if text:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
    return root


def tegra(major: int, revision: str) -> str:
    return (
        f"# R{major} (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, EABI: aarch64, "
        "DATE: Wed Jan  8 01:49:37 UTC 2025\n"
    )


DEVELOPER = "Engineering Reference Developer Kit"


@pytest.mark.parametrize(
    ("model", "release", "package", "jetpack", "l4t", "target"),
    [
        ("Jetson Nano Developer Kit", (32, "6.1"), "4.6-b199", "4.6", "32.6.1", "jetson-nano"),
        ("Jetson TX2 NX", (32, "7.1"), None, "4.6.1", "32.7.1", "jetson-tx2"),
        ("Jetson-AGX", (32, "7.1"), None, "4.6.1", "32.7.1", "jetson-agx-xavier"),
        ("Jetson Xavier NX Developer Kit", (35, "2.1"), "5.1-b147", "5.1", "35.2.1", "jetson-xavier-nx"),
        ("Jetson AGX Xavier", (35, "2.1"), None, "5.1", "35.2.1", "jetson-agx-xavier"),
        ("Jetson AGX Orin Developer Kit", (36, "3.0"), None, "6.0", "36.3.0", "jetson-agx-orin"),
        (f"Jetson Orin Nano {DEVELOPER} Super", (36, "4.3"), "6.2+b77", "6.2", "36.4.3", "jetson-orin-nano"),
        (f"Jetson Orin NX {DEVELOPER}", (36, "4.4"), "6.2.1+b38", "6.2.1", "36.4.4", "jetson-orin-nx"),
        ("Jetson AGX Thor Developer Kit", (38, "2"), None, "7.0", "38.2", "jetson-thor"),
        ("Jetson AGX Thor Developer Kit", (38, "2.0"), "7.0-b128", "7.0", "38.2.0", "jetson-thor"),
    ],
)
def test_a_jetson(tmp_path, model, release, package, jetpack, l4t, target):
    model = model if model == "Jetson-AGX" else f"NVIDIA {model}"
    packages = {"nvidia_jetpack": package} if package else {"bash": "5.1-6"}
    found = jetson(machine(tmp_path, model, tegra(*release), **packages))
    assert found == Jetson(model, jetpack, l4t)
    assert target_of(found) == target
    assert target in TARGETS


def test_what_the_files_do_not_say(tmp_path):
    model, package = "NVIDIA Jetson Orin NX", "36.4.3-20250107174145"
    by_package = machine(tmp_path / "core", model, nvidia_l4t_core=package)
    assert jetson(by_package) == Jetson(model, "6.2", "36.4.3")
    removed = machine(tmp_path / "removed", model, tegra(36, "9.9"), nvidia_jetpack="6.2+b77")
    status = removed / "var/lib/dpkg/status"
    status.write_text(status.read_text().replace("install ok installed", "deinstall ok config-files"))
    assert jetson(removed) == Jetson(model, None, "36.9.9")
    assert jetson(machine(tmp_path / "container", model)) == Jetson(model, None, None)
    assert jetson(tmp_path / "none") is None
    assert jetson(machine(tmp_path / "pi", "Raspberry Pi 5 Model B Rev 1.0", bash="5.2-1")) is None


@pytest.mark.parametrize("model", ["NVIDIA Jetson TX1", "Forecr Orin board", ""])
def test_a_jetson_without_a_target(model):
    with raises("jetson-module-unknown", f"'{model}'", "jetson-nano", "--target"):
        target_of(Jetson(model, "4.6", "32.6.1"))
