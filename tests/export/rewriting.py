"""One pass on one graph, for tests; and the step graphs of cases of the parity table, lifted once."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir

from rnn_export.export.graph.passes.decompose import DecomposeRecurrent
from rnn_export.export.graph.passes.mixed_precision import ToMixedPrecision
from rnn_export.export.graph.passes.opset import ConvertOpset
from rnn_export.export.graph.passes.pipeline import apply, rewrite
from rnn_export.export.graph.step import step_graph
from rnn_export.export.lift.streaming_model import StreamingModel

from ..lifting import lift  # noqa: TID252
from ..parity.cases import CASES  # noqa: TID252


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
