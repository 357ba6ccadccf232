"""The engine of one target of a bundle: built on this machine, held to the golden vectors, recorded in the bundle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rnn_export.bundle import Bundle, TargetRow, extend_bundle, open_bundle
from rnn_export.bundle.draft import Added, Draft
from rnn_export.errors import BackendUnavailable, BuildError
from rnn_export.runtime.backends.tensorrt.backend import ENGINE, RECIPE
from rnn_export.runtime.backends.tensorrt.library import BuildOrder, Library, find_library
from rnn_export.runtime.backends.tensorrt.nvidia import Gpu, driver, jetson, target_of
from rnn_export.runtime.build.tensorrt.recipe import Recipe
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.runtime.replay.golden import FILE as GOLDEN
from rnn_export.runtime.replay.golden import Golden
from rnn_export.targets import TARGETS, Target, find_target

CACHE, LOG, PROOF = "timing.cache", "build.log", "parity.json"


@dataclass(frozen=True)
class BuiltEngine:
    """What `build_engine` did.

    Attributes:
        bundle: as it is now.
        row: of the target.
        bytes, seconds: size of the engine and time of the build, 0 where there is none.
        report: None where no GPU is here to run the engine on.
        elsewhere: why the engine is not built here and how it is, where the graph alone was new; else empty.
        notes: of the graph, where it is new.
    """

    bundle: Bundle
    row: TargetRow
    bytes: int = 0
    seconds: float = 0.0
    report: ParityReport | None = None
    elsewhere: str = ""
    notes: Sequence[str] = ()


def build_engine(
    path: str | os.PathLike[str],
    target: str,
    precision: str | None = None,
    *,
    state_precision: str | None = None,
    batch: tuple[int, int, int] | None = None,
    memory: int | None = None,
    compute: Sequence[str] | None = None,
    rebuild: bool = False,
    add: Callable[[Bundle], Added] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> BuiltEngine:
    """Build the engine of `target` in the bundle `path`, verify it here and write it into the bundle, all at once.

    Args:
        path: the directory NAME.rnnx.
        target: a target whose engine TensorRT or TensorRT-RTX builds.
        precision: None takes the one that the bundle has for the target.
        state_precision: what the states of the graph must be in; None takes them as they are.
        batch: (fewest, usual, most) streams in one step, in place of the recipe's.
        memory: bytes of scratch memory for the builder, in place of the recipe's.
        compute: compute capabilities that TensorRT-RTX builds for, in place of all the target has; none of them makes
            a portable engine, for every GPU from Ampere on.
        rebuild: build an engine that is already there again.
        add: makes what a target needs that the bundle has no graph for.
        progress: called with the name of each stage.

    Raises BuildError, BackendUnavailable, DeviceError, StreamError, BundleError, ExportError or ParityError, and
    leaves the bundle as it was.
    """
    bundle = open_bundle(path)
    found = find_target(target, precision or "fp32", None)
    row = _row(bundle, found, precision, add is not None)
    if compute is not None:
        found = replace(found, compute=_computes(found, compute))
    # What is missing is said before anything that takes long.
    library = _library(found) if found.builds and (not found.jetpacks or _is_here(found)) else None
    gpu = library and _gpu(library, found)
    if gpu:
        _refuse_without_cuda()
    notes: Sequence[str] = ()
    if new := row is None:
        assert add is not None
        row, files, notes = add(bundle)
    else:
        files = {name: bundle.read(name) for name in row.files}
    recipe = _recipe(row, files)
    if state_precision not in (None, recipe.state_precision):
        raise BuildError(
            f"the graph of {target!r} ({row.precision}) in {path} has states in {recipe.state_precision}, not in "
            f"{state_precision}: export the bundle again with --state-precision {state_precision}."
        )
    recipe = recipe if batch is None else replace(recipe, batch=batch)
    place = recipe.onnx.rpartition("/")[0]
    written = {recipe.onnx: files[recipe.onnx], f"{place}/{RECIPE}": recipe.to_file(bundle.spec)}
    if library is None:
        reason = _elsewhere(bundle, found, recipe)
        if not new:
            raise BuildError(reason + (f" --batch {':'.join(map(str, batch))}" if batch and found.builds else ""))
        row = replace(row, requires={**row.requires, "batch": list(recipe.batch)})
        return BuiltEngine(extend_bundle(bundle, row, written), row, elsewhere=reason, notes=notes)
    if row.file(ENGINE) and not rebuild:
        raise BuildError(f"{path} has an engine for {target} ({row.precision}): give --rebuild to build it again.")
    progress("build")
    built = library.build(
        files[recipe.onnx],
        BuildOrder(
            row.precision,
            recipe.shapes(bundle.spec),
            recipe.memory if memory is None else memory,
            found.compute,
            files.get(row.file(CACHE) or ""),
        ),
    )
    written |= {f"{place}/{ENGINE}": built.plan, f"{place}/{LOG}": built.log.encode()}
    if built.cache is not None:
        written[f"{place}/{CACHE}"] = built.cache
    requires = {
        "library": library.name,
        "version": library.version,
        "compute_capability": gpu.compute if gpu and not library.ahead else list(found.compute),
        "onnx_sha256": recipe.sha256,
        "batch": list(recipe.batch),
    }
    row = replace(row, files=tuple(written), requires=requires)
    report = None
    if gpu:
        engine = Engine.of(Draft(bundle.spec, written, (row,), bundle.initial_states()), "tensorrt", row.precision)
        report = replay_golden(engine, Golden.from_arrays(bundle.arrays(GOLDEN), bundle.spec), progress)
        report.raise_for_failure("The bundle is as it was.")
        written[f"{place}/{PROOF}"] = (json.dumps(report.to_json(), indent=1) + "\n").encode()
        row = replace(row, files=tuple(written))
    progress("write")
    return BuiltEngine(extend_bundle(bundle, row, written), row, len(built.plan), built.seconds, report, notes=notes)


def _row(bundle: Bundle, target: Target, precision: str | None, may_add: bool) -> TargetRow | None:
    """The row of the target that the bundle has; None where it is to be added."""
    if target.library is None:
        raise BuildError(f"target {target.name!r} is complete when it is exported: there is nothing to build.")
    rows = [r for r in bundle.targets if r.target == target.name and precision in (None, r.precision)]
    if len(rows) > 1:
        raise BuildError(
            f"{bundle.path} has {target.name!r} in {', '.join(r.precision for r in rows)}: say which, --precision P."
        )
    if not rows and not may_add:
        has = ", ".join(f"{r.target} ({r.precision})" for r in bundle.targets) or "none"
        wanted = f" --precision {precision}" if precision else ""
        raise BuildError(
            f"{bundle.path} has no graph for {target.name!r}{f' in {precision}' if precision else ''}, only {has}: "
            f"export it where torch is, rnn-export export SOURCE --target {target.name}{wanted}."
        )
    return rows[0] if rows else None


def _recipe(row: TargetRow, files: Mapping[str, bytes]) -> Recipe:
    """That of the target, which must be of its graph."""
    found = row.file(RECIPE)
    if found is None:
        raise BuildError(f"target {row.target!r} ({row.precision}) has no {RECIPE} in the bundle. Export it again.")
    recipe = Recipe.from_file(files[found])
    digest = hashlib.sha256(files.get(recipe.onnx, b"")).hexdigest()
    if (recipe.target, recipe.precision, recipe.sha256) != (row.target, row.precision, digest):
        raise BuildError(
            f"{found} is the recipe of {recipe.target} ({recipe.precision}) from a graph {recipe.sha256[:12]}, but "
            f"stands with {row.target} ({row.precision}) and the graph {digest[:12]}. Export the bundle again."
        )
    return recipe


def _computes(target: Target, compute: Sequence[str]) -> tuple[str, ...]:
    if target.library != "tensorrt-rtx":
        raise BuildError(
            f"an engine for {target.name!r} is of the GPU that it is built on: leave the compute capability out."
        )
    if unknown := sorted(set(compute) - set(target.compute)):
        raise BuildError(
            f"target {target.name!r} builds for compute capability {', '.join(target.compute)} or a portable engine, "
            f"but {', '.join(unknown)} was asked for."
        )
    return tuple(dict.fromkeys(compute))


def _is_here(target: Target) -> bool:
    """Whether this machine is the Jetson that `target` is; a board of unknown model is what it is said to be."""
    board = jetson()
    if board is None:
        return False
    try:
        return target_of(board) == target.name
    except BackendUnavailable:
        return True


def _elsewhere(bundle: Bundle, target: Target, recipe: Recipe) -> str:
    """Why an engine of `target` cannot be built on this machine, and how it is."""
    name = bundle.path.name
    if not target.builds:
        old = ", ".join(map(str, target.jetpacks))
        return (
            f"an engine for {target.name} is built by hand: it has JetPack {old}, whose Python is older than this "
            f"toolkit needs. Copy {name}/{recipe.onnx} there and run, in its folder: {recipe.trtexec(bundle.spec)}"
        )
    board = jetson()
    what = "no Jetson" if board is None else f"a {board.model}"
    command = f"rnn-export build {name} --target {target.name} --precision {recipe.precision}"
    return (
        f"an engine for {target.name} is built on that module, and this is {what}. Copy {name} there and run: {command}"
    )


def _library(target: Target) -> Library:
    library = find_library(str(target.library))
    if library.weak and not library.strong_flag and not target.jetpacks:
        raise BuildError(
            f"target {target.name!r} needs {library.name} {target.min_version} or later, whose networks are strongly "
            f"typed, but {library.version} is here."
        )
    return library


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


def _refuse_without_cuda() -> None:
    """What runs the engine to verify it must be here before the minutes of a build."""
    from rnn_export.runtime.device.cuda import CudaDevice

    CudaDevice(0)
