"""Features of an architecture, counted by the survey."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from rnn_export.contract.spec import StreamSpec

from .plans import Plan
from .sketches import Sketch

# By kind of part.
PARTS = {
    "recurrent layer": ("Layer", "Ours", "DualPath"),
    "loop": ("Loop", "Squelch", "Limiter", "Hold", "Alarm", "Integrator", "Average", "Difference", "Ring"),
    "causal convolution": ("Causal", "Separable", "Spectral", "TokenShift"),
    "valid convolution": ("Valid",),
    "threshold": ("Gate", "Limit", "Detector", "Latch"),
    "scan": ("Running", "Scan", "Latch"),
    "positions": ("Positions",),
    "look-ahead": ("Centred", "EvenSame", "Following", "CentredPool", "StridedAhead"),
    "mirror": ("Mirrored",),
    "last window": ("LastWindow",),
    "resized": ("Resized",),
    "stride": ("Strided", "Pool", "StridedAhead", "LastWindow", "Between"),
    "more frames": ("Up", "Between"),
    "attention": ("Band",),
    "spectrum": ("Spectrum", "Denoiser"),
    "overlap-add": ("Overlapped", "Denoiser"),
    "kept state": ("BufferedLayer",),
}
# By how its user calls it.
PLANS = {
    "frame by frame": lambda plan: plan.way == "frames",
    "declared state": lambda plan: plan.way == "declared",
    "several inputs": lambda plan: bool(plan.other),
    "rates that differ": lambda plan: plan.outputs in ("faster", "slower"),
    "chunk": lambda plan: plan.chunk > plan.unit,
    "packed states": lambda plan: plan.packed,
}


def features(plan: Plan) -> list[str]:
    """By PARTS and PLANS."""
    kinds = plan.kinds | set(_reflecting(plan))
    of_parts = (name for name, of in PARTS.items() if kinds & set(of))
    return [*of_parts, *(name for name, has in PLANS.items() if has(plan))]


def _reflecting(plan: Plan) -> Iterator[str]:
    """A centred spectrum reflects its signal."""
    if any(_centred(inner) for sketch in plan.body for inner in sketch.all()):
        yield "Mirrored"


def _centred(sketch: Sketch) -> bool:
    return sketch.kind == "Denoiser" or (sketch.kind == "Spectrum" and sketch.options["centred"])


def measured(spec: StreamSpec) -> list[str]:
    """Those of the contract."""
    other = any(spec.timed(t) and t.rate != Fraction(1) for t in spec.outputs)
    return [*(["tail"] if spec.tail else []), *(["delay"] if spec.delay else []), *(["another rate"] if other else [])]
