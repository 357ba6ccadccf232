"""TensorRT and TensorRT-RTX: an engine of the step that was built for this machine. Not run on hardware.

An engine belongs to one version of its library, one kind of GPU and one graph. All that the bundle says of it is
compared with this machine before it is deserialised, and the driver is asked first: without one TensorRT may crash.
"""

import hashlib
import re
from functools import partial
from typing import Any

from rnn_export.bundle import TargetRow
from rnn_export.errors import BackendUnavailable, DeviceError, NotInBundle
from rnn_export.runtime.backends.tensorrt.session import LoadedEngine, TensorRTSession
from rnn_export.runtime.device.cuda import CudaDevice
from rnn_export.runtime.protocols import Artefacts

ENGINE, GRAPH, RECIPE = "step.engine", "step.onnx", "recipe.json"


def open_session(artefacts: Artefacts, precision: str | None, device: str | None, threads: int) -> TensorRTSession:
    """Load the first engine that fits this machine; `device` is None, "cuda" or "cuda:N", and `threads` set nothing."""
    rows, number = _built(artefacts, precision), _number(device)
    gpu, refused = _gpu(number), list[BackendUnavailable]()
    for row in rows:
        try:
            return _open(artefacts, row, gpu, number)
        except BackendUnavailable as error:
            refused.append(error)
    raise (
        refused[0]
        if len(refused) == 1
        else BackendUnavailable("\n  ".join(map(str, refused)), id="tensorrt-engines-refused")
    )


def _built(artefacts: Artefacts, precision: str | None) -> list[TargetRow]:
    """The rows with an engine, of the precision if one is asked for."""
    rows = [row for row in artefacts.targets if row.file(ENGINE) or row.file(RECIPE)]
    if not rows:
        has = ", ".join(sorted({row.target for row in artefacts.targets})) or "none"
        fix = "export it with --target tensorrt, and build it here"
        raise NotInBundle(f"the bundle has no target for TensorRT, only {has}: {fix}.", id="tensorrt-target-missing")
    wanted = [row for row in rows if precision in (None, row.precision)]
    if not wanted:
        has = ", ".join(f"{row.target} in {row.precision}" for row in rows)
        fix = f"add it with rnn-export build NAME.rnnx --target {rows[0].target} --precision {precision}"
        raise BackendUnavailable(f"the bundle has {has}, none in {precision}: {fix}.", id="tensorrt-precision-missing")
    if built := [row for row in wanted if row.file(ENGINE)]:
        return built
    target, fix = f"target {wanted[0].target!r} ({wanted[0].precision})", f"`{_build(wanted[0])}`"
    raise NotInBundle(f"{target} has no engine yet: build it on its machine with {fix}.", id="tensorrt-engine-unbuilt")


def _number(device: str | None) -> int:
    named = re.fullmatch("cuda(?::([0-9]+))?", "cuda" if device is None else str(device))
    if named is None:
        raise BackendUnavailable(
            f"tensorrt has no device {device!r}: use 'cuda' or 'cuda:N'.", id="tensorrt-device-unknown"
        )
    return int(named.group(1) or 0)


def _gpu(number: int) -> Any:
    from rnn_export.runtime.backends.tensorrt.nvidia import driver

    gpus = driver().gpus
    if number < len(gpus):
        return gpus[number]
    found = ", ".join(gpu.name for gpu in gpus) or "none"
    raise BackendUnavailable(
        f"device 'cuda:{number}' needs GPU {number}, but the driver sees {found}.", id="tensorrt-gpu-missing"
    )


def _open(artefacts: Artefacts, row: TargetRow, gpu: Any, number: int) -> TensorRTSession:
    from rnn_export.runtime.backends.tensorrt.library import find_library

    engine_of = f"the engine of {row.target!r} ({row.precision})"
    fix = f"Build it again here: `{_build(row)} --rebuild`."
    needed = ("library", "version", "compute_capability", "onnx_sha256")
    if missing := [key for key in needed if key not in row.requires]:
        raise BackendUnavailable(
            f"{engine_of} does not say its {', '.join(missing)}. {fix}", id="tensorrt-engine-silent"
        )
    name, version, capability, digest = (row.requires[key] for key in needed)
    capabilities = [capability] if isinstance(capability, str) else capability
    # Of a portable engine the list is empty.
    if capabilities and gpu.compute not in capabilities:
        why = f"compute capability {', '.join(capabilities)}, but GPU {number} ({gpu.name}) has {gpu.compute}"
        raise BackendUnavailable(f"{engine_of} was built for {why}. {fix}", id="tensorrt-engine-elsewhere")
    graph = row.file(GRAPH)
    found = hashlib.sha256(artefacts.read(graph)).hexdigest() if graph else "none"
    if found != digest:
        digests = f"sha256 {digest[:12]}, not {found[:12]}"
        raise BackendUnavailable(
            f"{engine_of} was built from another {GRAPH} than the bundle holds ({digests}). {fix}",
            id="tensorrt-other-graph",
        )
    library = find_library(name)
    if library.version != version:
        why = f"this machine has {library.version}, and an engine runs on its own version only"
        raise BackendUnavailable(
            f"{engine_of} was built by {name} {version}, but {why}. {fix}", id="tensorrt-version-differs"
        )
    plan = artefacts.read(row.file(ENGINE) or ENGINE)
    try:
        # It makes the GPU the current one, where the engine's weights go.
        CudaDevice(number)
        loaded = library.load(plan)
    except (BackendUnavailable, DeviceError) as error:
        raise BackendUnavailable(f"{engine_of} cannot be loaded: {error}", id="tensorrt-engine-unloadable") from error
    where = partial(CudaDevice, number), f"cuda:{number}"
    return TensorRTSession(artefacts.spec, LoadedEngine(*loaded), *where, row.precision, _build(row))


def _build(row: TargetRow) -> str:
    return f"rnn-export build NAME.rnnx --target {row.target} --precision {row.precision}"
