"""A simulated machine with a GPU: stand-ins with the signatures of cuda-python and TensorRT, in host memory."""

# ruff: noqa: N802, N815 (the names are CUDA's)

import ctypes
import hashlib
import re
from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from typing import Any

import numpy as np

from rnn_export.bundle import TargetRow, write_bundle
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime.backends.tensorrt.library import Loaded
from rnn_export.runtime.backends.tensorrt.log import BuilderLog
from rnn_export.runtime.device.values import decode, storage

from ..trusting import trusted  # noqa: TID252
from .graphs import SUM
from .host_device import HostBuffer
from .host_engine import BATCH, HostEngine

ERRORS = {
    "cudaSuccess": (0, "no error"),
    "cudaErrorMemoryAllocation": (2, "out of memory"),
    "cudaErrorInsufficientDriver": (35, "CUDA driver version is insufficient for CUDA runtime version"),
    "cudaErrorInvalidDevice": (101, "invalid device ordinal"),
    "cudaErrorLaunchFailure": (719, "unspecified launch failure"),
    "cudaErrorStreamCaptureInvalidated": (901, "operation failed due to a previous error during capture"),
    "CUDA_ERROR_INVALID_PTX": (218, "a PTX JIT compilation failed"),
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": (222, "the provided PTX was compiled with an unsupported toolchain."),
    "CUDA_ERROR_LAUNCH_FAILED": (719, "unspecified launch failure"),
}
NAMES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}


class Code(int):
    """Like cudaError_t: a number with a name."""

    def __new__(cls, name: str) -> "Code":
        self = super().__new__(cls, ERRORS[name][0])
        self.name = name
        return self


class Handle:
    """An opaque CUDA handle, turned into a number by int() only."""

    def __init__(self) -> None:
        self.work: list[tuple[tuple, Callable[[], None]]] = []

    def __int__(self) -> int:
        return id(self)

    def submit(self, call: tuple, work: Callable[[], None]) -> None:
        self.work.append((call, work))


def checked(method: Callable) -> Callable:
    """Every call is written down, fails where `fails` says so, and gives a tuple that starts with the code."""

    @wraps(method)
    def call(self: "CudaRuntime", *arguments: Any) -> tuple:
        name = method.__name__
        self.calls.append(name)
        if name in self.fails:
            return (Code(self.fails[name]), *((None,) if "Malloc" in name or "Capture" in name else ()))
        value = method(self, *arguments)
        return (Code("cudaSuccess"),) if value is None else (Code("cudaSuccess"), value)

    return call


class CudaRuntime:
    """`cuda.bindings.runtime` of one GPU, and `cuda.bindings.driver`, as far as CudaDevice calls them."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeRelaxed=2)

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails: dict[str, str] = {}
        self.memory: dict[int, HostBuffer] = {}
        self.handles: dict[int, Handle] = {}
        self.waiting: list[tuple[tuple, Callable[[], None]]] = []

    def cudaGetErrorString(self, code: Code) -> tuple:
        return Code("cudaSuccess"), ERRORS[code.name][1].encode()

    @checked
    def cudaSetDevice(self, number: int) -> None:
        assert number == 0

    @checked
    def cudaMalloc(self, nbytes: int) -> int:
        buffer = HostBuffer(nbytes)
        self.memory[buffer.pointer] = buffer
        return buffer.pointer

    @checked
    def cudaMallocHost(self, nbytes: int) -> int:
        return self.cudaMalloc.__wrapped__(self, nbytes)

    @checked
    def cudaFree(self, pointer: int) -> None:
        del self.memory[pointer]

    cudaFreeHost = cudaFree

    @checked
    def cudaStreamCreateWithFlags(self, flags: int) -> Handle:
        return self.made(Handle())

    @checked
    def cudaStreamDestroy(self, stream: Handle) -> None:
        del self.handles[int(stream)]

    @checked
    def cudaMemcpyAsync(self, to: int, from_: int, nbytes: int, kind: int, stream: Handle) -> None:
        on_device = [any(b.pointer <= p < b.pointer + b.nbytes for b in self.memory.values()) for p in (to, from_)]
        assert on_device[0] or kind == 2
        assert on_device[1] or kind == 1
        stream.submit(("memcpy",), lambda: ctypes.memmove(to, from_, nbytes))

    @checked
    def cudaStreamBeginCapture(self, stream: Handle, mode: int) -> None:
        self.waiting, stream.work = stream.work, []

    @checked
    def cudaStreamEndCapture(self, stream: Handle) -> Handle:
        graph = self.made(Handle())
        graph.work, stream.work = stream.work, self.waiting
        return graph

    @checked
    def cudaGraphInstantiate(self, graph: Handle, flags: int) -> Handle:
        executable = self.made(Handle())
        executable.work = list(graph.work)
        return executable

    @checked
    def cudaGraphDestroy(self, graph: Handle) -> None:
        del self.handles[int(graph)]

    cudaGraphExecDestroy = cudaGraphDestroy

    @checked
    def cudaGraphLaunch(self, graph: Handle, stream: Handle) -> None:
        stream.work += graph.work

    @checked
    def cudaStreamSynchronize(self, stream: Handle) -> None:
        work, stream.work = stream.work, []
        for _, run in work:
            run()

    cuGetErrorString = cudaGetErrorString

    @checked
    def cuModuleLoadData(self, image: bytes) -> Handle:
        assert image.startswith(b".version")
        assert image.endswith(b"\0")
        module = self.made(Handle())
        module.kernels = dict(re.findall(r"\.entry (\w+)\((.*)\)", image.decode()))
        return module

    @checked
    def cuModuleUnload(self, module: Handle) -> None:
        del self.handles[int(module)]

    @checked
    def cuModuleGetFunction(self, module: Handle, name: bytes) -> tuple[str, list[str]]:
        return name.decode(), re.findall(r"\.param \.(\w+)", module.kernels[name.decode()])

    @checked
    def cuLaunchKernel(self, kernel: tuple, *call: Any) -> None:
        """Does what the kernel says it does, for as many rows as there are blocks; the PTX itself is not run."""
        (name, parameters), (count, along, _, threads, *_, stream, arguments, extra) = kernel, call
        kinds = {"u64": ctypes.c_void_p, "u32": ctypes.c_uint32}
        assert arguments[1] == tuple(kinds[p] for p in parameters)
        assert 0 < count < 2**31
        assert 0 < along < 2**16
        assert 0 < threads <= 1024
        assert (call[2], call[4:7], extra) == (1, (1, 1, 0), 0)
        verb, _, kind = name.partition("_")
        run = self.flag_nan if verb == "nan" else self.move_rows
        self.handles[stream].work.append(((name,), lambda: run(verb, kind, count, *arguments[0])))

    def move_rows(self, verb: str, kind: str, count: int, to: int, from_: int, rows: int, units: int) -> None:
        nbytes = units * {"u32": 4, "u8": 1}[kind]
        for i, row in enumerate(self.bytes(rows, 4 * count).view(np.int32).tolist()):
            i, row = (i, row) if verb == "gather" else (row, i)
            self.bytes(to + i * nbytes, nbytes)[:] = self.bytes(from_ + row * nbytes, nbytes)

    def flag_nan(self, verb: str, kind: str, count: int, flags: int, from_: int, units: int) -> None:
        rows = self.bytes(from_, count * units * storage(kind).itemsize).view(storage(kind)).reshape(count, units)
        self.bytes(flags, count)[np.isnan(decode(rows, kind, np.dtype(np.float64))).any(1)] = 1

    def bytes(self, pointer: int, nbytes: int) -> np.ndarray:
        """Bytes that lie inside of one allocation."""
        (owner,) = (b for b in self.memory.values() if b.pointer <= pointer < b.pointer + b.nbytes)
        start = pointer - owner.pointer
        assert start + nbytes <= owner.nbytes
        return owner.bytes[start : start + nbytes]

    def made(self, handle: Handle) -> Handle:
        self.handles[int(handle)] = handle
        return handle


class CudaEngine:
    """An ICudaEngine whose contexts compute with ONNX Runtime; streams are those of `cuda`."""

    def __init__(self, host: HostEngine, cuda: CudaRuntime) -> None:
        self.host, self.cuda, self.full, self.configs = host, cuda, False, []
        self.names = [*host.outputs, *host.inputs]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="INPUT" if name in self.host.inputs else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        kind = self.host.dtype(name)
        return SimpleNamespace(name=NAMES.get(kind, kind.upper()))

    def get_tensor_shape(self, name: str) -> list[int]:
        return list(self.host.shape(name))

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        assert index == 0
        return [list(shape) for shape in self.host.profile(name)]

    def create_execution_context(self, config: Any = None) -> Any:
        self.configs.append(config)
        return None if self.full else CudaContext(self)


class CudaContext:
    """An IExecutionContext."""

    def __init__(self, engine: CudaEngine) -> None:
        self.engine, self.host = engine, engine.host.context()

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.host.bind(name, memory)
        return memory in self.engine.cuda.memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name not in self.engine.host.inputs:
            return False
        self.host.set_batch(name, shape)
        return True

    def get_tensor_shape(self, name: str) -> list[int]:
        return list(self.host.shape(name))

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert type(stream_handle) is int
        if self.host.engine.refuses:
            return False
        self.host.enqueue(self.engine.cuda.handles[stream_handle])
        return True


def silent() -> BuilderLog:
    """The log of an engine that says nothing."""
    return BuilderLog(SimpleNamespace(ILogger=type("ILogger", (), {})))


class Machine:
    """A machine with a GPU, TensorRT and cuda-python, all stand-ins; `asked` says in which order it was asked."""

    def __init__(self, cuda: CudaRuntime) -> None:
        self.asked: list[str] = []
        self.cuda = cuda
        self.version, self.compute, self.broken = "10.3.0", "8.7", False
        self.batch = BATCH

    def driver(self) -> SimpleNamespace:
        self.asked.append("driver")
        return SimpleNamespace(version="12.6", gpus=(SimpleNamespace(name="Orin", compute=self.compute, memory=8),))

    def find_library(self, name: str) -> SimpleNamespace:
        self.asked.append(name)
        return SimpleNamespace(version=self.version, load=self.load)

    def load(self, plan: bytes) -> Loaded:
        self.asked.append("load")
        if self.broken:
            raise BackendUnavailable(
                "TensorRT 10.3.0 cannot load this engine: magic tag: build it here with ... --rebuild."
            )
        return Loaded(CudaEngine(HostEngine(plan, self.batch), self.cuda), silent())

    @staticmethod
    def write(path, model=SUM, target="tensorrt", files=None, **requires):
        """A bundle with a built engine; the plan is the graph itself. `files` stand for those of the target."""
        graph = model.files()["step.onnx"]
        files = files or dict.fromkeys(("step.onnx", "recipe.json", "step.engine"), graph)
        mine = {f"targets/{target}-fp32/{name}": data for name, data in files.items()}
        said = {
            "library": "tensorrt",
            "version": "10.3.0",
            "compute_capability": "8.7",
            "onnx_sha256": hashlib.sha256(graph).hexdigest(),
            "batch": [1, 1, 8],
            **requires,
        }
        rows = [
            TargetRow("onnx", "fp32", 18, ("step.onnx",), {}),
            TargetRow(target, "fp32", 18, tuple(mine), {k: v for k, v in said.items() if v is not None}),
        ]
        files = {"step.onnx": graph, **mine}
        return trusted(write_bundle(path, spec=model.spec, producer={}, files=files, targets=rows, force=True))
