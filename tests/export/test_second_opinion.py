"""Replacements of onnx.reference's own operators, against torch."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from rnn_export.export.verify.second_opinion import INSTEAD


def of_one(op: str, inputs: dict[str, np.ndarray], **attributes: object) -> np.ndarray:
    """The second opinion's result of one operator."""
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, [*inputs], ["y"], **attributes)], "g", ports, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (y,) = ReferenceEvaluator(model, new_ops=INSTEAD).run(None, inputs)
    return y


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("groups", "channels", "more"), [(1, 6, 3), (2, 6, 3), (3, 6, 1), (6, 6, 1)])
def test_transposed_convolutions_of_groups(groups, channels, more, bias):
    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose1d(channels, groups * more, 4, 2, 1, groups=groups, bias=bias, dilation=2)
    x = torch.randn(2, channels, 7)
    inputs = {"x": x.numpy(), **{n: p.detach().numpy() for n, p in layer.named_parameters()}}
    y = of_one("ConvTranspose", inputs, group=groups, strides=[2], pads=[1, 1], dilations=[2])
    np.testing.assert_allclose(y, layer(x).detach().numpy(), atol=1e-5)


def test_transposed_convolutions_of_images():
    torch.manual_seed(0)
    how = {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "dilation": (2, 1)}
    layer = torch.nn.ConvTranspose2d(4, 6, (3, 4), groups=2, **how)
    x = torch.randn(2, 4, 5, 3)
    inputs = {"x": x.numpy(), **{n: p.detach().numpy() for n, p in layer.named_parameters()}}
    said = {"strides": [2, 3], "pads": [1, 0, 1, 0], "output_padding": [1, 2], "dilations": [2, 1]}
    y = of_one("ConvTranspose", inputs, group=2, **said)
    np.testing.assert_allclose(y, layer(x).detach().numpy(), atol=1e-5)


def test_transposed_convolutions_whose_result_is_as_large_as_is_said():
    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose1d(4, 6, 4, 2, 1, output_padding=1, groups=2)
    x = torch.randn(2, 4, 5)
    inputs = {"x": x.numpy(), **{n: p.detach().numpy() for n, p in layer.named_parameters()}}
    y = of_one("ConvTranspose", inputs, group=2, strides=[2], pads=[1, 1], output_padding=[1], output_shape=[11])
    np.testing.assert_allclose(y, layer(x).detach().numpy(), atol=1e-5)


def test_entries_of_long_axes():
    rng = np.random.default_rng(0)
    x, places = rng.standard_normal((3, 50)).astype(np.float32), rng.integers(-50, 50, (3, 9))
    y = of_one("GatherElements", {"x": x, "i": places}, axis=1)
    np.testing.assert_array_equal(y, np.take_along_axis(x, places % 50, 1))
