"""The engine of one target of a bundle: built on this machine, held to the golden vectors, recorded in the bundle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rnn_export.bundle import Bundle, TargetRow, extend_bundle, open_bundle
from rnn_export.errors import BackendUnavailable, BuildError
from rnn_export.runtime.backends import Array
from rnn_export.runtime.build.library import Library, Order, find_library
from rnn_export.runtime.build.machine import driver, jetson, target_of
from rnn_export.runtime.build.recipe import ENGINE, FILE, Recipe
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.golden import FILE as GOLDEN
from rnn_export.runtime.golden import Golden, replay
from rnn_export.runtime.parity import ParityReport
from rnn_export.spec import StreamSpec
from rnn_export.targets import Target, find_target

CACHE, LOG, PROOF = "timing.cache", "build.log", "parity.json"
Add = Callable[[Bundle], tuple[TargetRow, Mapping[str, bytes]]]


@dataclass(frozen=True)
class BuiltEngine:
    """What `build_engine` did.

    Attributes:
        bundle: as it is now.
        row: of the target.
        bytes, seconds: size of the engine and time of the build, 0 where there is none.
        report: None where no GPU is here to run the engine on.
        elsewhere: why the engine is not built here and how it is, where the graph alone was new; else empty.
    """

    bundle: Bundle
    row: TargetRow
    bytes: int = 0
    seconds: float = 0.0
    report: ParityReport | None = None
    elsewhere: str = ""


def build_engine(
    path: str | os.PathLike[str],
    target: str,
    precision: str | None = None,
    *,
    batch: tuple[int, int, int] | None = None,
    memory: int | None = None,
    rebuild: bool = False,
    add: Add | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> BuiltEngine:
    """Build the engine of `target` in the bundle `path`, verify it here and write it into the bundle, all at once.

    Args:
        path: the directory NAME.rnnx.
        target: a target whose engine TensorRT or TensorRT-RTX builds.
        precision: None takes the one that the bundle has for the target.
        batch: (fewest, usual, most) streams in one step, in place of the recipe's.
        memory: bytes of scratch memory for the builder, in place of the recipe's.
        rebuild: build an engine that is already there again.
        add: makes the row and the files of a target that the bundle has no graph for.
        progress: called with the name of each stage.

    Raises BuildError, BackendUnavailable, BundleError, ExportError or ParityError, and leaves the bundle as it was.
    """
    bundle = open_bundle(path)
    found = find_target(target, precision or "fp32", None)
    row = _row(bundle, found, precision, add is not None)
    library = None
    if not found.jetpacks or _is_here(found):
        # Before anything that takes long.
        library = find_library(str(found.library))
        _refuse_older(library, found)
        _refuse_without_cuda(library, found)
    new = row is None
    if row is None:
        assert add is not None
        row, files = add(bundle)
    else:
        files = {name: bundle.read(name) for name in row.files}
    candidate = _Candidate(bundle, row, files)
    recipe = _recipe(candidate)
    recipe = recipe if batch is None else replace(recipe, batch=batch)
    if library is None or not found.builds:
        reason = _elsewhere(bundle, found, recipe)
        if not new:
            raise BuildError(reason)
        return BuiltEngine(extend_bundle(bundle, row, files), row, elsewhere=reason)
    old = {name.rsplit("/", 1)[-1]: name for name in row.files}
    if ENGINE in old and not rebuild:
        raise BuildError(f"{path} has an engine for {target} ({row.precision}): give --rebuild to build it again.")
    progress("build")
    built = library.build(
        candidate.read(recipe.onnx),
        Order(
            row.precision,
            recipe.shapes(bundle.spec),
            recipe.memory if memory is None else memory,
            found.compute,
            candidate.read(old[CACHE]) if CACHE in old else None,
        ),
    )
    folder = recipe.onnx.rpartition("/")[0]
    files = {
        recipe.onnx: candidate.read(recipe.onnx),
        f"{folder}/{FILE}": recipe.to_file(bundle.spec),
        f"{folder}/{ENGINE}": built.plan,
        f"{folder}/{LOG}": built.log.encode(),
    }
    if built.cache is not None:
        files[f"{folder}/{CACHE}"] = built.cache
    row = TargetRow(row.target, row.precision, row.opset, tuple(files), _requires(found, library, recipe))
    report = _verified(_Candidate(bundle, row, files), progress)
    if report is not None:
        files[f"{folder}/{PROOF}"] = (json.dumps(report.to_json(), indent=1) + "\n").encode()
        row = replace(row, files=tuple(files))
    progress("write")
    return BuiltEngine(extend_bundle(bundle, row, files), row, len(built.plan), built.seconds, report)


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


def _recipe(candidate: _Candidate) -> Recipe:
    """That of the target, which must be of its graph."""
    row = candidate.row
    found = [file for file in row.files if file.rsplit("/", 1)[-1] == FILE]
    if not found:
        raise BuildError(f"target {row.target!r} ({row.precision}) has no {FILE} in the bundle. Export it again.")
    recipe = Recipe.from_file(candidate.read(found[0]))
    graph = candidate.read(recipe.onnx) if recipe.onnx in row.files else b""
    digest = hashlib.sha256(graph).hexdigest()
    if (recipe.target, recipe.precision, recipe.sha256) != (row.target, row.precision, digest):
        raise BuildError(
            f"{found[0]} is the recipe of {recipe.target} ({recipe.precision}) from a graph {recipe.sha256[:12]}, but "
            f"stands with {row.target} ({row.precision}) and the graph {digest[:12]}. Export the bundle again."
        )
    return recipe


def _is_here(target: Target) -> bool:
    """Whether this machine is the Jetson that `target` is."""
    board = jetson()
    return board is not None and target_of(board) == target.name


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


def _refuse_older(library: Library, target: Target) -> None:
    if library.weak and not library.strong_flag and not target.jetpacks:
        raise BuildError(
            f"target {target.name!r} needs {library.name} {target.since} or later, whose networks are strongly typed, "
            f"but {library.version} is here."
        )


def _refuse_without_cuda(library: Library, target: Target) -> None:
    """Where the engine will be run to verify it, what runs it must be here before the minutes of a build."""
    if library.ahead:
        try:
            gpus = driver().gpus
        except BackendUnavailable:
            return
        if target.compute and gpus[0].compute not in target.compute:
            return
    from rnn_export.runtime.device.cuda import CudaDevice

    CudaDevice(0)


def _requires(target: Target, library: Library, recipe: Recipe) -> dict[str, Any]:
    computes: Any = list(target.compute) if library.ahead else driver().gpus[0].compute
    return {
        "library": library.name,
        "version": library.version,
        "compute_capability": computes,
        "onnx_sha256": recipe.sha256,
        "batch": list(recipe.batch),
    }


@dataclass(frozen=True)
class _Candidate:
    """The bundle as it will be, as far as one target goes."""

    bundle: Bundle
    row: TargetRow
    files: Mapping[str, bytes]

    @property
    def spec(self) -> StreamSpec:
        return self.bundle.spec

    @property
    def targets(self) -> tuple[TargetRow, ...]:
        return (self.row,)

    def read(self, name: str) -> bytes:
        return self.files[name]

    def initial_states(self) -> Mapping[str, Array]:
        return self.bundle.initial_states()


def _verified(candidate: _Candidate, progress: Callable[[str], None]) -> ParityReport | None:
    """Hold the engine to the golden vectors; None where it was built ahead of the GPU that runs it."""
    bundle, computes = candidate.bundle, candidate.row.requires["compute_capability"]
    if isinstance(computes, list):
        try:
            gpus = driver().gpus
        except BackendUnavailable:
            return None
        if computes and gpus[0].compute not in computes:
            return None
    engine = Engine.of(candidate, "tensorrt", candidate.row.precision)
    report = replay(engine, Golden.from_arrays(bundle.arrays(GOLDEN), bundle.spec), progress)
    report.raise_for_failure("The bundle is as it was.")
    return report
