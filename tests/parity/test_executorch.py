"""Cases of the parity table on ExecuTorch: a stored start, and an end of its own. `scripts/bench` runs all."""

import pytest

from rnn_export.bundle import open_bundle
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

from ..zoo import store  # noqa: TID252

pytest.importorskip("executorch", reason="executorch: pip install 'rnn-export[executorch]'")

from ..runtime.executorch_toys import OF_PARITY, draft, files  # noqa: TID252


@pytest.mark.parametrize("name", OF_PARITY)
def test_equals_the_model(name):
    bundle = open_bundle(store.bundle(name))
    engine = Engine.of(draft(bundle.spec, files()[name], bundle.initial_states()), "executorch")
    report = replay_golden(engine, Golden.from_arrays(bundle.arrays(FILE), bundle.spec))
    report.raise_for_failure("")
    assert max(drift.relative for drift in report.drifts) < 5e-5
