"""The smallest plan that still fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from .architectures import build
from .plans import Plan
from .sketches import Sketch

# Options of parts at their simplest.
FLAGS = ("head", "grouped", "twice", "relu", "counted", "keyed", "dead", "deaf", "fresh")
SIMPLEST = {"layers": 1, "bias": True, "batch_first": True, "start": "none", "dilation": 1, "kernel": 2, "proj": 0}
SIMPLEST |= {"join": "add", **dict.fromkeys(FLAGS, False)}


def smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with one thing less."""
    for i, sketch in enumerate(plan.body):
        if len(plan.body) > 1:
            yield replace(plan, body=(*plan.body[:i], *plan.body[i + 1 :]))
        for simple in _simpler(sketch):
            yield replace(plan, body=(*plan.body[:i], simple, *plan.body[i + 1 :]))
    for f in fields(plan):
        if f.name not in ("body", "way", "memory", "seed") and getattr(plan, f.name) != f.default:
            if f.name == "layout" and plan.way == "frames":
                continue
            yield replace(plan, **{f.name: f.default})


def _simpler(sketch: Sketch) -> Iterator[Sketch]:
    for key, value in sketch.options.items():
        if isinstance(value, Sketch) and key in ("inside", "left", "right"):
            yield value
        if isinstance(value, Sketch):
            yield from (replace(sketch, options={**sketch.options, key: v}) for v in _simpler(value))
        if key in SIMPLEST and value != SIMPLEST[key] and sketch.kind != "Strided":
            yield replace(sketch, options={**sketch.options, key: SIMPLEST[key]})


def smallest(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """A plan that fails still, while nothing less of it does."""
    for _ in range(30):
        less = next((p for p in smaller(plan) if _can_be(p) and fails(p)), None)
        if less is None:
            break
        plan = less
    return plan


def _can_be(plan: Plan) -> bool:
    """True if the model runs at all."""
    try:
        architecture = build(plan)
        architecture.truth(architecture.draw(1, plan.lost + 4 * math.lcm(plan.chunk, plan.unit), 0))
    except Exception:  # a part that is taken out may leave no sense
        return False
    return True
