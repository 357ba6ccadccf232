"""The kernels over rows on one GPU, through the driver's API. Not run on hardware.

Source: the CUDA Driver API reference, "Module Management" and "Execution Control".
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from typing import Any

from rnn_export.errors import DeviceError
from rnn_export.lazy import load_module
from rnn_export.runtime.device.kernels import grid, ptx

ADVICE = {
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is older than CUDA 9: update it",
    "CUDA_ERROR_JIT_COMPILER_NOT_FOUND": "the driver's libnvidia-ptxjitcompiler is missing: install the whole driver; "
    "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    "CUDA_ERROR_OUT_OF_MEMORY": "the GPU has no memory left: close streams",
}


class CudaKernels:
    """The kernels as the current GPU has them."""

    def __init__(self) -> None:
        self._cuda = load_module("cuda.bindings.driver")
        self._module = self._call("cuModuleLoadData", ptx().encode() + b"\0")
        self._kernels: dict[str, Any] = {}
        # At exit CUDA is gone before its handles.
        weakref.finalize(self, self._cuda.cuModuleUnload, self._module).atexit = False

    def launch(self, stream: Any, kernel: str, count: int, units: int, *pointers: int) -> None:
        if kernel not in self._kernels:
            self._kernels[kernel] = self._call("cuModuleGetFunction", self._module, kernel.encode())
        blocks, threads = grid(count, units)
        arguments = (*pointers, units), (ctypes.c_void_p,) * len(pointers) + (ctypes.c_uint32,)
        self._call("cuLaunchKernel", self._kernels[kernel], *blocks, *threads, 0, int(stream), arguments, 0)

    def _call(self, name: str, *arguments: Any) -> Any:
        return checked(self._cuda, name, arguments, "cuGetErrorString", ADVICE)


def checked(library: Any, name: str, arguments: tuple[Any, ...], string_of: str, advice: Mapping[str, str]) -> Any:
    """The first value of a call of cuda-python; raises DeviceError with the words of `string_of`, and with `advice`."""
    code, *values = getattr(library, name)(*arguments)
    if int(code):
        _, text = getattr(library, string_of)(code)
        fix = f": {advice[code.name]}" if code.name in advice else ""
        raise DeviceError(f"{name} gave {code.name} ({text.decode()}){fix}.")
    return values[0] if values else None
