"""The drift between two runs of one stream, step by step, and its check against the tolerance."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rnn_export.contract.html_tables import parity_table
from rnn_export.contract.parity_json import ORDINARY
from rnn_export.contract.precision import Tolerance
from rnn_export.errors import ParityError
from rnn_export.platform.arrays import Array

CURVE_POINTS = 32
# Entries that are compared at once.
BLOCK = 2**19
TINY = float(np.finfo(np.float32).tiny)
# How many times what is allowed an error is, at least, that is not within it.
BEYOND = float(np.nextafter(1.0, 2.0))


@dataclass(frozen=True)
class Drift:
    """One tensor in one check: the largest absolute `error`, and the largest one over the scale of its row so far.

    Both are Inf where a value is no number. `step` is the first step (counted from 1) outside the tolerance, or None:
    then error and `scale` are of the value that is furthest outside. `curve` is pairs (step, largest relative error so
    far). A step has `chunk` frames; of whole sequences a frame stands for it. `kind` is the kind of input of the row
    that is the worst, "" where rows have none. `closest` is the absolute error of the value that comes closest to the
    allowed error, or is furthest beyond it, and the allowed error there.
    """

    check: str
    tensor: str
    error: float
    relative: float
    scale: float
    step: int | None
    curve: tuple[tuple[int, float], ...]
    kind: str = ""
    closest: tuple[float, float] = (0.0, 0.0)


def drift(
    check: str,
    tensor: str,
    got: Array,
    want: Array,
    steps: Array | range,
    tolerance: Tolerance,
    kinds: Sequence[str] = (),
    scales: Array | None = None,
    by_row: bool = True,
) -> Drift:
    """Compare (rows, values, ...) with (rows, values, ...); `steps` says in which step each of axis 1 is.

    Each row is held to its own running scale, the largest magnitude that it had so far, or each entry of a frame to its
    own where not `by_row`; or to `scales` (rows, values, ...) where that is larger. Infinities must be the same. A NaN
    is outside; from where `want` has one, a row of a kind that is not ordinary is beyond the model and not compared.
    """
    if got.shape != want.shape:
        return Drift(check, tensor, float("inf"), float("inf"), 0.0, 1, ())
    if not got.size:
        return Drift(check, tensor, 0.0, 0.0, 0.0, None, ())
    shape = (*want.shape[:2], -1)
    wanted, given, no_more = want.reshape(shape), got.reshape(shape), beyond(want, kinds)
    blocks = _blocks(wanted)
    of_row = np.maximum.accumulate(np.concatenate([_size(wanted[:, b]).max(2, keepdims=True) for b in blocks], 1), 1)
    known = None if scales is None else scales.reshape(shape)
    own = of_row if by_row else np.maximum.accumulate(_size(wanted), 1)
    scale = own if known is None else np.maximum(own, known)
    # Where a whole number hangs on the last bits of what it was computed from, there is no right one.
    sure = np.where(0.0 if known is None else known > 0, np.inf, 0.0)
    allowed = np.broadcast_to(sure, scale.shape) if want.dtype.kind != "f" else tolerance.atol + tolerance.rtol * scale

    def judged(part: slice) -> tuple[Array, Array]:
        """The error of each entry, and its ratio to the allowed one."""
        error, limit = _error(given[:, part], wanted[:, part]), allowed[:, part]
        error[no_more[:, part]] = 0.0
        with np.errstate(invalid="ignore", over="ignore"):
            # Of limits below the least float the quotient may be on the wrong side of 1.
            share = np.nan_to_num(error / np.maximum(limit, TINY), nan=0.0, posinf=np.inf)
            return error, np.where(error > limit, np.maximum(share, BEYOND), np.minimum(share, 1.0))

    parts = [tuple(a.max(2) for a in judged(block)) for block in blocks]
    error, share = (np.concatenate(found, 1) for found in zip(*parts, strict=True))
    closest = _closest(share, allowed, judged)
    excess = np.where(share > 1, share, 0.0)
    with np.errstate(over="ignore"):
        relative = error / np.maximum(of_row[:, :, 0], TINY)
    so_far = np.maximum.accumulate(relative.max(0))
    points = np.unique(np.linspace(0, len(steps) - 1, CURVE_POINTS).round().astype(int))
    curve = tuple({int(steps[i]): float(so_far[i]) for i in points}.items())
    first, row = None, int(relative.max(1).argmax())
    worst, largest = float(error.max()), float(of_row[row, -1, 0])
    if excess.any():
        first = int(excess.any(0).argmax())
        row = int(excess[:, first].argmax())
        at = int(excess[row].argmax())
        entries, times = (a[row, 0] for a in judged(slice(at, at + 1)))
        entry = int(times.argmax())
        worst, largest = (
            float(entries[entry]),
            float(of_row[row, -1, 0] if known is None and by_row else scale[row, at, entry]),
        )
    step = None if first is None else int(steps[first])
    kind = kinds[row] if kinds else ""
    return Drift(check, tensor, worst, float(so_far[-1]), largest, step, curve, kind, closest)


def _closest(share: Array, allowed: Array, judged: Callable[[slice], tuple[Array, Array]]) -> tuple[float, float]:
    """Error and allowance of the entry with the largest share of it; `share` has that of each row and step."""
    row, at = np.unravel_index(int(share.argmax()), share.shape)
    errors, shares = (a[row, 0] for a in judged(slice(at, at + 1)))
    entry = int(shares.argmax())
    limits = np.broadcast_to(allowed[row, at], errors.shape)
    return float(errors[entry]), float(limits[entry])


def _blocks(values: Array) -> list[slice]:
    """Segments of axis 1: a comparison in float64 takes many times the memory of the values."""
    size = max(1, BLOCK // values[:, 0].size)
    return [slice(start, start + size) for start in range(0, values.shape[1], size)]


def _size(values: Array) -> Array:
    """Magnitudes, 0 where a value is not finite."""
    values = values.astype(np.float64)
    return np.where(np.isfinite(values), np.abs(values), 0.0)


def _error(given: Array, wanted: Array) -> Array:
    """Inf where a value is no number, or infinite and not the same."""
    given, wanted = given.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.nan_to_num(np.where(given == wanted, 0.0, np.abs(given - wanted)), nan=np.inf, posinf=np.inf)


def beyond(want: Array, kinds: Sequence[str]) -> Array:
    """The mask (rows, steps) of NaN in the model's values up to each step, in rows of inputs that are not ordinary."""
    if not kinds or want.dtype.kind != "f":
        return np.zeros(want.shape[:2], bool)
    nan = np.asarray(np.isnan(want).any(tuple(range(2, want.ndim))))
    unusual: Array = np.array([kind not in ORDINARY for kind in kinds])
    return np.asarray(np.logical_or.accumulate(nan, 1) & unusual[:, None])


@dataclass(frozen=True)
class ParityReport:
    """Every check on every tensor, on one backend.

    Attributes:
        frames, rows: of the vectors of ordinary input.
        not_judged: the reason, by kind of input not judged.
        steps: those frames in steps; None of whole sequences.
        figures: the task's own, by name, where they were asked for.
    """

    backend: str
    device: str
    frames: int
    rows: int
    tolerance: Tolerance
    drifts: tuple[Drift, ...]
    not_judged: Mapping[str, str] = field(default_factory=dict)
    steps: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return all(d.step is None for d in self.drifts)

    def checks(self) -> list[tuple[str, Drift]]:
        """Each check with the worst of its tensors."""
        names = list(dict.fromkeys(d.check for d in self.drifts))
        return [(n, max((d for d in self.drifts if d.check == n), key=_badness)) for n in names]

    def to_json(self) -> dict[str, Any]:
        """Plain data for strict JSON: an error that is no number is null."""
        return {**_strict(asdict(self)), "ok": self.ok}

    def __repr__(self) -> str:
        failed = [name for name, worst in self.checks() if worst.step is not None]
        verdict = f"outside the tolerance: {', '.join(failed)}" if failed else f"{len(self.checks())} checks ok"
        worst = max((d.relative for d in self.drifts), default=0.0)
        return f"<ParityReport on {self.backend} ({self.device}), {verdict}, largest relative error {worst:.1e}>"

    def _repr_html_(self) -> str:
        return parity_table(self.to_json())

    def raise_for_failure(self, consequence: str) -> None:
        """Raise ParityError with the first step and tensor outside the tolerance, and `consequence`."""
        failed = [d for d in self.drifts if d.step is not None]
        if not failed:
            return
        order = [name for name, _ in self.checks()]
        first = min(failed, key=lambda d: (order.index(d.check), d.step or 0))
        allowed = f"{self.tolerance.atol:g} + {self.tolerance.rtol:g} x {first.scale:.3g}"
        end = first.curve[-1][0] if first.curve else self.steps or self.frames
        unit = "frame" if self.steps is None else "step"
        kind = f" on {first.kind}" if first.kind not in ("", *ORDINARY) else ""
        others = ", ".join(sorted({f"{d.check} {d.tensor}" for d in failed} - {f"{first.check} {first.tensor}"}))
        raise ParityError(
            f"on {self.backend} the check {first.check!r} diverges from the model: {first.tensor!r} is first outside "
            f"the tolerance at {unit} {first.step} of {end}{kind}; the largest error is {first.error:.3g} where "
            f"{allowed} is allowed. {f'Outside too: {others}. ' if others else ''}{consequence}",
            id="parity-diverges",
        )


def _badness(drift: Drift) -> tuple[bool, float]:
    return drift.step is not None, drift.relative


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
