"""Random architectures: refused if and only if a stream cannot have them, else the same as the whole sequence."""

from __future__ import annotations

import logging
from pathlib import Path
from random import Random

import pytest
import torch

from rnn_export.export import export
from rnn_export.runtime import load

from . import mixes, nets
from .architectures import Architecture, build, random_architecture
from .drawing import draw_plan
from .features import PARTS
from .flaws import FLAWS
from .plans import Plan
from .planted import SHUT, planted_architecture
from .shrinking import smallest
from .sketches import part
from .streaming import check
from .survey import EXACT, REFUSED, REFUSED_FALSELY, WRONG, Verdict, judge, survey
from .truth import TOLERANCE, Truth

DRAWN, PLANTED = 24, 8
# Found by a survey: a branch of which one way was seen over silence alone; a size taken of a packed state.
FOUND = (31575, 31283)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]


@pytest.fixture
def quick():
    """With a handler, which pytest gives it, torch writes all that it traces: twice the time, and pages of it."""
    logging.getLogger("torch.__trace").handlers.clear()


@pytest.mark.parametrize("number", [*range(DRAWN), *FOUND])
def test_a_stream_is_the_whole_sequence_or_refused(quick, number):
    """In pieces, in steps, in a pool, after a reset, each row alone, loud or silent, to the end of the sequence."""
    architecture = random_architecture(number)
    verdict = judge(architecture, number)
    again = f"python -m tests.properties.survey --count 1 --seed {number} --shrink"
    assert verdict.good, f"{verdict.kind}: {verdict.message}\n{verdict.trace}\n{architecture}\nThe smallest: {again}"


def test_a_mix_behind_a_gate_is_refused_or_harmless(quick):
    figures = survey(PLANTED, draw=planted_architecture)
    assert figures[EXACT] + figures[REFUSED] == PLANTED, figures


# --- what the survey can see --------------------------------------------------------------------------------------

NORM = Plan(body=(part("Norm"),))


@pytest.mark.parametrize(("over", "how"), [(over, how) for over, named in mixes.MIXES.items() for how in named])
def test_a_mix_is_heard_elsewhere_when_its_gate_opens_and_never_before(over, how):
    axis = 1 if over == "time" else 0
    planted = mixes.Planted(4, over, how, "relu", 20.0, "add")
    torch.manual_seed(0)
    x = torch.randn(5, 6, 4)
    assert torch.equal(planted(x), x)
    loud = 40 + 10 * torch.rand(5, 6, 4)

    def elsewhere(background: torch.Tensor, place: int) -> bool:
        other, others = background.clone(), [i for i in range(x.shape[axis]) if i != place]
        other.select(axis, place).copy_(loud.select(axis, place) + 30)
        before, after = (planted(a).index_select(axis, torch.tensor(others)) for a in (background, other))
        return not torch.equal(before, after)

    assert any(elsewhere(background, place) for background in (x, loud) for place in range(x.shape[axis]))


def test_a_bundle_without_the_mix_is_found_wrong_by_the_adversary_alone(quick, tmp_path):
    straight = build(Plan())
    bundle = export(straight.model, straight.example, tmp_path / "it.rnnx", steps=8)
    engine = load(bundle.path, backend="onnxruntime")
    assert check(straight, engine, Random(0))[0] <= TOLERANCE
    for over, how in (("time", "flip"), ("time", "latch"), ("rows", "mean"), ("rows", "roll")):
        mix = part("Planted", over=over, how=how, gate="relu", level=20.0, join="add")
        with pytest.raises(AssertionError, match=r"^(loud|one loud|steps|swell).*relative error"):
            check(build(Plan(body=(mix,))), engine, Random(0))


def test_a_loud_frame_hides_no_error_in_the_frames_before_it_nor_in_other_rows():
    inputs = build(NORM).draw(2, 8, 0)
    inputs[0][0, 5] *= 1e6
    truth = Truth(build(Plan()), inputs, alone=False)
    (true,) = truth.outputs
    assert abs(true[0, 5]).max() > 1e5
    for row, frame, found in ((0, 2, True), (1, 7, True), (0, 6, False)):
        given = true.copy()
        given[row, frame] += 1e-3
        assert (truth.error(0, given, True, None) > TOLERANCE) is found


def test_what_a_rounding_moves_in_the_model_itself_is_no_error():
    """The norm of a constant is that of its rounding."""
    architecture, inputs = build(NORM), [torch.full((1, 4, 4), 1000.0)]
    truth = Truth(architecture, inputs, alone=False)
    rounded = torch.nextafter(inputs[0], torch.tensor(torch.inf)).where(torch.arange(4) < 1, inputs[0])
    (given,) = architecture.truth([rounded])
    assert abs(given.numpy() - truth.outputs[0]).max() > 1e-3
    assert truth.error(0, given.numpy(), True, None) <= TOLERANCE
    assert truth.error(0, truth.outputs[0] + 10, True, None) > TOLERANCE


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
        again = eval(line, {"build": build, "Plan": Plan, "part": part})
        assert again.plan == architecture.plan


def test_what_is_planted_is_one_of_a_number_and_its_gate_opens_for_some_input():
    planted = [planted_architecture(number) for number in range(20)]
    assert str(planted[3]) == str(planted_architecture(3))
    assert all(a.plan.planted and a.refusal is None for a in planted)
    shut = [a for a in planted if f"level={SHUT}" in str(a)]
    assert len(shut) <= len(planted) / 4


def test_the_draw_reaches_every_part_and_every_flaw():
    plans = [draw_plan(Random(number)) for number in range(600)]
    kinds = frozenset().union(*(plan.kinds for plan in plans))
    assert set(FLAWS) <= kinds
    assert set().union(*PARTS.values()) <= kinds
    assert {"Dense", "Residual", "Branches", "Average", "Feedback", "TwoAgo"} <= kinds
    assert {plan.end for plan in plans} == set(nets.ENDS)
    assert set(nets.OTHER_FRAMES) <= {plan.outputs for plan in plans}
    for option in ("layers=12", "dead=True", "deaf=True", "fresh=True"):
        assert any(option in str(plan) for plan in plans)
    assert sum(plan.ahead for plan in plans) >= len(plans) / 4


def judged_by_number(architecture: Architecture, seed: int) -> Verdict:
    if architecture.refusal:
        return Verdict(REFUSED, reason="its flaw")
    return Verdict(EXACT, error=1e-7) if seed % 2 else Verdict(REFUSED_FALSELY, "LiftError: it cannot")


def test_the_survey_counts_and_says_what_went_wrong(monkeypatch):
    # Other processes find this module by its name.
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    figures = survey(20, 20, judged=judged_by_number)
    assert figures["drawn"] == figures[EXACT] + figures[REFUSED] + len(figures[REFUSED_FALSELY]) == 20
    assert {row["message"] for row in figures[REFUSED_FALSELY]} == {"LiftError: it cannot"}
    assert all(
        f"build({random_architecture(row['number']).plan}" in row["architecture"] for row in figures[REFUSED_FALSELY]
    )
    assert figures["worst relative error"] == 1e-7
    assert figures["reasons"] == {"its flaw": 1.0}
    assert figures[WRONG] == []
    assert survey(20, 20, judged=judged_by_number, jobs=2) == figures


def test_a_survey_goes_on_where_it_was_stopped(tmp_path):
    store, judged = tmp_path / "cases.jsonl", list[int]()

    def noted(architecture: Architecture, seed: int) -> Verdict:
        judged.append(seed)
        return judged_by_number(architecture, seed)

    survey(4, 10, judged=noted, store=store)
    figures = survey(8, 10, judged=noted, store=store)
    assert judged == list(range(10, 18))
    assert figures == survey(8, 10, judged=judged_by_number)
    pairs = [sorted(case.split(" + ")) for case in figures["pairs"]]
    assert pairs
    assert all(set(pair) <= set(figures["features"]) for pair in pairs)


def test_shrinking_finds_the_part_that_fails():
    plan = Plan(body=(part("Norm"), part("Residual", inside=part("Norm")), part("Softmax")), chunk=2, other="held")
    assert smallest(plan, lambda p: "Softmax" in p.kinds) == Plan(body=(part("Softmax"),))
