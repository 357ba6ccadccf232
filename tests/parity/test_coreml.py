"""Cases of the parity table as programs of Core ML: those whose states are of other kinds, and one that is refused."""

import importlib.util
import inspect
import os

import pytest

from ..lifting import lift  # noqa: TID252

if importlib.util.find_spec("coremltools") is None and not os.environ.get("CI"):
    pytest.skip("coreml: coremltools is not here: pip install 'rnn-export[coreml]'", allow_module_level=True)

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import TARGETS
from rnn_export.export.targets.coreml.writer import Writer
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

from ..messages import raises  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .cases import CASES

TAKEN = ("ids", "buffer-not-from-zero", "strided-valid-then-gru")
TARGET, OPTIONS = TARGETS["coreml"], TargetOptions()


def lifted(name: str):
    model, example, options = next(case for case in CASES if case.name == name).build()
    taken = inspect.signature(lift).parameters
    return lift(model, example, **{key: value for key, value in options.items() if key in taken})


@pytest.mark.parametrize("name", TAKEN)
def test_equals_the_model(name):
    model, bundle = lifted(name), open_bundle(store.bundle(name))
    files = Writer().write(model, TARGET, OPTIONS)
    row = TargetRow("coreml", "fp32", None, tuple(files), {})
    draft = Draft(bundle.spec, files, (row,), bundle.initial_states(), bundle)
    (engine,) = Writer().engines(draft, TARGET, OPTIONS)
    report = replay_golden(engine, Golden.from_arrays(bundle.arrays(FILE), bundle.spec))
    report.raise_for_failure("")
    assert max(drift.relative for drift in report.drifts) < 2e-5


def test_what_coremltools_cannot_convert_is_refused_with_its_own_words():
    with raises("coremltools-refuses-step", "cannot convert the step", "gather_along_axis"):
        Writer().write(lifted("spectral-mask"), TARGET, OPTIONS)
