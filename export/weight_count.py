"""How many weights a step reads: at this size a machine's memory bounds how fast it can be."""

import math

import onnx
from onnx import TensorProto

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def count_weights(model: bytes) -> int:
    """The floats among the constants of an ONNX graph, those of its initializers and its Constant nodes.

    A table that is only looked up in counts for nothing: a step reads one row of it.
    """
    graph = onnx.load_from_string(model).graph
    constants = [(tensor.name, tensor) for tensor in graph.initializer]
    tables, read = set(), set()
    for node in graph.node:
        looked_up = 1 if node.op_type == "Gather" else 0
        tables |= set(node.input[:looked_up])
        read |= set(node.input[looked_up:])
        constants += [(node.output[0], a.t) for a in node.attribute if a.HasField("t")]
    floats = [(name, tensor) for name, tensor in constants if tensor.data_type in FLOATS]
    return sum(math.prod(tensor.dims) for name, tensor in floats if name in read or name not in tables)
