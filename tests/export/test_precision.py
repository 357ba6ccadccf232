"""Step graphs of lifted models in fp16 and bf16: of one type wherever they compute, with fp32 where it is needed."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rnn_export.contract.spec import METADATA_KEY, StateSpec, StreamSpec, TensorSpec
from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.mixed_precision import MATRIX, WIDE
from rnn_export.export.graph.step import step_graph

from ..messages import raises  # noqa: TID252
from .rewriting import at_opset, graph_of, lifted, typed

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
NAMES = [
    "nn.LSTM-1",
    "nn.GRU-2-batch-first",
    "SimpleRNN-relu",
    "CustomLSTM-1-sigmoid",
    "norm-and-softmax-over-features",
    "ids",
    "dual-path",
    "hidden-lstm-projected-1",
    "buffer-scalar-counter",
    "causal-2d-then-gru",
    "valid-then-gru",
    "silero-vad",
]
every_case = pytest.mark.parametrize("name", NAMES)
every_precision = pytest.mark.parametrize("precision", LOW)
COUNTERS = {"warm_up.next", "count.next"}


def types_of(model: ModelProto) -> dict[str, int]:
    """The type of every value, inferred anew from the inputs and weights alone."""
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    found = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True).graph
    values = (*found.value_info, *found.input, *found.output)
    types = {v.name: v.type.tensor_type.elem_type for v in values}
    return types | {i.name: i.data_type for i in found.initializer}


def floats_of(node: NodeProto, types: dict[str, int]) -> set[int]:
    return {types[name] for name in node.input if name} & FLOATS


def mixed(model: ModelProto) -> list[str]:
    """Nodes that read more than one float type: TensorRT refuses them."""
    types = types_of(model)
    return [node.name for node in model.graph.node if len(floats_of(node, types)) > 1]


def low_of(name: str, precision: str, state_precision: str = "fp32", opset: int = 18) -> ModelProto:
    moved = at_opset(onnx.load_from_string(graph_of(name)), opset).SerializeToString()
    return onnx.load_from_string(typed(moved, precision, state_precision))


# --- of one type


@pytest.mark.parametrize("opset", [13, 17, 18, 22])
@pytest.mark.parametrize("states", ["fp32", "low"])
@every_precision
@every_case
def test_no_operator_mixes_types(name, precision, states, opset):
    try:
        at_opset(onnx.load_from_string(graph_of(name)), opset)
    except ExportError as error:
        assert opset == 13, error  # noqa: PT017
        return
    before = onnx.load_from_string(graph_of(name)).graph
    model = low_of(name, precision, precision if states == "low" else "fp32", opset)
    assert mixed(model) == []
    spec = lifted(name).spec
    types = types_of(model)
    for value in (*before.input, *before.output):
        state = next((s for s in spec.states if value.name in (s.input, s.output)), None)
        narrow = states == "low" and state is not None and state.output not in COUNTERS
        assert types[value.name] == (LOW[precision] if narrow else value.type.tensor_type.elem_type)
    assert [v.name for v in model.graph.input] == [v.name for v in before.input]
    assert [v.name for v in model.graph.output] == [v.name for v in before.output]


def test_the_check_for_mixed_types_finds_them():
    model = low_of("nn.GRU-2-batch-first", "fp16")
    (cast, *_) = [node for node in model.graph.node if node.op_type == "Cast" and node.output[0].endswith(".fp32")]
    reader = next(node for node in model.graph.node if cast.output[0] in node.input)
    reader.input[list(reader.input).index(cast.output[0])] = cast.input[0]
    with pytest.raises(onnx.shape_inference.InferenceError):
        mixed(model)


@every_precision
@every_case
def test_products_are_in_the_precision_and_sums_of_many_terms_are_not(name, precision):
    model = low_of(name, precision, opset=22)
    types = types_of(model)
    products = [node for node in model.graph.node if node.op_type in MATRIX]
    assert products or name == "buffer-scalar-counter"
    for node in products:
        assert floats_of(node, types) == {LOW[precision]}, node.name
    for node in model.graph.node:
        if node.op_type in WIDE:
            assert floats_of(node, types) == {TensorProto.FLOAT}, node.name


def test_the_weights_take_half_the_bytes():
    assert len(typed(graph_of("silero-vad"), "fp16")) < 0.51 * len(graph_of("silero-vad"))


def test_a_table_of_embeddings_is_a_weight():
    model = low_of("ids", "bf16")
    (table,) = [i for i in model.graph.initializer if list(i.dims) == [11, 4]]
    assert table.data_type == TensorProto.BFLOAT16
    assert types_of(model)["ids"] == TensorProto.INT64


def test_fp32_is_the_graph_itself():
    graph = graph_of("nn.LSTM-1")
    assert typed(graph, "fp32") == graph


# --- the state


def between(model: ModelProto, start: str, end: str) -> Iterator[NodeProto]:
    """The nodes on every way from the value `start` to the value `end` that no product and no cast down cuts."""
    after = {start}
    for node in model.graph.node:
        down = node.op_type == "Cast" and helper.get_node_attr_value(node, "to") != TensorProto.FLOAT
        if after & {*node.input} and node.op_type not in MATRIX and not down:
            after |= {*node.output}
    before = {end}
    for node in reversed(model.graph.node):
        if before & {*node.output} and after & {*node.input}:
            before |= {*node.input}
            if after & {*node.output}:
                yield node


@every_precision
@pytest.mark.parametrize(
    ("name", "state", "operators"),
    [
        ("nn.LSTM-1", "l0.c", ["Add", "Mul"]),
        ("nn.GRU-2-batch-first", "l1.h", ["Add", "Mul", "Sub"]),
        ("buffer-scalar-counter", "mean", ["Add", "Div", "Sub"]),
        ("valid-then-gru", "warm_up", ["Add", "Clip"]),
    ],
)
def test_the_update_of_an_fp32_state_is_fp32(name, state, operators, precision):
    model = low_of(name, precision)
    types = types_of(model)
    path = list(between(model, state, f"{state}.next"))
    assert sorted({n.op_type for n in path} - {"Gather", "Squeeze", "Unsqueeze", "Identity"}) == operators
    assert all(floats_of(node, types) == {TensorProto.FLOAT} for node in path)


def test_what_only_passes_into_a_state_is_not_rounded():
    model = low_of("silero-vad", "fp16")
    (node,) = [node for node in model.graph.node if "context.next" in node.output]
    assert (node.op_type, node.input[0]) == ("Slice", "samples")


# --- small graphs


def small(nodes: list[NodeProto], dtype: int = TensorProto.FLOAT, **constants: Any) -> bytes:
    """x (batch, 4), h (batch, 4) through `nodes` to y and g, the next h."""
    spec = StreamSpec(
        (TensorSpec("x", "float32", ("batch", 4)),),
        (TensorSpec("y", "float32", ("batch", 4)),),
        (StateSpec("h", "h", "g", "float32", ("batch", 4)),),
    )
    graph = helper.make_graph(
        [*nodes, helper.make_node("Add", ["h", "y"], ["g"])],
        "small",
        [helper.make_tensor_value_info(name, dtype, ["batch", 4]) for name in "xh"],
        [helper.make_tensor_value_info(name, dtype, ["batch", 4]) for name in "yg"],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    for node in graph.node:
        node.name = f"the_{node.op_type}"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(spec.to_json())})
    return model.SerializeToString()


def type_in(graph: bytes, op: str) -> set[int]:
    model = onnx.load_from_string(graph)
    assert mixed(model) == []
    types = types_of(model)
    return set().union(*(floats_of(node, types) for node in model.graph.node if node.op_type == op))


WEIGHT = np.full((4, 4), 0.5, np.float32)


@pytest.mark.parametrize(
    ("value", "precision", "expected"),
    [
        (1.5, "fp16", TensorProto.FLOAT16),
        (-np.inf, "fp16", TensorProto.FLOAT16),
        (0.0, "fp16", TensorProto.FLOAT16),
        (1e-8, "fp16", TensorProto.FLOAT),
        (-1e9, "fp16", TensorProto.FLOAT),
        (1e-8, "bf16", TensorProto.BFLOAT16),
        (-1e9, "bf16", TensorProto.BFLOAT16),
        (3.4e38, "bf16", TensorProto.FLOAT),
    ],
)
def test_a_constant_that_the_precision_does_not_have_keeps_its_operator_in_fp32(value, precision, expected):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Max", ["z", "limit"], ["y"])]
    graph = typed(small(nodes, w=WEIGHT, limit=np.float32(value)), precision)
    assert type_in(graph, "Max") == {expected}


def test_a_constant_node_is_a_weight_too():
    half = helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.float32(0.5)))
    graph = small([half, helper.make_node("Mul", ["x", "half"], ["y"])])
    assert type_in(typed(graph, "fp16"), "Mul") == {TensorProto.FLOAT16}


@pytest.mark.parametrize(("kind", "expected"), [(TensorProto.BOOL, 10), (TensorProto.INT64, 1)])
def test_a_whole_number_is_fp32_and_a_truth_is_not(kind, expected):
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=kind),
        helper.make_node("Cast", ["whole"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "number"], ["y"]),
    ]
    assert type_in(typed(small(nodes), "fp16"), "Mul") == {expected}


def test_a_cast_to_what_it_has_stays_correct():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Cast", ["z"], ["again"], to=TensorProto.FLOAT),
        helper.make_node("Tanh", ["again"], ["y"]),
    ]
    assert type_in(typed(small(nodes, w=WEIGHT), "fp16"), "Tanh") == {TensorProto.FLOAT16}


def test_a_state_that_takes_only_the_size_of_another_value_is_a_counter():
    by_size = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["sizes", "one", "two"], ["size"]),
        helper.make_node("Expand", ["size", "shape"], ["y"]),
    ]
    counted = small(by_size, one=np.array([1]), two=np.array([2]))
    summed = small([helper.make_node("Relu", ["x"], ["y"])])
    kinds = [types_of(onnx.load_from_string(typed(graph, "fp16", "fp16")))["h"] for graph in (counted, summed)]
    assert kinds == [TensorProto.FLOAT, TensorProto.FLOAT16]


def test_scales_that_are_float_by_definition_stay_so():
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["z"]),
        helper.make_node("Mul", ["z", "two"], ["m"]),
        helper.make_node("Resize", ["m", "", "scales"], ["big"], mode="nearest"),
        helper.make_node("Squeeze", ["big", "one"], ["y"]),
    ]
    graph = small(nodes, one=np.array([1]), two=np.float32(2), scales=np.ones(3, np.float32))
    model = onnx.load_from_string(typed(graph, "fp16"))
    (node,) = [node for node in model.graph.node if node.op_type == "Resize"]
    assert [types_of(model)[name] for name in node.input if name] == [TensorProto.FLOAT16, TensorProto.FLOAT]


def test_a_convolution_in_bf16_needs_opset_22():
    kinds = []
    for opset in (18, 22):
        model = low_of("silero-vad", "bf16", opset=opset)
        types = types_of(model)
        kinds.append({t for node in model.graph.node if node.op_type == "Conv" for t in floats_of(node, types)})
    assert kinds == [{TensorProto.FLOAT}, {TensorProto.BFLOAT16}]


# --- refused

BIG = np.where(np.eye(4, dtype=bool), np.float32(70000), np.float32(1))
PRODUCT = [helper.make_node("MatMul", ["x", "w"], ["y"])]


def without_contract() -> bytes:
    model = onnx.load_from_string(small(PRODUCT, w=WEIGHT))
    del model.metadata_props[:]
    return model.SerializeToString()


REFUSED = {
    "weight": (
        lambda: small(PRODUCT, w=BIG),
        "fp16",
        "fp32",
        ("weight-becomes-inf", "'w'", "'the_MatMul' (MatMul", "70000", "fp16", "65504"),
    ),
    "weight of bf16": (
        lambda: small(PRODUCT, w=np.full((4, 4), 3.4e38, np.float32)),
        "bf16",
        "fp32",
        ("weight-becomes-inf", "3.4e+38", "bf16", "3.38953e+38"),
    ),
    "recurrent": (lambda: step_graph(lifted("nn.LSTM-1")), "fp16", "fp32", ("untypable-control-flow", "LSTM")),
    "double": (
        lambda: small([helper.make_node("Tanh", ["x"], ["y"])], TensorProto.DOUBLE),
        "bf16",
        "fp32",
        ("graph-not-fp32", "'the_Tanh' (Tanh", "'x' in double: bf16"),
    ),
    "contract": (without_contract, "fp16", "fp32", ("graph-without-contract", "'rnn_export.spec'")),
    "precision": (lambda: b"", "int8", "fp32", ("mixed-precision-unknown", "'int8'", "'fp32'", "fp32, fp16, bf16")),
    "states": (lambda: b"", "fp16", "bf16", ("mixed-precision-unknown",)),
    "states of fp32": (lambda: b"", "fp32", "fp16", ("mixed-precision-unknown", "'fp32'", "'fp16'")),
}


@pytest.mark.parametrize(("make", "precision", "states", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_typed_is_refused(make, precision, states, message):
    with raises(*message):
        typed(make(), precision, states)


def test_what_is_too_large_for_fp16_fits_into_bf16():
    assert type_in(typed(small(PRODUCT, w=BIG), "bf16"), "MatMul") == {TensorProto.BFLOAT16}


# --- TensorRT


@every_precision
@pytest.mark.parametrize("name", ["nn.LSTM-1", "valid-then-gru", "silero-vad"])
def test_tensorrt_builds_it(name, precision):
    rtx = pytest.importorskip("tensorrt_rtx", reason="rtx: tensorrt_rtx is not installed")
    assert build(rtx, low_of(name, precision).SerializeToString()) > 0


def build(rtx: Any, graph: bytes) -> int:
    """The size of the engine, with a batch of 1 to 8."""
    builder = rtx.Builder(log := rtx.Logger(rtx.Logger.ERROR))
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, log)
    assert parser.parse(graph), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    for i in range(network.num_inputs):
        value = network.get_input(i)
        profile.set_shape(value.name, *([b if d == -1 else d for d in value.shape] for b in (1, 1, 8)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return int(plan.nbytes)
