"""Values as a notebook shows them: small tables in the notebook's own style."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rnn_export.contract.drift_curve import sparkline
from rnn_export.contract.parity_json import allowed_of, curve_of, extent, worst_of_checks
from rnn_export.contract.tensor_spec import StateSpec, TensorSpec
from rnn_export.platform.markup import Html, code, element, joined, shape_text, table

# Of what is many, how much is shown.
MOST = 24


def contract_table(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], states: Sequence[StateSpec], summary: str
) -> Html:
    """Inputs, outputs and states, with the rest of the contract below."""
    rows: list[tuple[object, ...]] = [("input", code(t.name), t.dtype, shape_text(t.shape), "") for t in inputs]
    rows += [("output", code(t.name), t.dtype, shape_text(t.shape), "") for t in outputs]
    rows += [("state", code(s.name), s.dtype, shape_text(s.shape), f"{s.bytes:,}") for s in states]
    return joined((_cut(("", "name", "dtype", "shape", "bytes"), rows), element("div", summary)))


def parity_table(report: Mapping[str, Any]) -> Html:
    """Each check with its worst tensor and its drift, of a report as `ParityReport.to_json` gives it."""
    rows = []
    for drift in worst_of_checks(report):
        verdict = "ok" if drift["step"] is None else f"outside at step {drift['step']}"
        curve = sparkline(curve_of(drift), allowed_of(report, drift))
        worst = "not a number" if math.isinf(drift["relative"]) else f"{drift['relative']:.1e}"
        rows.append((drift["check"], code(drift["tensor"]), drift["kind"], worst, curve, verdict))
    of = f"Parity on {report['backend']} ({report['device']}): {extent(report)} of {report['rows']} rows"
    columns = ("check", "worst tensor", "input", "relative error", "drift", "")
    return joined((element("div", element("b", of)), _cut(columns, rows)))


def facts_table(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names and values, a row each."""
    rows = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in pairs]
    return element("table", element("tbody", *rows))


def _cut(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    more = f"and {len(rows) - MOST} more" if len(rows) > MOST else None
    return joined((table(columns, rows[:MOST]), None if more is None else element("div", more)))
