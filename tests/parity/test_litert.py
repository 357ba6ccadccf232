"""Cases of the parity table on LiteRT: those that move values in ways of their own. `scripts/bench` runs all."""

import pytest

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.export.targets.litert.writer import saved
from rnn_export.export.targets.torch_step.aten_step import aten_step
from rnn_export.platform.isolated_process import run_isolated
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

from ..lifting import lift  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .cases import CASES

pytest.importorskip("litert_torch", reason="litert-export: pip install 'rnn-export[litert-export]'")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

TAKEN = ("hidden-lstm-projected-1", "ids", "learned-h-and-c", "token-shift")
PATH = "targets/litert-fp32/step.tflite"


@pytest.fixture(scope="module")
def drafts() -> dict[str, Draft]:
    """All of them in one process, since its imports take as long as two of them."""
    bundles, programs = {}, {}
    for case in CASES:
        if case.name in TAKEN:
            model, example, options = case.build()
            lifted = lift(model, example, **options)
            bundles[case.name] = open_bundle(store.bundle(case.name))
            programs[f"{case.name}.pt2"] = saved(aten_step(lifted), lifted.spec)
    specs = {name: bundle.spec.to_json() for name, bundle in bundles.items()}
    made = run_isolated(
        "rnn_export.export.targets.litert.tflite_conversion", "convert", programs, {"specs": specs, "precision": "fp32"}
    )
    row = TargetRow("litert", "fp32", None, (PATH,), {})
    return {
        name: Draft(bundle.spec, {PATH: made[f"{name}.tflite"]}, (row,), bundle.initial_states(), bundle)
        for name, bundle in bundles.items()
    }


@pytest.mark.parametrize("name", TAKEN)
def test_equals_the_model(drafts, name):
    draft = drafts[name]
    golden = Golden.from_arrays(open_bundle(store.bundle(name)).arrays(FILE), draft.spec)
    report = replay_golden(Engine.of(draft, "litert"), golden)
    report.raise_for_failure("")
    assert max(drift.relative for drift in report.drifts) < 5e-5
