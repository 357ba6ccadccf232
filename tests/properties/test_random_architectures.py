"""Random architectures: refused if and only if a stream cannot have them, else the same as the whole sequence."""

from __future__ import annotations

import logging
from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings

from . import architectures as module
from .architectures import (
    FLAWS,
    Architecture,
    Plan,
    architectures,
    draw_plan,
    part,
    random_architecture,
    smallest,
)
from .survey import ACCEPTED, EXPORTED, REFUSED, REFUSED_WRONGLY, Verdict, judge, survey

DRAWN = 25
# Of those that a stream can have.
EXPORTED_AT_LEAST = 0.95

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")


def test_a_stream_is_the_whole_sequence_or_refused(capsys):
    """In pieces, in steps, after a reset, each row alone."""
    # With a handler, which pytest gives it, torch writes all that it traces: twice the time, and pages of it.
    logging.getLogger("torch.__trace").handlers.clear()
    seen: Counter[str] = Counter()
    wrongly: list[str] = []

    @settings(max_examples=DRAWN, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck)
    @given(architectures())
    def each(architecture: Architecture) -> None:
        note(str(architecture))
        verdict = judge(architecture)
        seen[verdict.kind] += 1
        if verdict.kind == REFUSED_WRONGLY:
            wrongly.append(f"{architecture}\n  {verdict.message}")
        else:
            assert verdict.good, f"{verdict.kind}: {verdict.message}\n{verdict.trace}"

    each()
    wanted = seen[EXPORTED] + seen[REFUSED_WRONGLY]
    with capsys.disabled():
        print(f" [{seen[EXPORTED]} of {wanted} exported, {seen[REFUSED]} refused rightly]", end=" ")  # noqa: T201
    assert seen[EXPORTED] >= EXPORTED_AT_LEAST * wanted, "\n".join(wrongly)


# --- the machinery itself -----------------------------------------------------------------------------------------


def test_a_number_is_one_architecture():
    first, again = (random_architecture(7) for _ in range(2))
    assert str(first) == str(again)
    x = first.draw(2, 12, 0)
    assert all(torch.equal(a, b) for a, b in zip(first.truth(x), again.truth(x), strict=True))


def test_what_is_drawn_can_be_built_again_from_its_description():
    for number in range(20):
        architecture = random_architecture(number)
        _, line = str(architecture).rsplit("\n", 1)
        again = eval(line, vars(module))
        assert again.plan == architecture.plan


def test_the_draw_reaches_every_part_and_every_flaw():
    kinds = frozenset().union(*(draw_plan(Random(number)).kinds for number in range(600)))
    assert set(FLAWS) <= kinds
    assert {"Layer", "Ours", "Loop", "Causal", "Valid", "Strided", "Spectral", "DualPath", "TokenShift"} <= kinds
    assert {"BufferedLayer", "Residual", "Branches", "Ring", "Average", "Feedback", "TwoAgo"} <= kinds


def test_the_survey_counts_and_says_what_went_wrong():
    def judged(architecture: Architecture, seed: int) -> Verdict:
        if architecture.refusal:
            return Verdict(REFUSED, reason="its flaw")
        return Verdict(EXPORTED, error=1e-7) if seed % 2 else Verdict(REFUSED_WRONGLY, "LiftError: it cannot")

    figures = survey(20, 0, judged=judged)
    assert figures["drawn"] == figures[EXPORTED] + figures[REFUSED] + len(figures[REFUSED_WRONGLY]) == 20
    assert {row["message"] for row in figures[REFUSED_WRONGLY]} == {"LiftError: it cannot"}
    assert all(
        f"build({random_architecture(row['number']).plan}" in row["architecture"] for row in figures[REFUSED_WRONGLY]
    )
    assert figures["worst relative error"] == 1e-7
    assert figures["reasons"] == {"its flaw": 1.0}
    assert figures[ACCEPTED] == []


def test_shrinking_finds_the_part_that_fails():
    plan = Plan(body=(part("Norm"), part("Residual", inside=part("Norm")), part("Softmax")), chunk=2, other="held")
    assert smallest(plan, lambda p: "Softmax" in p.kinds) == Plan(body=(part("Softmax"),))
