"""Export an ONNX file that is already a step to a bundle: read, pair, lay out, write, verify, keep."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx

from rnn_export.bundle import Bundle, TargetRow
from rnn_export.bundle.draft import Draft
from rnn_export.contract.choices import Chunk, Precision
from rnn_export.contract.spec import TIME, StreamSpec
from rnn_export.errors import ExportError, SourceError
from rnn_export.export.from_onnx.boundary import digest_of, step_of
from rnn_export.export.from_onnx.file_verification import FileStep, verify_file
from rnn_export.export.from_onnx.layout import Layout, find_layout
from rnn_export.export.from_onnx.memory import restarting
from rnn_export.export.from_onnx.original import Original
from rnn_export.export.from_onnx.pairing import find_pairs
from rnn_export.export.from_onnx.ports import constants, declared_shapes, ports
from rnn_export.export.from_onnx.reading import Source, opset_of, read_source
from rnn_export.export.keeping import keep, with_evidence
from rnn_export.export.planning import (
    PORTABLE,
    Plan,
    check_calibration,
    check_chunk,
    check_counts,
    check_place,
    check_runtime,
    fitted,
    plan_of,
    tolerance_of,
)
from rnn_export.export.targets.base import StepWriter
from rnn_export.export.targets.registry import find_writer
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime import recording
from rnn_export.runtime.replay.figures import Accept

STATELESS = "no input is a state: every step stands for itself, and a stream remembers nothing"


@dataclass(frozen=True)
class Brought:
    """A file and its contract; `first` is one row of every state, `fixed` values of inputs that are no data."""

    source: Source
    original: Original
    fixed: Arrays
    layout: Layout
    first: Arrays
    spec: StreamSpec

    def step(self, meant: bool) -> tuple[bytes, list[str]]:
        """`step.onnx` and notes on its states; with `meant`, the user has said which these are."""
        step = step_of(self.source, self.layout, self.spec, self.fixed)
        notes = [f"state {p.input!r} comes back as {p.output!r}, {p.why}" for p in self.layout.pairs] or [STATELESS]
        return step, [*notes, *restarting(step, self.spec.chunk, meant=meant)]


def bring(
    source: Source,
    states: Mapping[str, str | None] | None,
    initial: Mapping[str, Any] | None,
    fixed: Mapping[str, Any] | None,
    shapes: Mapping[str, Sequence[int | str]] | None,
    sample_rate: int | None,
    chunk: Chunk,
) -> Brought:
    """The contract of `source`; raises SourceError where it is not clear, with the options that say it.

    If `chunk` is "auto", a step has the frames of the time axis if that is fixed in the file, or else one.
    """
    check_chunk(chunk)
    values = constants(source.model, fixed or {})
    original = Original(source, values)
    layout = _layout(source, original, values, states, shapes or {}, chunk)
    rate = _rate(source) if sample_rate is None else sample_rate
    first = _initial(layout, initial or {})
    spec = layout.spec(rate, [name for name, value in first.items() if value.any()])
    spec = replace(spec, digest=digest_of(spec, source, values, first))
    return Brought(source, original, values, layout, first, spec)


def export_onnx(
    file: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    states: Mapping[str, str | None] | None,
    initial: Mapping[str, Any] | None,
    fixed: Mapping[str, Any] | None,
    shapes: Mapping[str, Sequence[int | str]] | None,
    sample_rate: int | None,
    targets: Sequence[str],
    precision: Precision,
    state_precision: Precision | None,
    opset: int | None,
    batch: tuple[int, int, int] | None,
    chunk: Chunk,
    data: recording.Source | None,
    calibrate: recording.Source | None,
    steps: int,
    atol: float | None,
    rtol: float | None,
    accept: Accept | None,
    force: bool,
    report: bool,
    progress: Callable[[str], None],
) -> tuple[Bundle, list[str]]:
    """Export an ONNX file for `rnn_export.export.api.export`; see there for each argument."""
    check_place(Path(path), force)
    check_runtime()
    plan = plan_of(targets, precision, state_precision, opset, batch, Path(path))
    for target, _ in plan:
        if target.from_torch:
            raise ExportError(f"target {target.name!r} {target.from_torch}: {file} is none. Leave the target out.")
    check_counts(steps=steps, sample_rate=1 if sample_rate is None else sample_rate)
    check_calibration(calibrate, precision)
    tolerance = tolerance_of(precision, atol, rtol)
    progress("read")
    found = bring(read_source(file), states, initial, fixed, shapes, sample_rate, chunk)
    source, layout, spec, first = found.source, found.layout, found.spec, found.first
    plan, recorded = fitted(plan, spec, batch, data, calibrate)
    progress("graphs")
    step, notes = found.step(meant=states is not None)
    plan, draft = _draft(step, spec, first, plan, opset)
    draft = replace(draft, notes=notes)
    engines = [e for target, options in plan for e in find_writer(target.name).engines(draft, target, options)]
    truth = FileStep(found.original, layout, spec, first)
    proved, vectors = verify_file(
        truth, engines, draft.files["step.onnx"], recorded, steps, tolerance, progress, plan[0][1].precision, accept
    )
    kind = "noise" if recorded is None else "recording"
    draft, evidence = with_evidence(
        draft,
        plan,
        proved,
        vectors,
        progress,
        source=kind,
        assumptions=[],
        not_exercised=[],
        file=_file_facts(source, found.fixed),
    )
    progress("write")
    versions = {"onnx": onnx.__version__, "numpy": np.__version__}
    return keep(draft, evidence, path, force, versions, report)


def _layout(
    source: Source,
    original: Original,
    fixed: Arrays,
    states: Mapping[str, str | None] | None,
    shapes: Mapping[str, Sequence[int | str]],
    chunk: Chunk,
) -> Layout:
    taken = {name: port for name, port in ports(source.model.graph.input).items() if name not in fixed}
    given = ports(source.model.graph.output)
    declared = declared_shapes({**taken, **given}, shapes)
    # What is said of a shape tells an input from another as what the file says does.
    feeds, gives = (
        {n: replace(p, shape=declared.get(n, p.shape)) for n, p in named.items()} for named in (taken, given)
    )
    # A fixed axis that is said to be time has as many frames as a step.
    axes = chain(*(zip(port.shape or (), declared.get(name, ()), strict=False) for name, port in taken.items()))
    own = max((size for size, meant in axes if meant == TIME and isinstance(size, int)), default=1)
    frames = chunk if isinstance(chunk, int) else own
    return find_layout(taken, given, find_pairs(feeds, gives, states), declared, original, frames)


def _rate(source: Source) -> int | None:
    """The rate that sherpa-onnx and others write."""
    rate = source.metadata.get("sample_rate", "")
    return int(rate) if rate.isdigit() and int(rate) > 0 else None


def _initial(layout: Layout, values: Mapping[str, Any]) -> Arrays:
    """One row of every state in the layout of the contract; raises SourceError where one does not fit."""
    found = {}
    names = [pair.input for pair in layout.pairs]
    if unknown := sorted(set(values) - set(names)):
        raise SourceError(f"initial names {unknown}, but the states of the file are {names}.")
    for pair, placed in zip(layout.pairs, layout.states, strict=True):
        row = tuple(d for d in placed.shape if isinstance(d, int))
        value = np.asarray(values.get(pair.input, 0), placed.dtype)
        if value.ndim == len(placed.dims) and placed.batch is not None and value.shape[placed.batch] == 1:
            value = placed.from_file(value)[0]
        if value.shape not in ((), row):
            raise SourceError(f"initial[{pair.input!r}] has shape {value.shape}, but one row of the state has {row}.")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise SourceError(f"initial[{pair.input!r}] holds NaN or Inf.")
        found[pair.input] = np.broadcast_to(value, row).copy()
    return found


def _draft(step: bytes, spec: StreamSpec, initial: Arrays, plan: Plan, opset: int | None) -> tuple[Plan, Draft]:
    files: dict[str, bytes] = {}
    rows, done = [], []
    for target, options in plan:
        if target.name == PORTABLE and opset is None:
            options = replace(options, opset=opset_of(onnx.load_from_string(step)))
        writer = cast(StepWriter, find_writer(target.name))
        written = writer.from_step(step, spec, initial, target, options)
        done.append((target, options))
        requires = writer.requirements(target, options, spec, written)
        rows.append(TargetRow(target.name, options.precision, options.opset, tuple(written), requires))
        files |= written
    return done, Draft(spec, files, tuple(rows), initial)


def _file_facts(source: Source, fixed: Arrays) -> dict[str, Any]:
    """The evidence entry on the file itself."""
    return {
        "name": source.path.name,
        "sha256": hashlib.sha256(source.packed).hexdigest(),
        "opset": source.opset,
        "producer": source.producer,
        "fixed": {name: value.tolist() for name, value in fixed.items() if value.size <= 16},
    }
