"""Trials beyond ordinary noise: each kind of input and each entry is held to its own scale."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper
from torch import Tensor, nn

from rnn_export.cli.main import main
from rnn_export.contract.precision import TOLERANCES
from rnn_export.export import export
from rnn_export.export.lift import stages
from rnn_export.export.lift.batch_rows import RULES
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout
from rnn_export.export.lift.ir.dependence.row_dependence import Rows
from rnn_export.export.verify.coverage import not_exercised
from rnn_export.export.verify.inputs import inputs_to_verify
from rnn_export.export.verify.kinds import trial_inputs
from rnn_export.export.verify.reference import golden_vectors
from rnn_export.export.verify.scales import CHANGE, scales_of
from rnn_export.runtime.replay.golden import FILE, Golden

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..models.streams import Call  # noqa: TID252
from .verifying import Stateful, X, graphs_of, held, once, rewritten, sabotaged

aten = torch.ops.aten
KINDS = ("noise", "quiet noise", "loud noise", "zeros", "constants", "loud frames", "steps")
SMALL = torch.ones(2, 4)
SMALL[0] *= 1e7
LARGE = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)) * 1e5


def with_extra(extra: Callable[[Tensor], Tensor]) -> nn.Module:
    """A GRU, and beside it what `extra` makes of the frames."""
    return Call(lambda s, x: s.rnn(x)[0] + extra(x), rnn=nn.GRU(4, 4, batch_first=True))


def heads(weight: Tensor, twice: bool = False) -> nn.Module:
    """Outputs of any weights over a GRU, or over the same features twice."""
    out = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        out.weight.copy_(weight)
    rnn = nn.GRU(4, weight.shape[1] // (1 + twice), batch_first=True)
    return Call(lambda s, x: s.out(torch.cat([s.rnn(x)[0]] * (1 + twice), -1)), rnn=rnn, out=out)


def growing() -> nn.Module:
    net = nn.RNN(4, 16, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        net.weight_hh_l0.copy_(2 * torch.eye(16))
    return net


def always_on() -> nn.Module:
    net = nn.RNN(4, 3, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        net.bias_ih_l0.add_(1e5)
        net.weight_hh_l0.zero_()
    return net


def gates(s, x):
    y = s.net(s.rnn(x)[0])
    y = torch.where(y > 5, -y, y)
    return torch.maximum(y, x - 20)


def loop(s, x):
    """A threshold inside the model's own loop over time."""
    h, frames = torch.zeros(x.shape[0], 4), []
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        frames.append(torch.relu(h - 3) + torch.relu(h))
    return torch.stack(frames, 1)


def spectra(s, x):
    """torch.istft has thresholds of its own, and so have the ends of a stream."""
    spectrum = torch.stft(x, 8, 4, window=s.window, return_complex=True)
    return torch.istft(spectrum * 0.5, 8, 4, window=s.window, length=x.shape[1])


def picked() -> nn.Module:
    """Rows of a table by numbers that come as floats: beyond it there are none."""
    table = torch.arange(40.0).reshape(10, 4) / 40
    return Call(lambda s, x: s.rnn(s.rows[x.long()])[0], rnn=nn.GRU(4, 4, batch_first=True), rows=table)


def last(s, x):
    """One number for the whole sequence, and a choice for each frame."""
    y = s.rnn(x)[0]
    return y[:, -1].sum(-1), y.argmax(-1)


def gated() -> nn.Module:
    return Call(gates, rnn=nn.GRU(4, 4, batch_first=True), net=nn.Sequential(nn.Linear(4, 4), nn.ReLU6()))


IDS = (torch.zeros(1, 7, dtype=torch.int64),)
lifted = once(
    {
        "heads": lambda: (heads(torch.ones(3, 4)), (X,)),
        "small beside large": lambda: (heads(SMALL), (X,)),
        "difference": lambda: (heads(torch.cat([LARGE, torch.tensor([[1.0], [-1.0]]) * LARGE], 1), twice=True), (X,)),
        "tokens": lambda: (
            Call(
                lambda s, ids: s.rnn(s.table(ids))[0], table=nn.Embedding(5000, 4), rnn=nn.GRU(4, 5, batch_first=True)
            ),
            IDS,
        ),
        "threshold": lambda: (with_extra(lambda x: torch.relu(x - 20)), (X,)),
        "bound": lambda: (with_extra(lambda x: x.clamp(-20.0, 30.0)), (X,)),
        "infinities": lambda: (with_extra(lambda x: torch.log(torch.relu(x - 1))), (X,)),
        "a quotient": lambda: (with_extra(lambda x: x / x.abs().amax(-1, keepdim=True)), (X,)),
        "window": lambda: (with_extra(lambda x: torch.where((x - 7).abs() < 1e-3, 1.0, 0.0)), (X,)),
        "saturated": lambda: (nn.LSTM(64, 64, 2, batch_first=True), (torch.zeros(1, 7, 64),)),
        "growing": lambda: (growing(), (X,)),
        "picked": lambda: (picked(), (torch.arange(10.0)[None],)),
        "stateful": lambda: (Stateful(), (X[:1, 0],)),
        "gates": lambda: (gated(), (X,)),
        "loop": lambda: (Call(loop, cell=nn.GRUCell(4, 4)), (X,)),
        "relu layer": lambda: (nn.RNN(4, 3, nonlinearity="relu", batch_first=True), (X,)),
        "always on": lambda: (always_on(), (X,)),
        "spectra": lambda: (Call(spectra, window=torch.hann_window(8)), (torch.randn(1, 64),)),
        "no lines": lambda: (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.ReLU6()), (X,), {"time_axis": 1}),
        "last": lambda: (Call(last, rnn=nn.GRU(4, 5, batch_first=True)), (X,)),
    }
)


@cache
def good(name: str, graphs: bool = False, frames: int = 24):
    """The report and vectors of a model that passes."""
    report, golden = held(lifted(name), graphs_of(lifted(name)) if graphs else None, frames=frames)
    assert report.ok
    assert golden.trials is not None
    return report, golden


# --- the inputs ------------------------------------------------------------------------------------------------------


def test_the_kinds_of_floats():
    kinds, inputs = trial_inputs(lifted("heads"), 64)
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
    constant = rows["constants"].reshape(4, 16, 4)
    assert (constant == constant[:, :1]).all()
    np.testing.assert_allclose(constant[1], constant[0] * 1e6, rtol=1e-5)
    loud = largest["loud frames"] > 0.5
    assert loud.sum() == 6
    assert largest["loud frames"][~loud].max() < 6e-3
    assert 2 <= len(np.flatnonzero(np.diff(largest["steps"] > 0.5))) <= 4


def test_the_ends_of_whole_numbers():
    kinds, inputs = trial_inputs(lifted("tokens"), 64)
    rows = dict(zip(kinds, map(set, inputs["ids"]), strict=True))
    assert rows["quiet noise"] == {0, 1, 2, 3}
    assert rows["loud noise"] == {4996, 4997, 4998, 4999}
    assert rows["zeros"] == {0}
    assert len(rows["constants"]) == 2
    assert len(rows["noise"]) > 50


def test_the_recording_is_one_of_the_kinds():
    recording = {"x": np.random.default_rng(1).normal(size=(1, 90, 4)).astype(np.float32)}
    report, golden = held(lifted("heads"), recording=recording, frames=80)
    assert report.ok
    assert golden.kinds == ("recording", "recording")
    assert golden.trials.kinds == (*KINDS, "recording")
    np.testing.assert_array_equal(golden.trials.inputs["x"][-1], recording["x"][0, 16:80])


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_a_threshold_that_is_off_is_caught_on_loud_frames():
    off = rewritten(lifted("threshold"), aten.sub.Tensor, lambda node: setattr(node, "args", (node.args[0], 21)))
    at = "step 1 of 24 on loud noise"
    with raises("parity-diverges", "torch", "'lifted'", "'output'", at, "1", "1e-06 + 2e-05", "Nothing was written"):
        held(off)


def test_a_graph_that_is_off_beyond_a_bound_is_caught():
    model, files = lifted("bound"), graphs_of(lifted("bound"))
    assert held(model, files)[0].ok
    graph = onnx.load_from_string(files["step.onnx"])
    (kept,) = [t for t in graph.graph.initializer if t.dims == [] and numpy_helper.to_array(t) == 30]
    kept.CopyFrom(numpy_helper.from_array(np.float32(31), kept.name))
    with raises("parity-diverges", "'step'", "24 on loud noise", "1"):
        held(model, {**files, "step.onnx": graph.SerializeToString()})


def test_a_loud_row_is_not_heard_in_a_silent_one(monkeypatch):
    """Loud values in one row reach the others: lifting refuses such a model, and verification does so by itself."""

    def unrefused(module, few, more, inputs, outputs):
        return Rows(module, few, more, [AxisLayout(axis) for axis in inputs], RULES)

    monkeypatch.setattr(stages, "follow_rows", unrefused)
    model = lift(with_extra(lambda x: torch.relu(x - 20).mean(0, keepdim=True)), (X,))
    with raises("parity-diverges", "'batch-invariance'", "24"):
        held(model, graphs_of(model))


def test_a_small_output_next_to_a_large_one_is_held_to_its_own_scale():
    good("small beside large", graphs=True)
    off = sabotaged(lifted("small beside large"), "out.bias", lambda bias: bias[1].add_(0.01))
    golden, drifts = golden_vectors(off, inputs_to_verify(off, None, 24), TOLERANCES["fp32"], "noise")
    assert golden.rows == 2
    assert all(d.step is None for d in drifts)
    with raises("parity-diverges", "0.01", "1e-06 + 2e-05"):
        held(off)


def test_a_difference_of_large_numbers_is_held_to_theirs():
    """Its own scale is 1e-7 of that of its terms, and so is its error."""
    _, golden = good("difference", graphs=True)
    difference = golden.trials.outputs["output"][..., 1]
    assert golden.trials.scales["output"][..., 1].max() > 1e3 * np.abs(difference).max()
    with raises("parity-diverges", 300, "1e-06 + 2e-05 x", "e+05 is allowed"):
        held(sabotaged(lifted("difference"), "out.bias", lambda bias: bias[1].add_(300)))


def test_a_scale_is_a_power_of_two_that_is_no_smaller():
    value, changed = np.ones((1, 3)), np.array([[1 + 3 * CHANGE, 1 + 4 * CHANGE, 1 + CHANGE / 2]])
    np.testing.assert_array_equal(scales_of({"y": value}, [{"y": changed}], ["y"])["y"], [[4, 4, 0]])


LOUD = {"loud noise", "loud frames", "steps"}


@pytest.mark.parametrize(
    ("row", "kinds"), [(0, {"quiet noise", "zeros", "constants", "loud frames", "steps"}), (4999, LOUD)]
)
def test_the_first_and_last_rows_of_an_embedding_are_looked_up(row, kinds):
    good("tokens")
    off = sabotaged(lifted("tokens"), "table.weight", lambda table: table[row].add_(1))
    with raises("parity-diverges", "of 24 on ", "'table' ") as caught:
        held(off)
    assert any(f"of 24 on {kind};" in str(caught.value) for kind in kinds)


def test_a_failure_of_the_model_is_its_own():
    """On noise, and on the ids of a recording that lie beyond its table."""
    broken = copy.deepcopy(lifted("picked").original)
    broken.model.rows = broken.model.rows[:3]
    beyond = {"ids": np.arange(4990, 5040)[None]}
    for model, recording in ((replace(lifted("picked"), original=broken), None), (lifted("tokens"), beyond)):
        with raises("verified-code-fails", "the model fails on what it is verified on: IndexError"):
            held(model, recording=recording)


# --- what is not -----------------------------------------------------------------------------------------------------


def test_saturated_gates_of_a_good_layer_pass():
    """On loud input a gate near its middle moves by what rounding does to 1e3."""
    report, golden = good("saturated", graphs=True, frames=64)
    assert golden.trials.kinds == KINDS
    assert {d.kind for d in report.drifts} & {*LOUD, "constants"}


def test_a_network_that_blows_up_passes():
    _, golden = good("growing", graphs=True, frames=64)
    assert np.abs(golden.trials.outputs["output"]).max() > 1e9


def test_infinities_are_the_models_own():
    _, golden = good("infinities", graphs=True)
    assert np.isneginf(golden.outputs["output"]).any()
    assert np.isneginf(golden.trials.outputs["output"]).any()
    off = rewritten(lifted("infinities"), aten.add.Tensor, lambda node: setattr(node, "target", aten.sub.Tensor))
    with raises("parity-diverges", "inf"):
        held(off)


def test_what_the_model_cannot_take_is_said_and_refuses_nothing():
    assert good("a quotient", graphs=True)[0].not_judged == {"zeros": "the model itself gives NaN in 'output'"}


def test_a_kind_that_the_model_fails_on_is_left_out():
    report, golden = good("picked")
    assert golden.trials.kinds == ("noise", "quiet noise", "zeros")
    assert set(report.not_judged) == {*LOUD, "constants"}
    assert all("the model fails on it: " in why for why in report.not_judged.values())
    assert "out of" in report.not_judged["steps"]


def test_a_module_of_one_stream_is_tried_row_by_row():
    assert good("stateful", frames=64)[1].trials.outputs["output"].shape == (7, 32, 5)


def test_outputs_without_a_time_axis_and_choices():
    trials = good("last")[1].trials
    assert trials.outputs["output0"].shape == trials.scales["output0"].shape == (7,)
    assert trials.outputs["output1"].dtype == np.int64


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_what_is_louder_than_a_precision_holds_is_not_judged_in_it(tmp_path, precision):
    """And int8 is held to its recording alone."""
    torch.manual_seed(0)
    net, own = nn.GRU(4, 8, batch_first=True).eval(), {}
    if precision == "int8":
        sound = np.random.default_rng(0).normal(size=(2, 40, 4)).astype(np.float32)
        own = {"data": sound, "calibrate": sound}
    bundle = export(net, (X,), tmp_path / "net.rnnx", targets=("c",), precision=precision, **own)
    report = json.loads(bundle.read("parity.json"))
    if own:
        wanted = dict.fromkeys((*KINDS, "recording"), "int8 is held to the recording alone")
    else:
        wanted = dict.fromkeys((*LOUD, "constants"), f"louder than what {precision} is held to")
        quiet = {"noise", "quiet noise", "zeros"}
        assert {d["kind"] for d in report["drifts"] if d["check"] == "native.step"} <= quiet
    assert report["not_judged"] == wanted
    assert Golden.from_arrays(bundle.arrays(FILE), bundle.spec).trials is not None


def test_whole_sequences_are_tried_on_every_kind(tmp_path):
    net = nn.GRU(4, 5, bidirectional=True, batch_first=True).eval()
    bundle = export(net, (X,), tmp_path / "net.rnnx", sequence_only=True, steps=32)
    trials = Golden.from_arrays(bundle.arrays(FILE), bundle.spec).trials
    assert trials is not None
    assert (trials.kinds, trials.frames) == (KINDS, 32)


# --- what no input reached -------------------------------------------------------------------------------------------

# By model, the operator, the beginning of its place, and the side that it never had.
MINE = "the model (test_trials.py:"
NEVER = {
    "gates": [("hardtanh", "net.1 (", "above 6"), ("gt", MINE, "true")],
    "loop": [("relu", MINE, "above 0")],
    "always on": [("rnn", "", "at 0")],
    # A model without lines of its own is told by its paths.
    "no lines": [("hardtanh", "2", "below 0"), ("hardtanh", "2", "above 6")],
    "relu layer": [],
    "heads": [],
    # Thresholds inside of torch and of lifting are not told.
    "spectra": [],
}


@pytest.mark.parametrize("name", NEVER)
def test_the_side_of_a_threshold_that_no_input_reached_is_told(name):
    found = not_exercised(lifted(name), good(name)[1])
    assert [(row["op"], row["never"]) for row in found] == [(op, never) for op, _, never in NEVER[name]]
    assert all(row["place"].startswith(place) for row, (_, place, _) in zip(found, NEVER[name], strict=True))


def test_a_recording_exercises_what_noise_does_not():
    """A window so narrow that only what is meant for it falls into it."""
    assert [row["never"] for row in not_exercised(lifted("window"), good("window")[1])] == ["true"]
    _, golden = held(lifted("window"), recording={"x": np.full((1, 24, 4), 7.0001, np.float32)})
    assert not_exercised(lifted("window"), golden) == []


def test_inspect_shows_what_was_not_exercised(tmp_path):
    export(gated().eval(), (X,), tmp_path / "net.rnnx", steps=24)
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "net.rnnx")]).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("not exercised: ")]
    branches = r"not exercised: 2 branches \(test_trials\.py:\d+ and 1 more\): "
    assert re.fullmatch(f"{branches}a recording that reaches them proves more: --data", line)
    assert "worst input" in shown
