"""LiteRT in int8, written by `build` from a bundle's step: scales of a recording, the states in them, TFLM, sizes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.runtime import load

from ..zoo import store  # noqa: TID252
from .graphs import SUM, H, X, Y, spec

pytest.importorskip("ai_edge_quantizer", reason="litert-export: pip install 'rnn-export[litert-export]'")

from rnn_export.export.targets.litert.activation_ranges import ranges
from rnn_export.export.targets.litert.quantization import quantized, state_scales
from rnn_export.runtime.backends.litert.library import new_interpreter, schema
from rnn_export.runtime.backends.litert.model import check_model, operator_name, parsed

from ..messages import raises  # noqa: TID252
from .litert_toys import Graph, file_of, named, on_microcontroller, packed
from .test_backends import DOCS, invoke

FILE = "targets/litert-{}/step.tflite"
STATES = ("l0.h", "l0.c", "l1.h", "l1.c")


@pytest.fixture(scope="module")
def heard(tmp_path_factory) -> Path:
    """Noise like what the bundle was verified on."""
    path = tmp_path_factory.mktemp("heard") / "heard.npy"
    np.save(path, np.random.default_rng(1).standard_normal((300, 8)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory, heard) -> Path:
    """Two layers that were exported for ONNX, in LiteRT's fp32 and, calibrated, in int8."""
    pytest.importorskip("litert_torch", reason="litert-export: pip install 'rnn-export[litert-export]'")
    path = Path(shutil.copytree(store.bundle("two-layers-on-onnx"), tmp_path_factory.mktemp("int8") / "detector.rnnx"))
    invoke("build", path, "--target", "litert", "--precision", "fp32")
    invoke("build", path, "--target", "litert", "--precision", "int8", "--calibrate", heard)
    return path


@pytest.fixture(scope="module")
def fp32(detector) -> bytes:
    return open_bundle(detector).read(FILE.format("fp32"))


def outputs(raw: bytes, contract, frames: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """All outputs, and the last states."""
    file, step = check_model("step.tflite", raw, contract), new_interpreter(raw, 1)
    states, found = [np.zeros((1, *s.row), s.dtype) for s in contract.states], []
    for x in frames:
        for number, value in zip(file.inputs, [x.reshape(1, 1, -1), *states], strict=True):
            step.set_tensor(number, value)
        step.invoke()
        y, *states = (step.get_tensor(number) for number in file.outputs)
        found.append(y.reshape(-1))
    return np.stack(found), states


def test_it_is_told_with_the_scales_of_its_states(detector):
    row = open_bundle(detector).target("litert", "int8")
    assert {row.requires["litert"], row.requires["scales"]} == {"2.3", "calibrated"}
    scales = row.requires["state_scales"]
    assert tuple(scales) == STATES
    assert all(0 < one["scale"] < 0.1 and -128 <= one["zero_point"] <= 127 for one in scales.values())
    # An output of tanh times a sigmoid is within 1, and so is what one step of 1/128 can say.
    assert scales["l0.h"]["scale"] < 1 / 100
    said = json.loads(invoke("inspect", detector, "--json"))["targets"]
    assert [t["requires"].get("state_scales") for t in said if t["target"] == "litert"] == [None, scales]
    shown = invoke("inspect", detector)
    assert "States in int8" in shown
    assert re.search(rf"l1\.c +{scales['l1.c']['scale']:.4g} +{scales['l1.c']['zero_point']}\b", shown)


def test_a_state_goes_out_and_in_without_a_rounding(detector):
    """A state comes back in the scale of its input: else each step would round it twice."""
    stream = load(detector, backend="litert", precision="int8").stream()
    stream.run(np.random.default_rng(2).standard_normal((40, 8)).astype(np.float32))
    scales = open_bundle(detector).target("litert", "int8").requires["state_scales"]
    for name, state in stream.states.items():
        steps = state / scales[name]["scale"] + scales[name]["zero_point"]
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        assert len(np.unique(np.round(steps))) > 5


def test_it_is_near_the_model_and_smaller(detector, fp32):
    raw, contract = open_bundle(detector).read(FILE.format("int8")), open_bundle(detector).spec
    frames = np.random.default_rng(3).standard_normal((200, 8)).astype(np.float32)
    want, _ = outputs(fp32, contract, frames)
    got, _ = outputs(raw, contract, frames)
    worst = np.abs(got - want).max() / np.abs(want).max()
    assert 1e-4 < worst < 0.1
    model = parsed(raw)
    kinds = [operator_name(model, operator) for operator in model.subgraphs[0].operators]
    assert kinds[:5] == ["QUANTIZE"] * 5
    assert kinds[-5:] == ["DEQUANTIZE"] * 5
    assert len(raw) < len(fp32)
    parity = json.loads(open_bundle(detector).read("targets/litert-int8/parity.json"))
    assert parity["ok"] is True
    assert all(len(d["curve"]) > 1 for d in parity["drifts"] if d["check"] == "step")


def test_without_a_recording_products_are_scaled_at_run_time(detector, fp32):
    contract = open_bundle(detector).spec
    raw = quantized(fp32, None)
    assert state_scales(raw, contract) == {}
    frames = np.random.default_rng(3).standard_normal((100, 8)).astype(np.float32)
    np.testing.assert_allclose(outputs(raw, contract, frames)[0], outputs(fp32, contract, frames)[0], atol=5e-3)
    assert "QUANTIZE" not in {operator_name(parsed(raw), o) for o in parsed(raw).subgraphs[0].operators}


def test_microcontrollers_run_it(detector, capfd):
    """TFLM's interpreter gives what LiteRT's does, now and then some steps of 8 bits away; its arena is the page's."""
    raw, contract = open_bundle(detector).read(FILE.format("int8")), open_bundle(detector).spec
    frames = np.random.default_rng(4).standard_normal((64, 8)).astype(np.float32)
    given, arena = on_microcontroller(raw, frames, [np.zeros((1, 16), np.float32)] * 4, capfd)
    scale = open_bundle(detector).target("litert", "int8").requires["state_scales"]["l1.h"]["scale"]
    separate = np.abs(given - outputs(raw, contract, frames)[0]) / scale
    assert separate.max() < 8
    assert (separate < 0.5).mean() > 0.95
    (said,) = re.findall(r"\| LSTM 8→16, 2 layers, int8 \| ([\d,]+) \|", (DOCS / "litert.md").read_text())
    assert arena == int(said.replace(",", ""))
    # Scales at run time are not TFLM's.
    at_run_time = quantized(open_bundle(detector).read(FILE.format("fp32")), None)
    with pytest.raises(RuntimeError, match="failed to allocate"):
        on_microcontroller(at_run_time, frames, [], capfd)


def test_ranges_are_of_the_closed_loop(fp32, detector):
    """Every state has one range, from where it starts to what the step itself makes of it."""
    contract = open_bundle(detector).spec
    frames = np.random.default_rng(5).standard_normal((2, 50, 8)).astype(np.float32)
    initial = {s.name: np.full(s.row, 0.75, np.float32) for s in contract.states}
    found = ranges(fp32, contract, initial, {"x": frames})
    assert found["x"] == (frames.min(), frames.max())
    for state in contract.states:
        assert found[state.input] == found[state.output]
        assert found[state.input][1] >= 0.75
    alone = ranges(fp32, contract, initial, {"x": frames[:1]})
    assert all(low <= alone[name][0] and alone[name][1] <= high for name, (low, high) in found.items())


def test_a_large_step_has_its_constants_inside():
    """The quantizer lays what is over 256 KiB behind the graph, where no file of a bundle has anything."""
    contract, graph = spec("wide", [X], [Y], [H]), Graph()
    draw, options = np.random.default_rng(0), schema.FullyConnectedOptionsT()
    for name in ("x", "h"):
        graph.add(name, np.zeros((1, 3), np.float32))
    for number, (rows, columns) in enumerate([(1024, 3), (1024, 1024), (3, 1024)]):
        weights = draw.standard_normal((rows, columns)).astype(np.float32) / np.sqrt(columns, dtype=np.float32)
        given, taken = ("x", "w0", "w1")[number], ("w0", "w1", "y")[number]
        graph.add(f"matrix {number}", weights, constant=True)
        graph.operator("FULLY_CONNECTED", [given, f"matrix {number}"], taken, np.zeros((1, rows), np.float32), options)
    graph.operator("ADD", ["x", "h"], "h.next", np.zeros((1, 3), np.float32), schema.AddOptionsT())
    graph.signed(["x", "h"], ["y", "h.next"])
    raw = named(packed(graph.model), contract)
    for known in (None, ranges(raw, contract, {"h": np.zeros(3, np.float32)}, {"x": np.ones((1, 9, 3), np.float32)})):
        made = quantized(raw, known)
        check_model("step.tflite", made, contract)
        assert 2**20 < len(made) < len(raw) / 3.5
        new_interpreter(made, 1).invoke()


# --- what is refused


def test_a_recording_of_less_than_a_step(detector, fp32):
    contract = open_bundle(detector).spec
    initial = open_bundle(detector).initial_states()
    with raises("litert-calibration-too-short", "1"):
        ranges(fp32, contract, initial, {"x": np.zeros((1, 0, 8), np.float32)})


def test_it_is_written_again_only_if_asked(detector, heard):
    said = invoke("build", detector, "--target", "litert", "--precision", "int8", "--calibrate", heard, code=1)
    assert said.endswith("has litert (int8): give --rebuild to write it again.")
    said = invoke("build", detector, "--target", "litert", "--precision", "int8", "--rebuild", code=1)
    assert said.endswith("has its scales from a recording: give one, --calibrate FILE, to write it again.")


def test_what_the_quantizer_refuses_is_told():
    with raises("ai-edge-quantizer-refuses"):
        quantized(file_of(SUM), {"x": (0.0, 1.0)})
