"""The number of weights a step reads, in the manifest."""

import numpy as np
import onnx
from onnx import numpy_helper

from rnn_export.export.keeping import count_weights

from ..runtime.graphs import MODELS, TABLE  # noqa: TID252


def test_weights_are_counted():
    numbers = {"w": np.zeros((3, 5), np.float32), "half": np.zeros(7, np.float16), "axes": np.zeros(9, np.int64)}
    table = {"table": np.zeros((100, 3), np.float32), "both": np.zeros((2, 3), np.float32)}
    nodes = [
        onnx.helper.make_node("Gather", ["table", "id"], ["row"]),
        onnx.helper.make_node("Gather", ["both", "id"], ["other"]),
        onnx.helper.make_node("MatMul", ["row", "both"], ["y"]),
        onnx.helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(11, np.float32), "c")),
    ]
    initializers = [numpy_helper.from_array(a, name) for name, a in {**numbers, **table}.items()]
    graph = onnx.helper.make_graph(nodes, "g", [], [], initializers)
    assert count_weights(onnx.helper.make_model(graph).SerializeToString()) == 15 + 7 + 6 + 11
    assert count_weights(b"") == 0


def test_weights_of_a_table_that_is_looked_up_in_count_for_nothing():
    assert TABLE.size > 0
    assert count_weights(MODELS["tokens"].files()["step.onnx"]) == 0
