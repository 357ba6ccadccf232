"""The engine of one target of a bundle: built on this machine, held to the golden vectors, recorded in the bundle."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rnn_export.bundle import Bundle, TargetRow, extend_bundle
from rnn_export.bundle.code import code_of
from rnn_export.bundle.draft import Draft
from rnn_export.contract.target_options import check_batch
from rnn_export.errors import BuildError
from rnn_export.onnx.onnx_file import check_model
from rnn_export.platform.trusted_code import Trust
from rnn_export.runtime.backends.tensorrt.backend import ENGINE, RECIPE
from rnn_export.runtime.backends.tensorrt.library import BuilderSettings, Built
from rnn_export.runtime.build.origin import Origin, find_origin, on_disk, prove, record_built
from rnn_export.runtime.build.tensorrt.builder import EngineBuilder, engine_target, find_builder, why_elsewhere
from rnn_export.runtime.build.tensorrt.recipe import Recipe
from rnn_export.runtime.replay.drift import ParityReport

CACHE, LOG = "timing.cache", "build.log"


@dataclass(frozen=True)
class BuildOptions:
    """Build options of an engine that are not left to the recipe and the target.

    Attributes:
        state_precision: the precision of the graph's states; None takes them as they are.
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
class EnginePlan:
    """The graph to build, its builder and settings; `memory` is scratch in bytes, None the library's default."""

    origin: Origin
    builder: EngineBuilder
    recipe: Recipe
    memory: int | None

    @property
    def elsewhere(self) -> str:
        """Why the engine is not built on this machine, and how it is; empty where it is built here."""
        if self.builder.library:
            return ""
        return why_elsewhere(self.builder.target, self.recipe, self.origin.bundle.spec, self.origin.bundle.path.name)

    @property
    def folder(self) -> str:
        return self.recipe.onnx.rpartition("/")[0]

    def settings(self) -> BuilderSettings:
        row, files = self.origin.row, self.origin.files
        name = row.file(CACHE)
        shapes, cache = self.recipe.shapes(self.origin.bundle.spec), files.get(name or "")
        if name and self.origin.judgement.untrusted_code(name):
            cache = None
        return BuilderSettings(row.precision, shapes, self.memory, self.builder.target.compute, cache)

    @property
    def notes(self) -> list[str]:
        """A note on an unused timing cache."""
        name = self.origin.row.file(CACHE)
        if self.builder.library is None or name is None or not self.origin.judgement.untrusted_code(name):
            return []
        return [f"{name} is left aside, for it {self.origin.judgement.why}"]

    def requires(self) -> dict[str, Any]:
        """The `requires` of the target's row in the manifest."""
        library, gpu, batch = self.builder.library, self.builder.gpu, list(self.recipe.batch)
        if library is None:
            return {**self.origin.row.requires, "batch": batch}
        return {
            "library": library.name,
            "version": library.version,
            "compute_capability": gpu.compute if gpu and not library.ahead else list(self.builder.target.compute),
            "onnx_sha256": self.recipe.sha256,
            "batch": batch,
        }

    def draft(self, built: Built | None) -> Draft:
        """The target with its graph, its recipe and the engine that was built of them."""
        graph, recipe = self.recipe.onnx, self.recipe.to_file(self.origin.bundle.spec)
        files = {graph: self.origin.files[graph], f"{self.folder}/{RECIPE}": recipe}
        if built is not None:
            files |= {f"{self.folder}/{ENGINE}": built.plan, f"{self.folder}/{LOG}": built.log.encode()}
            if built.cache is not None:
                files[f"{self.folder}/{CACHE}"] = built.cache
        return self.origin.draft(replace(self.origin.row, files=tuple(files), requires=self.requires()), files)


@dataclass(frozen=True)
class BuiltEngine:
    """The result of `build_engine`: `bundle` and `row` as they are now; no `report` where no GPU is here to run on.

    `bytes` of the engine and `seconds` of the build are 0 where there is none: where the graph alone was new,
    `elsewhere` says why, and how it is built. The `notes` are of the graph, where it is new, and of trust.
    """

    bundle: Bundle
    row: TargetRow
    bytes: int = 0
    seconds: float = 0.0
    report: ParityReport | None = None
    elsewhere: str = ""
    notes: Sequence[str] = ()


def build_engine(
    bundle: Bundle | Draft,
    target: str,
    precision: str | None = None,
    options: BuildOptions = BuildOptions(),
    progress: Callable[[str], None] = lambda stage: None,
    trust: bool | Trust = False,
) -> BuiltEngine:
    """Build the engine of `target`, verify it here and write it into the bundle, all at once.

    Args:
        bundle: one that has a graph for the target, or the draft of one, which is written with the engine.
        target: a target whose engine TensorRT or TensorRT-RTX builds.
        precision: None takes the one that there is for the target.
        options: those not left to the recipe.
        progress: called with the name of each stage.
        trust: True uses a timing cache of the bundle unchecked; else one that is not trusted is left aside.

    Raises BuildError, BackendUnavailable, DeviceError, StreamError, BundleError, ExportError or ParityError, and
    leaves the bundle as it was.
    """
    plan = plan_engine(bundle, target, precision, options, trust)
    origin, library, report, built = plan.origin, plan.builder.library, None, None
    if library is not None:
        progress("build")
        check_model(plan.recipe.onnx, origin.files[plan.recipe.onnx])
        built = library.build(origin.files[plan.recipe.onnx], plan.settings())
    draft = plan.draft(built)
    if plan.builder.gpu:
        draft, report = prove(draft, "tensorrt", plan.folder, progress)
    if library is not None:
        progress("write")
    (row,), size, seconds = draft.targets, len(built.plan) if built else 0, built.seconds if built else 0.0
    notes = [*origin.notes, *plan.notes, *record_built(origin.bundle, code_of(draft))]
    written = extend_bundle(origin.bundle, row, draft.files)
    return BuiltEngine(written, row, size, seconds, report, plan.elsewhere, notes)


def plan_engine(
    bundle: Bundle | Draft,
    target: str,
    precision: str | None,
    options: BuildOptions,
    trust: bool | Trust = False,
) -> EnginePlan:
    """Find the graph to build and its builder here; raises as `build_engine` does before it builds."""
    found = engine_target(target, precision)
    origin = find_origin(bundle, target, precision, trust)
    if origin is None:
        has = ", ".join(f"{row.target} ({row.precision})" for row in bundle.targets) or "none"
        what, wanted = (f" in {precision}", f" --precision {precision}") if precision else ("", "")
        fix = f"export it where torch is, rnn-export export SOURCE --target {target}{wanted}"
        raise BuildError(
            f"{on_disk(bundle).path} has no graph for {target!r}{what}, only {has}: {fix}.", id="engine-graph-missing"
        )
    builder = find_builder(found, options.compute)
    row, recipe = origin.row, _recipe(origin)
    if options.state_precision not in (None, recipe.state_precision):
        states = f"states in {recipe.state_precision}, not in {options.state_precision}"
        fix = f"export the bundle again with --state-precision {options.state_precision}"
        raise BuildError(
            f"the graph of {target!r} ({row.precision}) in {origin.bundle.path} has {states}: {fix}.",
            id="engine-graph-states",
        )
    check_batch(options.batch, origin.bundle.spec.rows)
    if options.batch is not None:
        recipe = replace(recipe, batch=options.batch)
    plan = EnginePlan(origin, builder, recipe, recipe.memory if options.memory is None else options.memory)
    if plan.elsewhere and not origin.new:
        asked = f" --batch {':'.join(map(str, options.batch))}" if options.batch and found.builds else ""
        raise BuildError(plan.elsewhere + asked, id="engine-built-elsewhere")
    if builder.library and row.file(ENGINE) and not options.rebuild:
        fix = "give --rebuild to build it again"
        raise BuildError(
            f"{origin.bundle.path} has an engine for {target} ({row.precision}): {fix}.", id="engine-already-built"
        )
    return plan


def _recipe(origin: Origin) -> Recipe:
    row = origin.row
    found = row.file(RECIPE)
    if found is None:
        raise BuildError(
            f"target {row.target!r} ({row.precision}) has no {RECIPE} in the bundle. Export it again.",
            id="engine-recipe-missing",
        )
    recipe = Recipe.from_file(origin.files[found])
    digest = hashlib.sha256(origin.files.get(recipe.onnx, b"")).hexdigest()
    fits = (recipe.target, recipe.precision, recipe.sha256) == (row.target, row.precision, digest)
    if not fits or recipe.onnx not in origin.files:
        raise BuildError(
            f"{found} is the recipe of {recipe.target} ({recipe.precision}) from a graph {recipe.sha256[:12]}, but "
            f"stands with {row.target} ({row.precision}) and the graph {digest[:12]}. Export the bundle again.",
            id="engine-recipe-differs",
        )
    return recipe
