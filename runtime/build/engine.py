"""The engine of one target of a bundle: built on this machine, held to the golden vectors, recorded in the bundle."""

from __future__ import annotations

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

CACHE, LOG = "timing.cache", "build.log"


@dataclass(frozen=True)
class BuiltEngine:
    """What `build_engine` did; `report` is None where no GPU is here to run the engine on."""

    bundle: Bundle
    row: TargetRow
    bytes: int
    seconds: float
    report: ParityReport | None


def build_engine(
    path: str | os.PathLike[str],
    target: str,
    precision: str | None = None,
    *,
    batch: tuple[int, int, int] | None = None,
    memory: int | None = None,
    rebuild: bool = False,
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
        progress: called with the name of each stage.

    Raises BuildError, BackendUnavailable, BundleError or ParityError, and leaves the bundle as it was.
    """
    bundle = open_bundle(path)
    row = _row(bundle, find_target(target, precision or "fp32", None), precision)
    found = find_target(row.target, row.precision, None)
    recipe = Recipe.from_file(bundle.read(_file(row, FILE)))
    recipe = recipe if batch is None else replace(recipe, batch=batch)
    if reason := elsewhere(bundle, found, recipe):
        raise BuildError(reason)
    old = {name.rsplit("/", 1)[-1]: name for name in row.files}
    if ENGINE in old and not rebuild:
        raise BuildError(f"{path} has an engine for {target} ({row.precision}): give --rebuild to build it again.")
    library = find_library(str(found.library))
    progress("build")
    graph = bundle.read(recipe.onnx)
    built = library.build(
        graph,
        Order(
            row.precision,
            recipe.shapes(bundle.spec),
            recipe.memory if memory is None else memory,
            found.compute,
            bundle.read(old[CACHE]) if CACHE in old else None,
        ),
    )
    folder = recipe.onnx.rpartition("/")[0]
    files = {
        recipe.onnx: graph,
        f"{folder}/{FILE}": recipe.to_file(bundle.spec),
        f"{folder}/{ENGINE}": built.plan,
        f"{folder}/{LOG}": built.log.encode(),
    }
    if built.cache is not None:
        files[f"{folder}/{CACHE}"] = built.cache
    new = TargetRow(row.target, row.precision, row.opset, tuple(files), _requires(found, library, recipe))
    report = _verified(bundle, new, files, progress)
    progress("write")
    return BuiltEngine(extend_bundle(bundle, new, files), new, len(built.plan), built.seconds, report)


def _row(bundle: Bundle, target: Target, precision: str | None) -> TargetRow:
    if target.library is None:
        raise BuildError(f"target {target.name!r} is complete when it is exported: there is nothing to build.")
    rows = [r for r in bundle.targets if r.target == target.name and precision in (None, r.precision)]
    if not rows:
        has = ", ".join(f"{r.target} ({r.precision})" for r in bundle.targets) or "none"
        wanted = f" --precision {precision}" if precision else ""
        raise BuildError(
            f"{bundle.path} has no graph for {target.name!r}{f' in {precision}' if precision else ''}, only {has}: "
            f"export it where torch is, rnn-export export SOURCE --target {target.name}{wanted}."
        )
    if len(rows) > 1:
        raise BuildError(
            f"{bundle.path} has {target.name!r} in {', '.join(r.precision for r in rows)}: say which, --precision P."
        )
    return rows[0]


def _file(row: TargetRow, name: str) -> str:
    found = [file for file in row.files if file.rsplit("/", 1)[-1] == name]
    if not found:
        raise BuildError(f"target {row.target!r} ({row.precision}) has no {name} in the bundle. Export it again.")
    return found[0]


def elsewhere(bundle: Bundle, target: Target, recipe: Recipe) -> str:
    """Why an engine of `target` cannot be built on this machine, and how it is; empty where it can."""
    if not target.jetpacks:
        return ""
    by_hand = (
        f"Copy {bundle.path.name}/{recipe.onnx} there and run, in its folder: {recipe.trtexec(bundle.spec)}"
        if not target.builds
        else f"Copy {bundle.path.name} there and run: rnn-export build {bundle.path.name} --target {target.name}"
    )
    board = jetson()
    here = None if board is None else target_of(board)
    if here != target.name:
        what = "no Jetson" if board is None else f"a {board.model}"
        return f"an engine for {target.name} is built on that module, and this is {what}. {by_hand}"
    if not target.builds:
        old = ", ".join(map(str, target.jetpacks))
        return f"{target.name} has JetPack {old}, whose Python is older than this toolkit needs. {by_hand}"
    return ""


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
    """The bundle as it will be."""

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


def _verified(
    bundle: Bundle, row: TargetRow, files: Mapping[str, bytes], progress: Callable[[str], None]
) -> ParityReport | None:
    """Hold the engine to the golden vectors; None where it was built ahead of the GPU that runs it."""
    ahead = isinstance(row.requires["compute_capability"], list)
    if ahead:
        try:
            gpus = driver().gpus
        except BackendUnavailable:
            return None
        computes = row.requires["compute_capability"]
        if computes and gpus[0].compute not in computes:
            return None
    engine = Engine.of(_Candidate(bundle, row, files), "tensorrt", row.precision)
    report = replay(engine, Golden.from_arrays(bundle.arrays(GOLDEN), bundle.spec), progress)
    report.raise_for_failure("The bundle is as it was.")
    return report
