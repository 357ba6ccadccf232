"""Devices: the host's is in the order and as late as a GPU; CUDA's names every error and frees its memory.

Tests over rows run on a GPU too, if there is one.
"""

import gc
import re
import sys
from ctypes.util import find_library

import numpy as np
import pytest

from rnn_export.errors import BackendUnavailable, DeviceError
from rnn_export.runtime.backends.tensorrt.nvidia import driver
from rnn_export.runtime.device.cuda import ALIGNMENT, CudaDevice, CudaKernels
from rnn_export.runtime.device.kernels import FLOAT_BITS, ptx
from rnn_export.runtime.device.values import encode

from ..messages import raises  # noqa: TID252
from .graphs import SUM, frames
from .host_device import HostDevice
from .host_engine import HostEngine, host_session

ONES = np.ones((2, 3), np.float32)


def device_of(request):
    if request.param == "host":
        return HostDevice()
    if request.param == "cuda":
        request.getfixturevalue("cuda")
        return CudaDevice()
    try:
        driver()
        return CudaDevice()
    except BackendUnavailable as error:
        pytest.skip(f"gpu: {error}")


device = pytest.fixture(params=["host", "cuda"])(device_of)
rows_device = pytest.fixture(params=["host", "cuda", pytest.param("gpu", marks=pytest.mark.gpu)])(device_of)


# --- what every device does


def test_memory_is_aligned(device):
    for shape, dtype in (((3,), np.float32), ((), np.int64), ((1, 5), np.uint8), ((2, 2), bool)):
        buffer = device.empty(shape, dtype)
        assert buffer.pointer % ALIGNMENT == 0
        pinned = device.pinned(shape, dtype)
        assert (pinned.shape, pinned.dtype) == (shape, dtype)
        assert not pinned.any()
        assert buffer.nbytes == pinned.nbytes
        pinned[...] = 1


def test_values_go_there_and_back(device):
    first, second, back = device.empty((2, 3), np.float32), device.empty((2, 3), np.float32), np.zeros_like(ONES)
    device.upload(first, ONES)
    device.copy(second, first)
    device.download(back, second)
    assert not back.any()
    device.synchronize()
    np.testing.assert_array_equal(back, ONES)


def test_a_graph_runs_when_it_is_launched_and_as_often(device):
    buffer, from_, back = device.empty((3,), np.float32), np.zeros(3, np.float32), np.full(3, 9, np.float32)

    def work() -> None:
        device.upload(buffer, from_)
        device.download(back, buffer)

    graph = device.capture(work)
    device.synchronize()
    assert back[0] == 9
    for value in (1, 2):
        from_[:] = value
        graph.launch()
        device.synchronize()
        np.testing.assert_array_equal(back, [value] * 3)


def test_a_capture_that_fails_leaves_the_queue_usable(device):
    def work() -> None:
        device.upload(buffer, ONES)
        raise DeviceError("no.")

    buffer, back = device.empty((2, 3), np.float32), np.zeros_like(ONES)
    device.upload(buffer, 2 * ONES)
    with pytest.raises(DeviceError, match="no"):
        device.capture(work)
    device.download(back, buffer)
    device.synchronize()
    np.testing.assert_array_equal(back, 2 * ONES)


# --- rows


def on_device(device, array: np.ndarray):
    buffer = device.empty(array.shape, array.dtype)
    device.upload(buffer, array)
    device.synchronize()
    return buffer


def from_device(device, buffer, like: np.ndarray) -> np.ndarray:
    back = np.zeros_like(like)
    device.download(back, buffer)
    device.synchronize()
    return back


@pytest.mark.parametrize("nbytes", [1, 3, 4, 12, 130, 516, 1030, 5000])
def test_rows_are_gathered_and_scattered(rows_device, nbytes):
    device, random = rows_device, np.random.default_rng(nbytes)
    many, few = (random.integers(0, 256, (n, nbytes), np.uint8) for n in (9, 5))
    first, second = random.permutation(9)[:5].astype(np.int32), random.permutation(9)[:4].astype(np.int32)
    pool, dense, rows = on_device(device, many), on_device(device, few), on_device(device, first)
    # Outside of a graph first: a GPU loads its kernels then.
    device.gather(dense, pool, rows, 5, nbytes)
    device.upload(dense, few)
    graph = device.capture(lambda: device.gather(dense, pool, rows, 5, nbytes))
    np.testing.assert_array_equal(from_device(device, dense, few), few)
    graph.launch()
    np.testing.assert_array_equal(from_device(device, dense, few), many[first])
    # Fewer than there are: the last row is nobody's.
    few[...], want = random.integers(0, 256, few.shape), many.copy()
    want[second] = few[:4]
    dense, rows = on_device(device, few), on_device(device, second)
    device.scatter(pool, dense, rows, 4, nbytes)
    np.testing.assert_array_equal(from_device(device, pool, many), want)


@pytest.mark.parametrize("kind", FLOAT_BITS)
def test_rows_with_a_nan_are_flagged(rows_device, kind):
    values = np.random.default_rng(0).standard_normal((8, 300)).astype(np.float32)
    for row, value in enumerate((np.nan, np.inf, -np.nan, -np.inf, 0, -0.0)):
        values[row, 37 * row + 1] = value
    values[7, 299] = np.nan
    raw = encode("h", values, kind)
    flags = on_device(rows_device, np.array([0, 0, 0, 0, 0, 1, 0, 0], np.uint8))
    # Of row 7 nobody asked; what is set in row 5 stays.
    buffer = on_device(rows_device, raw)
    rows_device.flag_nan(flags, buffer, 7, raw[0].nbytes, kind)
    found = from_device(rows_device, flags, np.zeros(8, np.uint8))
    assert found.tolist() == [1, 0, 1, 0, 0, 1, 0, 0]


def test_a_copy_may_go_to_a_larger_buffer(rows_device):
    buffer, less = on_device(rows_device, np.full((3, 3), 9, np.float32)), on_device(rows_device, ONES)
    rows_device.copy(buffer, less)
    np.testing.assert_array_equal(from_device(rows_device, buffer, np.zeros((3, 3), np.float32))[:, 0], [1, 1, 9])


# --- the host's own


def test_the_host_writes_down_every_call_and_what_was_never_written_is_not_a_number():
    device, back = HostDevice(), np.zeros(3, np.float32)
    a, b = device.empty((2, 3), np.float32), device.empty((2, 3), np.float32)
    device.upload(a, ONES)
    graph = device.capture(lambda: device.copy(b, a))
    graph.launch()
    device.synchronize()
    copy = ("copy", b.pointer, a.pointer)
    assert device.calls == [("upload", a.pointer), ("capture", 0, (copy,)), ("launch", 0), ("synchronize",)]
    device.download(back, device.empty((3,), np.float32))
    device.synchronize()
    assert np.isnan(back).all()


def test_the_host_refuses_what_a_gpu_would_not_survive():
    device = HostDevice()
    pool, dense, one = (device.empty((n, 3), np.float32) for n in (4, 2, 1))
    few, flag = device.empty((1,), np.int32), device.empty((1,), np.uint8)
    for said, call in (
        ("upload of 12 bytes into 24", lambda: device.upload(dense, ONES[0])),
        ("not contiguous", lambda: device.upload(dense, np.ones((3, 2), np.float32).T)),
        ("synchronize inside a capture", lambda: device.capture(device.synchronize)),
        ("gather of 3 rows of 12 bytes where there are 24 bytes", lambda: device.gather(dense, pool, pool, 3, 12)),
        ("scatter of 2 rows of 4 bytes where there are 4 bytes", lambda: device.scatter(pool, dense, few, 2, 12)),
        ("flag_nan of 2 rows of 1 bytes where there are 1", lambda: device.flag_nan(flag, dense, 2, 12, "float32")),
        ("flag_nan of 2 rows of 12 bytes where there are 12", lambda: device.flag_nan(few, one, 2, 12, "float32")),
    ):
        with pytest.raises(DeviceError, match=said):
            call()
    device.scatter(pool, dense, on_device(device, np.int32([1, 4])), 2, 12)
    with pytest.raises(DeviceError, match=r"scatter of rows \[1, 4\] where there are 4"):
        device.synchronize()


# --- CUDA's own


def test_a_stream_on_cuda_gives_back_all_it_held(cuda):
    memory = host_session(SUM.spec, HostEngine(SUM.files()["step.onnx"]), CudaDevice).stream_buffers(2)
    memory.write({"h": np.zeros((2, 3), np.float32)})
    xs = frames(5, 2, 3)
    for x, want in zip(xs, xs.cumsum(0), strict=True):
        memory.inputs["x"][...] = x
        memory.step()
        np.testing.assert_array_equal(memory.outputs["y"], want)
    np.testing.assert_array_equal(memory.read()["h"], xs.sum(0))
    assert cuda.calls.count("cudaGraphInstantiate") == 2
    assert cuda.calls.count("cudaGraphLaunch") == 5
    y = memory.outputs["y"]
    del memory
    gc.collect()
    assert not cuda.handles
    # The pinned array is still held.
    assert len(cuda.memory) == 1
    assert y.ctypes.data in cuda.memory
    del y
    assert not cuda.memory


FAILURES = {
    "device": ("cudaSetDevice", "cudaErrorInvalidDevice", "(invalid device ordinal)."),
    "driver": ("cudaSetDevice", "cudaErrorInsufficientDriver", "pip install 'cuda-python>=12.6,<13' for CUDA 12"),
    "stream": ("cudaStreamCreateWithFlags", "cudaErrorMemoryAllocation", "close streams, or open them with fewer rows"),
    "memory": ("cudaMalloc", "cudaErrorMemoryAllocation", "(out of memory): the GPU has no memory left"),
    "pinned": ("cudaMallocHost", "cudaErrorMemoryAllocation", "(out of memory): the GPU has no memory left"),
    "copy": ("cudaMemcpyAsync", "cudaErrorLaunchFailure", "(unspecified launch failure)."),
    "begin": ("cudaStreamBeginCapture", "cudaErrorLaunchFailure", ""),
    "end": ("cudaStreamEndCapture", "cudaErrorStreamCaptureInvalidated", "work that no CUDA graph can"),
    "instantiate": ("cudaGraphInstantiate", "cudaErrorMemoryAllocation", ""),
    "launch": ("cudaGraphLaunch", "cudaErrorLaunchFailure", ""),
    "wait": ("cudaStreamSynchronize", "cudaErrorLaunchFailure", ""),
    "kernels": ("cuModuleLoadData", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the driver is older than CUDA 9: update it"),
    "kernel": ("cuModuleGetFunction", "CUDA_ERROR_INVALID_PTX", "(a PTX JIT compilation failed)."),
    "rows": ("cuLaunchKernel", "CUDA_ERROR_LAUNCH_FAILED", "(unspecified launch failure)."),
}


@pytest.mark.parametrize(("call", "error", "message"), FAILURES.values(), ids=FAILURES)
def test_every_error_of_cuda_is_named(cuda, call, error, message):
    def drive() -> None:
        device = CudaDevice()
        buffer, array = device.empty((2, 3), np.float32), device.pinned((2, 3), np.float32)
        rows = on_device(device, np.int32([1, 0]))
        device.upload(buffer, array)
        device.gather(buffer, buffer, rows, 2, 12)
        device.capture(lambda: device.upload(buffer, array)).launch()
        device.synchronize()

    drive()
    cuda.fails = {call: error}
    with pytest.raises(DeviceError, match=f"^{call} gave {error} .*{re.escape(message)}"):
        drive()


def of_sum():
    return host_session(SUM.spec, HostEngine(SUM.files()["step.onnx"]), CudaDevice)


def test_no_memory_for_a_stream_and_a_step_that_cannot_be_captured(cuda):
    memory, session = of_sum().stream_buffers(1), of_sum()
    cuda.fails = {"cudaMalloc": "cudaErrorMemoryAllocation"}
    with raises("device-call-failed", "tensorrt cannot open a stream of 8 rows: cudaMalloc gave", "fewer rows"):
        session.stream_buffers(8)
    cuda.fails = {"cudaStreamEndCapture": "cudaErrorStreamCaptureInvalidated"}
    said = "tensorrt cannot capture the step as a CUDA graph: cudaStreamEndCapture gave"
    with raises("device-call-failed", said, "work that no CUDA graph"):
        memory.write({"h": np.zeros((1, 3), np.float32)})


def test_a_launch_that_fails_leaves_the_state(cuda):
    memory = of_sum().stream_buffers(1)
    memory.write({"h": np.full((1, 3), 4, np.float32)})
    for call in ("cudaGraphLaunch", "cudaStreamSynchronize"):
        cuda.fails = {call: "cudaErrorLaunchFailure"}
        with raises("tensorrt-frame-refused", f"{call} gave cudaErrorLaunchFailure"):
            memory.step()
        cuda.fails = {}
        np.testing.assert_array_equal(memory.read()["h"], [[4, 4, 4]])


def test_the_kernels_are_loaded_once_and_given_back(cuda):
    device = CudaDevice()
    buffer, rows = device.empty((2, 3), np.float32), on_device(device, np.int32([1, 0]))
    for _ in range(3):
        device.gather(buffer, buffer, rows, 2, 12)
        device.scatter(buffer, buffer, rows, 2, 12)
    assert [cuda.calls.count(n) for n in ("cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel")] == [1, 2, 6]
    del device
    assert cuda.calls.count("cuModuleUnload") == 1
    assert not cuda.handles


def test_the_real_cuda_python_takes_the_arguments_of_a_launch():
    """It looks at them before it looks for the driver."""
    driver = pytest.importorskip("cuda.bindings.driver", reason="rtx: pip install 'rnn-export[rtx]'")
    stream = pytest.importorskip("cuda.bindings.runtime").cudaStream_t(5)
    if find_library("cuda"):
        pytest.skip("there is a driver")
    rows = CudaKernels.__new__(CudaKernels)
    rows._cuda, rows._kernels = driver, {"gather_u32": driver.CUfunction(1)}
    with pytest.raises(RuntimeError, match="NVIDIA driver"):
        rows.launch(stream, "gather_u32", 3, 4, 256, 512, 768)
    with pytest.raises(TypeError):
        rows.launch(stream, "gather_u32", 3, 4, 256, 512, "768")
    with pytest.raises(RuntimeError, match="NVIDIA driver"):
        rows._call("cuModuleLoadData", ptx().encode() + b"\0")


def test_no_cuda_python(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with raises("cuda-python-missing"):
        CudaDevice()


def test_the_real_cuda_python_without_a_driver():
    pytest.importorskip("cuda.bindings", reason="rtx: pip install 'rnn-export[rtx]'")
    if find_library("cuda"):
        pytest.skip("there is a driver")
    with pytest.raises(DeviceError, match=r"cudaSetDevice gave cudaError\w+ \(.+\)"):
        CudaDevice()
