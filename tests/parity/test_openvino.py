"""Cases of the parity table on OpenVINO: those that move values in ways of their own, and the one that it refuses."""

import pytest

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.export.targets.openvino.ir_conversion import convert
from rnn_export.platform.arrays import pack_arrays
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

from ..messages import raises  # noqa: TID252
from ..zoo import store  # noqa: TID252

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

TAKEN = (
    *("nn.GRU-with-state", "nn.LSTM-2-batch-first", "hidden-lstm-projected-1", "learned-h-and-c"),
    *("buffer-not-from-zero", "token-shift", "causal-dilated-residual", "strided-causal", "valid-residual"),
    *("loop-two-cells", "dual-path"),
)  # fmt: skip


def drafted(name: str) -> Draft:
    """In this process, which is quicker."""
    bundle = open_bundle(store.bundle(name))
    initial = bundle.initial_states()
    stored = {s.name: initial[s.name] for s in bundle.spec.states if s.initial == "stored"}
    given = {"step.onnx": bundle.read("step.onnx"), "initial.npz": pack_arrays(stored)}
    made = convert(given, {"spec": bundle.spec.to_json(), "precision": "fp32"})
    files = {f"targets/openvino-fp32/{file}": data for file, data in made.items()}
    return Draft(bundle.spec, files, (TargetRow("openvino", "fp32", None, tuple(files), {}),), initial, bundle)


@pytest.mark.parametrize("name", TAKEN)
def test_equals_the_model(name):
    draft = drafted(name)
    golden = Golden.from_arrays(open_bundle(store.bundle(name)).arrays(FILE), draft.spec)
    report = replay_golden(Engine.of(draft, "openvino"), golden)
    report.raise_for_failure("")
    assert max(drift.relative for drift in report.drifts) < 5e-5


def test_what_openvino_cannot_compile_is_refused_with_its_own_words():
    with raises("openvino-compile-fails", "GRUCellFusion"):
        drafted("loop-relu-gru-by-hand")
