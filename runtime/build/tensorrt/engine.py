"""The engine of one target of a bundle: built on this machine, held to the golden vectors, recorded in the bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rnn_export.bundle import Bundle, TargetRow, extend_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.errors import BackendUnavailable, BuildError
from rnn_export.runtime.backends.tensorrt.backend import ENGINE, RECIPE
from rnn_export.runtime.backends.tensorrt.library import BuilderSettings, Built, Library, find_library
from rnn_export.runtime.backends.tensorrt.nvidia import Gpu, driver, jetson, target_of
from rnn_export.runtime.build.source import Source, bundle_of, find_source, prove
from rnn_export.runtime.build.tensorrt.recipe import Recipe
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.targets import TARGETS, Target, find_target

CACHE, LOG = "timing.cache", "build.log"


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built, where that is not left to the recipe and the target.

    Attributes:
        state_precision: what the states of the graph must be in; None takes them as they are.
        batch: (fewest, usual, most) streams in one step, in place of the recipe's.
        memory: bytes of scratch memory for the builder, in place of the recipe's.
        compute: compute capabilities that TensorRT-RTX builds for, in place of all the target has; none of them makes
            a portable engine, for every GPU from Ampere on.
        rebuild: build an engine that is already there again.
    """

    state_precision: str | None = None
    batch: tuple[int, int, int] | None = None
    memory: int | None = None
    compute: Sequence[str] | None = None
    rebuild: bool = False


@dataclass(frozen=True)
class EngineBuilder:
    """What builds engines of `target` here.

    Attributes:
        target: with the compute capabilities that are built for.
        library: None where the target's engines are built on another machine.
        gpu: the one that will run the engine; None where it is built ahead of one that is not here.
    """

    target: Target
    library: Library | None = None
    gpu: Gpu | None = None


@dataclass(frozen=True)
class EnginePlan:
    """What `build_engine` will do.

    Attributes:
        source: graph and recipe, and the engine that is there already.
        builder: what builds it.
        recipe: with the batch that was asked for.
        memory: bytes of scratch memory for the builder; None leaves it to the library.
        elsewhere: where no library builds it here: why, and how it is built.
    """

    source: Source
    builder: EngineBuilder
    recipe: Recipe
    memory: int | None
    elsewhere: str = ""

    @property
    def folder(self) -> str:
        """Of the target, in the bundle."""
        return self.recipe.onnx.rpartition("/")[0]

    def settings(self) -> BuilderSettings:
        """What the library is told."""
        row, files = self.source.row, self.source.files
        shapes, cache = self.recipe.shapes(self.source.bundle.spec), files.get(row.file(CACHE) or "")
        return BuilderSettings(row.precision, shapes, self.memory, self.builder.target.compute, cache)

    def requires(self) -> dict[str, Any]:
        """What the manifest will say that the target needs."""
        library, gpu, batch = self.builder.library, self.builder.gpu, list(self.recipe.batch)
        if library is None:
            return {**self.source.row.requires, "batch": batch}
        return {
            "library": library.name,
            "version": library.version,
            "compute_capability": gpu.compute if gpu and not library.ahead else list(self.builder.target.compute),
            "onnx_sha256": self.recipe.sha256,
            "batch": batch,
        }

    def draft(self, built: Built | None) -> Draft:
        """Graph, recipe and what was built of them."""
        graph, recipe = self.recipe.onnx, self.recipe.to_file(self.source.bundle.spec)
        files = {graph: self.source.files[graph], f"{self.folder}/{RECIPE}": recipe}
        if built is not None:
            files |= {f"{self.folder}/{ENGINE}": built.plan, f"{self.folder}/{LOG}": built.log.encode()}
            if built.cache is not None:
                files[f"{self.folder}/{CACHE}"] = built.cache
        return self.source.draft(replace(self.source.row, files=tuple(files), requires=self.requires()), files)


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
    given: Bundle | Draft,
    target: str,
    precision: str | None = None,
    options: BuildOptions = BuildOptions(),
    progress: Callable[[str], None] = lambda stage: None,
) -> BuiltEngine:
    """Build the engine of `target`, verify it here and write it into the bundle, all at once.

    Args:
        given: a bundle that has a graph for the target, or the draft of one, which is written with the engine.
        target: a target whose engine TensorRT or TensorRT-RTX builds.
        precision: None takes the one that there is for the target.
        options: what is not left to the recipe.
        progress: called with the name of each stage.

    Raises BuildError, BackendUnavailable, DeviceError, StreamError, BundleError, ExportError or ParityError, and
    leaves the bundle as it was.
    """
    plan = plan_engine(given, target, precision, options)
    source, library, report, built = plan.source, plan.builder.library, None, None
    if library is not None:
        progress("build")
        built = library.build(source.files[plan.recipe.onnx], plan.settings())
    draft = plan.draft(built)
    if plan.builder.gpu:
        draft, report = prove(draft, "tensorrt", plan.folder, progress)
    if library is not None:
        progress("write")
    (row,), size, seconds = draft.targets, len(built.plan) if built else 0, built.seconds if built else 0.0
    bundle = extend_bundle(source.bundle, row, draft.files)
    return BuiltEngine(bundle, row, size, seconds, report, plan.elsewhere, source.notes)


def plan_engine(given: Bundle | Draft, target: str, precision: str | None, options: BuildOptions) -> EnginePlan:
    """Find out what is to be built and what builds it here; raises what `build_engine` does before it builds."""
    found = engine_target(target, precision)
    source = find_source(given, target, precision)
    if source is None:
        raise _no_graph(given, target, precision)
    builder = find_builder(found, options.compute)
    row, recipe = source.row, _recipe(source)
    if options.state_precision not in (None, recipe.state_precision):
        raise BuildError(
            f"the graph of {target!r} ({row.precision}) in {source.bundle.path} has states in "
            f"{recipe.state_precision}, not in {options.state_precision}: export the bundle again with "
            f"--state-precision {options.state_precision}."
        )
    if options.batch is not None:
        recipe = replace(recipe, batch=options.batch)
    memory = recipe.memory if options.memory is None else options.memory
    if builder.library is None:
        elsewhere = _elsewhere(source.bundle, found, recipe)
        if not source.new:
            asked = f" --batch {':'.join(map(str, options.batch))}" if options.batch and found.builds else ""
            raise BuildError(elsewhere + asked)
        return EnginePlan(source, builder, recipe, memory, elsewhere)
    if row.file(ENGINE) and not options.rebuild:
        raise BuildError(
            f"{source.bundle.path} has an engine for {target} ({row.precision}): give --rebuild to build it again."
        )
    return EnginePlan(source, builder, recipe, memory)


def engine_target(name: str, precision: str | None) -> Target:
    """The row of a target that an engine is built for; raises ExportError, or BuildError where there is none to build.

    `precision` None stands for fp32.
    """
    target = find_target(name, precision or "fp32", None)
    if target.library is None:
        raise BuildError(f"target {name!r} is complete when it is exported: there is nothing to build.")
    return target


def find_builder(target: Target, compute: Sequence[str] | None = None) -> EngineBuilder:
    """What builds engines of `target` here, for the compute capabilities `compute` in place of all it has.

    Raises BuildError, BackendUnavailable or DeviceError with what is missing.
    """
    if compute is not None:
        target = replace(target, compute=_computes(target, compute))
    if not target.builds or (target.jetpacks and not _is_here(target)):
        return EngineBuilder(target)
    library = _library(target)
    gpu = _gpu(library, target)
    if gpu:
        _refuse_without_cuda()
    return EngineBuilder(target, library, gpu)


def _no_graph(given: Bundle | Draft, target: str, precision: str | None) -> BuildError:
    has = ", ".join(f"{row.target} ({row.precision})" for row in given.targets) or "none"
    wanted = f" --precision {precision}" if precision else ""
    return BuildError(
        f"{bundle_of(given).path} has no graph for {target!r}{f' in {precision}' if precision else ''}, only {has}: "
        f"export it where torch is, rnn-export export SOURCE --target {target}{wanted}."
    )


def _recipe(source: Source) -> Recipe:
    """That of the target, which must be of its graph."""
    row = source.row
    found = row.file(RECIPE)
    if found is None:
        raise BuildError(f"target {row.target!r} ({row.precision}) has no {RECIPE} in the bundle. Export it again.")
    recipe = Recipe.from_file(source.files[found])
    digest = hashlib.sha256(source.files.get(recipe.onnx, b"")).hexdigest()
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
            f"target {target.name!r} needs {library.name} {target.since} or later, whose networks are strongly typed, "
            f"but {library.version} is here."
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
