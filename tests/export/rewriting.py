"""One pass on one graph, for tests."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from rnn_export.export.graph.passes.decompose import DecomposeRecurrent
from rnn_export.export.graph.passes.mixed_precision import ToMixedPrecision
from rnn_export.export.graph.passes.opset import ConvertOpset
from rnn_export.export.graph.passes.pipeline import apply, rewrite


def decompose(graph: bytes) -> bytes:
    return rewrite(graph, DecomposeRecurrent())


def typed(graph: bytes, precision: str, state_precision: str = "fp32") -> bytes:
    return rewrite(graph, ToMixedPrecision(precision, state_precision))


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    return ir.to_proto(apply(ir.from_proto(model), ConvertOpset(opset)))
