"""Export an ONNX file that is already a step to a bundle: read, pair, lay out, write, verify, keep."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx

from rnn_export.bundle import Bundle, TargetRow
from rnn_export.bundle.draft import Draft
from rnn_export.contract.spec import TIME, StreamSpec
from rnn_export.errors import ExportError, SourceError
from rnn_export.export.export_options import ExportOptions
from rnn_export.export.from_onnx.boundary import digest_of, step_of
from rnn_export.export.from_onnx.file_verification import FileStep, verify_file
from rnn_export.export.from_onnx.layout import Layout, find_layout
from rnn_export.export.from_onnx.memory import restarting
from rnn_export.export.from_onnx.original import Original
from rnn_export.export.from_onnx.pairing import find_pairs
from rnn_export.export.from_onnx.ports import constants, declared_shapes, ports
from rnn_export.export.from_onnx.reading import Source, opset_of, read_source
from rnn_export.export.keeping import keep, with_evidence
from rnn_export.export.planning import PORTABLE, Plan, check_place, check_runtime, fitted, plan_of
from rnn_export.export.targets.base import StepWriter
from rnn_export.export.targets.registry import find_writer
from rnn_export.platform.arrays import Arrays

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


def bring(source: Source, options: ExportOptions) -> Brought:
    """The contract of `source`; raises SourceError where it is not clear, with the options that say it.

    If the chunk is "auto", a step has the frames of the time axis if that is fixed in the file, or else one.
    """
    values = constants(source.model, options.fixed or {})
    original = Original(source, values)
    layout = _layout(source, original, values, options)
    rate = _rate(source) if options.sample_rate is None else options.sample_rate
    first = _initial(layout, options.initial or {})
    spec = layout.spec(rate, [name for name, value in first.items() if value.any()])
    spec = replace(spec, digest=digest_of(spec, source, values, first))
    return Brought(source, original, values, layout, first, spec)


def export_onnx(
    file: str | os.PathLike[str], path: str | os.PathLike[str], options: ExportOptions
) -> tuple[Bundle, list[str]]:
    """Export an ONNX file for `rnn_export.export.api.export`, with notes; see there."""
    progress = options.progress
    check_place(Path(path), options.force)
    check_runtime()
    plan = plan_of(options, Path(path))
    for target, _ in plan:
        if target.from_torch:
            raise ExportError(
                f"target {target.name!r} {target.from_torch}: {file} is none. Leave the target out.",
                id="target-needs-module",
            )
    progress("read")
    found = bring(read_source(file), options)
    source, layout, spec, first = found.source, found.layout, found.spec, found.first
    plan, recorded = fitted(plan, spec, options)
    progress("graphs")
    step, notes = found.step(meant=options.states is not None)
    plan, draft = _draft(step, spec, first, plan, options.opset)
    draft = replace(draft, notes=notes)
    engines = [e for target, order in plan for e in find_writer(target.name).engines(draft, target, order)]
    truth, portable = FileStep(found.original, layout, spec, first), draft.files["step.onnx"]
    precision = plan[0][1].precision
    proved, vectors = verify_file(
        truth, engines, portable, recorded, options.steps, options.tolerance, progress, precision, options.accept
    )
    draft, evidence = with_evidence(
        draft, plan, proved, vectors, progress, source="noise" if recorded is None else "recording",
        assumptions=[], not_exercised=[], file=_file_facts(source, found.fixed),
    )  # fmt: skip
    progress("write")
    versions = {"onnx": onnx.__version__, "numpy": np.__version__}
    return keep(draft, evidence, path, options.force, versions, options.report)


def _layout(source: Source, original: Original, fixed: Arrays, options: ExportOptions) -> Layout:
    taken = {name: port for name, port in ports(source.model.graph.input).items() if name not in fixed}
    given = ports(source.model.graph.output)
    declared = declared_shapes({**taken, **given}, options.shapes or {})
    # What is said of a shape tells an input from another as what the file says does.
    feeds, gives = (
        {n: replace(p, shape=declared.get(n, p.shape)) for n, p in named.items()} for named in (taken, given)
    )
    # A fixed axis that is said to be time has as many frames as a step.
    axes = chain(*(zip(port.shape or (), declared.get(name, ()), strict=False) for name, port in taken.items()))
    own = max((size for size, meant in axes if meant == TIME and isinstance(size, int)), default=1)
    frames = own if options.chunk == "auto" else options.chunk
    states = cast("Mapping[str, str | None] | None", options.states)
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
        raise SourceError(
            f"initial names {unknown}, but the states of the file are {names}.", id="onnx-initial-unknown"
        )
    for pair, placed in zip(layout.pairs, layout.states, strict=True):
        row = tuple(d for d in placed.shape if isinstance(d, int))
        value = np.asarray(values.get(pair.input, 0), placed.dtype)
        if value.ndim == len(placed.dims) and placed.batch is not None and value.shape[placed.batch] == 1:
            value = placed.from_file(value)[0]
        if value.shape not in ((), row):
            raise SourceError(
                f"initial[{pair.input!r}] has shape {value.shape}, but one row of the state has {row}.",
                id="onnx-initial-shape",
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise SourceError(f"initial[{pair.input!r}] holds NaN or Inf.", id="onnx-initial-nan")
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
