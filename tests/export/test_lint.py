"""One graph for each rule, refused by node and operator; RTX's own verdict; and real steps, which pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.pipeline import parse
from rnn_export.export.targets.tensorrt.lint import Finding, lint, refuse
from rnn_export.export.targets.tensorrt.parser_rules import RULES, parser_rules

from ..messages import raises  # noqa: TID252
from .rewriting import graph_of

NANO, XAVIER, ORIN, TEN, RTX = "tensorrt-8.2", "tensorrt-8.5", "tensorrt-8.6", "tensorrt-10.0", "tensorrt-rtx-1.0"
INT, TRUE = np.int64, np.array(True)


def value(name: str, dtype: int = T.FLOAT, shape: Sequence[Any] | None = ("batch", 6)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] = (value("x"),),
    outputs: Sequence[onnx.ValueInfoProto] = (value("y", shape=None),),
    opset: int = 13,
    **constants: Any,
) -> bytes:
    """`nodes` from x (batch, 6) to y; the last is called n."""
    nodes[-1].name = "n"
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    imports = [helper.make_opsetid(domain, opset) for domain in {"": 0, **{n.domain: 0 for n in nodes}}]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def one(op: str, ins: Sequence[str] = ("x",), outs: Sequence[str] = ("y",), **options: Any) -> bytes:
    """One node; `options` are attributes, constants (arrays), what `model` takes, and the `dtype` of both ends."""
    if (dtype := options.pop("dtype", None)) is not None:
        options |= {"inputs": [value("x", dtype)], "outputs": [value("y", dtype)]}
    taken = {k: options.pop(k) for k in ("inputs", "outputs", "opset") if k in options}
    arrays = {k: options.pop(k) for k, v in list(options.items()) if isinstance(v, np.ndarray | np.generic)}
    return model([helper.make_node(op, ins, outs, **options)], **taken, **arrays)


def recurrent(op: str, ways: int = 1, **attributes: Any) -> bytes:
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * 4
    if ways == 2:
        attributes["direction"] = "bidirectional"
    return one(
        op,
        ["x", "W", "R"],
        ["y"],
        hidden_size=4,
        W=np.full((ways, rows, 3), 0.1, np.float32),
        R=np.full((ways, rows, 4), 0.1, np.float32),
        inputs=[value("x", shape=[5, 2, 3])],
        opset=14,
        **attributes,
    )


def loop(trips: str = "N", going: str = "", after: str = "always", collects: bool = True, grows: bool = False) -> bytes:
    """h + x, N times."""
    grown = helper.make_node("Concat", ["h", "h"], ["h2"], axis=1) if grows else helper.make_node("Add", "hx", ["h2"])
    body = [
        helper.make_node("Constant", [], ["always"], value=numpy_helper.from_array(TRUE)),
        helper.make_node("Identity", ["go"], ["same"]),
        helper.make_node("ReduceSum", ["h"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "limit"], ["small"]),
        grown,
        helper.make_node("Identity", ["h2"], ["frame"]),
    ]
    body = [node for node in body if node.output[0] not in {"always", "same", "small"} - {after}]
    body = [node for node in body if after == "small" or node.output[0] != "sum"]
    ends = [value(after, T.BOOL, []), value("h2", shape=["batch", 12 if grows else 6])]
    ends += [value("frame", shape=None)] * collects
    starts = [value("i", T.INT64, []), value("go", T.BOOL, []), value("h")]
    inner = helper.make_graph(body, "body", starts, ends, [numpy_helper.from_array(np.float32(9), "limit")])
    node = helper.make_node("Loop", [trips, going, "x"], ["y", "ys"] if collects else ["y"], body=inner)
    inputs = [value("x"), *([value("M", T.INT64, [])] if trips == "M" else [])]
    outputs = [value("y", shape=None), *([value("ys", shape=None)] * collects)]
    return model([node], inputs, outputs, N=np.array(3), C=TRUE)


def scan(grows: bool = False, **attributes: Any) -> bytes:
    """h + x over the axis of 5."""
    grown = helper.make_node("Concat", ["h", "h"], ["h2"], axis=1) if grows else helper.make_node("Add", "hf", ["h2"])
    inner = helper.make_graph(
        [grown, helper.make_node("Identity", ["h2"], ["frame"])],
        "body",
        [value("h", shape=[2, 6]), value("f", shape=[2, 6])],
        [value("h2", shape=[2, 12 if grows else 6]), value("frame", shape=None)],
    )
    node = helper.make_node("Scan", ["h0", "x"], ["hn", "y"], body=inner, num_scan_inputs=1, **attributes)
    shape = [2, 5, 6] if attributes else [5, 2, 6]
    inputs = [value("h0", shape=[2, 6]), value("x", shape=shape)]
    return model([node], inputs, [value("hn", shape=None), value("y", shape=None)])


@dataclass(frozen=True)
class Bad:
    """A graph that breaks one rule; `rtx` says whether the real TensorRT-RTX refuses it as well."""

    graph: bytes
    rules: str
    op: str
    message: str
    rtx: bool = False
    precision: str = "fp32"
    node: str = "n"


HALF = np.ones(6, np.float16)
SPARSE = helper.make_sparse_tensor(
    helper.make_tensor("v", T.FLOAT, [1], [2.0]), helper.make_tensor("i", T.INT64, [1], [1]), [6]
)
CUBE = [value("x", shape=["batch", 3, 6, 6])]
AXES = [value("x"), value("a", T.INT64, [1])]
WITH_INDICES = [value("y", shape=None), value("i", T.INT64, None)]
TWICE = ["Sigmoid", "Tanh", "Relu", "Relu"]
BAD = {
    "opset": Bad(one("Relu", opset=18), XAVIER, "graph", "its opset is 18, and TensorRT 8.5 reads up to 17", node="g"),
    "bf16 before 10": Bad(
        one("Relu"), ORIN, "graph", "TensorRT 8.6 has no bf16; choose from fp32, fp16", precision="bf16", node="g"
    ),
    "bf16 tensors before 10": Bad(one("Identity", dtype=T.BFLOAT16), ORIN, "Identity", "TensorRT 8.6 has no bfloat16"),
    "dynamic axis": Bad(
        one("Relu", inputs=[value("x", shape=["batch", "bins"])]),
        TEN,
        "input",
        "its axis 1 is 'bins', and only 'batch' has a range in the optimisation profile",
        node="x",
    ),
    "no operator": Bad(one("Det", inputs=[value("x", shape=[6, 6])]), RTX, "Det", "TensorRT-RTX has no such", rtx=True),
    "Affine": Bad(one("Affine", alpha=1.0, beta=0.0), RTX, "Affine", "TensorRT-RTX has no such operator", rtx=True),
    "no plugin": Bad(
        one("NonZero", outputs=[value("y", T.INT64, None)]), RTX, "NonZero", "TensorRT-RTX has no such", rtx=True
    ),
    "not yet": Bad(
        one("LayerNormalization", ["x", "w"], w=np.ones(6, np.float32), opset=17),
        XAVIER,
        "LayerNormalization",
        "TensorRT 8.5 has no such operator; write this part of the model in other operators",
    ),
    "domain": Bad(
        one("FusedMatMul", domain="com.microsoft"), RTX, "FusedMatMul", "no operators of the domain 'com.mic", rtx=True
    ),
    "float64": Bad(one("Relu", inputs=[value("x", T.DOUBLE)]), RTX, "Relu", "makes float64 a float32 in silence"),
    "no type": Bad(
        one("Cast", to=T.FLOAT, inputs=[value("x", T.INT16)]), RTX, "Cast", "TensorRT-RTX has no int16", rtx=True
    ),
    "uint8": Bad(
        one("Add", "xx", dtype=T.UINT8, opset=14),
        RTX,
        "Add",
        "takes uint8 as input or output of the graph alone",
        rtx=True,
    ),
    "MatMul of integers": Bad(
        one("MatMul", "xx", inputs=[value("x", T.INT32, [6, 6])], outputs=[value("y", T.INT32, None)]),
        RTX,
        "MatMul",
        "has MatMul for floating types only, not int32",
        rtx=True,
    ),
    "Where of bools": Bad(
        one("Where", "xxx", dtype=T.BOOL), NANO, "Where", "TensorRT 8.2 has no Where of bool; cast it to int32"
    ),
    "half bound of Clip": Bad(
        one("Clip", ["x", "low"], low=np.float16(0), dtype=T.FLOAT16),
        NANO,
        "Clip",
        "TensorRT 8.2 reads the constant 'low' as float32, but it is float16",
        precision="fp16",
    ),
    "wide integers": Bad(
        one("Add", ["x", "w"], w=np.array(2**40), dtype=T.INT64),
        ORIN,
        "Add",
        "TensorRT 8.6 clamps int64 to int32, and 'w' is beyond it",
    ),
    "mixed elementwise": Bad(
        one("Add", ["x", "w"], w=HALF), RTX, "Add", "its inputs are float32 and float16, and must be of one", rtx=True
    ),
    "mixed product": Bad(
        one("Gemm", ["x", "w"], w=np.ones((6, 6), np.float16)), RTX, "Gemm", "its inputs are float32 and", rtx=True
    ),
    "mixed choice": Bad(
        one("Where", ["c", "x", "w"], c=np.ones(6, bool), w=HALF), RTX, "Where", "its inputs are float32 and", rtx=True
    ),
    "mixed integers": Bad(
        one("Add", ["x", "w"], w=np.array(1), dtype=T.INT32), RTX, "Add", "its inputs are int32 and int64", rtx=True
    ),
    "mixed Pow": Bad(one("Pow", ["x", "w"], w=np.array(2)), TEN, "Pow", "its inputs are float32 and int64"),
    "another precision": Bad(
        one("MatMul", ["x", "w"], w=np.ones((6, 6), np.float32)),
        RTX,
        "MatMul",
        "it runs in float32, though fp16 was asked for; its inputs must be float16",
        precision="fp16",
    ),
    "not asked for": Bad(
        one("MatMul", "xx", inputs=[value("x", T.FLOAT16, [6, 6])], outputs=[value("y", T.FLOAT16, None)]),
        RTX,
        "MatMul",
        "it runs in float16, though fp32 was asked for; its inputs must be float32",
    ),
    "computed axes": Bad(
        one("ReduceSum", "xa", inputs=AXES), RTX, "ReduceSum", "'a' is computed, and TensorRT-RTX must know", rtx=True
    ),
    "computed of constants": Bad(
        model([helper.make_node("Neg", ["m"], ["a"]), helper.make_node("ReduceSum", "xa", ["y"])], m=np.array([-1])),
        RTX,
        "ReduceSum",
        "'a' is computed, and TensorRT-RTX must know",
        rtx=True,
    ),
    "computed axis to squeeze": Bad(
        one("Unsqueeze", "xa", inputs=AXES), RTX, "Unsqueeze", "'a' is computed, and TensorRT-RTX must know", rtx=True
    ),
    "computed axes of Slice": Bad(
        one("Slice", ["x", "s", "e", "a"], s=np.array([0]), e=np.array([2]), inputs=AXES),
        TEN,
        "Slice",
        "its input 'a' is computed, and TensorRT 10 must know it when it builds",
    ),
    "computed K": Bad(
        one("TopK", "xa", ["y", "i"], inputs=AXES, outputs=WITH_INDICES), XAVIER, "TopK", "its input 'a' is computed"
    ),
    "second output": Bad(
        one("MaxPool", outs=["y", "i"], kernel_shape=[2, 2], inputs=CUBE, outputs=WITH_INDICES),
        RTX,
        "MaxPool",
        "has only its first output, not 'i'",
        rtx=True,
    ),
    "dilations": Bad(
        one("MaxPool", kernel_shape=[2, 2], dilations=[2, 2], inputs=CUBE),
        RTX,
        "MaxPool",
        "has dilations of 1 only",
        rtx=True,
    ),
    "reduction": Bad(
        one("ScatterND", "xiu", reduction="add", i=np.array([[0]]), u=np.ones((1, 6), np.float32), opset=16),
        RTX,
        "ScatterND",
        "has no reduction 'add'",
        rtx=True,
    ),
    "text": Bad(
        one("Constant", (), value_strings=["a"], outputs=[value("y", T.STRING, None)], inputs=[]),
        RTX,
        "Constant",
        "TensorRT-RTX has no string",
        rtx=True,
    ),
    # RTX builds it, with another shape.
    "layout": Bad(recurrent("GRU", layout=1), RTX, "GRU", "layout=1 builds, and its output has another shape"),
    "input_forget": Bad(recurrent("LSTM", input_forget=1), RTX, "LSTM", "has no input_forget=1", rtx=True),
    "activation": Bad(
        recurrent("RNN", activations=["Affine"]), RTX, "RNN", "has no activation 'Affine'; use one of Elu", rtx=True
    ),
    "two activations": Bad(
        recurrent("GRU", 2, activations=TWICE), RTX, "GRU", "its two directions have different activations", rtx=True
    ),
    "two slopes": Bad(
        recurrent("RNN", 2, activations=["LeakyRelu"] * 2, activation_alpha=[0.1, 0.2]),
        RTX,
        "RNN",
        "its two directions have different activations",
        rtx=True,
    ),
    "Loop without trips": Bad(
        loop("", "C"), RTX, "Loop", "it collects without a trip count, and must be known", rtx=True
    ),
    "Loop of any length": Bad(loop("M"), RTX, "Loop", "the length of what it collects hangs on 'M'", rtx=True),
    # RTX builds it and warns of a wrong shape.
    "Loop with a condition": Bad(loop("N", "C", "small"), RTX, "Loop", "its condition is computed"),
    "Loop with half a condition": Bad(
        loop("N", "", "same"), RTX, "Loop", "it passes a condition on that is not given", rtx=True
    ),
    "Loop that grows": Bad(
        loop(collects=False, grows=True),
        RTX,
        "Loop",
        "'x' goes in as ['batch', 6] and comes back as ['batch', 12]",
        rtx=True,
    ),
    "Scan that grows": Bad(scan(True), RTX, "Scan", "'h0' goes in as [2, 6] and comes back as", rtx=True),
    "Scan from the end": Bad(
        scan(scan_input_axes=[-2]), RTX, "Scan", "its scan_input_axes count from the end", rtx=True
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_breaks_a_rule_is_found(bad: Bad) -> None:
    (finding,) = lint(parse(bad.graph), RULES[bad.rules], bad.precision)
    assert (finding.node, finding.op) == (bad.node, bad.op)
    with raises("tensorrt-rules-broken", "'jetson-x'", f"node '{bad.node}' ({bad.op})", bad.message):
        refuse([finding], "jetson-x")


def built_by_rtx(graph: bytes) -> bool:
    rtx = pytest.importorskip("tensorrt_rtx", reason="rtx: tensorrt_rtx is not installed")
    builder = rtx.Builder(rtx.Logger(rtx.Logger.INTERNAL_ERROR))
    network = builder.create_network(0)
    if not rtx.OnnxParser(network, rtx.Logger(rtx.Logger.INTERNAL_ERROR)).parse(graph):
        return False
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        if -1 in tensor.shape:
            profile.set_shape(tensor.name, *(tuple(n if d == -1 else d for d in tensor.shape) for n in (1, 1, 8)))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config) is not None


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.rules == RTX])
def test_rtx_itself_refuses_what_the_rules_say(name: str) -> None:
    """And builds the others, which the rules refuse since they would be wrong or not what was asked for."""
    assert built_by_rtx(BAD[name].graph) is not BAD[name].rtx


def test_rtx_itself_has_the_operators_of_its_rules() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="rtx: tensorrt_rtx is not installed")
    logger = rtx.Logger(rtx.Logger.INTERNAL_ERROR)
    network = rtx.Builder(logger).create_network(0)
    parser = rtx.OnnxParser(network, logger)
    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if not s.domain}
    assert {name for name in known if parser.supports_operator(name)} - {"NonZero"} == RULES[RTX].operators & known


GOOD = {
    "Loop": loop(),
    "Loop with a constant condition": loop("N", "C", "same"),
    "Loop of any length that collects nothing": loop("M", collects=False),
    "Scan": scan(),
    "Scan over another axis": scan(scan_input_axes=[1]),
    "bidirectional": recurrent("LSTM", 2),
    "axes passed on": model(
        [helper.make_node("Identity", ["m"], ["a"]), helper.make_node("ReduceSum", "xa", ["y"])], m=np.array([-1])
    ),
    "bytes in": one("Cast", to=T.FLOAT, inputs=[value("x", T.UINT8)]),
    "exponent of another type": one("Pow", ["x", "p"], p=np.array(2)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_keeps_the_rules_passes_and_rtx_builds_it(name: str) -> None:
    assert lint(parse(GOOD[name]), RULES[RTX], "fp32") == []
    assert built_by_rtx(GOOD[name])


STEPS = """
    chunk-of-3 silero-vad ids nn.LSTM-2-batch-first norm-and-softmax-over-features dual-path loop-minimal-gated-unit
    buffer-scalar-counter causal-2d-then-gru valid-then-gru
"""


@pytest.mark.parametrize("rules", [TEN, RTX])
@pytest.mark.parametrize("name", STEPS.split())
def test_a_real_step_passes(name: str, rules: str) -> None:
    assert lint(parse(graph_of(name)), RULES[rules], "fp32") == []


@pytest.mark.parametrize(("opset", "count"), [(18, 0), (22, 1)])
def test_an_operator_that_onnx_lacks_in_a_precision_may_stay_in_fp32(opset: int, count: int) -> None:
    """ONNX has Conv in bfloat16 from opset 22 on."""
    shape = [value("x", shape=["batch", 6, 9])]
    graph = one("Conv", ["x", "w"], w=np.ones((6, 6, 3), np.float32), inputs=shape, opset=opset)
    assert [f.op for f in lint(parse(graph), RULES[RTX], "bf16")] == ["Conv"] * count
    assert [f.op for f in lint(parse(graph), RULES[RTX], "fp16")] == ["Conv"]


def test_the_end_of_a_slice_may_be_beyond_int32() -> None:
    bounds = {"s": np.array([0]), "e": np.array([np.iinfo(np.int64).max]), "a": np.array([1])}
    assert lint(parse(one("Slice", ["x", "s", "e", "a"], **bounds)), RULES[NANO], "fp32") == []


def test_a_sparse_constant_is_refused_before_any_rule() -> None:
    graph = one("Constant", (), sparse_value=SPARSE, inputs=[])
    with raises("sparse-tensor", "'n' (Constant"):
        parse(graph)


def test_bodies_are_read_too() -> None:
    graph = onnx.load_from_string(loop())
    (body,) = (a.g for a in graph.graph.node[0].attribute if a.name == "body")
    body.node[-1].op_type, body.node[-1].name = "Det", "deep"
    (finding,) = lint(ir.from_proto(graph), RULES[TEN], "fp32")
    assert (finding.node, finding.op) == ("deep", "Det")


def test_a_node_without_a_name_is_called_by_its_output() -> None:
    graph = onnx.load_from_string(one("Det", inputs=[value("x", shape=[6, 6])]))
    graph.graph.node[0].name = ""
    assert [f.node for f in lint(ir.from_proto(graph), RULES[TEN], "fp32")] == ["y"]


def test_the_first_eight_are_shown() -> None:
    findings = [Finding(f"n{i}", "Det", "it is bad", "leave it out") for i in range(11)]
    with pytest.raises(ExportError) as caught:
        refuse(findings, "tensorrt")
    lines = str(caught.value).splitlines()
    assert lines[0] == "target 'tensorrt' does not take this graph:"
    assert lines[1:9] == [f"- node 'n{i}' (Det): it is bad; leave it out." for i in range(8)]
    assert lines[9:] == ["- and 3 more."]
    refuse([], "tensorrt")


@pytest.mark.parametrize("name", [name for name, row in TARGETS.items() if row.library])
def test_a_row_says_what_its_rules_say(name: str) -> None:
    row = TARGETS[name]
    rules = parser_rules(row)
    low, high = row.opsets
    assert (low, high) == (13, min(rules.opset, TARGETS["onnx"].opsets[1]))
    assert row.opset == min(TARGETS["onnx"].opset, high)
    for precision in row.precisions:
        assert precision in parser_rules(row, precision).precisions


@pytest.mark.parametrize(
    ("name", "precision", "rules"),
    [
        ("tensorrt", "bf16", TEN),
        ("tensorrt-rtx", "bf16", RTX),
        ("jetson-nano", "fp16", NANO),
        ("jetson-agx-xavier", "fp32", XAVIER),
        ("jetson-orin-nx", "fp16", ORIN),
        ("jetson-orin-nx", "bf16", TEN),
        ("jetson-thor", "fp32", TEN),
    ],
)
def test_the_rules_of_a_target_are_those_of_its_oldest_library(name: str, precision: str, rules: str) -> None:
    assert parser_rules(TARGETS[name], precision) is RULES[rules]
