"""Verification of a bundle: each backend's checks, their worst tensors and their drift."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnn_export.contract.parity_json import (
    LIFTED,
    REFERENCE,
    allowed_of,
    extent,
    golden_alone,
    groups_of,
    is_report,
    tolerance_of,
)
from rnn_export.page.drift_chart import drift_chart
from rnn_export.platform.markup import Html, code, element, joined, table

# Of all tensors, how many are listed; parity.json has the rest.
MOST, GROUPS = 300, 24
COLUMNS = ("check", "worst tensor", "error", "allowed")
MEANING = {
    "step": "frame by frame",
    "sequence": "all frames in one run",
    "chunked": "random pieces, in an array of NaN",
    "reset": "a reset in mid-stream",
    "snapshot": "a snapshot in mid-stream",
    "batch-invariance": "each row alone as in a batch",
    "pool": "streams in another order each round",
    "end": "what the end of a sequence gives",
    "pool end": "the same, of streams of a pool",
    LIFTED: "the step in torch, before any export",
    REFERENCE: "ONNX's reference evaluator, first frames",
}
TRUTHS = {True: "ONNX Runtime on the file itself", False: "the PyTorch model itself"}
OF_THE_SCALE = (
    "An error is relative to the largest magnitude that its tensor had so far. The curves are of the golden vectors, "
    "the worst check in blue; the tables are of the trials too. What is allowed is the tolerance where the tensor is "
    "at its largest: where it is smaller, atol allows more, and what the model itself rounds more, or a trial, is held "
    "to a scale of its own."
)


def checks_section(evidence: Mapping[str, Any] | None) -> Iterator[Html]:
    """The paragraphs, charts and tables of parity.json."""
    if evidence is None:
        yield element("p", "The bundle has no report of a verification that could be read: nothing here is proven.")
        return
    yield element("p", *_evidence(evidence))
    yield element("p", OF_THE_SCALE, class_="soft")
    curves = groups_of(golden_alone(evidence))
    groups = groups_of(evidence)
    for name, drifts in [*groups.items()][:GROUPS]:
        chart = drift_chart(name, curves.get(name, ()), evidence)
        figure = None if chart is None else element("figure", chart)
        listed = table(COLUMNS, [_row(evidence, drift) for drift in drifts[:GROUPS]], "tight")
        yield element("h3", name)
        yield element("div", figure, listed, class_="group" if figure else None)
    if len(groups) > GROUPS or any(len(drifts) > GROUPS for drifts in groups.values()):
        yield element("p", f"Of backends, and of the checks of one, {GROUPS} are shown; parity.json has the rest.")
    yield _all_tensors(evidence["drifts"])
    for report in _others(evidence.get("fp16_accumulate")):
        yield element("h3", f"{report['backend']}: shown, and held to nothing")
        rows = [_row(report, drift) for drifts in groups_of(report).values() for drift in drifts]
        yield table(COLUMNS, rows, "tight")
    if figures := evidence.get("figures"):
        rows = [(name, "not finite" if value is None else f"{value:.6g}") for name, value in figures.items()]
        yield element("h3", "The task's own figures")
        yield table(("figure", "value"), rows)


def error_text(error: float | None) -> str:
    return "not a number" if error is None or math.isinf(error) else "0" if error == 0 else f"{error:.1e}"


def _evidence(evidence: Mapping[str, Any]) -> Iterator[object]:
    source = evidence.get("source")
    of = f" of {'the recording' if source == 'recording' else source}" if isinstance(source, str) else ""
    yield (
        f"In a closed loop, each state fed back, against {TRUTHS['file' in evidence]}: {extent(evidence)} × "
        f"{evidence['rows']} rows{of}, and shorter trials of other kinds of input, on {evidence['backend']} "
        f"({evidence['device']})."
    )
    if tolerance := tolerance_of(evidence):
        yield f" An error may reach {tolerance[0]:g} + {tolerance[1]:g} × scale."
    yield joined(
        (" So says the bundle: ", code("rnn-export verify NAME.rnnx"), " shows how it is on a machine of yours.")
    )


def _row(report: Mapping[str, Any], drift: Mapping[str, Any]) -> Sequence[object]:
    meaning = MEANING.get(drift["check"])
    name = joined((drift["check"], element("small", meaning) if meaning else None))
    on = element("small", f"on {drift['kind']}") if drift["kind"] else None
    verdict = None if drift["step"] is None else element("strong", f"outside at step {drift['step']}", class_="bad")
    allowed = allowed_of(report, drift)
    return (
        element("div", name), element("div", code(drift["tensor"]), on, verdict), error_text(drift["relative"]),
        "" if allowed is None else error_text(allowed),
    )  # fmt: skip


def _all_tensors(drifts: Sequence[Mapping[str, Any]]) -> Html:
    rows = [
        (d["check"], code(d["tensor"]), d.get("kind", ""), error_text(d["relative"]), error_text(d["error"]))
        for d in drifts[:MOST]
    ]
    more = f" The first {MOST} are shown; parity.json has the rest." if len(drifts) > MOST else None
    return element(
        "details", element("summary", f"All {len(drifts)} comparisons"), None if more is None else element("p", more),
        table(("check", "tensor", "worst input", "relative", "absolute"), rows),
    )  # fmt: skip


def _others(reports: Any) -> list[Mapping[str, Any]]:
    return [report for report in reports if is_report(report)] if isinstance(reports, list) else []
