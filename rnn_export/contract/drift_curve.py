"""Drift as a curve: the largest relative error so far over the steps, on a scale of powers of ten."""

import math
from collections.abc import Sequence

from rnn_export.platform.markup import Html, element

Curve = Sequence[tuple[int, float]]
# What is drawn of errors: anything below is as good as none.
LOWEST, HIGHEST = 1e-9, 1e3


def height_of(error: float, low: float, high: float) -> float:
    """From 0 at `low` to 1 at `high`, by powers of ten; a value outside is drawn at the edge."""
    part = (math.log10(min(max(error, low), high)) - math.log10(low)) / (math.log10(high) - math.log10(low))
    return min(max(part, 0.0), 1.0)


def line_of(curve: Curve, box: tuple[float, float, float, float], low: float, high: float, last: int) -> str:
    """A path in a box (left, top, width, height), with step 1 at its left side and step `last` at its right."""
    left, top, width, height = box
    points = [
        f"{left + width * (step - 1) / max(last - 1, 1):.1f} {top + height * (1 - height_of(error, low, high)):.1f}"
        for step, error in curve
    ]
    # One step is a line too, to the side where the box ends.
    return "M" + "L".join(points) + (f"H{left + width:.1f}" if len(points) == 1 else "")


def sparkline(curve: Curve, allowed: float | None, width: int = 96, height: int = 22) -> Html:
    """A small picture of one curve, with the tolerance as a dashed line; drawn in the colour of the text."""
    if not curve:
        return Html("")
    high = max(1e-3, *(min(error, HIGHEST) for _, error in curve), *([allowed] if allowed else []))
    box = (1.0, 2.0, width - 2.0, height - 4.0)
    path = line_of(curve, box, LOWEST, high, curve[-1][0])
    drawn = [element("path", d=path, fill="none", stroke="currentColor", stroke_width=1.5)]
    if allowed:
        y = f"{box[1] + box[3] * (1 - height_of(allowed, LOWEST, high)):.1f}"
        dashes = {"stroke": "currentColor", "stroke_width": 1, "stroke_dasharray": "2 3", "opacity": 0.7}
        drawn.append(element("line", x1=1, x2=width - 1, y1=y, y2=y, **dashes))
    name = f"drift over {curve[-1][0]} steps, at the end {curve[-1][1]:.1e}"
    return element(
        "svg", *drawn, width=width, height=height, viewBox=f"0 0 {width} {height}", role="img", aria_label=name,
    )  # fmt: skip
