"""A parity report as plain data, in the form of `ParityReport.to_json`; a stranger may have written it."""

import math
from collections.abc import Mapping
from typing import Any

# Kinds of input on which a model must give numbers; what it gives NaN on otherwise is beyond it.
ORDINARY = ("noise", "recording")
# No error that is allowed is larger.
LARGEST = 1e3
# Of what the step as torch computes it was held to, and what is no engine.
LIFTED, REFERENCE = "lifted", "onnx.reference"


def is_report(data: Any) -> bool:
    """True if `data` has the form of `ParityReport.to_json`, as far as a reader shows it."""
    if not isinstance(data, dict):
        return False
    texts = all(isinstance(data.get(key), str) for key in ("backend", "device"))
    counts = all(type(data.get(key)) is int for key in ("frames", "rows"))
    drifts, kinds, sides = data.get("drifts"), data.get("not_judged", {}), data.get("not_exercised", [])
    counts = counts and (data.get("steps") is None or type(data["steps"]) is int)
    notes = data.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        return False
    if not (texts and counts and isinstance(drifts, list) and isinstance(kinds, dict) and isinstance(sides, list)):
        return False
    figures = data.get("figures", {})
    if not isinstance(figures, dict) or not _are(figures, float | int | None, *figures):
        return False
    if not all(isinstance(why, str) for why in kinds.values()):
        return False
    named = all(isinstance(side, dict) and _are(side, str, "op", "place", "never") for side in sides)
    return named and all(isinstance(drift, dict) and _is_drift(drift) for drift in drifts)


def extent(report: Mapping[str, Any]) -> str:
    """The extent of a report: "256 steps of 160 frames"."""
    frames = int(report["frames"])
    # Whole sequences have no steps, and reports of 0.1.0 do not say them.
    steps = int(report.get("steps") or 0)
    if not steps:
        return f"{frames} frames"
    return f"{steps} steps" if steps == frames else f"{steps} steps of {frames // steps} frames"


def golden_alone(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without the trials: of each check the comparisons of ordinary input over the most steps."""
    ordinary = [(drift, curve_of(drift)) for drift in report["drifts"] if drift.get("kind", "") in ("", *ORDINARY)]
    steps: dict[str, int] = {}
    for drift, curve in ordinary:
        steps[drift["check"]] = max(steps.get(drift["check"], 0), curve[-1][0] if curve else 0)
    long = [drift for drift, curve in ordinary if curve and curve[-1][0] == steps[drift["check"]]]
    return {**report, "drifts": long}


def worst_of_checks(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each check by the worst of its tensors, its errors as numbers: Inf is null in JSON."""
    found: dict[str, dict[str, Any]] = {}
    for given in report["drifts"]:
        drift = {"kind": "", **given, **{k: math.inf for k in ("error", "relative") if given[k] is None}}
        best = found.get(drift["check"])
        if best is None or _badness(drift) > _badness(best):
            found[drift["check"]] = drift
    return [*found.values()]


def verdict_of(report: Mapping[str, Any]) -> str:
    """One line of a report that is ok: its checks, its extent, and the value that comes closest to its limit."""
    found = [pair for drift in report["drifts"] if (pair := drift.get("closest")) and None not in pair and pair[1] > 0]
    checks = len({drift["check"] for drift in report["drifts"]})
    line = f"verified: {'1 check' if checks == 1 else f'{checks} checks'} over {extent(report)}"
    if not found:
        return line
    error, allowed = max(found, key=lambda pair: pair[0] / pair[1])
    return f"{line}, worst {error:.1e} of {allowed:.1e} allowed" if error else f"{line}, every value equal"


def curve_of(drift: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Pairs (step, largest relative error so far), those that are such; an error that is no number is Inf."""
    curve = drift.get("curve")
    pairs = [p for p in curve if isinstance(p, list | tuple) and len(p) == 2] if isinstance(curve, list | tuple) else []
    numbers = [(step, math.inf if error is None else error) for step, error in pairs]
    return [(s, float(e)) for s, e in numbers if type(s) is int and isinstance(e, float | int)]


def tolerance_of(report: Mapping[str, Any]) -> tuple[float, float] | None:
    """`atol` and `rtol`, None where the report does not say them."""
    given = report.get("tolerance")
    if not isinstance(given, dict) or not _are(given, float | int, "atol", "rtol"):
        return None
    return float(given["atol"]), float(given["rtol"])


def allowed_of(report: Mapping[str, Any], drift: Mapping[str, Any]) -> float | None:
    """The relative error that is allowed where the tensor of `drift` is at its largest; None where it is unknown."""
    tolerance, scale = tolerance_of(report), drift.get("scale")
    if tolerance is None or not isinstance(scale, float | int) or not scale > 0:
        return None
    return min(tolerance[1] + tolerance[0] / scale, LARGEST)


def groups_of(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """By driven object (a backend, the lifted step, the reference) the worst drift of each check."""
    backends = [*filter(None, report["backend"].split(", "))] or ["?"]
    found: dict[str, list[dict[str, Any]]] = {}
    for drift in worst_of_checks(report):
        check = drift["check"]
        of = next((b for b in backends if check.startswith(f"{b}.")), None)
        if of is not None and check != REFERENCE:
            drift = {**drift, "check": check[len(of) + 1 :]}
        elif check in (LIFTED, REFERENCE) or len(backends) > 1:
            of = check
        found.setdefault(of or backends[0], []).append(drift)
    return found


def _badness(drift: Mapping[str, Any]) -> tuple[bool, float]:
    return drift["step"] is not None, drift["relative"]


def _is_drift(drift: dict[str, Any]) -> bool:
    numbers = _are(drift, int | None, "step") and _are(drift, float | int | None, "relative", "error")
    return numbers and _are({"kind": "", **drift}, str, "check", "tensor", "kind")


def _are(data: dict[str, Any], kind: Any, *keys: str) -> bool:
    return all(key in data and isinstance(data[key], kind) and not isinstance(data[key], bool) for key in keys)
