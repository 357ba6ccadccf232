"""The report of several backends as one, and the figures of the task in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.runtime.replay.figures import Accept, task_figures
from rnn_export.runtime.replay.golden import Golden


def with_figures(
    reports: Sequence[ParityReport], engines: Sequence[Engine], vectors: Golden, accept: Accept | None
) -> list[ParityReport]:
    if accept is None:
        return [*reports]
    pairs = zip(reports, engines, strict=True)
    return [replace(report, figures=task_figures(engine, vectors, accept)) for report, engine in pairs]


def as_one(reports: Sequence[ParityReport]) -> ParityReport:
    """The report of several backends, each check under the name of its own."""
    if len(reports) == 1:
        return reports[0]
    drifts = tuple(replace(d, check=f"{r.backend}.{d.check}") for r in reports for d in r.drifts)
    figures = {f"{r.backend}.{name}": value for r in reports for name, value in r.figures.items()}
    not_judged = {kind: why for r in reports for kind, why in r.not_judged.items()}
    backend = ", ".join(r.backend for r in reports)
    device = ", ".join(dict.fromkeys(r.device for r in reports))
    return replace(reports[0], backend=backend, device=device, drifts=drifts, not_judged=not_judged, figures=figures)
