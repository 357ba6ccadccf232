"""An export from end to end: what is written and said, what is refused before anything is, and the place."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rnn_export.bundle import open_bundle
from rnn_export.errors import RnnExportError
from rnn_export.export import export
from rnn_export.export.keeping import count_weights
from rnn_export.runtime import load
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

from ..messages import classes, raises  # noqa: TID252
from ..models.nets import LearnedStart, Tagger  # noqa: TID252
from ..models.streams import Call  # noqa: TID252

X = torch.zeros(2, 7, 4)
SOUND = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)


def tagger() -> nn.Module:
    torch.manual_seed(0)
    return Tagger(nn.LSTM).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "tagger.rnnx"
    export(tagger(), (X,), path, steps=40)
    return path


# --- what is written ----------------------------------------------------------------------------------------------


def test_the_bundle_holds_graphs_and_proof(written):
    bundle = open_bundle(written)
    assert set(bundle.files) == {"step.onnx", "sequence.onnx", "parity.json", "golden.npz", "README.md", "report.html"}
    (row,) = bundle.targets
    graphs = {"step.onnx", "sequence.onnx"}
    assert (row.target, row.precision, row.opset, set(row.files)) == ("onnx", "fp32", 18, graphs)
    assert set(bundle.producer) == {"rnn-export", "torch", "onnx", "numpy"}
    assert bundle.weights == count_weights(bundle.read("step.onnx")) > 4 * 6 * (4 + 6)


def test_the_report_says_what_was_checked(written):
    report = json.loads(open_bundle(written).read("parity.json"))
    wanted = {"ok": True, "source": "noise", "steps": 40, "frames": 40, "rows": 2}
    assert {name: report[name] for name in wanted} == wanted
    checks = {(d["check"], d["tensor"]) for d in report["drifts"]}
    assert {("lifted", "output"), ("step", "rnn.l0.h"), ("sequence", "output"), ("onnx.reference", "output")} <= checks
    assert all(d["step"] is None and d["scale"] > 0 and d["relative"] < 1e-5 for d in report["drifts"])
    assert "rnn_export" not in json.dumps(report["notes"])


def test_the_golden_vectors_are_those_of_the_users_module_and_replay(written):
    engine, arrays = load(written), open_bundle(written).arrays(FILE)
    golden = Golden.from_arrays(arrays, engine.spec)
    assert (golden.rows, golden.frames) == (2, 40)
    assert replay_golden(engine, golden).ok
    with torch.no_grad():
        np.testing.assert_array_equal(tagger()(torch.from_numpy(arrays["input/x"])).numpy(), arrays["output/output"])


def test_a_recording_is_used_up_to_so_many_steps_of_a_chunk(tmp_path):
    np.savetxt(tmp_path / "x.csv", SOUND, delimiter=",", header="a,b,c,d", comments="", fmt="%.9g")
    bundle = export(Tagger().eval(), (X,), tmp_path / "net.rnnx", data=tmp_path / "x.csv", steps=5, chunk=4)
    report = json.loads(bundle.read("parity.json"))
    assert (report["source"], report["steps"], report["frames"]) == ("recording", 5, 20)
    assert {d["curve"][-1][0] for d in report["drifts"] if d["check"] == "sequence"} == {5}
    golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
    assert (golden.steps(bundle.spec), golden.frames) == (5, 20)
    heard = bundle.arrays(FILE)["input/x"]
    assert (heard.dtype, heard.shape) == (np.float32, (2, 20, 4))
    np.testing.assert_array_equal(heard[0], SOUND[:20])


def test_stored_initial_states_are_in_the_bundle(tmp_path):
    model = LearnedStart().eval()
    bundle = export(model, (X,), tmp_path / "net.rnnx", steps=8)
    assert [s.initial for s in bundle.spec.states] == ["stored", "stored"]
    np.testing.assert_array_equal(bundle.initial_states()["gru.l1.h"], model.h0[1, 0].detach().numpy())


def test_the_digest_of_the_same_model_is_the_same_in_both_bundles(written, tmp_path):
    again = export(tagger(), (X,), tmp_path / "again.rnnx", steps=8, opset=17)
    assert again.spec.digest == open_bundle(written).spec.digest
    assert again.targets[0].opset == 17


def test_the_stages_are_told(tmp_path):
    told: list[str] = []
    export(nn.GRUCell(4, 5).eval(), (X[:, 0],), tmp_path / "cell.rnnx", steps=4, progress=told.append)
    lifting = ["lift: memory", "lift: axes", "lift: capture", "lift: streaming"]
    assert told[:7] == ["libraries", *lifting, "graphs", "reference"]
    assert told[-2:] == ["onnx.reference", "write"]


# --- bad calls: each is refused before anything is written ---------------------------------------------------------

BAD = {
    "no target": ({"targets": ()}, ("targets-empty",)),
    "frame": ({"data": np.zeros((9, 5), np.float32)}, ("recording-shape", "'x'", "(9, 5)", "(4,)")),
    "target": ({"targets": ("nnox",)}, ("target-unknown", "'nnox': did you mean onnx")),
    "precision": ({"precision": "fp8"}, ("target-precision-unwritten", "'onnx'", "'fp8'", "fp32")),
    "opset below": ({"opset": 12}, ("target-opset-unsupported", "12", "'onnx'", "13 to 23")),
    "opset above": ({"opset": 24}, ("target-opset-unsupported", "24", "'onnx'")),
    "calibrate": ({"calibrate": np.zeros((9, 4), np.float32)}, ("calibrate-without-int8", "fp32")),
    "no example": ({"example_inputs": None}, ("no-example-inputs",)),
    "time axis": ({"time_axis": 9}, ("time-axis-beyond-rank", "time_axis=9 (--time-axis 9)", "'x'", "3")),
    "states": ({"states": {"h": 1}}, ("state-names-no-argument", "'h'")),
    "below a chunk": (
        {"data": np.zeros((2, 4), np.float32), "chunk": 3},
        ("verification-recording-short", "2", "12, 4", "3"),
    ),
    "tolerance": ({"atol": 0.0, "rtol": 0.0}, ("parity-diverges", "0 + 0", "Nothing was written")),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_a_bad_call_is_refused_and_leaves_nothing(tmp_path, options, message):
    with raises(*message):
        export(Tagger().eval(), path=tmp_path / "net.rnnx", **{"example_inputs": (X,), "steps": 8, **options})
    assert not list(tmp_path.iterdir())


def test_every_error_is_of_the_family():
    assert {classes()[message[0]] for _, message in BAD.values()} <= set(RnnExportError.__subclasses__())


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_lstm_needs_a_step(tmp_path):
    model = nn.LSTM(4, 5, proj_size=2, bidirectional=True).eval()
    with raises("projected-lstm-sequences"):
        export(model, (torch.zeros(9, 2, 4),), tmp_path / "net.rnnx", sequence_only=True)


def both_ways(s, x):
    """Over frequencies in both directions, projected; x (time, batch, 4, 2)."""
    return s.gru(s.over(x.flatten(0, 1))[0].reshape(*x.shape[:2], 24))[0]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_lstm_goes_forwards(tmp_path):
    over = nn.LSTM(2, 5, proj_size=3, bidirectional=True, batch_first=True)
    with raises("projected-lstm-unwritable"):
        export(Call(both_ways, over=over, gru=nn.GRU(24, 5)), (torch.zeros(9, 2, 4, 2),), tmp_path / "net.rnnx")


def test_ids_need_an_example_that_shows_how_many_there_are(tmp_path):
    """A table that is no nn.Embedding."""
    table = nn.Parameter(torch.randn(7, 4))
    model = Call(lambda s, ids: s.gru(s.table[ids])[0], table=table, gru=nn.GRU(4, 5, batch_first=True))
    with raises("whole-numbers-all-zero", "'ids' is int64"):
        export(model, (torch.zeros(1, 9, dtype=torch.int64),), tmp_path / "net.rnnx")


WIDE = {
    "model": (lambda: nn.GRU(4, 5).double(), X.double(), "weight_ih_l0"),
    "input": (lambda: nn.GRU(4, 5), X.double(), "example_inputs[0]"),
    "nested input": (lambda: nn.LSTM(4, 5), (X, (torch.zeros(1, 7, 5), torch.zeros(1, 7, 5).double())), "[1][1]"),
}


@pytest.mark.parametrize(("make", "example", "name"), WIDE.values(), ids=WIDE)
def test_what_is_wider_than_fp32_is_named_before_anything_is_lifted(tmp_path, make, example, name):
    told: list[str] = []
    with raises("float64-tensor", name):
        export(make().eval(), example, tmp_path / "net.rnnx", progress=told.append)
    assert told == ["libraries"]
    assert not list(tmp_path.iterdir())


def test_a_result_wider_than_fp32_is_refused(tmp_path):
    """A table in float64, as numpy gives it, makes the output float64."""
    weights = torch.from_numpy(np.hanning(5))
    model = Call(lambda s, x: s.gru(x)[0] * s.weights, gru=nn.GRU(4, 5, batch_first=True), weights=weights)
    with raises("float64-result", "'output' is float64"):
        export(model, (X,), tmp_path / "net.rnnx")
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_nothing_is_lifted(tmp_path):
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import torch\n"
        "from rnn_export import export\n"
        "try: export(torch.nn.GRU(2, 3), torch.zeros(1, 1, 2), sys.argv[1], targets=('torchscript',), progress=print)\n"
        "except Exception as error: print(f'{type(error).__name__}: {error}')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net.rnnx")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == (
        "libraries\nExportError: what is exported is verified on ONNX Runtime, which cannot be imported here (import "
        "of onnxruntime halted; None in sys.modules): pip install '.[export,cpu]' in a checkout of rnn-export, or "
        "'.[export,gpu]' for CUDA. One of the two: their wheels of ONNX Runtime overwrite each other.\n"
    )


# --- what is said --------------------------------------------------------------------------------------------------


NO_STATE = "this model has no state: each frame is computed from itself alone"


def warned(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    of_ours = (record for record in caplog.records if record.name.startswith("rnn_export"))
    return [(f"{record.name} {record.levelname}", record.getMessage()) for record in of_ours]


def test_notes_are_warnings_of_a_logger(tmp_path, caplog):
    bundle = export(Call(lambda s, x: x * x), (X[:, 0],), tmp_path / "net.rnnx", time_axis=None, steps=4)
    assert warned(caplog) == [("rnn_export.export WARNING", NO_STATE)]
    assert json.loads(bundle.read("parity.json"))["notes"] == [NO_STATE]
    # Whoever configures nothing hears of it all the same: Python's last resort prints it.
    assert not logging.getLogger("rnn_export").handlers + logging.getLogger("rnn_export.export").handlers


# --- the place ----------------------------------------------------------------------------------------------------


def test_a_bundle_in_the_way_is_kept_without_force_and_after_a_failure_and_replaced_with_it(written, tmp_path):
    path = tmp_path / "net.rnnx"
    shutil.copytree(written, path)
    old, step = open_bundle(path), (path / "step.onnx").read_bytes()
    with raises("bundle-path-exists", "net.rnnx", "give force=True (--force) to replace it"):
        export(Tagger().eval(), (X,), path, steps=4)
    with raises("parity-diverges", "Nothing was written"):
        export(Tagger().eval(), (X,), path, steps=4, atol=0, rtol=0, force=True)
    assert open_bundle(path).spec == old.spec
    assert (path / "step.onnx").read_bytes() == step
    new = export(Tagger().eval(), (X,), str(path), steps=4, force=True)
    assert open_bundle(path).spec == new.spec != old.spec
    assert [p.name for p in tmp_path.iterdir()] == ["net.rnnx"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir], ids=["file", "folder"])
def test_what_is_not_a_bundle_is_never_replaced(tmp_path, make, force):
    make(tmp_path / "net.rnnx")
    with raises("bundle-path-exists", "net.rnnx", "it is no bundle: choose"):
        export(Tagger().eval(), (X,), tmp_path / "net.rnnx", force=force)


def test_the_folder_must_be_there(tmp_path):
    with raises("bundle-directory-missing", "none"):
        export(Tagger().eval(), (X,), tmp_path / "none" / "net.rnnx")


def test_what_cannot_stream_is_refused_by_path_and_leaves_nothing(tmp_path):
    """A mean over time, which no stream has before its end."""
    model = Call(lambda s, x: s.gru(x - x.mean(1, keepdim=True))[0], gru=nn.GRU(4, 5, batch_first=True))
    with raises("not-frame-local", "0 (test_export.py", "): statistics over time", "so it cannot stream"):
        export(nn.Sequential(model).eval(), (torch.zeros(2, 3, 4),), tmp_path / "m.rnnx")
    assert not any(tmp_path.iterdir())


def test_the_users_own_module_is_left_alone(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.calls = nn.GRU(4, 5, batch_first=True), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            y: torch.Tensor = self.gru(x)[0]
            return y

    model = Counting().eval()
    export(model, (torch.zeros(2, 3, 4),), tmp_path / "m.rnnx", steps=16)
    assert model.calls == 0


def test_what_comes_out_as_it_went_in_keeps_both_names(tmp_path: Path) -> None:
    example = tuple(torch.randn(1, 3) for _ in range(3))
    states = {"one": 1, "two": 2}
    model = Call(lambda s, x, one, two: (x + two, x, one))
    bundle = export(model, example, tmp_path / "m.rnnx", states=states, time_axis=None, steps=8)
    assert [(s.input, s.output) for s in bundle.spec.states] == [("one", "one.next"), ("two", "two.next")]


def test_a_value_as_large_as_another_has_a_bound_of_its_own(tmp_path: Path) -> None:
    """In a sequence nobody knows how long a value is before it runs: what takes all of its shape makes none larger."""

    def filled(s, x):
        y = s.gru(x)[0].reshape(-1, x.shape[1], 4)
        return torch.minimum(y, torch.full_like(y, 0.1))

    export(Call(filled, gru=nn.GRU(3, 4)), (torch.randn(6, 1, 3),), tmp_path / "m.rnnx", steps=8)
