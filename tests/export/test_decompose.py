"""Recurrent nodes against their decomposition, in onnxruntime and onnx.reference."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..messages import raises  # noqa: TID252
from .rewriting import decompose

B, I, H = 3, 4, 5  # noqa: E741
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": ("h", "c"), "GRU": ("h",), "RNN": ("h",)}


def model_of(kind: str, frames: Any = 1, bias: bool = True, given: int | None = None, **attributes: Any) -> bytes:
    """A graph with one recurrent node: X, h (and c) -> Y, Y_h (and Y_c); `given` states are wired."""
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    random, rows = np.random.default_rng(0), GATES[kind] * H
    weights = {"W": (ways, rows, I), "R": (ways, rows, H)} | ({"B": (ways, 2 * rows)} if bias else {})
    initializers = [
        numpy_helper.from_array(random.uniform(-0.7, 0.7, shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    states = STATES[kind][:given]
    outputs = ["Y", *(f"Y_{s}" for s in STATES[kind])]
    inputs = ["X", "W", "R", "B" if bias else "", "", *states]
    node = helper.make_node(kind, inputs, outputs, name="rnn", hidden_size=H, **attributes)

    def value(name: str, *shape: Any) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        "one",
        [value("X", frames, "batch", I), *(value(s, ways, "batch", H) for s in states)],
        [value("Y", frames, ways, "batch", H), *(value(f"Y_{s}", ways, "batch", H) for s in STATES[kind])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def feed_of(kind: str, frames: int, ways: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(1)
    x = random.standard_normal((frames, B, I), np.float32)
    return {"X": x, **{s: random.standard_normal((ways, B, H), np.float32) for s in STATES[kind]}}


def by_onnxruntime(graph: bytes, feed: dict[str, Any]) -> list[Any]:
    return list(ort.InferenceSession(graph).run(None, feed))


def by_reference(graph: bytes, feed: dict[str, Any]) -> list[Any]:
    return list(ReferenceEvaluator(onnx.load_from_string(graph)).run(None, feed))


NODES = {
    "LSTM": ("LSTM", {}),
    "LSTM sigmoid candidate": ("LSTM", {"activations": ["Sigmoid", "Sigmoid", "Tanh"]}),
    "LSTM relu": ("LSTM", {"activations": ["Sigmoid", "Relu", "Relu"]}),
    "LSTM without bias": ("LSTM", {"bias": False}),
    "GRU before": ("GRU", {}),
    "GRU before, explicit": ("GRU", {"linear_before_reset": 0, "direction": "forward", "layout": 0}),
    "GRU after": ("GRU", {"linear_before_reset": 1}),
    "GRU relu": ("GRU", {"linear_before_reset": 1, "activations": ["Sigmoid", "Relu"]}),
    "GRU without bias": ("GRU", {"bias": False}),
    "RNN": ("RNN", {}),
    "RNN relu": ("RNN", {"activations": ["Relu"]}),
    "RNN without bias": ("RNN", {"bias": False}),
}


@pytest.mark.parametrize("run", [by_onnxruntime, by_reference])
@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize(("kind", "options"), NODES.values(), ids=NODES)
def test_written_out_it_is_the_same(kind, options, frames, run):
    graph, feed = model_of(kind, frames, **options), feed_of(kind, frames)
    written = decompose(graph)
    onnx.checker.check_model(written, full_check=True)
    for got, want in zip(run(written, feed), by_onnxruntime(graph, feed), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * max(1, np.abs(want).max()))


BACKWARD = {
    "reverse": {"direction": "reverse"},
    "bidirectional": {"direction": "bidirectional"},
    "bidirectional without bias": {"direction": "bidirectional", "bias": False},
    "each way its own activations": {
        "LSTM": ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Relu"],
        "GRU": ["Sigmoid", "Tanh", "Sigmoid", "Relu"],
        "RNN": ["Tanh", "Relu"],
    },
}


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("options", BACKWARD.values(), ids=BACKWARD)
def test_backwards_and_both_ways_are_written_out(options, kind, frames):
    if kind in options:
        options = {"direction": "bidirectional", "activations": options[kind]}
    graph = model_of(kind, frames, **options)
    feed = feed_of(kind, frames, 2 if options["direction"] == "bidirectional" else 1)
    written = decompose(graph)
    onnx.checker.check_model(written, full_check=True)
    assert not {node.op_type for node in onnx.load_from_string(written).graph.node} & {*GATES}
    for got, want in zip(by_onnxruntime(written, feed), by_onnxruntime(graph, feed), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * max(1, np.abs(want).max()))


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("kind", GATES)
def test_no_recurrent_operator_is_left(kind, frames):
    before, after = (
        onnx.load_from_string(g).graph for g in (model_of(kind, frames), decompose(model_of(kind, frames)))
    )
    assert not {node.op_type for node in after.node} & {*GATES, "Loop", "Scan"}
    assert [v.name for v in after.input] == [v.name for v in before.input]
    assert list(after.output) == list(before.output)
    assert not {"W", "R", "B"} & {i.name for i in after.initializer}


@pytest.mark.parametrize("kind", GATES)
def test_the_steps_share_their_weights(kind):
    def size(frames: int) -> int:
        graph = onnx.load_from_string(decompose(model_of(kind, frames))).graph
        return sum(np.prod(i.dims, dtype=int) for i in graph.initializer if i.data_type == TensorProto.FLOAT)

    assert size(1) == size(6)


def test_a_graph_without_recurrent_nodes_stays():
    written = decompose(model_of("GRU"))
    assert decompose(written) == decompose(decompose(written))


def batch_first() -> bytes:
    model = onnx.load_from_string(model_of("GRU"))
    model.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
    return model.SerializeToString()


def variable_weights() -> bytes:
    model = onnx.load_from_string(model_of("GRU"))
    (weight,) = [i for i in model.graph.initializer if i.name == "W"]
    model.graph.initializer.remove(weight)
    model.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, list(weight.dims)))
    return model.SerializeToString()


def with_lengths() -> bytes:
    model = onnx.load_from_string(model_of("GRU"))
    model.graph.node[0].input[4] = "lengths"
    model.graph.input.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
    return model.SerializeToString()


REFUSED = {
    "dynamic time": (lambda: model_of("LSTM", "time"), "recurrent-dynamic-time"),
    "layout": (batch_first, "recurrent-batch-layout"),
    "clip": (lambda: model_of("LSTM", clip=3.0), "recurrent-rare-attributes"),
    "input_forget": (lambda: model_of("LSTM", input_forget=1), "recurrent-rare-attributes"),
    "lengths": (with_lengths, "recurrent-rare-attributes"),
    "variable weights": (variable_weights, "recurrent-computed-weights"),
    "no state": (lambda: model_of("GRU", given=0), "recurrent-implicit-state"),
    "half a state": (lambda: model_of("LSTM", given=1), "recurrent-implicit-state"),
}


@pytest.mark.parametrize(("make", "name"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_out_is_refused(make, name):
    with raises(name, "node 'rnn' ("):
        decompose(make())
