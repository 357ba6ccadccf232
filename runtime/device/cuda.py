"""A GPU through cuda-python: memory, one stream, graphs. Not run on hardware: tested against a runtime in host memory.

Source: the CUDA Runtime API reference, "Memory Management", "Stream Management" and "Graph Management"; the CUDA Driver
API reference, "Module Management" and "Execution Control".
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from rnn_export.errors import BackendUnavailable, DeviceError
from rnn_export.lazy import load_module
from rnn_export.platform.arrays import Array
from rnn_export.runtime.device.kernels import copier, flagger, grid, ptx

# Of every address, as TensorRT asks it.
ALIGNMENT = 256
# What helps, where the name of an error does not say it.
ADVICE = {
    "cudaErrorInsufficientDriver": "cuda-python is for a newer CUDA than this driver: install the one of the driver's "
    "CUDA, for example pip install 'cuda-python>=12.6,<13' for CUDA 12 (JetPack 6)",
    "cudaErrorMemoryAllocation": "the GPU has no memory left: close streams, or open them with fewer rows",
    "cudaErrorStreamCaptureUnsupported": "the step holds work that no CUDA graph can",
    "cudaErrorStreamCaptureInvalidated": "the step holds work that no CUDA graph can",
    "cudaErrorIllegalAddress": "CUDA is lost to this process: start it again",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is older than CUDA 9: update it",
    "CUDA_ERROR_JIT_COMPILER_NOT_FOUND": "the driver's libnvidia-ptxjitcompiler is missing: install the whole driver; "
    "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    "CUDA_ERROR_OUT_OF_MEMORY": "the GPU has no memory left: close streams",
}


def cuda_runtime() -> Any:
    """cuda-python's binding of the CUDA runtime; raises BackendUnavailable where there is none."""
    try:
        return load_module("cuda.bindings.runtime")
    except ImportError as error:
        fix = "pip install 'cuda-python>=12.6', and below 13 where the driver is of CUDA 12 (JetPack 6)"
        raise BackendUnavailable(f"cuda-python is not here ({error}): {fix}.", id="cuda-python-missing") from error


class CudaDevice:
    """GPU `number` and one queue of its own on it: work runs in the order in which it was queued, later than the call.

    Queued work reads and writes host arrays until `synchronize`; they must be contiguous and have the size of the
    buffer. Every method raises DeviceError; after `synchronize` the work has run or its error was raised. A row has
    `nbytes`, and `rows` are int32. Calls make this GPU the current one of the calling thread.
    """

    def __init__(self, number: int = 0) -> None:
        self._cuda, self._number, self.name = cuda_runtime(), number, f"cuda:{number}"
        self._kernels: CudaKernels | None = None
        # The default stream cannot be captured, and waits for every other one.
        self.stream = self._here("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        self._free_with(self, "cudaStreamDestroy", self.stream)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> CudaBuffer:
        """Memory for such an array, unset, at a multiple of `ALIGNMENT` bytes."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        buffer = CudaBuffer(int(self._here("cudaMalloc", nbytes)), nbytes)
        self._free_with(buffer, "cudaFree", buffer.pointer)
        return buffer

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Zeros in host memory that the device reads and writes directly, so that a graph may hold the copy."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        pointer = int(self._here("cudaMallocHost", nbytes))
        memory = (ctypes.c_byte * nbytes).from_address(pointer)
        self._free_with(memory, "cudaFreeHost", pointer)
        array = np.frombuffer(memory, dtype).reshape(shape)
        array[...] = 0
        return array

    def upload(self, to: CudaBuffer, from_: Array) -> None:
        self._copy(to.pointer, from_.ctypes.data, to.nbytes, "cudaMemcpyHostToDevice")

    def download(self, to: Array, from_: CudaBuffer) -> None:
        self._copy(to.ctypes.data, from_.pointer, from_.nbytes, "cudaMemcpyDeviceToHost")

    def copy(self, to: CudaBuffer, from_: CudaBuffer) -> None:
        """Queue a copy that stays on the device, to the start of `to`, which may be larger."""
        self._copy(to.pointer, from_.pointer, from_.nbytes, "cudaMemcpyDeviceToDevice")

    def _copy(self, to: int, from_: int, nbytes: int, kind: str) -> None:
        self._here("cudaMemcpyAsync", to, from_, nbytes, getattr(self._cuda.cudaMemcpyKind, kind), self.stream)

    def gather(self, to: CudaBuffer, from_: CudaBuffer, rows: CudaBuffer, count: int, nbytes: int) -> None:
        """Queue copies of the rows of `from_` that the first `count` of `rows` name: to the first of `to`."""
        self._launch(*copier("gather", nbytes), count, to, from_, rows)

    def scatter(self, to: CudaBuffer, from_: CudaBuffer, rows: CudaBuffer, count: int, nbytes: int) -> None:
        """Queue copies of the first `count` rows of `from_` to those of `to` that `rows` name; if twice, of either."""
        self._launch(*copier("scatter", nbytes), count, to, from_, rows)

    def flag_nan(self, flags: CudaBuffer, from_: CudaBuffer, count: int, nbytes: int, kind: str) -> None:
        """Queue 1 into the bytes of `flags` whose row of `kind`, one of FLOATS, has a NaN; others stay."""
        self._launch(*flagger(kind, nbytes), count, flags, from_)

    def _launch(self, kernel: str, units: int, count: int, *buffers: CudaBuffer) -> None:
        self._call("cudaSetDevice", self._number)
        if self._kernels is None:
            self._kernels = CudaKernels()
        self._kernels.launch(self.stream, kernel, count, units, *(buffer.pointer for buffer in buffers))

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """Call `work` once and keep its queued calls, which do not run, as a graph."""
        # Others, and the garbage collector on this thread, go on allocating and freeing meanwhile.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        self._here("cudaStreamBeginCapture", self.stream, mode)
        try:
            work()
        except BaseException:
            # Whatever this says, the stream is usable again.
            self._cuda.cudaStreamEndCapture(self.stream)
            raise
        graph = self._call("cudaStreamEndCapture", self.stream)
        try:
            return CudaGraph(self, self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def synchronize(self) -> None:
        self._call("cudaStreamSynchronize", self.stream)

    def _here(self, name: str, *arguments: Any) -> Any:
        self._call("cudaSetDevice", self._number)
        return self._call(name, *arguments)

    def _call(self, name: str, *arguments: Any) -> Any:
        return _checked(self._cuda, name, arguments, "cudaGetErrorString")

    def _free_with(self, owner: Any, destroy: str, handle: Any) -> None:
        # At exit CUDA is gone before its handles.
        weakref.finalize(owner, getattr(self._cuda, destroy), handle).atexit = False


class CudaBuffer:
    """Memory of a GPU, by cudaMalloc, freed with its last reference."""

    def __init__(self, pointer: int, nbytes: int) -> None:
        self.pointer, self.nbytes = pointer, nbytes


class CudaGraph:
    """Captured work, queued in one call on the stream of its capture; addresses are those of then."""

    def __init__(self, device: CudaDevice, executable: Any) -> None:
        self._device, self._executable = device, executable
        device._free_with(self, "cudaGraphExecDestroy", executable)

    def launch(self) -> None:
        self._device._here("cudaGraphLaunch", self._executable, self._device.stream)


class CudaKernels:
    """The kernels over rows as the current GPU has them, through the driver's API."""

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
        return _checked(self._cuda, name, arguments, "cuGetErrorString")


def _checked(library: Any, name: str, arguments: tuple[Any, ...], string_of: str) -> Any:
    """The first value of a call of cuda-python; raises DeviceError with the words of `string_of`, and with advice."""
    code, *values = getattr(library, name)(*arguments)
    if int(code):
        _, text = getattr(library, string_of)(code)
        fix = f": {ADVICE[code.name]}" if code.name in ADVICE else ""
        raise DeviceError(f"{name} gave {code.name} ({text.decode()}){fix}.")
    return values[0] if values else None
