"""What of a bundle can be timed on this machine: opened, and held to the golden vectors."""

from __future__ import annotations

from collections.abc import Sequence

from rnn_export.bundle import Bundle
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime.bench.candidates import (
    BASELINE,
    Candidate,
    OrtBaseline,
    Runner,
    candidates,
    open_engine,
    runner,
    verified,
)
from rnn_export.runtime.replay.golden import FILE, Golden


def runners(
    bundle: Bundle, backends: Sequence[str], verify: bool = True
) -> tuple[list[Runner], list[dict[str, str | None]]]:
    """What can be timed here, ONNX Runtime's own run at the end, and what cannot, with the reason."""
    golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
    found, skipped = [], []
    for candidate in candidates(bundle, backends):
        try:
            engine = open_engine(bundle, candidate)
        except BackendUnavailable as error:
            skipped.append({"backend": candidate.backend, "precision": candidate.precision, "reason": str(error)})
            continue
        name = _name(candidate)
        off = verified(engine, golden, name) if verify else 0.0
        found.append(runner(engine, candidate, golden, name, off))
    if not found:
        reasons = "".join(f"\n  {s['backend']}: {s['reason']}" for s in skipped)
        raise BackendUnavailable(f"nothing of {bundle.path} can be timed here.{reasons or ' It has no target to run.'}")
    for candidate in candidates(bundle, ["onnxruntime"])[:1]:
        try:
            baseline = OrtBaseline(bundle, candidate, golden)
        except BackendUnavailable as error:
            skipped.append({"backend": BASELINE, "precision": candidate.precision, "reason": str(error)})
            continue
        found.append(baseline.runner(candidate, baseline.verified() if verify else 0.0))
    return found, skipped


def _name(candidate: Candidate) -> str:
    return f"{candidate.target if candidate.backend == 'tensorrt' else candidate.backend} {candidate.precision}"
