"""A graph with any fault is caught, and reported by check, tensor and step."""

import re
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper
from torch import nn

from rnn_export.cli.main import main
from rnn_export.export import export
from rnn_export.export.graph.step import step_graph
from rnn_export.export.lift.model.sample_inputs import Noise
from rnn_export.export.lift.states import module_state
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.frames import FEWEST_STEPS, fewest_frames, frames_beyond_context
from rnn_export.export.verify.reference import own_trace
from rnn_export.runtime import load
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.golden import FILE, Golden

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..models import outside_nets  # noqa: TID252
from ..models.nets import Explicit, Tagger  # noqa: TID252
from ..models.streams import Call  # noqa: TID252
from ..runtime.graphs import spec, tensor  # noqa: TID252
from .verifying import Stateful, X, graphs_of, held, once, sabotaged

Edit = Callable[[onnx.ModelProto], None]


def test_four_steps_and_those_of_the_delay_are_the_fewest():
    ports = [tensor("x", "batch", "time", 4)], [tensor("y", "batch", "time", 4)]
    assert fewest_frames(spec("late", *ports, [], chunk=2, delay=3)) == (4 + 2) * 2


def test_ids_are_drawn_up_to_the_largest_of_the_example():
    assert set(Noise(nn.Identity()).shaped(torch.tensor([0, 6]), (200,)).tolist()) == set(range(7))


@pytest.fixture(scope="module")
def lifted() -> StreamingModel:
    torch.manual_seed(0)
    return lift(Tagger(nn.LSTM).eval(), (X,))


@pytest.fixture(scope="module")
def graphs(lifted) -> dict[str, bytes]:
    return graphs_of(lifted)


def edited(graph: bytes, edit: Edit) -> bytes:
    model = onnx.load_from_string(graph)
    edit(model)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def verified(model: StreamingModel, files: dict[str, bytes], reference: bytes | None = None):
    return held(model, files, reference=reference or files["step.onnx"])


def changed(model: onnx.ModelProto, end: str, place, by: float) -> None:
    (kept,) = [i for i in model.graph.initializer if i.name.endswith(end)]
    array = numpy_helper.to_array(kept).copy()
    array[place] += by
    kept.CopyFrom(numpy_helper.from_array(array, kept.name))


def weight_off(model: onnx.ModelProto) -> None:
    """One weight of the recurrence is off."""
    changed(model, ".R", (0, 0, 0), 0.5)


def bias_nan(model: onnx.ModelProto) -> None:
    changed(model, "out.bias", ..., np.nan)


def states_swapped(model: onnx.ModelProto) -> None:
    names = {"rnn.l0.h.next": "rnn.l0.c.next", "rnn.l0.c.next": "rnn.l0.h.next"}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]


def state_stuck(model: onnx.ModelProto) -> None:
    """The state that comes back is the one that went in."""
    for node in model.graph.node:
        node.output[:] = ["lost" if name == "rnn.l0.c.next" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Identity", ["rnn.l0.c"], ["rnn.l0.c.next"]))


def test_the_graphs_as_they_are_pass(lifted, graphs):
    report, golden = verified(lifted, graphs)
    assert report.ok
    assert [name for name, _ in report.checks()] == [
        "lifted", "step", "sequence", "chunked", "reset", "snapshot", "batch-invariance", "pool", "onnx.reference",
    ]  # fmt: skip
    assert (golden.frames, golden.rows) == (24, 2)
    assert max(d.relative for d in report.drifts) < 2e-6


BROKEN = {
    "step weight": ("step.onnx", weight_off, "step", "'rnn.l0.", range(2, 6)),
    "step NaN": ("step.onnx", bias_nan, "step", "'output'", [1]),
    "step states swapped": ("step.onnx", states_swapped, "step", "'rnn.l0.", [1]),
    "step state stuck": ("step.onnx", state_stuck, "step", "'rnn.l0.c'", [1]),
    "sequence weight": ("sequence.onnx", weight_off, "sequence", "'output'", range(2, 6)),
    "sequence states swapped": ("sequence.onnx", states_swapped, "sequence", "'rnn.l0.", [24]),
}


@pytest.mark.parametrize(("name", "edit", "check", "tensor", "steps"), BROKEN.values(), ids=BROKEN)
def test_a_broken_graph_is_caught(lifted, graphs, name, edit, check, tensor, steps):
    files = {**graphs, name: edited(graphs[name], edit)}
    with raises("parity-diverges", "onnxruntime", f"'{check}'", tensor, "Nothing was written") as caught:
        verified(lifted, files, reference=graphs["step.onnx"])
    assert any(f"at step {step} of 24;" in str(caught.value) for step in steps)


def test_a_graph_that_only_the_reference_evaluator_sees_is_caught(lifted, graphs):
    with raises("parity-diverges", "'onnx.reference'", "'output'"):
        verified(lifted, graphs, reference=edited(graphs["step.onnx"], weight_off))


class Deep(nn.Module):
    """A convolution, a layer and a head, below each other."""

    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(4, 6, 3), nn.Tanh())
        self.body = nn.ModuleDict({"rnn": nn.GRU(6, 5, batch_first=True), "head": nn.Linear(5, 3)})

    def forward(self, x):
        y = self.front(nn.functional.pad(x.mT, (2, 0))).mT
        return self.body["head"](self.body["rnn"](y)[0])


class Frame(nn.Module):
    """One frame a call: a cell with its state declared, and a buffer."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 5), nn.Sequential(nn.Linear(5, 3))
        self.register_buffer("mean", torch.zeros(1, 3))

    def forward(self, x, h):
        h = self.cell(x, h)
        self.mean = 0.9 * self.mean + self.out(h)
        return self.mean, h


deep = once(
    {
        "sequence": lambda: (Deep(), (X,)),
        "chunk": lambda: (Deep(), (X,), {"chunk": 4}),
        "kept": lambda: (Stateful(), (X[:1, 0],)),
        "frame": lambda: (Frame(), (X[:1, 0], torch.zeros(1, 5)), {"states": {"h": 1}}),
    }
)
# By model, the parameter that is off, and the module and frame that the message names.
SABOTAGED = {
    "a convolution": ("sequence", "front.0.weight", "'front.0' (Conv1d), at its frame 3"),
    "a layer in chunks": ("chunk", "rnn.layers.0.R", "'body.rnn' (GRU), at its frame 2"),
    "a head": ("sequence", "head.weight", "'body.head' (Linear), at its frame 1"),
    "a cell": ("frame", "cell.layers.0.R", "'cell' (GRUCell), at its frame 2"),
    "a cell with a buffer": ("kept", "cell.layers.0.R", "'cell' (GRUCell), at its frame 2"),
    "a head of frames": ("frame", "out.0.bias", "'out.0' (Linear), at its frame 1"),
}


@pytest.mark.parametrize(("name", "weight", "where"), SABOTAGED.values(), ids=SABOTAGED)
def test_a_wrong_lifted_module_is_caught_and_named(name, weight, where):
    def change(tensor):
        tensor.view(-1)[0] += 0.5

    with raises("parity-diverges", "torch", "'lifted'", "of 24", f"{where}.", "before any export", "Nothing"):
        held(sabotaged(deep(name), weight, change))


def test_a_small_error_that_grows_names_its_first_step(lifted, graphs):
    """The cell's forget bias a little off: the first steps are within the tolerance, later ones are not."""

    def forget(model: onnx.ModelProto) -> None:
        changed(model, ".B", (0, slice(12, 18)), 1e-3)

    with raises("parity-diverges") as caught:
        verified(lifted, {**graphs, "step.onnx": edited(graphs["step.onnx"], forget)})
    assert any(f"at step {step} of 24" in str(caught.value) for step in range(2, 20))
    assert "at step 1 " not in str(caught.value)


# --- models that lifting gets wrong, from end to end -----------------------------------------------------------------


class LoudInReverse(nn.Module):
    """Reverses loud values, which noise lacks."""

    def forward(self, x):
        return x + torch.relu(x - 50).flip(1)


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_memory_that_noise_does_not_show_is_named_on_a_recording(blind, chunk):
    """Net under the net: the module where the stream diverges, and the first of its frames."""
    first, net = nn.Linear(4, 4, bias=False), nn.GRU(4, 5, batch_first=True)
    with torch.no_grad():
        first.weight.copy_(torch.eye(4) / 100)
    model = Call(lambda s, x: s.gru(s.net(100 * x) / 100)[0], net=nn.Sequential(first, LoudInReverse()), gru=net)
    lifted = lift(model, (X,), chunk=chunk)
    quiet = np.zeros((2, 24, 4), np.float32)
    quiet[:, 5] = 60
    where = f"diverges is 'net.1' (LoudInReverse), at its frame {6 if chunk == 1 else 7}"
    with raises("parity-diverges", "'lifted'", where, "did not see"):
        held(lifted, recording={"x": quiet})


def test_the_explicit_states_are_verified_in_the_models_own_layout():
    zeros = torch.zeros(2, 2, 5)
    model = lift(Explicit().eval(), (X, zeros, zeros), states={"h": 1, "c": 2})
    files = {"step.onnx": step_graph(model)}
    assert ort.InferenceSession(files["step.onnx"]).get_inputs()[1].shape == ["batch", 2, 5]
    assert verified(model, files)[0].ok


def ahead(s, x, h):
    """A GRU whose state comes in and goes out, on a convolution that looks a frame ahead; x (B, T, 4)."""
    return s.gru(s.conv(x.mT).mT, h)


def test_a_state_of_which_the_model_has_seen_the_end_is_held_by_the_outputs():
    torch.manual_seed(0)
    net = Call(ahead, conv=nn.Conv1d(4, 4, 3, padding=1), gru=nn.GRU(4, 5, batch_first=True))
    report, golden = held(lift(net, (X, torch.zeros(1, 2, 5)), states={"h": 1}))
    assert report.ok
    assert "h" in golden.states


# --- models whose rounding is far above what their outputs are in size


def cancelling() -> nn.Module:
    """Large sums that cancel, before a state: no two libraries add them in the same order."""
    torch.manual_seed(0)
    down = nn.Linear(64, 4)
    with torch.no_grad():
        down.bias.copy_(-1000 * down.weight.sum(1))
    return Call(lambda s, x: s.gru(s.down(x + 1000))[0], down=down, gru=nn.GRU(4, 4, batch_first=True))


def test_what_the_model_itself_rounds_is_no_fault(tmp_path):
    bundle = export(cancelling(), (torch.randn(1, 4, 64),), tmp_path / "net.rnnx", steps=64)
    golden, spec = Golden.from_arrays(bundle.arrays(FILE), bundle.spec), bundle.spec
    # A thousand in a sum of 64 weights of an eighth, before gates and other weights of a half.
    assert {"output", "gru.l0.h"} <= set(golden.scales)
    assert 10 < golden.scales["gru.l0.h"].max() < 10_000
    off = {"output": golden.outputs["output"] + 3e-2}
    assert [d.step for d in golden.output_drifts("step", spec, golden.outputs)] == [None]
    assert [d.step for d in golden.output_drifts("step", spec, off)] != [None]
    assert CliRunner().invoke(main, ["verify", str(bundle.path)]).exit_code == 0


def test_of_others_no_scale_is_measured(lifted):
    assert held(lifted)[1].scales == {}


def test_a_model_that_makes_large_differences_of_small_ones_is_said_to(tmp_path):
    """A chaotic one: no runtime follows it for long, and the steps that are said are verified."""

    def forward(s, x):
        h, ys = x.new_zeros(x.shape[0], 24), []
        for frame in x.unbind(1):
            h = torch.tanh(s.w(h) + s.i(frame))
            ys.append(h)
        return torch.stack(ys, 1)

    torch.manual_seed(0)
    model = Call(forward, w=nn.Linear(24, 24), i=nn.Linear(4, 24))
    nn.init.normal_(model.w.weight, std=3 / 24**0.5)
    with raises("parity-diverges", "changed by 3.8e-06 of itself", "so that no two computers") as refused:
        export(model, (torch.randn(2, 8, 4),), tmp_path / "chaos.rnnx")
    steps = int(re.search(r"\(--steps (\d+)\)", str(refused.value)).group(1))
    assert 4 <= steps <= 64
    export(model, (torch.randn(2, 8, 4),), tmp_path / "chaos.rnnx", steps=steps)


# --- the reference is what the user gave, whatever lifting ran


FLAGGED = {
    "dict": (lambda: outside_nets.Gained({}), "'flags'"),
    "set": (lambda: outside_nets.InSet(set()), "'flags'"),
    "array": (lambda: outside_nets.InArray(np.zeros(1)), "'flags'"),
    "global": (outside_nets.InGlobal, "'FLAGS'"),
    "class": (outside_nets.InClass, "'shared'"),
    "default": (outside_nets.InDefault, "the default of an argument"),
    "closure": (outside_nets.InClosure, "a variable of a closure"),
}


@pytest.mark.parametrize(("make", "name"), FLAGGED.values(), ids=FLAGGED)
def test_a_flag_that_loud_values_set_is_refused(make: Callable[[], nn.Module], name: str, tmp_path) -> None:
    outside_nets.forget_flags()
    with raises("memory-in-python-objects", name):
        export(make().eval(), (torch.randn(1, 8),), tmp_path / "net.rnnx", time_axis=None, steps=24)
    assert not (tmp_path / "net.rnnx").exists()


@pytest.mark.parametrize("make", [make for make, _ in FLAGGED.values()], ids=FLAGGED)
def test_a_flag_that_a_trace_sets_is_not_set_in_the_reference(
    make: Callable[[], nn.Module], tmp_path, monkeypatch
) -> None:
    outside_nets.forget_flags()
    monkeypatch.setattr(module_state, "refuse_other_memory", lambda *_: None)
    with raises("parity-diverges", "memory over time that lifting did not see"):
        export(make().eval(), (torch.randn(1, 8),), tmp_path / "net.rnnx", time_axis=None, steps=24)
    assert not (tmp_path / "net.rnnx").exists()


def test_each_run_of_the_reference_starts_from_the_globals_that_the_user_has(monkeypatch) -> None:
    """Lifting calls the model more than 20 times: shared, the count would be past its threshold from frame 0."""
    outside_nets.calls = 0
    monkeypatch.setattr(module_state, "refuse_other_memory", lambda *_: None)
    lifted = lift(outside_nets.Counted().eval(), (torch.randn(1, 8),), time_axis=None)
    assert outside_nets.calls > 20
    inputs = {"x": np.ones((1, 60, 8), np.float32)}
    before = outside_nets.calls
    first, second = (own_trace(lifted, ClosedLoop(lifted.spec, inputs)).outputs["output"] for _ in range(2))
    assert np.array_equal(first, second)
    jumps = np.flatnonzero(np.diff(first[0, :, 0]) > 0.9)
    assert jumps.tolist() == [19]
    assert outside_nets.calls == before


def test_an_output_that_is_the_state_in_place_is_copied_as_it_was(tmp_path) -> None:
    export(outside_nets.Leaks().eval(), (torch.randn(1, 8),), tmp_path / "net.rnnx", time_axis=None, steps=24)
    stream, h = load(tmp_path / "net.rnnx").stream(), np.zeros(8, np.float32)
    for x in np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32):
        h = h * np.float32(0.9) + x
        np.testing.assert_allclose(stream.step(x), h, rtol=1e-5, atol=1e-6)


def test_an_object_that_cannot_be_copied_is_named_in_the_notes() -> None:
    ticks = (tick for tick in range(10**6))

    class Ticking(nn.GRU):
        def forward(self, x):  # type: ignore[override]
            next(ticks)
            return super().forward(x)

    notes = lift(Ticking(4, 4, batch_first=True).eval(), (torch.zeros(1, 5, 4),)).notes
    assert any("generator" in note and "cannot be copied" in note for note in notes), notes


@pytest.mark.parametrize(
    ("context", "chunk", "steps"), [(None, 2, 0), (8, 1, 8 + FEWEST_STEPS), (9, 4, 3 + FEWEST_STEPS)]
)
def test_some_steps_are_beyond_the_window_of_attention(context, chunk, steps):
    inputs, outputs = [tensor("x", "batch", "time", 3)], [tensor("y", "batch", "time", 3)]
    assert (
        frames_beyond_context(spec("attention", inputs, outputs, [], chunk=chunk, max_context=context)) == steps * chunk
    )
