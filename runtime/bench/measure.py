"""A bench of a bundle, from opening it to plain data for a table, JSON or a picture."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from rnn_export.bundle import Bundle, open_bundle
from rnn_export.contract.precision import PRECISIONS
from rnn_export.errors import BackendUnavailable, StreamError
from rnn_export.platform.threads import no_collections
from rnn_export.runtime.bench.allocations import count_all, python_blocks_kept
from rnn_export.runtime.bench.candidates import BASELINE, Runner, candidates, runners
from rnn_export.runtime.bench.limit import Limit, Reader
from rnn_export.runtime.bench.this_machine import Sweep, describe, pinned, preemptions
from rnn_export.runtime.bench.timing import Stopwatch, cold, in_turn, percentiles, rounds_of

SECONDS = 2.0
LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt", "tensorrt-rtx-cu12")

Progress = Callable[[str], None]


def bench(
    path: str | os.PathLike[str],
    backends: Sequence[str] = (),
    steps: int | None = None,
    seconds: float = SECONDS,
    core: int | None = None,
    progress: Progress = lambda stage: None,
    trust: bool = False,
) -> dict[str, Any]:
    """Time a step of every engine of a bundle that runs here, in turn, on one core; times are in µs.

    Args:
        path: the bundle.
        backends: only these; ONNX Runtime's own `run` is timed in any case, where it is here.
        steps: calls of each engine; None is as many as fit into `seconds`.
        seconds: of each engine, once with warm and once with cold caches.
        core: its number; None is the last that this process may use.
        progress: called with the name of each stage.
        trust: time code of the bundle unchecked, as `load` says.

    Raises BundleError, StreamError where the bundle has no step, BackendUnavailable where nothing of it runs here, and
    ParityError where an engine does not do what the model does: it is not timed then, and neither is any other.
    """
    bundle = open_bundle(path)
    if bundle.spec.sequence_only:
        raise StreamError(
            f"{path} takes whole sequences only: it has no step that could be timed.", id="no-step-to-time"
        )
    candidates(bundle, backends)
    with pinned(core) as chosen, no_collections():
        machine = {**describe(chosen), "libraries": dict(_versions())}
        progress("open and verify")
        found, skipped = runners(bundle, backends, trust=trust)
        progress("read limit")
        reader, limits, missing = _limits(bundle, found)
        progress("warm caches")
        watches = [Stopwatch(r.subject, seconds, steps) for r in found]
        before = preemptions()
        in_turn([*(w.block for w in watches), *(limit.block for limit in limits.values())], rounds_of(steps))
        preempted = preemptions() - before
        progress("cold caches")
        sweep = Sweep(machine["caches"])
        chilled = cold([r.subject for r in found], sweep, seconds)
        progress("allocations")
        try:
            counted, uncounted = count_all(bundle.path, chosen, backends, trust), None
        except BackendUnavailable as error:
            counted, uncounted = {}, f"not counted: {error}"
        kept = [python_blocks_kept(r.subject) for r in found]
    measured = zip(found, watches, chilled, kept, strict=True)
    rows = [_row(r, w, c, k, counted.get(r.subject.name)) for r, w, c, k in measured]
    _compare(rows, limits)
    return {
        "bundle": str(path),
        # Of which model, and of which state of its bundle.
        "digest": bundle.spec.digest,
        "manifest": hashlib.sha256(bundle.raw).hexdigest(),
        "frames_a_step": bundle.spec.chunk,
        "machine": machine,
        "preempted": preempted,
        "engines": rows,
        "limits": [
            {"precision": p, "bytes": v.nbytes, "bytes_per_second": v.bandwidth, "us": v.us} for p, v in limits.items()
        ],
        "limit_compiled": reader.compiled if reader else None,
        "limit_missing": missing,
        "allocations_missing": uncounted,
        "swept_bytes": sweep.bytes,
        "skipped": skipped,
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in LIBRARIES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _limits(bundle: Bundle, found: Sequence[Runner]) -> tuple[Reader | None, dict[str, Limit], str | None]:
    """Limits by precision on the CPU; and the reason for none."""
    if bundle.weights is None:
        return None, {}, "not measured: the bundle does not say how many weights a step reads"
    if not bundle.weights:
        return None, {}, "not measured: the step has no weights"
    precisions = dict.fromkeys(str(r.candidate.precision) for r in found if r.device == "cpu")
    try:
        reader = Reader()
        sizes = {p: bundle.weights * PRECISIONS[p].bits // 8 for p in precisions if p in PRECISIONS}
        return reader, {p: Limit(reader, size) for p, size in sizes.items()}, None
    except BackendUnavailable as error:
        return None, {}, f"not measured: {error}"


def _row(found: Runner, watch: Stopwatch, chilled: float, kept: float, allocations: float | None) -> dict[str, Any]:
    samples = watch.samples
    return {
        "name": found.subject.name,
        "backend": found.candidate.backend,
        "target": found.candidate.target,
        "precision": found.candidate.precision,
        "device": found.device,
        "rows": found.rows,
        "error": found.error,
        **percentiles(samples),
        "mean": float(samples.mean()),
        "steps_per_second": 1e6 / max(float(np.median(samples)), 1e-9),
        "cold": chilled,
        "allocations": allocations,
        "python_blocks_kept": kept,
        "steps": len(samples) * watch.group,
        "steps_a_sample": watch.group,
        "clock": watch.overhead / 1e3,
    }


def _compare(rows: Sequence[dict[str, Any]], limits: dict[str, Limit]) -> None:
    """Add each row's speed relative to ONNX Runtime's own run and its time relative to the limit; else None."""
    baseline = next((row["p50"] for row in rows if row["name"] == BASELINE), None)
    for row in rows:
        limit = limits.get(row["precision"]) if row["device"] == "cpu" else None
        row["times_as_fast"] = baseline / row["p50"] if baseline and row["p50"] else None
        row["times_the_limit"] = row["p50"] / limit.us if limit else None
