"""Find the builder of a target's engines on this machine, or the machine to build on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_table import TARGETS, Target, find_target
from rnn_export.errors import BackendUnavailable, BuildError
from rnn_export.runtime.backends.tensorrt.library import Library, find_library
from rnn_export.runtime.backends.tensorrt.nvidia import Gpu, driver, jetson, target_of
from rnn_export.runtime.build.tensorrt.recipe import Recipe


@dataclass(frozen=True)
class EngineBuilder:
    """The library that builds engines of `target` here and the GPU that runs them; None where one is not here."""

    target: Target
    library: Library | None = None
    gpu: Gpu | None = None


def engine_target(name: str, precision: str | None) -> Target:
    """The row of a target that an engine is built for; raises ExportError, or BuildError where there is no engine."""
    target = find_target(name, precision or "fp32", None)
    if target.from_torch:
        raise BuildError(
            f"target {name!r} {target.from_torch}: export the module with --target {name}.",
            id="engine-target-from-torch",
        )
    if target.library is None:
        raise BuildError(
            f"target {name!r} is complete when it is exported: there is nothing to build.", id="engine-target-complete"
        )
    return target


def find_builder(target: Target, compute: Sequence[str] | None = None) -> EngineBuilder:
    """The builder for `target`, or for `compute` alone; raises BuildError, BackendUnavailable or DeviceError."""
    if compute is not None:
        target = replace(target, compute=_computes(target, compute))
    if not target.builds or (target.jetpacks and not _is_here(target)):
        return EngineBuilder(target)
    library = find_library(str(target.library))
    if library.weak and not library.strong_flag and not target.jetpacks:
        why = f"whose networks are strongly typed, but {library.version} is here"
        raise BuildError(
            f"target {target.name!r} needs {library.name} {target.min_version} or later, {why}.", id="tensorrt-too-old"
        )
    gpu = _gpu(library, target)
    if gpu:
        from rnn_export.runtime.device.cuda import CudaDevice

        # What runs the engine to verify it must be here before the minutes of a build.
        CudaDevice(0)
    return EngineBuilder(target, library, gpu)


def why_elsewhere(target: Target, recipe: Recipe, spec: StreamSpec, name: str) -> str:
    """Why the engine of `recipe` is not built on this machine, and how it is, from the bundle `name`."""
    if not target.builds:
        old = ", ".join(map(str, target.jetpacks))
        return (
            f"an engine for {target.name} is built by hand: it has JetPack {old}, whose Python is older than this "
            f"toolkit needs. Copy {name}/{recipe.onnx} there and run, in its folder: {recipe.trtexec(spec)}"
        )
    board = jetson()
    what = "no Jetson" if board is None else f"a {board.model}"
    how = f"Copy {name} there and run: rnn-export build {name} --target {target.name} --precision {recipe.precision}"
    return f"an engine for {target.name} is built on that module, and this is {what}. {how}"


def _computes(target: Target, compute: Sequence[str]) -> tuple[str, ...]:
    if target.library != "tensorrt-rtx":
        fix = "leave the compute capability out"
        raise BuildError(
            f"an engine for {target.name!r} is of the GPU that it is built on: {fix}.", id="engine-computes-fixed"
        )
    if unknown := sorted(set(compute) - set(target.compute)):
        raise BuildError(
            f"target {target.name!r} builds for compute capability {', '.join(target.compute)} or a portable engine, "
            f"but {', '.join(unknown)} was asked for.",
            id="engine-computes-unknown",
        )
    return tuple(dict.fromkeys(compute))


def _is_here(target: Target) -> bool:
    """True if this machine is the Jetson that `target` is; a board of unknown model is taken for it."""
    board = jetson()
    if board is None:
        return False
    try:
        return target_of(board) == target.name
    except BackendUnavailable:
        return True


def _gpu(library: Library, target: Target) -> Gpu | None:
    """The GPU that will run the engine; None where it is built ahead of one that is not here."""
    try:
        gpu = driver().gpus[0]
    except BackendUnavailable:
        if library.ahead:
            return None
        raise
    runs = target.compute or TARGETS[target.name].compute
    return gpu if not library.ahead or gpu.compute in runs else None
