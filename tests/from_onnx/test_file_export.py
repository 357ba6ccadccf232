"""ONNX files exported to bundles: layouts, constants and verification."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from rnn_export import __version__, load
from rnn_export.bundle import Bundle
from rnn_export.export.api import export
from rnn_export.export.from_onnx import boundary
from rnn_export.export.from_onnx.original import Original
from rnn_export.export.from_onnx.reading import read_source
from rnn_export.runtime.build.tensorrt.builder import engine_target

from ..messages import raises  # noqa: TID252
from . import nets

Make = Callable[..., Bundle]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    def make(file: Path, **options: Any) -> Bundle:
        return export(file, path=tmp_path / "net.rnnx", **{"steps": 12, **options})

    return make


def held_to_its_file(bundle: Bundle, file: Path, x: Any, starts: dict[str, tuple[str, Any]], **fixed: Any) -> None:
    """The stream gives what the file gives, which has rows of one, its states fed back by hand."""
    session = ort.InferenceSession(file)
    stream, (of_file, *_) = load(bundle.path).stream(), session.get_inputs()
    names = [value.name for value in session.get_outputs()]
    fed, leading = {name: start for name, (_, start) in starts.items()}, len(of_file.shape) - x[0].ndim
    for frame in x:
        whole = frame[(None,) * leading]
        given = dict(zip(names, session.run(None, {of_file.name: whole, **fed, **fixed}), strict=True))
        want = given[names[0]]
        np.testing.assert_allclose(stream.step(frame[None] if leading > 1 else frame), want[0], atol=1e-6)
        fed = {name: given[out] for name, (out, _) in starts.items()}


@pytest.mark.parametrize("opset", [9, 21])
def test_an_lstm_of_old_and_new_opsets(opset: int, made: Make, tmp_path: Path) -> None:
    """Its states (layers, batch, units) have the batch in front, and its axis of one frame is part of the frame."""
    file = nets.lstm(tmp_path / "lstm.onnx", opset=opset)
    bundle = made(file)
    row = ("batch", 1, 6)
    assert [(s.name, s.output, s.shape) for s in bundle.spec.states] == [("h", "hn", row), ("c", "cn", row)]
    assert (bundle.spec.inputs[0].shape, bundle.spec.outputs[0].shape) == ((1, "batch", 4), (1, "batch", 3))
    assert (bundle.spec.rows, bundle.targets[0].opset) == (None, 18)
    zeros = np.zeros((1, 1, 6), np.float32)
    held_to_its_file(bundle, file, nets.random(5, 4, seed=9), {"h": ("hn", zeros), "c": ("cn", zeros)})


def test_the_author_s_names_stay_and_what_has_none_gets_one(made: Make, tmp_path: Path) -> None:
    file = nets.lstm(tmp_path / "lstm.onnx")
    step = onnx.load_from_string(made(file).read("step.onnx"))
    assert (step.producer_name, step.producer_version, step.graph.name) == ("rnn-export", __version__, "lstm")
    nodes = {node.name: node for node in step.graph.node}
    assert set(nodes) == {"rnn", "Squeeze", "MatMul", "Transpose", "Transpose_2", "Transpose_3", "Transpose_4"}
    assert list(nodes["rnn"].input[:4]) == ["x", "W", "R", "B"]
    assert {"W", "R", "B", "M"} <= {tensor.name for tensor in step.graph.initializer}
    docs = {value.name: value.doc_string for value in step.graph.input}
    assert docs["h"] == (
        "State: a state of the file (by name and shape). It starts at zero; feed hn back at the next call."
    )
    assert "- h <- hn: a state of the file (by name and shape); starts at zero" in step.doc_string.splitlines()


@pytest.mark.parametrize(
    ("frames", "options", "taken", "given", "chunk"),
    [
        ("T", {}, ("batch", 4), ("batch", 3), 1),
        ("T", {"chunk": 3}, ("time", "batch", 4), ("time", "batch", 3), 3),
        (3, {}, ("time", "batch", 4), (3, "batch", 3), 3),
    ],
    ids=["dropped from a step", "kept by several frames", "fixed"],
)
def test_an_axis_of_frames(
    frames: int | str, options: Any, taken: Any, given: Any, chunk: int, made: Make, tmp_path: Path
) -> None:
    file = nets.lstm(tmp_path / "lstm.onnx", frames=frames)
    spec = made(file, shapes={"x": ("time", "batch", 4)}, **options).spec
    assert (spec.inputs[0].shape, spec.outputs[0].shape, spec.chunk) == (taken, given, chunk)


def test_a_fixed_batch_is_one_stream(made: Make, tmp_path: Path) -> None:
    bundle = made(nets.lstm(tmp_path / "lstm.onnx", batch=2))
    assert (bundle.spec.rows, bundle.spec.states[0].shape) == (1, ("batch", 2, 6))
    graph = onnx.load_from_string(bundle.read("step.onnx")).graph
    assert [d.dim_value for d in graph.input[1].type.tensor_type.shape.dim] == [1, 2, 6]


def test_a_setting_that_is_fed_as_data_is_named_where_the_file_fails(tmp_path: Path) -> None:
    """As Silero's file fails where nobody says its rate."""
    original = Original(read_source(nets.rated(tmp_path / "rated.onnx")), {})
    feed = {"x": np.zeros((1, 3), np.float32), "sr": np.array(0), "state": np.zeros((1, 4), np.float32)}
    with raises("onnx-original-fails", "x (1, 3), sr ()", "no data: --fix sr=VALUE"):
        original(feed)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_branch_on_a_constant_goes(rate: int, made: Make, tmp_path: Path) -> None:
    file = nets.rated(tmp_path / "rated.onnx")
    bundle = made(file, fixed={"sr": rate}, states={"state": "stateN", "x": None})
    graph = onnx.load_from_string(bundle.read("step.onnx")).graph
    assert "If" not in {node.op_type for node in graph.node}
    assert [value.name for value in graph.input] == ["x", "state"]
    zeros = np.zeros((1, 4), np.float32)
    held_to_its_file(bundle, file, nets.random(4, 4, seed=9), {"state": ("stateN", zeros)}, sr=np.array(rate))
    assert json.loads(bundle.read("parity.json"))["file"]["fixed"] == {"sr": rate}


def test_an_encoder_of_sherpa_onnx(made: Make, tmp_path: Path) -> None:
    """Its caches have the rows on another axis, and its mask is expanded to a size that asks whether it is -1."""
    file = nets.encoder(tmp_path / "encoder.onnx")
    bundle = made(file)
    assert {s.name: (s.output, s.dtype, s.shape) for s in bundle.spec.states} == {
        "cached_key_0": ("new_cached_key_0", "float32", ("batch", 4, 3)),
        "processed_lens": ("new_processed_lens", "int64", ("batch",)),
    }
    assert (bundle.spec.rows, bundle.spec.outputs[0].shape) == (None, ("batch", 1, 3))
    starts = {
        "cached_key_0": ("new_cached_key_0", np.zeros((4, 1, 3), np.float32)),
        "processed_lens": ("new_processed_lens", np.zeros(1, np.int64)),
    }
    held_to_its_file(bundle, file, nets.random(6, 2, 3, seed=9), starts)


def test_rows_that_change_one_another_are_one_stream(made: Make, tmp_path: Path) -> None:
    file = nets.above_the_loudest(tmp_path / "net.onnx")
    with raises("parity-diverges", "'batch-invariance'", "say that it takes one stream, --shape NAME=1"):
        made(file)
    assert not (tmp_path / "net.rnnx").exists()
    bundle = made(file, shapes={"x": (1, 4)})
    assert bundle.spec.rows == 1
    (note,) = json.loads(bundle.read("parity.json"))["notes"]
    assert note == "no input is a state: every step stands for itself, and a stream remembers nothing"
    # A negative number with an exponent a little below 2 is no number, and what is none is held to nothing.
    scales = bundle.arrays("golden.npz")["trials/scale/y"]
    assert np.isfinite(scales).all()


def test_a_state_starts_where_it_is_said(made: Make, tmp_path: Path) -> None:
    file, start = nets.accumulator(tmp_path / "net.onnx", "h", "h_out"), nets.random(3, seed=5)
    bundle = made(file, initial={"h": start}, states={"h": "h_out", "x": None})
    assert bundle.spec.states[0].initial == "stored"
    held_to_its_file(bundle, file, nets.random(4, 3, seed=9), {"h": ("h_out", start[None])})


def test_the_digest_is_of_the_weights(tmp_path: Path) -> None:
    file = nets.window(tmp_path / "net.onnx")
    first, same = (export(file, path=tmp_path / f"{i}.rnnx", steps=8).spec.digest for i in "ab")
    model = onnx.load(file)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, file)
    assert first == same != export(file, path=tmp_path / "c.rnnx", steps=8).spec.digest


def test_a_recording_is_verified_on_and_what_overflows_in_the_second_opinion_says_nothing(
    made: Make, tmp_path: Path
) -> None:
    """Warnings are errors here, and ONNX's own Sigmoid has an exp of both signs."""
    file, loud = nets.rated(tmp_path / "rated.onnx"), nets.random(16, 4) * np.float32(1e4)
    bundle = made(file, fixed={"sr": 16000}, states={"state": "stateN", "x": None}, data=loud)
    report = json.loads(bundle.read("parity.json"))
    assert report["source"] == "recording"
    assert "onnx.reference" in {drift["check"] for drift in report["drifts"]}


def test_c_is_held_to_the_file_and_the_bundle_says_what_it_was_made_of(made: Make, tmp_path: Path) -> None:
    bundle = made(nets.window(tmp_path / "net.onnx"), targets=("onnx", "c"))
    assert [row.target for row in bundle.targets] == ["onnx", "c"]
    checks = {drift["check"] for drift in json.loads(bundle.read("parity.json"))["drifts"]}
    assert {"native.step", "onnxruntime.step", "native.pool", "onnx.reference"} <= checks
    page = bundle.read("README.md").decode()
    assert "The step of `net.onnx` (opset 17, by somebody), its states outside" in page
    assert "against ONNX Runtime on the file itself" in page
    assert "state 'past_x' comes back as 'present_x', by name and shape" in page
    assert "torch" not in bundle.producer


def test_a_step_that_does_something_else_is_refused(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth is the file, not what was made of it."""
    right = boundary.step_of

    def wrong(*args: Any) -> bytes:
        model = onnx.load_from_string(right(*args))
        weights = next(t for t in model.graph.initializer if len(t.dims) == 3)
        array = onnx.numpy_helper.to_array(weights).copy()
        array.flat[0] += 0.01
        weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
        return model.SerializeToString()

    monkeypatch.setattr("rnn_export.export.onnx_file.step_of", wrong)
    with raises("parity-diverges", "Nothing was written"):
        made(nets.window(tmp_path / "net.onnx"))
    assert not (tmp_path / "net.rnnx").exists()


# --- what is refused


def recurrent(path: Path, frames: int | str, direction: str = "forward") -> Path:
    """x (frames, batch, 4) -> y: a GRU that starts from zeros at each call."""
    directions = 2 if direction == "bidirectional" else 1
    weights = {"W": nets.random(directions, 15, 4), "R": nets.random(directions, 15, 5, seed=1)}
    node = onnx.helper.make_node("GRU", ["x", "W", "R"], ["y"], "gru", hidden_size=5, direction=direction)
    y = nets.value("y", (frames, directions, "batch", 5))
    return nets.save(path, [node], [nets.value("x", (frames, "batch", 4))], [y], weights)


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        (1, {}, ("state-restarts-each-call", "'gru'", "GRU")),
        ("T", {"shapes": {"x": ("time", "batch", 4)}}, ("state-restarts-each-call",)),
        (6, {}, ("state-restarts-over-frames", "6")),
        ("T", {}, ("onnx-axes-unclear", "'x' float32", "T, batch, 4", "nothing says how large 'T' is", "x=DIM,DIM,4")),
    ],
)
def test_a_memory_that_no_state_holds_is_refused(
    frames: int | str, options: dict[str, Any], message: tuple[str, ...], made: Make, tmp_path: Path
) -> None:
    with raises(*message):
        made(recurrent(tmp_path / "gru.onnx", frames), **options)


def test_a_memory_inside_of_a_frame_is_none(made: Make, tmp_path: Path) -> None:
    note = "starts anew at each step, over the 6 entries of an axis of the frame"
    both = made(recurrent(tmp_path / "gru.onnx", 6, "bidirectional"))
    assert any(note in said for said in json.loads(both.read("parity.json"))["notes"])
    assert made(recurrent(tmp_path / "gru.onnx", 6), states={}, force=True).spec.states == ()


def test_a_convolution_over_frames_of_a_call_is_no_step(made: Make, tmp_path: Path) -> None:
    """Frame after frame it would see its padding alone: several frames in one call show it."""
    node = onnx.helper.make_node("Conv", ["x", "K"], ["y"], pads=[2, 0])
    inputs, outputs = [nets.value("x", ("batch", 4, "T"))], [nets.value("y", ("batch", 5, "T"))]
    file = nets.save(tmp_path / "conv.onnx", [node], inputs, outputs, {"K": nets.random(5, 4, 3)})
    with raises("onnx-remembers-more", "conv", "onnx", "8", "'y'"):
        made(file, shapes={"x": ("batch", 4, "time")})


CHUNK = "chunk is %s, but a step has a whole number of frames"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("pt2",)}, ("target-needs-module", "'pt2' is written from a program of torch's, which a PyTorch")),
        ({"time_axis": 1}, ("option-of-other-source", "time_axis", "a PyTorch module", "an ONNX file")),
        ({"example_inputs": (1,)}, ("option-of-other-source", "example_inputs", "a PyTorch module")),
        ({"fixed": {"sr": 1}}, ("no-input-to-fix", "'sr'", "'x' float32")),
        ({"fixed": {"x": "much"}}, ("fixed-value-wrong-dtype", "'much' of 'x'", "float32")),
        ({"shapes": {"z": (1,)}}, ("shape-of-unknown-name", "'z'", "x, past_x, y, present_x")),
        ({"shapes": {"x": (1, 3, 1)}}, ("declared-shape-unfit", "1, 3, 1", "'x'", "'x'")),
        ({"shapes": {"x": ("rows", 2, 1)}}, ("shape-with-unknown-word", "'rows'")),
        ({"initial": {"z": 1}}, ("onnx-initial-unknown", "'z'", "'past_x'")),
        ({"initial": {"past_x": np.ones(7)}}, ("onnx-initial-shape", "'past_x'", "7")),
        ({"initial": {"past_x": np.inf}}, ("onnx-initial-nan", "'past_x'")),
        ({"chunk": 4}, ("chunk-without-time-axis", "4")),
        ({"chunk": 0}, ("option-refused", f"{CHUNK % 0}: give an int of at least 1")),
        ({"chunk": "all"}, ("option-refused", CHUNK % "'all'")),
        ({"steps": 0}, ("option-refused", "steps is 0, but must be an int of at least 1")),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    options: dict[str, Any], message: tuple[str, ...], made: Make, tmp_path: Path
) -> None:
    with raises(*message):
        made(nets.window(tmp_path / "net.onnx"), **options)
    assert not (tmp_path / "net.rnnx").exists()


def step(path: Path, nodes: list[tuple[Any, ...]], *more: Any, kind: int = nets.FLOAT, **weights: Any) -> Path:
    """x (batch, 3), h (batch, 3) -> y, h_out of `nodes`: operator, inputs, output and attributes."""
    made = [
        onnx.helper.make_node(op, taken.split(), given.split(), **dict(named)) for op, taken, given, *named in nodes
    ]
    inputs = [nets.value("x", ("batch", 3), kind), nets.value("h", ("batch", 3))]
    outputs = [nets.value("y", ("batch", 3)), nets.value("h_out", ("batch", 3))]
    return nets.save(path, [*made, *more], inputs, outputs, weights)


def test_a_file_that_gives_nan_is_held_to_nothing(made: Make, tmp_path: Path) -> None:
    nodes = [("Log", "x", "seen"), ("Add", "seen h", "y"), ("Tanh", "y", "h_out")]
    with raises("onnx-file-gives-nan", "log.onnx"):
        made(step(tmp_path / "log.onnx", nodes), states={"h": "h_out", "x": None})


def test_a_file_that_fails_says_on_what(made: Make, tmp_path: Path) -> None:
    node = onnx.helper.make_node("MatMul", ["x", "M"], ["y"])
    inputs, outputs = [nets.value("x", ("batch", "n"))], [nets.value("y", ("batch", 5))]
    file = nets.save(tmp_path / "net.onnx", [node], inputs, outputs, {"M": nets.random(4, 5)})
    with raises("onnx-original-fails", "net.onnx", "x (", "7)"):
        made(file, shapes={"x": ("batch", 7)})


def test_what_is_said_of_files_is_not_said_of_modules(tmp_path: Path) -> None:
    with raises("option-of-other-source", "fixed", "an ONNX file", "a PyTorch module"):
        export(object(), (1,), tmp_path / "a.rnnx", fixed={"sr": 1})  # type: ignore[arg-type]
    with raises("no-bundle-path"):
        export("net.onnx")


def test_a_target_of_torch_is_not_built_either() -> None:
    with raises("engine-target-from-torch", "'pt2' is written from a program of torch's"):
        engine_target("pt2", None)


def test_half_precision_at_the_ends_is_refused(made: Make, tmp_path: Path) -> None:
    file = nets.accumulator(tmp_path / "net.onnx")
    model = onnx.load(file)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model.graph.node[0].input[0] = "wide"
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["wide"], to=1))
    onnx.save(model, file)
    with raises("onnx-input-not-float32", "'x' is float16: every target is written from a float32 step"):
        made(file)


def test_a_loop_without_an_end_is_refused(made: Make, tmp_path: Path) -> None:
    """As Keras writes a recurrent layer that is not unrolled."""
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Tanh", ["v"], ["w"]), onnx.helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [nets.value("i", (), nets.INT64), nets.value("go", (), 9), nets.value("v", None)],
        [nets.value("on", (), 9), nets.value("w", None)],
    )
    nodes = [("Add", "x h", "sum"), ("Shape", "sum", "sizes"), ("Gather", "sizes zero", "trips")]
    loop = onnx.helper.make_node("Loop", ["trips", "", "sum"], ["h_out"], "roll", body=body)
    last = onnx.helper.make_node("Sigmoid", ["h_out"], ["y"])
    file = step(tmp_path / "loop.onnx", nodes, loop, last, zero=np.array(0, np.int64))
    with raises("unusable-onnx-step", "onnx"):
        made(file, states={"h": "h_out", "x": None})


def test_ids_whose_range_nobody_knows_need_a_recording(made: Make, tmp_path: Path) -> None:
    nodes = [("Cast", "x", "f", ("to", 1)), ("Add", "f h", "h_out"), ("Tanh", "h_out", "y")]
    file = step(tmp_path / "ids.onnx", nodes, kind=nets.INT64)
    with raises("unknown-input-values", "'x' is int64"):
        made(file)
    assert made(file, data=np.arange(60).reshape(20, 3) % 2).spec.states[0].name == "h"
