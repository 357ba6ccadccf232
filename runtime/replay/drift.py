"""How far two runs of one stream are apart, step by step, and whether that is within the tolerance."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import ParityError
from rnn_export.precision import Tolerance

CURVE_POINTS = 32


@dataclass(frozen=True)
class Drift:
    """One tensor in one check: the largest absolute `error`, and the largest one over the scale of its step.

    Both are Inf where a value is no number. `step` is the first step (counted from 1) outside the tolerance, or None;
    `curve` is pairs (step, largest relative error so far).
    """

    check: str
    tensor: str
    error: float
    relative: float
    scale: float
    step: int | None
    curve: tuple[tuple[int, float], ...]


def drift(check: str, tensor: str, got: Array, want: Array, steps: Array | range, tolerance: Tolerance) -> Drift:
    """Compare (rows, steps, ...) with (rows, steps, ...); `steps` numbers axis 1. A NaN or Inf is always outside."""
    if got.shape != want.shape:
        return Drift(check, tensor, float("inf"), float("inf"), 0.0, 1, ())
    if not got.size:
        return Drift(check, tensor, 0.0, 0.0, 0.0, None, ())
    axes = (0, *range(2, want.ndim))
    wanted, given = want.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.nan_to_num(np.abs(given - wanted), nan=np.inf, posinf=np.inf).max(axis=axes)
        scale = np.maximum.accumulate(np.nan_to_num(np.abs(wanted).max(axis=axes), nan=0.0, posinf=0.0))
        relative = error / np.maximum(scale, np.finfo(np.float32).tiny)
    exact = want.dtype.kind != "f"
    outside = error > (0 if exact else tolerance.atol + tolerance.rtol * scale)
    first = int(steps[int(np.argmax(outside))]) if outside.any() else None
    so_far = np.maximum.accumulate(relative)
    points = np.unique(np.linspace(0, len(steps) - 1, CURVE_POINTS).round().astype(int))
    curve = tuple((int(steps[i]), float(so_far[i])) for i in points)
    return Drift(check, tensor, float(error.max()), float(so_far[-1]), float(scale[-1]), first, curve)


@dataclass(frozen=True)
class ParityReport:
    """Every check on every tensor, on one backend."""

    backend: str
    device: str
    frames: int
    rows: int
    tolerance: Tolerance
    drifts: tuple[Drift, ...]

    @property
    def ok(self) -> bool:
        return all(d.step is None for d in self.drifts)

    def checks(self) -> list[tuple[str, Drift]]:
        """Each check with the worst of its tensors."""
        names = list(dict.fromkeys(d.check for d in self.drifts))
        return [(n, max((d for d in self.drifts if d.check == n), key=lambda d: d.relative)) for n in names]

    def to_json(self) -> dict[str, Any]:
        """Plain data for strict JSON: an error that is no number is null."""
        return {**_strict(asdict(self)), "ok": self.ok}

    def raise_for_failure(self, consequence: str) -> None:
        """Raise ParityError that names the first step and tensor outside the tolerance, and what follows."""
        failed = [d for d in self.drifts if d.step is not None]
        if not failed:
            return
        order = [name for name, _ in self.checks()]
        first = min(failed, key=lambda d: (order.index(d.check), d.step or 0))
        allowed = f"{self.tolerance.atol:g} + {self.tolerance.rtol:g} x {first.scale:.3g}"
        others = ", ".join(sorted({f"{d.check} {d.tensor}" for d in failed} - {f"{first.check} {first.tensor}"}))
        raise ParityError(
            f"on {self.backend} the check {first.check!r} diverges from the model: {first.tensor!r} is first outside "
            f"the tolerance at step {first.step} of {self.frames}; the largest error is {first.error:.3g} where "
            f"{allowed} is allowed. {f'Outside too: {others}. ' if others else ''}{consequence}"
        )


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
