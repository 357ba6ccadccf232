"""Weights in int8: each row with a scale of its own, multiplied out again in fp32 when the model is compiled."""

from typing import Any

import numpy as np

from rnn_export.runtime.backends.openvino.library import ov

# Below so many values a table of scales saves nothing.
SMALLEST = 256


def store_in_int8(model: Any) -> None:
    """Replace each matrix of floats in `model` by whole numbers from -127 to 127 times a scale for each row."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_output_element_type(0) != ov.Type.f32:
            continue
        values = node.data
        if values.ndim < 2 or values.size < SMALLEST:
            continue
        scale = np.abs(values).max(-1, keepdims=True).astype(np.float32) / 127
        scale[scale == 0] = 1
        small = ov.op.Constant(np.rint(values / scale).astype(np.int8))
        ops = ov.opset13
        wide = ops.multiply(ops.convert(small, "f32"), ov.op.Constant(scale))
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(wide.output(0))
