"""The checks of one backend as a chart: drift over the steps of the golden vectors, with the tolerance."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rnn_export.contract.drift_curve import HIGHEST, height_of, line_of
from rnn_export.contract.parity_json import allowed_of, curve_of
from rnn_export.platform.markup import Html, element

WIDTH, HEIGHT = 320, 168
BOX = (44.0, 10.0, 266.0, 126.0)
LOWEST = 1e-9


def drift_chart(name: str, drifts: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> Html | None:
    """The curve of the worst tensor of each check, that of the worst check on top; None where no curve has a step."""
    curves = [(drift, curve) for drift in drifts if (curve := curve_of(drift))]
    if not curves:
        return None
    (worst, top) = max(curves, key=lambda pair: pair[1][-1][1])
    last = max(curve[-1][0] for _, curve in curves)
    allowed = allowed_of(report, worst)
    most = max(1e-5, *(min(error, HIGHEST) for _, curve in curves for _, error in curve), allowed or 0.0)
    high = 10.0 ** math.ceil(math.log10(most) + 0.2)
    left, upper, width, height = BOX
    drawn = [*_axes(high, last)]
    drawn += [_line(curve, high, last, "other") for drift, curve in curves if drift is not worst]
    if allowed:
        y = f"{upper + height * (1 - height_of(allowed, LOWEST, high)):.1f}"
        drawn.append(element("line", x1=left, x2=left + width, y1=y, y2=y, class_="allowed"))
        where = float(y) - 4 if float(y) > upper + 14 else float(y) + 13
        drawn.append(element("text", "allowed", x=left + width, y=f"{where:.1f}", class_="tick end"))
    drawn.append(_line(top, high, last, "worst"))
    caption = f"{name}: drift of {len(curves)} checks; the worst, {worst['check']}, ends at {top[-1][1]:.1e}"
    return element(
        "svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", width=WIDTH, height=HEIGHT, role="img", class_="drift",
        aria_label=caption,
    )  # fmt: skip


def _line(curve: Sequence[tuple[int, float]], high: float, last: int, kind: str) -> Html:
    return element("path", d=line_of(curve, BOX, LOWEST, high, last), class_=kind)


def _axes(high: float, last: int) -> list[Html]:
    left, upper, width, height = BOX
    decades = range(round(math.log10(LOWEST)) + 1, round(math.log10(high)) + 1)
    drawn = []
    for power in [p for p in decades if p % 2 == 0]:
        y = f"{upper + height * (1 - height_of(10.0**power, LOWEST, high)):.1f}"
        drawn.append(element("line", x1=left, x2=left + width, y1=y, y2=y, class_="grid"))
        drawn.append(element("text", f"1e{power}", x=left - 6, y=f"{float(y) + 4:.1f}", class_="tick end"))
    drawn.append(element("text", "first step", x=left, y=upper + height + 20, class_="tick"))
    drawn.append(element("text", f"step {last:,}", x=left + width, y=upper + height + 20, class_="tick end"))
    return drawn
