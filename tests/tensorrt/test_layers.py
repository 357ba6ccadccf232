"""Each kind of layer by itself: one ONNX node in ONNX Runtime, and in the network that TensorRT-RTX made of it."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

if importlib.util.find_spec("tensorrt_rtx") is None and not os.environ.get("CI"):
    pytest.skip("rtx: tensorrt_rtx is not here: pip install 'rnn-export[rtx]'", allow_module_level=True)

from .network import Executor, Refused, parse
from .sums import Products

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.standard_normal((2, 4, 7, 6), np.float32)
SIGNAL = RANDOM.standard_normal((2, 4, 9), np.float32)
ROWS = RANDOM.standard_normal((2, 5), np.float32)


def ints(*values):
    return np.array(values, np.int64)


def weight(*shape):
    return RANDOM.standard_normal(shape, np.float32)


def one_node(op, x, constants=(), opset=19, **attributes):
    """A graph of `op(x, constants...)`, with a dynamic batch; "" leaves an input out."""
    x, constants = np.asarray(x), list(constants)
    names = ["" if isinstance(c, str) else f"c{i}" for i, c in enumerate(constants)]
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], name="the node", **attributes)],
        "one",
        [helper.make_tensor_value_info("x", kind, ["batch", *x.shape[1:]])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(c, n) for n, c in zip(names, constants, strict=True) if n],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


NODES = {
    **{
        op: (op, ROWS)
        for op in ("Relu", "Sigmoid", "Tanh", "Softsign", "Softplus", "Elu", "LeakyRelu", "HardSwish", "Mish")
    },
    **{
        op: (op, ROWS)
        for op in ("Exp", "Abs", "Neg", "Sin", "Cos", "Tan", "Atan", "Ceil", "Floor", "Round", "Sign", "Erf")
    },
    **{op: (op, np.abs(ROWS) + 0.1) for op in ("Log", "Sqrt", "Reciprocal")},
    "Selu": ("Selu", ROWS, [], {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "HardSigmoid": ("HardSigmoid", 5 * ROWS),
    "ThresholdedRelu": ("ThresholdedRelu", 3 * ROWS),
    "Clip": ("Clip", ROWS, [np.float32(-0.5), np.float32(0.7)]),
    "Pow": ("Pow", np.abs(ROWS), [np.float32(1.7)]),
    "Not": ("Not", ROWS > 0),
    "And": ("And", ROWS > 0, [np.array([True, False, True, False, True])]),
    "Xor": ("Xor", ROWS > 0, [np.array([True, False, True, False, True])]),
    "whole numbers divided towards zero": ("Div", ints([-7, 7, -6], [5, -1, 0]), [ints(2)]),
    "Greater": ("Greater", ROWS, [np.float32(0.2)]),
    "LessOrEqual": ("LessOrEqual", ints([1, 2, 3]), [ints(2)]),
    "cast to whole numbers": ("Cast", 5 * ROWS, [], {"to": onnx.TensorProto.INT64}),
    "Where": ("Where", ROWS > 0, [weight(2, 5), weight(1, 5)]),
    # Places.
    "Transpose": ("Transpose", SIGNAL, [], {"perm": [2, 0, 1]}),
    "Reshape with a copied axis": ("Reshape", SIGNAL, [ints(0, 2, -1)]),
    "Flatten": ("Flatten", IMAGE, [], {"axis": 2}),
    "Squeeze": ("Squeeze", SIGNAL[:, :1], [ints(1)]),
    "Unsqueeze": ("Unsqueeze", ROWS, [ints(0, 2)]),
    "Expand": ("Expand", SIGNAL[:, :1], [ints(1, 3, 1)]),
    "Tile": ("Tile", ROWS, [ints(1, 3)]),
    "Gather": ("Gather", SIGNAL, [ints([3, 0], [1, -1])], {"axis": 2}),
    "GatherElements": ("GatherElements", ROWS, [ints([3, 0], [1, 2])], {"axis": 1}),
    "Slice": ("Slice", SIGNAL, [ints(1, 2), ints(3, 8), ints(1, 2), ints(1, 3)]),
    "Slice backwards": ("Slice", SIGNAL, [ints(-1), ints(-100), ints(2), ints(-2)]),
    "Slice of nothing": ("Slice", SIGNAL, [ints(4), ints(4), ints(2)]),
    "Concat": ("Concat", ROWS[:1], [weight(3, 5)], {"axis": 0}),
    "Pad": ("Pad", SIGNAL, [ints(0, 0, 2, 0, 0, 3)]),
    "Pad with a value": ("Pad", SIGNAL, [ints(0, 1, 2, 0, 0, 3), np.float32(1.5)]),
    "Pad less than nothing": ("Pad", SIGNAL, [ints(0, 0, -2, 0, 0, 3)]),
    "Pad reflect": ("Pad", SIGNAL, [ints(0, 0, 4, 0, 0, 3)], {"mode": "reflect"}),
    "Pad edge": ("Pad", SIGNAL, [ints(0, 0, 4, 0, 0, 3)], {"mode": "edge"}),
    "Pad wrap": ("Pad", SIGNAL, [ints(0, 0, 4, 0, 0, 3)], {"mode": "wrap"}),
    # Sums.
    "MatMul": ("MatMul", SIGNAL, [weight(9, 3)]),
    "Gemm": ("Gemm", ROWS, [weight(3, 5), weight(3)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "Conv of a signal": ("Conv", SIGNAL, [weight(6, 4, 3), weight(6)], {"pads": [2, 0]}),
    "Conv grouped": ("Conv", SIGNAL, [weight(6, 2, 3)], {"group": 2}),
    "Conv depthwise": ("Conv", SIGNAL, [weight(4, 1, 3), weight(4)], {"group": 4, "dilations": [3]}),
    "Conv of an image": (
        *("Conv", IMAGE, [weight(8, 2, 3, 2), weight(8)]),
        {"group": 2, "strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 2, 3]},
    ),
    "MaxPool": ("MaxPool", IMAGE, [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    "AveragePool": ("AveragePool", IMAGE, [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    "AveragePool with the padding": (
        *("AveragePool", IMAGE, []),
        {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1},
    ),
    "GlobalAveragePool": ("GlobalAveragePool", IMAGE),
    **{op: (op, SIGNAL, [ints(1)]) for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")},
    "ReduceSum of two axes": ("ReduceSum", IMAGE, [ints(1, 3)], {"keepdims": 0}),
    "ReduceL2": ("ReduceL2", SIGNAL, [ints(2)]),
    "Softmax": ("Softmax", 9 * SIGNAL, [], {"axis": 1}),
    "LayerNormalization": ("LayerNormalization", SIGNAL, [weight(9), weight(9)], {"epsilon": 1e-3}),
    "LayerNormalization of two axes": ("LayerNormalization", SIGNAL, [weight(4, 9), weight(4, 9)], {"axis": 1}),
    "InstanceNormalization": ("InstanceNormalization", SIGNAL, [weight(4), weight(4)]),
}


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_one_node_computes_what_onnxruntime_does(node):
    op, x, constants, attributes = (*node, *([], {})[len(node) - 2 :])
    graph = one_node(op, x, constants, **attributes)
    (want,) = ort.InferenceSession(graph).run(None, {"x": x})
    (got,) = Executor(parse(graph)).run({"x": x}).values()
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if want.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max(initial=1))
    else:
        np.testing.assert_array_equal(got, want)


def test_selu_is_another_where_its_constants_are_left_to_the_parser():
    """TensorRT's are 1.6732 and 1.0507, ONNX's have all their digits."""
    graph = one_node("Selu", ROWS)
    (want,) = ort.InferenceSession(graph).run(None, {"x": ROWS})
    (got,) = Executor(parse(graph)).run({"x": ROWS}).values()
    assert 1e-5 < np.abs(got - want).max() / np.abs(want).max() < 1e-4


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (("ConvTranspose", SIGNAL, [weight(4, 2, 3)]), r"layer 'the node' \(LayerType.DECONVOLUTION\) is of a kind"),
        (("Asinh", ROWS), r"layer 'the node' \(LayerType.UNARY\) has UnaryOperation.ASINH, which"),
    ],
)
def test_what_is_not_learnt_is_refused(node, said):
    with pytest.raises(Refused, match=f"{said}.* the executor has not learnt"):
        Executor(parse(one_node(*node)))


def test_what_cannot_be_parsed_is_refused_with_its_node():
    with pytest.raises(Refused, match=r"node 'the node' \(SequenceConstruct\): "):
        parse(one_node("SequenceConstruct", ROWS))


def test_what_lies_outside_is_refused():
    """The batch is known at the call alone."""
    executor = Executor(parse(one_node("Gather", ROWS, [ints(7)], axis=0)))
    with pytest.raises(IndexError, match="7"):
        executor.run({"x": ROWS})


def test_an_input_of_another_shape_is_refused():
    executor = Executor(parse(one_node("Relu", ROWS)))
    with pytest.raises(Refused, match=r"input 'x' is float32 \(2, 4\), not float32 \(-1, 5\)"):
        executor.run({"x": ROWS[:, :4]})


def test_fp16_is_rounded_where_it_is_added_up():
    """2048 + 1 is 2048 in fp16, so a sum of ones stops there; in fp32 it is rounded once."""
    x, y = np.ones((1, 4096), np.float16), np.ones((4096, 1), np.float16)
    assert Products("fp32").matmul(x, y) == 4096
    assert Products("fp16").matmul(x, y) == 2048
    assert Products("fp32").sum(x, (1,), True).tolist() == [[4096]]
    assert Products("fp16").sum(x, (1,), True).tolist() == [[2048]]
    with pytest.raises(ValueError, match="'bf16'"):
        Products("bf16")


@pytest.mark.parametrize("accumulate", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("op", "constants", "attributes"),
    [
        ("MatMul", [weight(9, 3)], {}),
        ("Conv", [weight(6, 2, 3), weight(6)], {"group": 2}),
        ("ReduceSum", [ints(1)], {}),
    ],
)
def test_a_node_in_fp16_is_near_the_same_in_fp32(op, constants, attributes, accumulate):
    low = [c.astype(np.float16) if c.dtype.kind == "f" else c for c in constants]
    x = SIGNAL.astype(np.float16)
    (got,) = Executor(parse(one_node(op, x, low, **attributes)), accumulate).run({"x": x}).values()
    (want,) = ort.InferenceSession(one_node(op, SIGNAL, constants, **attributes)).run(None, {"x": SIGNAL})
    assert got.dtype == np.float16
    error = np.abs(got - want).max() / np.abs(want).max()
    assert 1e-5 < error < 5e-3
