"""Trials beyond ordinary noise: each kind of input and each entry is held to its own scale."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper
from torch import Tensor, nn

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.cli.main import main
from rnn_export.contract.precision import TOLERANCES
from rnn_export.export import export
from rnn_export.export.graph.step import sequence_graph, step_graph
from rnn_export.export.lift import stages
from rnn_export.export.lift.batch_rows import RULES
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout
from rnn_export.export.lift.ir.dependence.row_dependence import Rows
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.coverage import not_exercised
from rnn_export.export.verify.inputs import inputs_to_verify
from rnn_export.export.verify.kinds import trial_inputs
from rnn_export.export.verify.reference import golden_vectors
from rnn_export.export.verify.verification import verify_model
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.golden import FILE, Golden

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252

KINDS = ("noise", "quiet noise", "loud noise", "zeros", "constants", "loud frames", "steps")
X = torch.zeros(2, 7, 4)
EXACT = TOLERANCES["fp32"]


class Sum(nn.Module):
    """A GRU, and beside it what `extra` makes of the frames."""

    def __init__(self, extra: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.extra = nn.GRU(4, 4, batch_first=True), extra

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0]
        return y + self.extra(x)


class Heads(nn.Module):
    """Outputs of any weights over a GRU."""

    def __init__(self, weight: Tensor, kind: type[nn.RNNBase] = nn.GRU) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.out = kind(4, weight.shape[1], batch_first=True), nn.Linear(weight.shape[1], len(weight))
        with torch.no_grad():
            self.out.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.rnn(x)[0])
        return y


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.rnn = nn.Embedding(5000, 4), nn.GRU(4, 5, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.rnn(self.table(ids))[0]
        return y


def held(model: StreamingModel, files: dict[str, bytes] | None = None, recording=None, frames: int = 24):
    """The lifted step held to the user's module, and graphs on ONNX Runtime, where there are some."""
    engines = []
    if files:
        initial = {name: value.numpy() for name, value in model.initial.items()}
        draft = Draft(model.spec, files, (TargetRow("onnx", "fp32", 18, tuple(files), {}),), initial)
        engines = [Engine.of(draft, "onnxruntime")]
    return verify_model(model, engines, None, recording, frames, EXACT, lambda stage: None)


def good(model: StreamingModel, **options):
    """The report and vectors of a model that passes, on ONNX Runtime."""
    report, golden = held(model, graphs_of(model), **options)
    assert report.ok
    assert golden.trials is not None
    return report, golden


def graphs_of(model: StreamingModel) -> dict[str, bytes]:
    graphs = {"step.onnx": step_graph(model), "sequence.onnx": sequence_graph(model)}
    return {name: graph for name, graph in graphs.items() if graph is not None}


def sabotaged(model: StreamingModel, weight: str, change: Callable[[Tensor], object]) -> StreamingModel:
    """`model` with one tensor of its lifted module changed, which its own module does not have."""
    module = copy.deepcopy(model.module)
    (found,) = [t for name, t in module.state_dict().items() if name.endswith(weight)]
    with torch.no_grad():
        change(found)
    return replace(model, module=module)


# --- the inputs ------------------------------------------------------------------------------------------------------


def test_the_kinds_of_floats():
    model = lift(Heads(torch.ones(3, 4)).eval(), (X,))
    kinds, inputs = trial_inputs(model, 64)
    assert kinds == KINDS
    rows = dict(zip(kinds, inputs["x"], strict=True))
    assert inputs["x"].shape == (7, 64, 4)
    assert inputs["x"].dtype == np.float32
    largest = {kind: np.abs(row).max(1) for kind, row in rows.items()}
    assert 1 < largest["noise"].max() < 6
    assert largest["quiet noise"].max() < 6e-3
    assert 1e3 < largest["loud noise"].max() < 6e3
    assert not np.signbit(rows["zeros"]).any()
    assert not rows["zeros"].any()
    held = rows["constants"].reshape(4, 16, 4)
    assert (held == held[:, :1]).all()
    np.testing.assert_allclose(held[1], held[0] * 1e6, rtol=1e-5)
    loud = largest["loud frames"] > 0.5
    assert loud.sum() == 6
    assert largest["loud frames"][~loud].max() < 6e-3
    edges = np.flatnonzero(np.diff(largest["steps"] > 0.5))
    assert 2 <= len(edges) <= 4


def test_the_ends_of_whole_numbers():
    kinds, inputs = trial_inputs(lift(Tokens().eval(), (torch.zeros(1, 7, dtype=torch.int64),)), 64)
    rows = dict(zip(kinds, inputs["ids"], strict=True))
    assert set(rows["quiet noise"]) == {0, 1, 2, 3}
    assert set(rows["loud noise"]) == {4996, 4997, 4998, 4999}
    assert set(rows["zeros"]) == {0}
    assert len(set(rows["constants"])) == 2
    assert len(set(rows["noise"])) > 50


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_a_threshold_that_is_off_is_caught_on_loud_frames():
    model = lift(Sum(lambda x: torch.relu(x - 20)).eval(), (X,))
    module = copy.deepcopy(model.module)
    (node,) = [n for n in module.graph.nodes if n.target is torch.ops.aten.sub.Tensor]
    node.args = (node.args[0], 21)
    module.recompile()
    with raises(
        "parity-diverges",
        "torch",
        "'lifted'",
        "'output'",
        "step 1 of 24 on loud noise",
        "1",
        "1e-06 + 2e-05",
        "Nothing was written",
    ):
        held(replace(model, module=module))


def test_a_graph_that_is_off_beyond_a_bound_is_caught():
    model = lift(Sum(lambda x: x.clamp(-20.0, 30.0)).eval(), (X,))
    files = graphs_of(model)
    assert held(model, files)[0].ok
    graph = onnx.load_from_string(files["step.onnx"])
    (kept,) = [t for t in graph.graph.initializer if t.dims == [] and numpy_helper.to_array(t) == 30]
    kept.CopyFrom(numpy_helper.from_array(np.float32(31), kept.name))
    with raises("parity-diverges", "'step'", "24 on loud noise", "1"):
        held(model, {**files, "step.onnx": graph.SerializeToString()})


class MixedRows(nn.Module):
    """Loud values in one row reach the others."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0]
        return y + torch.relu(x - 20).mean(0, keepdim=True)


def test_a_loud_row_is_not_heard_in_a_silent_one(monkeypatch):
    """Lifting refuses such a model; verification does so by itself."""

    def unrefused(module, few, more, inputs, outputs):
        return Rows(module, few, more, [AxisLayout(axis) for axis in inputs], RULES)

    monkeypatch.setattr(stages, "follow_rows", unrefused)
    model = lift(MixedRows().eval(), (X,))
    with raises("parity-diverges", "'batch-invariance'", "24"):
        held(model, graphs_of(model))


def test_a_small_output_next_to_a_large_one_is_held_to_its_own_scale():
    weight = torch.ones(2, 4)
    weight[0] *= 1e7
    model = lift(Heads(weight).eval(), (X,))
    good(model)
    off = sabotaged(model, "out.bias", lambda bias: bias[1].add_(0.01))
    golden, drifts = golden_vectors(off, inputs_to_verify(off, None, 24), EXACT, "noise")
    assert golden.rows == 2
    assert all(d.step is None for d in drifts)
    with raises("parity-diverges", "0.01", "1e-06 + 2e-05"):
        held(off)


def test_a_difference_of_large_numbers_is_held_to_theirs():
    """Its own scale is 1e-7 of that of its terms, and so is its error."""
    large = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)) * 1e5
    model = lift(Twice(torch.cat([large, torch.tensor([[1.0], [-1.0]]) * large], 1)).eval(), (X,))
    _, golden = good(model)
    difference = golden.trials.outputs["output"][..., 1]
    assert golden.trials.scales["output"][..., 1].max() > 1e3 * np.abs(difference).max()
    off = sabotaged(model, "out.bias", lambda bias: bias[1].add_(300))
    with raises("parity-diverges", 300, "1e-06 + 2e-05 x", "e+05 is allowed"):
        held(off)


class Twice(Heads):
    """The same features twice, summed with weights that cancel out."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.rnn = nn.GRU(4, weight.shape[1] // 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.rnn(x)[0]
        y: Tensor = self.out(torch.cat([h, h], -1))
        return y


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        (0, {"quiet noise", "zeros", "constants", "loud frames", "steps"}),
        (4999, {"loud noise", "loud frames", "steps"}),
    ],
)
def test_the_first_and_last_rows_of_an_embedding_are_looked_up(row, kinds):
    model = lift(Tokens().eval(), (torch.zeros(1, 7, dtype=torch.int64),))
    good(model)
    off = sabotaged(model, "table.weight", lambda table: table[row].add_(1))
    with raises("parity-diverges", "of 24 on ", "'table' ") as caught:
        held(off)
    assert any(f"of 24 on {kind};" in str(caught.value) for kind in kinds)


# --- what is not -----------------------------------------------------------------------------------------------------


def test_saturated_gates_of_a_good_layer_pass():
    """On loud input a gate near its middle moves by what rounding does to 1e3."""
    torch.manual_seed(0)
    model = lift(nn.LSTM(64, 64, 2, batch_first=True).eval(), (torch.zeros(1, 7, 64),))
    report, golden = good(model, frames=64)
    assert golden.trials.kinds == KINDS
    assert {d.kind for d in report.drifts} & {"loud noise", "constants", "loud frames", "steps"}


def test_a_network_that_blows_up_passes():
    torch.manual_seed(0)
    net = nn.RNN(4, 16, nonlinearity="relu", batch_first=True).eval()
    with torch.no_grad():
        net.weight_hh_l0.copy_(2 * torch.eye(16))
    model = lift(net, (X,))
    _, golden = good(model, frames=64)
    assert np.abs(golden.trials.outputs["output"]).max() > 1e9


def test_infinities_are_the_models_own(tmp_path):
    model = lift(Sum(lambda x: torch.log(torch.relu(x - 1))).eval(), (X,))
    files = graphs_of(model)
    report, golden = held(model, files)
    assert report.ok
    assert np.isneginf(golden.outputs["output"]).any()
    assert np.isneginf(golden.trials.outputs["output"]).any()
    module = copy.deepcopy(model.module)
    (node,) = [n for n in module.graph.nodes if n.target is torch.ops.aten.add.Tensor]
    node.target = torch.ops.aten.sub.Tensor
    module.recompile()
    with raises("parity-diverges", "inf"):
        held(replace(model, module=module))


def test_what_the_model_cannot_take_is_said_and_refuses_nothing():
    model = lift(Sum(lambda x: x / x.abs().amax(-1, keepdim=True)).eval(), (X,))
    report, _ = good(model)
    assert report.not_judged == {"zeros": "the model itself gives NaN in 'output'"}


class Picked(nn.Module):
    """Rows of a table by numbers that come as floats: beyond it there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.register_buffer("rows", torch.arange(40.0).reshape(10, 4) / 40)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(self.rows[x.long()])[0]
        return y


def test_a_kind_that_the_model_fails_on_is_left_out():
    model = lift(Picked().eval(), (torch.arange(10.0)[None],))
    report, golden = good(model)
    assert golden.trials.kinds == ("noise", "quiet noise", "zeros")
    assert set(report.not_judged) == {"loud noise", "constants", "loud frames", "steps"}
    assert all("the model fails on it: " in why for why in report.not_judged.values())
    assert "out of" in report.not_judged["steps"]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_what_is_louder_than_a_precision_holds_is_not_judged_in_it(tmp_path, precision):
    torch.manual_seed(0)
    bundle = export(nn.GRU(4, 8, batch_first=True), (X,), tmp_path / "net.rnnx", targets=("c",), precision=precision)
    report = json.loads(bundle.read("parity.json"))
    loud = {"loud noise", "constants", "loud frames", "steps"}
    assert report["not_judged"] == dict.fromkeys(loud, f"louder than what {precision} is held to")
    golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
    assert golden.trials is not None
    assert {d["kind"] for d in report["drifts"] if d["check"] == "native.step"} <= {"noise", "quiet noise", "zeros"}


def test_int8_is_held_to_its_recording_alone(tmp_path):
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(2, 40, 4)).astype(np.float32)
    net = nn.GRU(4, 8, batch_first=True).eval()
    bundle = export(net, (X,), tmp_path / "net.rnnx", targets=("c",), precision="int8", data=x, calibrate=x)
    report = json.loads(bundle.read("parity.json"))
    assert set(report["not_judged"]) == {*KINDS, "recording"}
    assert set(report["not_judged"].values()) == {"int8 is held to the recording alone"}


# --- whole sequences, one stream at a time ---------------------------------------------------------------------------


def test_whole_sequences_are_tried_on_every_kind(tmp_path):
    torch.manual_seed(0)
    net = nn.GRU(4, 5, bidirectional=True, batch_first=True).eval()
    bundle = export(net, (X,), tmp_path / "net.rnnx", sequence_only=True, steps=32)
    golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
    assert golden.trials is not None
    assert (golden.trials.kinds, golden.trials.frames) == (KINDS, 32)


class Stateful(nn.Module):
    """One frame of one stream a call."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5)
        self.register_buffer("h", torch.zeros(1, 5))

    def forward(self, x: Tensor) -> Tensor:
        self.h.copy_(self.cell(x, self.h))
        return 2 * self.h


def test_a_module_of_one_stream_is_tried_row_by_row():
    torch.manual_seed(0)
    model = lift(Stateful().eval(), (X[:1, 0],))
    _, golden = good(model, frames=64)
    assert golden.trials.outputs["output"].shape == (7, 32, 5)
    with raises("parity-diverges", "diverges is 'cell' (GRUCell"):
        held(sabotaged(model, "cell.layers.0.R", lambda weights: weights.add_(0.5)))


def test_the_recording_is_one_of_the_kinds():
    model = lift(Heads(torch.ones(3, 4)).eval(), (X,))
    recording = {"x": np.random.default_rng(1).normal(size=(1, 90, 4)).astype(np.float32)}
    _, golden = good(model, recording=recording, frames=80)
    assert golden.kinds == ("recording", "recording")
    assert golden.trials.kinds == (*KINDS, "recording")
    np.testing.assert_array_equal(golden.trials.inputs["x"][-1], recording["x"][0, 16:80])


# --- what no input reached -------------------------------------------------------------------------------------------


class Gates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.net = nn.GRU(4, 4, batch_first=True), nn.Sequential(nn.Linear(4, 4), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(self.rnn(x)[0])
        y = torch.where(y > 5, -y, y)
        return torch.maximum(y, x - 20)


class Loop(nn.Module):
    """A threshold inside the model's own loop over time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, frames = torch.zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            frames.append(torch.relu(h - 3) + torch.relu(h))
        return torch.stack(frames, 1)


NEVER = {
    "gates": (Gates, [("hardtanh", "net.1 (", "above 6"), ("gt", "the model (test_trials.py:", "true")]),
    "loop": (Loop, [("relu", "the model (test_trials.py:", "above 0")]),
    "relu layer": (lambda: nn.RNN(4, 3, nonlinearity="relu", batch_first=True), []),
    "nothing": (lambda: Heads(torch.ones(3, 4)), []),
}


@pytest.mark.parametrize(("make", "wanted"), NEVER.values(), ids=NEVER)
def test_the_side_of_a_threshold_that_no_input_reached_is_told(make, wanted):
    model = lift(make().eval(), (X,))
    _, golden = good(model)
    found = [(row["op"], row["place"], row["never"]) for row in not_exercised(model, golden)]
    assert len(found) == len(wanted)
    for (op, place, never), (wanted_op, beginning, wanted_never) in zip(found, wanted, strict=True):
        assert (op, never) == (wanted_op, wanted_never)
        assert place.startswith(beginning)


class Spectra(nn.Module):
    """torch.istft has thresholds of its own, and so have the ends of a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(8))

    def forward(self, x: Tensor) -> Tensor:
        s = torch.stft(x, 8, 4, window=self.window, return_complex=True)
        return torch.istft(s * 0.5, 8, 4, window=self.window, length=x.shape[1])


def test_thresholds_inside_of_torch_and_of_lifting_are_not_told():
    model = lift(Spectra().eval(), (torch.randn(1, 64),))
    assert model.spec.chunk == 4
    assert not_exercised(model, good(model)[1]) == []


def test_a_model_without_lines_of_its_own_is_told_by_its_paths():
    model = lift(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.ReLU6()).eval(), (X,), time_axis=1)
    found = [(row["place"], row["never"]) for row in not_exercised(model, good(model)[1])]
    assert found == [("2", "below 0"), ("2", "above 6")]


def test_inspect_shows_what_was_not_exercised(tmp_path):
    export(Gates().eval(), (X,), tmp_path / "net.rnnx", steps=24)
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "net.rnnx")]).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("not exercised: ")]
    branches = r"not exercised: 2 branches \(test_trials\.py:\d+ and 1 more\): "
    assert re.fullmatch(f"{branches}a recording that reaches them proves more: --data", line)
    assert "worst input" in shown


def test_a_relu_layer_that_is_always_on_is_told():
    net = nn.RNN(4, 3, nonlinearity="relu", batch_first=True).eval()
    with torch.no_grad():
        net.bias_ih_l0.add_(1e5)
        net.weight_hh_l0.zero_()
    model = lift(net, (X,))
    (row,) = not_exercised(model, good(model)[1])
    assert (row["op"], row["never"]) == ("rnn", "at 0")


def test_a_recording_exercises_what_noise_does_not(tmp_path):
    path = tmp_path / "net.rnnx"

    def never(**options) -> list[str]:
        bundle = export(Windowed(), (X,), path, steps=24, force=True, **options)
        return [row["never"] for row in json.loads(bundle.read("parity.json"))["not_exercised"]]

    assert never() == ["true"]
    assert never(data=np.full((24, 4), 7.0001, np.float32)) == []
    assert open_bundle(path).spec.states


class Windowed(Sum):
    """A window so narrow that only what is meant for it falls into it."""

    def __init__(self) -> None:
        super().__init__(lambda x: torch.where((x - 7).abs() < 1e-3, 1.0, 0.0))
        self.eval()


def test_a_failure_of_the_model_on_noise_is_its_own():
    model = lift(Picked().eval(), (torch.arange(10.0)[None],))
    broken = copy.deepcopy(model.original)
    broken.model.rows = broken.model.rows[:3]
    with raises("verified-code-fails", "the model fails on what it is verified on: IndexError"):
        held(replace(model, original=broken))


class Last(nn.Module):
    """One number for the whole sequence, and a choice for each frame."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y: Tensor = self.rnn(x)[0]
        return y[:, -1].sum(-1), y.argmax(-1)


def test_outputs_without_a_time_axis_and_choices():
    model = lift(Last().eval(), (X,))
    _, golden = good(model)
    assert golden.trials.outputs["output0"].shape == golden.trials.scales["output0"].shape == (7,)
    assert golden.trials.outputs["output1"].dtype == np.int64
