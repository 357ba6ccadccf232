"""Graphs by hand, one pass on one graph, and the step graphs of cases of the parity table, lifted once."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from rnn_export.export.graph.passes.decompose import DecomposeRecurrent
from rnn_export.export.graph.passes.mixed_precision import ToMixedPrecision
from rnn_export.export.graph.passes.opset import ConvertOpset
from rnn_export.export.graph.passes.pipeline import apply, rewrite
from rnn_export.export.graph.step import step_graph
from rnn_export.export.lift.streaming_model import StreamingModel

from ..lifting import lift  # noqa: TID252
from ..parity.cases import CASES  # noqa: TID252


def built(nodes, inputs, outputs, opset: int = 18, ir_version: int = 8, **constants) -> onnx.ModelProto:
    """A graph of `nodes`, with the shapes of its float inputs and outputs by name; None is a shape left open."""
    ports = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in by_name.items()]
        for by_name in (inputs, outputs)
    ]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", *ports, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def decompose(graph: bytes) -> bytes:
    return rewrite(graph, DecomposeRecurrent())


def typed(graph: bytes, precision: str, state_precision: str = "fp32") -> bytes:
    return rewrite(graph, ToMixedPrecision(precision, state_precision))


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    return ir.to_proto(apply(ir.from_proto(model), ConvertOpset(opset)))


@cache
def lifted(name: str) -> StreamingModel:
    (case,) = [case for case in CASES if case.name == name]
    model, example, options = case.build()
    return lift(model, example, **options)


@cache
def graph_of(name: str) -> bytes:
    """The decomposed fp32 step graph of a case of the parity table."""
    graph = step_graph(lifted(name))
    assert graph is not None
    return decompose(graph)
