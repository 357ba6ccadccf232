"""The target `onnx`: the step, and where there is one the sequence graph, verified on ONNX Runtime."""

from __future__ import annotations

from typing import Any

from rnn_export.export.graph import BASE_OPSET, sequence_graph, step_graph
from rnn_export.models.lift import StreamingModel
from rnn_export.runtime.backends import Artefacts
from rnn_export.runtime.engine import Engine


def write(model: StreamingModel, precision: str, opset: int | None) -> dict[str, bytes]:
    """`step.onnx` and `sequence.onnx`, at the top of the bundle, where everybody looks for them."""
    opset = BASE_OPSET if opset is None else opset
    graphs = {"step.onnx": step_graph(model, opset), "sequence.onnx": sequence_graph(model, opset)}
    return {name: graph for name, graph in graphs.items() if graph is not None}


def requires() -> dict[str, Any]:
    """Nothing: any runtime of the row's opset will do."""
    return {}


def engine(artefacts: Artefacts, precision: str) -> Engine:
    """On ONNX Runtime."""
    return Engine.of(artefacts, "onnxruntime", precision)
