"""TensorRT and TensorRT-RTX: an engine of the step that was built for this machine. Not run on hardware.

An engine belongs to one version of its library, one kind of GPU and one graph. All that the bundle says of it is
compared with this machine before it is deserialised, and the driver is asked first: without one TensorRT may crash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rnn_export.bundle import TargetRow
from rnn_export.errors import BackendUnavailable, DeviceError, NotInBundle
from rnn_export.runtime.backends.api import Artefacts
from rnn_export.runtime.backends.tensorrt.session import Shape, TensorRTSession
from rnn_export.runtime.device.api import Device

if TYPE_CHECKING:
    from rnn_export.runtime.backends.tensorrt.log import BuilderLog

ENGINE, GRAPH, RECIPE = "step.engine", "step.onnx", "recipe.json"
# TensorRT's names of its dtypes.
DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
DTYPES |= {dtype.upper(): dtype for dtype in ("int8", "uint8", "int32", "int64", "bool")}


def open_session(artefacts: Artefacts, precision: str | None, device: str | None, threads: int) -> TensorRTSession:
    """Load the first engine of the bundle that fits this machine; `device` is None, "cuda" or "cuda:N".

    The steps run on the GPU, so `threads` has nothing to set.
    """
    rows, number = _built(artefacts, precision), _number(device)
    gpu, refused = _gpu(number), []
    for row in rows:
        try:
            return _open(artefacts, row, gpu, number)
        except BackendUnavailable as error:
            refused.append(str(error))
    raise BackendUnavailable("\n  ".join(refused))


def _built(artefacts: Artefacts, precision: str | None) -> list[TargetRow]:
    """The rows with an engine, of the precision if one is asked for."""
    rows = [row for row in artefacts.targets if row.file(ENGINE) or row.file(RECIPE)]
    if not rows:
        has = ", ".join(sorted({row.target for row in artefacts.targets})) or "none"
        fix = "export it with --target tensorrt, and build it here"
        raise NotInBundle(f"the bundle has no target for TensorRT, only {has}: {fix}.")
    wanted = [row for row in rows if precision in (None, row.precision)]
    if not wanted:
        has = ", ".join(f"{row.target} in {row.precision}" for row in rows)
        fix = f"add it with rnn-export build NAME.rnnx --target {rows[0].target} --precision {precision}"
        raise BackendUnavailable(f"the bundle has {has}, none in {precision}: {fix}.")
    if built := [row for row in wanted if row.file(ENGINE)]:
        return built
    target, fix = f"target {wanted[0].target!r} ({wanted[0].precision})", f"`{_build(wanted[0])}`"
    raise NotInBundle(f"{target} has no engine yet: build it on its machine with {fix}.")


def _number(device: str | None) -> int:
    named = re.fullmatch("cuda(?::([0-9]+))?", "cuda" if device is None else str(device))
    if named is None:
        raise BackendUnavailable(f"tensorrt has no device {device!r}: use 'cuda' or 'cuda:N'.")
    return int(named.group(1) or 0)


def _gpu(number: int) -> Any:
    from rnn_export.runtime.backends.tensorrt.nvidia import driver

    gpus = driver().gpus
    if number < len(gpus):
        return gpus[number]
    found = ", ".join(gpu.name for gpu in gpus) or "none"
    raise BackendUnavailable(f"device 'cuda:{number}' needs GPU {number}, but the driver sees {found}.")


def _open(artefacts: Artefacts, row: TargetRow, gpu: Any, number: int) -> TensorRTSession:
    from rnn_export.runtime.backends.tensorrt.library import find_library

    engine_of = f"the engine of {row.target!r} ({row.precision})"
    fix = f"Build it again here: `{_build(row)} --rebuild`."
    needed = ("library", "version", "compute_capability", "onnx_sha256")
    if missing := [key for key in needed if key not in row.requires]:
        raise BackendUnavailable(f"{engine_of} does not say its {', '.join(missing)}. {fix}")
    name, version, capability, digest = (row.requires[key] for key in needed)
    capabilities = [capability] if isinstance(capability, str) else capability
    # Of a portable engine the list is empty.
    if capabilities and gpu.compute not in capabilities:
        why = f"compute capability {', '.join(capabilities)}, but GPU {number} ({gpu.name}) has {gpu.compute}"
        raise BackendUnavailable(f"{engine_of} was built for {why}. {fix}")
    graph = row.file(GRAPH)
    found = hashlib.sha256(artefacts.read(graph)).hexdigest() if graph else "none"
    if found != digest:
        digests = f"sha256 {digest[:12]}, not {found[:12]}"
        raise BackendUnavailable(f"{engine_of} was built from another {GRAPH} than the bundle holds ({digests}). {fix}")
    library = find_library(name)
    if library.version != version:
        why = f"this machine has {library.version}, and an engine runs on its own version only"
        raise BackendUnavailable(f"{engine_of} was built by {name} {version}, but {why}. {fix}")
    try:
        # It makes the GPU the current one, where the engine's weights go.
        _device(number)
        loaded = library.load(artefacts.read(row.file(ENGINE) or ENGINE))
    except (BackendUnavailable, DeviceError) as error:
        raise BackendUnavailable(f"{engine_of} cannot be loaded: {error}") from error
    where = partial(_device, number), f"cuda:{number}"
    return TensorRTSession(artefacts.spec, LoadedEngine(*loaded), *where, row.precision, _build(row))


def _device(number: int) -> Device:
    from rnn_export.runtime.device.cuda import CudaDevice

    return CudaDevice(number)


def _build(row: TargetRow) -> str:
    return f"rnn-export build NAME.rnnx --target {row.target} --precision {row.precision}"


class LoadedEngine:
    """`raw` is an ICudaEngine of TensorRT 8.5 or later, or of TensorRT-RTX, which writes to `log`."""

    def __init__(self, raw: Any, log: BuilderLog) -> None:
        self.raw, self.log = raw, log
        names = [raw.get_tensor_name(i) for i in range(raw.num_io_tensors)]
        self.inputs: Sequence[str] = [name for name in names if raw.get_tensor_mode(name).name == "INPUT"]
        self.outputs: Sequence[str] = [name for name in names if name not in self.inputs]

    def dtype(self, name: str) -> str:
        found: str = self.raw.get_tensor_dtype(name).name
        return DTYPES.get(found, found)

    def shape(self, name: str) -> Shape:
        return tuple(self.raw.get_tensor_shape(name))

    def profile(self, name: str) -> tuple[Shape, Shape, Shape]:
        shape = self.shape(name)
        if -1 not in shape:
            return shape, shape, shape
        low, best, high = map(tuple, self.raw.get_tensor_profile_shape(name, 0))
        return low, best, high

    def context(self) -> LoadedContext:
        config = self.raw.create_runtime_config() if hasattr(self.raw, "create_runtime_config") else None
        strategy = getattr(config, "dynamic_shapes_kernel_specialization_strategy", None)
        if config is not None and strategy is not None:
            # TensorRT-RTX compiles for the shape in the background, but a graph keeps the kernels of its capture.
            config.dynamic_shapes_kernel_specialization_strategy = type(strategy).EAGER
            raw = self.raw.create_execution_context(config)
        else:
            raw = self.raw.create_execution_context()
        if raw is None:
            fix = "Mostly the GPU has no memory left: close streams"
            raise DeviceError(f"TensorRT made no execution context: {self.log.errors()}. {fix}.")
        return LoadedContext(raw, self.log)


class LoadedContext:
    """`raw` is an IExecutionContext of TensorRT, or of TensorRT-RTX, which writes to `log`."""

    def __init__(self, raw: Any, log: BuilderLog) -> None:
        self.raw, self.log = raw, log

    def bind(self, name: str, pointer: int) -> None:
        if not self.raw.set_tensor_address(name, pointer):
            raise DeviceError(f"TensorRT refused the address of {name!r}: {self.log.errors()}.")

    def set_batch(self, name: str, shape: Shape) -> None:
        if not self.raw.set_input_shape(name, shape):
            raise DeviceError(f"TensorRT refused the shape {shape} of {name!r}: {self.log.errors()}.")

    def enqueue(self, stream: Any) -> None:
        if not self.raw.execute_async_v3(int(stream)):
            raise DeviceError(f"TensorRT refused the step: {self.log.errors()}. Build it again with --rebuild.")
