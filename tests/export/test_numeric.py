"""The numeric executor: exact roundings in hand-made cases, and real nets in a closed loop against fp32."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rnn_export.bundle.draft import Draft
from rnn_export.contract.layout import canonical, graph_layout
from rnn_export.contract.precision import Tolerance
from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec
from rnn_export.export.graph.passes.pipeline import rewrite
from rnn_export.export.graph.passes.rounding import WriteOutRoundings
from rnn_export.export.targets.tensorrt.writer import emulated_engine, emulated_session
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import Golden

from ..messages import raises  # noqa: TID252
from ..test_silero_example import clip, load_script, reference  # noqa: TID252
from .rewriting import CASES, at_opset, built, graph_of, lifted, typed
from .test_precision import NAMES, small

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

Array = npt.NDArray[Any]
STEPS = 200
# Relative to the scale of each tensor; the states fp32.
TOLERANCE = {"fp16": 1e-2, "bf16": 5e-2}


# --- one product


def product(a: Any, b: Any, precision: str, accumulate: str, op: str = "MatMul", **attributes: Any) -> Array:
    """`op` of x (1, K) and a weight, or of x (1, C, L) and a kernel, as it is emulated."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    kind = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], to=kind),
        helper.make_node(op, ["low", "w"], ["z"], name="the_product", **attributes),
        helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT),
    ]
    w = b.astype(np.float16 if precision == "fp16" else ml_dtypes.bfloat16)
    model = built(nodes, {"x": a.shape}, {"y": None}, 22, 10, w=w)
    shape = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    spec = StreamSpec(
        (TensorSpec("x", "float32", ("batch", *a.shape[1:])),),
        (TensorSpec("y", "float32", ("batch", *(d.dim_value for d in shape[1:]))),),
        (),
    )
    memory = emulated_session(spec, model.SerializeToString(), accumulate).stream_buffers(1)
    memory.inputs["x"][...] = a
    memory.step()
    return memory.outputs["y"]


ONES = np.ones((1, 4096))


@pytest.mark.parametrize(
    ("a", "b", "precision", "accumulate", "expected"),
    [
        # fp16 counts to 2048; fp32 goes on.
        (ONES, ONES.T, "fp16", "fp32", 4096),
        (ONES, ONES.T, "fp16", "fp16", 2048),
        (ONES, ONES.T, "bf16", "fp32", 4096),
        # A sum rounds to even: 2049 to 2048, 2051 to 2052.
        ([[2048, 1]], [[1], [1]], "fp16", "fp32", 2048),
        ([[2048, 3]], [[1], [1]], "fp16", "fp32", 2052),
        # The order counts where partial sums are rounded.
        ([[1, 1, 2048]], [[1], [1], [1]], "fp16", "fp16", 2050),
        ([[2048, 1, 1]], [[1], [1], [1]], "fp16", "fp16", 2048),
        ([[2048, 1, 1]], [[1], [1], [1]], "fp16", "fp32", 2050),
        # The product itself is exact: 1.0009765625 squared is 1.00195408, of which fp16 has 1.00195313.
        ([[1.0009765625, -1.001953125]], [[1.0009765625], [1]], "fp16", "fp32", np.float16(2.0**-20)),
        ([[-1.001953125, 1.0009765625]], [[1], [1.0009765625]], "fp16", "fp16", np.float16(2.0**-20)),
        ([[1.0009765625, -1.001953125]], [[1.0009765625], [1]], "fp16", "fp16", 0),
        # Inputs are rounded before: 1.002 is 1.00195313 in fp16 and 1 in bf16.
        ([[1.002]], [[1]], "fp16", "fp32", 1.001953125),
        ([[1.002]], [[1]], "bf16", "fp32", 1),
        # 256 + 1 is a tie in bf16.
        ([[256, 1]], [[1], [1]], "bf16", "fp32", 256),
        ([[256, 3]], [[1], [1]], "bf16", "fp32", 260),
        # What leaves the range on the way, and comes back.
        ([[60000, 60000, -60000]], [[1], [1], [1]], "fp16", "fp32", np.float16(60000)),
        ([[60000, 60000, -60000]], [[1], [1], [1]], "fp16", "fp16", np.inf),
    ],
)
def test_a_product_is_rounded_where_it_is_said(a, b, precision, accumulate, expected):
    assert product(a, b, precision, accumulate).tolist() == [[float(expected)]]
    if precision == "fp16" and accumulate == "fp16":
        assert product(a, b, precision, accumulate, "Gemm").tolist() == [[float(expected)]]
        kernel = np.asarray(b).reshape(1, -1, 1)
        assert product(np.asarray(a)[:, :, None], kernel, precision, accumulate, "Conv").item() == float(expected)


def in_fp16(a: Array, b: Array) -> Array:
    """The product of two arrays of any rank, summed up in fp16, on ONNX Runtime."""
    graph = helper.make_graph(
        [helper.make_node("Cast", "x", "l", to=TensorProto.FLOAT16), helper.make_node("MatMul", "lw", "z")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, a.shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT16, None)],
        [numpy_helper.from_array(b.astype(np.float16), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(rewrite(model.SerializeToString(), WriteOutRoundings("fp16")), options)
    (y,) = session.run(None, {"x": a.astype(np.float32)})
    return y


def one_by_one(a: Array, b: Array) -> Array:
    """Fused multiply-adds in fp16 with Python's own loop."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float16)
    for k in range(a.shape[1]):
        total = (total.astype(np.float64) + np.outer(a[:, k], b[k]).astype(np.float64)).astype(np.float16)
    return total.astype(np.float32)


def drawn(*shape: int) -> Array:
    """Values that fp16 has."""
    random = np.random.default_rng(sum(shape))
    return random.standard_normal(shape).astype(np.float16).astype(np.float32)


def test_sums_in_fp16_are_those_of_a_loop():
    a, b = drawn(5, 300), drawn(300, 7)
    got, want = in_fp16(a, b), one_by_one(a, b)
    # Twice rounded, by way of fp32, a tie may fall to the other side: in one of a million.
    assert (got == want).mean() > 0.9
    np.testing.assert_allclose(got, want, atol=0.05)
    exact = a.astype(np.float64) @ b
    assert np.abs(got - exact).max() > 4 * np.abs((a @ b).astype(np.float16) - exact).max()


@pytest.mark.parametrize("shapes", [((4,), (4, 3)), ((2, 4), (4,)), ((4,), (4,)), ((3, 1, 2, 4), (5, 4, 6))])
def test_products_broadcast_as_numpy_s(shapes):
    a, b = (np.round(drawn(*shape)) for shape in shapes)
    np.testing.assert_array_equal(in_fp16(a, b), np.matmul(a, b))


CONVOLUTIONS = {
    "plain": ("Conv", (2, 4, 9), (6, 4, 3), {}),
    "strided, padded, dilated": ("Conv", (2, 4, 19), (6, 4, 3), {"strides": [2], "pads": [2, 1], "dilations": [3]}),
    "groups": ("Conv", (2, 4, 9), (6, 2, 3), {"group": 2}),
    "depthwise 2d": ("Conv", (1, 4, 5, 7), (4, 1, 3, 2), {"group": 4, "strides": [1, 2], "pads": [1, 0, 0, 1]}),
    "transposed": ("ConvTranspose", (2, 4, 9), (4, 6, 3), {}),
    "transposed, strided, padded": (
        "ConvTranspose",
        (2, 4, 9),
        (4, 6, 5),
        {"strides": [3], "pads": [2, 1], "output_padding": [1], "dilations": [2]},
    ),
    "transposed groups 2d": ("ConvTranspose", (2, 4, 5, 3), (4, 2, 1, 3), {"group": 2, "strides": [1, 2]}),
}


@pytest.mark.parametrize(("op", "x", "w", "attributes"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_are_those_of_onnxruntime(op, x, w, attributes):
    x, w = np.round(drawn(*x)), np.round(drawn(*w))
    model = built([helper.make_node(op, ["x", "w"], ["y"], **attributes)], {"x": x.shape}, {"y": None}, w=w)
    (want,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    # Small whole numbers are exact however they are added up.
    for precision, accumulate in (("fp16", "fp32"), ("fp16", "fp16"), ("bf16", "fp32")):
        rows = [product(row[None], w, precision, accumulate, op, **attributes) for row in x]
        np.testing.assert_array_equal(np.concatenate(rows), want)
    assert np.abs(want).max() > 3


# --- a net in a closed loop


def initial(name: str, rows: int) -> dict[str, Array]:
    model = lifted(name)
    return {s.name: np.ascontiguousarray(model.initial[s.name].expand(rows, *s.row).numpy()) for s in model.spec.states}


def frames_of(name: str, rows: int, frames: int) -> dict[str, Array]:
    torch.manual_seed(1)
    (case,) = [case for case in CASES if case.name == name]
    return {t.name: a.numpy() for t, a in zip(lifted(name).spec.inputs, case.draw(rows, frames), strict=True)}


def feed(spec: StreamSpec, inputs: dict[str, Array], at: int) -> dict[str, Array]:
    fed = {}
    for tensor in spec.inputs:
        piece = inputs[tensor.name]
        piece = piece[:, at : at + spec.chunk] if spec.timed(tensor) else piece
        fed[tensor.name] = graph_layout(piece if spec.has_time else piece[:, 0], tensor)
    return fed


def loop_of_onnxruntime(name: str, inputs: dict[str, Array], steps: int) -> list[dict[str, Array]]:
    """Outputs and states after each step, in fp32."""
    spec, session = lifted(name).spec, ort.InferenceSession(graph_of(name), providers=["CPUExecutionProvider"])
    rows = len(next(iter(inputs.values())))
    states = {s.input: initial(name, rows)[s.name] for s in spec.states}
    names, given = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)], []
    for at in range(steps):
        results = session.run(names, {**feed(spec, inputs, at * spec.chunk), **states})
        states = dict(zip(states, results[len(spec.outputs) :], strict=True))
        given.append(dict(zip(names, results, strict=True)))
    return given


def loop_of_executor(
    name: str, inputs: dict[str, Array], steps: int, graph: bytes, accumulate: str
) -> list[dict[str, Array]]:
    spec = lifted(name).spec
    rows = len(next(iter(inputs.values())))
    memory, given = emulated_session(spec, graph, accumulate).stream_buffers(rows), []
    memory.write(initial(name, rows))
    for at in range(steps):
        for key, value in feed(spec, inputs, at * spec.chunk).items():
            memory.inputs[key][...] = value
        memory.step()
        states = {s.output: memory.read()[s.name] for s in spec.states}
        given.append({**{n: a.copy() for n, a in memory.outputs.items()}, **states})
    return given


def separate(got: list[dict[str, Array]], want: list[dict[str, Array]]) -> float:
    """The largest error of any tensor over its own scale."""
    worst = 0.0
    for name in want[0]:
        one, other = (np.stack([step[name] for step in steps]).astype(np.float64) for steps in (got, want))
        worst = max(worst, float(np.abs(one - other).max() / np.abs(other).max()))
    return worst


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "silero-vad"])
def test_a_net_stays_near_fp32_over_200_steps(name, precision):
    inputs = frames_of(name, 2, STEPS)
    got = loop_of_executor(name, inputs, STEPS, typed(graph_of(name), precision), "fp32")
    error = separate(got, loop_of_onnxruntime(name, inputs, STEPS))
    if precision == "fp32":
        assert error <= 5e-6
    elif name == "buffer-scalar-counter":
        # All of it is the update of a state.
        assert error <= 1e-6
    else:
        assert 1e-5 < error <= TOLERANCE[precision]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["nn.LSTM-1", "nn.GRU-2-batch-first", "valid-then-gru"])
def test_states_in_the_precision_cost_more(name, precision):
    inputs = frames_of(name, 2, STEPS)
    want = loop_of_onnxruntime(name, inputs, STEPS)
    wide, low = (
        separate(loop_of_executor(name, inputs, STEPS, typed(graph_of(name), precision, states), "fp32"), want)
        for states in ("fp32", precision)
    )
    assert low <= 2 * TOLERANCE[precision]
    assert low > wide


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_counter_counts_exactly(precision):
    name, steps = "buffer-scalar-counter", 2500
    inputs = {"x": np.ones((1, steps, 4), np.float32)}
    got = loop_of_executor(name, inputs, steps, typed(graph_of(name), precision, precision), "fp32")
    first = initial(name, 1)["count"]
    np.testing.assert_array_equal([g["count.next"] for g in got], [first + i + 1 for i in range(steps)])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_warm_up_opens_at_the_same_step(precision):
    name, inputs = "valid-then-gru", frames_of("valid-then-gru", 1, 12)
    want = loop_of_onnxruntime(name, inputs, 12)
    got = loop_of_executor(name, inputs, 12, typed(graph_of(name), precision, precision), "fp32")
    assert [g["warm_up.next"].item() for g in got] == [w["warm_up.next"].item() for w in want]
    assert [g["gru.l0.h.next"].any() for g in got] == [w["gru.l0.h.next"].any() for w in want]
    assert not want[0]["gru.l0.h.next"].any()


@pytest.mark.parametrize("name", ["nn.LSTM-1", "causal-2d-then-gru"])
def test_sums_in_fp16_are_others_than_sums_in_fp32(name):
    inputs = frames_of(name, 2, STEPS)
    graph = typed(graph_of(name), "fp16")
    first, second = (loop_of_executor(name, inputs, STEPS, graph, sums) for sums in ("fp32", "fp16"))
    assert separate(first, second) > 1e-5
    assert separate(second, loop_of_onnxruntime(name, inputs, STEPS)) <= TOLERANCE["fp16"]


# --- Silero VAD on speech


@pytest.mark.parametrize(
    ("precision", "accumulate", "opset", "allowed"),
    [("fp16", "fp32", 18, 5e-3), ("fp16", "fp16", 18, 1e-2), ("bf16", "fp32", 22, 5e-2)],
)
def test_silero_finds_the_same_speech(precision, accumulate, opset, allowed):
    model = at_opset(onnx.load_from_string(graph_of("silero-vad")), opset)
    graph = typed(model.SerializeToString(), precision)
    (kept, _), sound = reference(), clip().reshape(1, -1, 512)
    given = loop_of_executor("silero-vad", {"samples": sound}, sound.shape[1], graph, accumulate)
    probability = np.array([step["probability"].item() for step in given])
    assert 1e-5 < np.abs(probability - kept).max() <= allowed
    segments = load_script("segments").speech_segments
    assert segments(probability, 512 / 16000) == segments(kept, 512 / 16000)


# --- the session in the engine


def test_golden_vectors_are_replayed_on_it():
    name, frames, rows = "valid-then-gru", 24, 2
    model, inputs = lifted(name), frames_of("valid-then-gru", 2, 24)
    spec, loop = model.spec, loop_of_onnxruntime(name, inputs, frames)
    outputs = {
        t.name: np.concatenate([canonical(step[t.name], t) for step in loop], 1)[:, spec.delay :] for t in spec.outputs
    }
    states = {s.name: np.stack([step[s.output] for step in loop], 1) for s in spec.states}
    golden = Golden(inputs, outputs, states, np.arange(frames) + 1, Tolerance(1e-3, 1e-2))
    draft = Draft(spec, {}, (), {s: a[0] for s, a in initial(name, rows).items()})
    report = replay_golden(emulated_engine(draft, "numeric", typed(graph_of(name), "fp16"), "fp16"), golden)
    report.raise_for_failure("")
    assert {d.check for d in report.drifts} == {
        "step",
        "sequence",
        "chunked",
        "reset",
        "snapshot",
        "batch-invariance",
        "pool",
    }
    assert report.device == "numeric (not run on hardware)"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_session_says_in_what_it_computes(precision):
    assert emulated_session(lifted("ids").spec, typed(graph_of("ids"), precision), "fp32").precision == precision


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_state_enters_the_step_in_the_type_of_the_graph(precision):
    spec = lifted("nn.LSTM-1").spec
    narrow = np.float16 if precision == "fp16" else ml_dtypes.bfloat16
    value, rounded = np.float32(1.2345678), np.float32(narrow(1.2345678))

    def after(states: str, start: np.float32) -> dict[str, Array]:
        memory = emulated_session(spec, typed(graph_of("nn.LSTM-1"), precision, states), "fp32").stream_buffers(1)
        memory.write({s.name: np.full((1, *s.row), start, np.float32) for s in spec.states})
        memory.inputs[spec.inputs[0].name][...] = 0.5
        memory.step()
        return memory.read()

    for name, state in after(precision, value).items():
        assert state.dtype == np.float32
        np.testing.assert_array_equal(state, after(precision, rounded)[name])
        np.testing.assert_array_equal(state, state.astype(narrow).astype(np.float32))
    assert not np.array_equal(after("fp32", value)["l0.c"], after("fp32", rounded)["l0.c"])


def test_what_is_read_is_a_copy():
    spec = lifted("nn.LSTM-1").spec
    memory = emulated_session(spec, typed(graph_of("nn.LSTM-1"), "fp16"), "fp32").stream_buffers(1)
    memory.write(initial("nn.LSTM-1", 1))
    memory.read()["l0.h"][...] = 7
    assert not memory.read()["l0.h"].any()


# --- refused


def test_other_sums_are_refused():
    graph = typed(graph_of("nn.LSTM-1"), "bf16")
    with raises("accumulation-unknown", "'bf16'", "fp32 or in fp16"):
        emulated_session(lifted("nn.LSTM-1").spec, graph, "bf16")
    with raises("fp16-sums-unfit", "Gemm", "bfloat16"):
        emulated_session(lifted("nn.LSTM-1").spec, graph, "fp16")


def test_a_product_without_such_a_sum_is_refused():
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")
    graph = typed(small([node], w=np.eye(4, dtype=np.float32)), "fp16")
    spec = StreamSpec(
        (TensorSpec("x", "float32", ("batch", 4)),),
        (TensorSpec("y", "float32", ("batch", 4)),),
        (StateSpec("h", "h", "g", "float32", ("batch", 4)),),
    )
    with raises("fp16-sums-unsupported", "'the_Einsum' (Einsum", "Conv, ConvTranspose"):
        emulated_session(spec, graph, "fp16")
    emulated_session(spec, graph, "fp32")


def test_whole_sequences_are_refused():
    tensor = TensorSpec("x", "float32", ("batch", "time", 4))
    spec = StreamSpec((tensor,), (TensorSpec("y", "float32", ("batch", "time", 4)),), (), sequence_only=True)
    with raises("emulated-sequence-only"):
        emulated_session(spec, b"", "fp32")
