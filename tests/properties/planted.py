"""Mutants: a streamable architecture, and at a random place in it an operator that mixes frames or rows, behind a gate
that ordinary noise does not open. A lifting that relies on such noise lets it pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from torch import Tensor

from . import adversary
from .architectures import Architecture, build
from .drawing import Pick, draw_plan
from .mixes import JOINS, MIXES, Planted
from .plans import Plan
from .sketches import Sketch, part
from .thresholds import GATES

# So often is the place drawn again where no input reaches farther than noise does.
TRIES = 8
# Beyond all inputs.
SHUT = 1e9


def planted_architecture(number: int) -> Architecture:
    """The same of the same number."""
    random = Random(f"planted {number}")
    while (plan := draw_plan(random)).refusal:
        pass
    return build(plant(Pick(random), plan))


def plant(p: Pick, plan: Plan) -> Plan:
    """`plan` with a mix whose gate opens for an adversary's inputs alone, or, if no place allows it, for none."""
    for _ in range(TRIES):
        planted = _draw(p, plan)
        quiet, loud = _reach(build(planted(SHUT)), p.random)
        quiet = max(quiet, 1e-2)
        if loud > 1.02 * quiet:
            level = quiet * (loud / quiet) ** p.one(0.3, 0.5, 0.7)
            return planted(float(f"{level:.5g}"))
    return planted(SHUT)


def _draw(p: Pick, plan: Plan) -> Callable[[float], Plan]:
    """A place in a plan and what is planted there, but for the level of its gate."""
    over = "rows" if plan.way == "frames" else p.one("time", "rows")
    how, gate, join = (p.one(*names) for names in (MIXES[over], GATES, JOINS))
    inner = [
        (i, key)
        for i, sketch in enumerate(plan.body)
        for key in ("inside", "left", "right")
        if isinstance(sketch.options.get(key), Sketch) and plan.way != "frames"
    ]
    at, key = p.one(*inner) if inner and p.probability(40) else (p.random.randrange(len(plan.body) + 1), "")

    def planted(level: float) -> Plan:
        mix = part("Planted", over=over, how=how, gate=gate, level=level, join=join)
        if not key:
            return replace(plan, body=(*plan.body[:at], mix, *plan.body[at:]))
        around = plan.body[at]
        wrapped = _with(mix, "inside", around.options[key])
        return replace(plan, body=(*plan.body[:at], _with(around, key, wrapped), *plan.body[at + 1 :]))

    return planted


def _with(sketch: Sketch, key: str, value: Sketch) -> Sketch:
    return replace(sketch, options={**sketch.options, key: value})


def _reach(architecture: Architecture, random: Random) -> tuple[float, float]:
    """The largest value that the gate sees of noise, and of an adversary's inputs."""
    (planted,) = (m for m in architecture.model.modules() if isinstance(m, Planted))
    two_sided = planted.gate.how in ("hardshrink", "softshrink")
    seen: list[float] = []
    planted.gate.register_forward_pre_hook(
        lambda gate, given: seen.append(float((given[0].abs() if two_sided else given[0]).max()))
    )

    def largest(inputs: list[Tensor]) -> float:
        seen.clear()
        architecture.truth(inputs)
        return max(seen)

    frames = 12 * architecture.unit + architecture.plan.lost
    quiet = max(largest(architecture.draw(4, 4 * frames, random.randrange(1000))) for _ in range(2))
    attacks = (adversary.attack(architecture, kind, 3, frames, random) for kind in adversary.KINDS)
    return quiet, max(largest(inputs) for inputs in attacks)
