"""The target `onnx`: the step, and where there is one the sequence graph, verified on ONNX Runtime."""

from typing import Any

from rnn_export.export.graph.step import sequence_graph, step_graph
from rnn_export.export.graph.translation import BASE_OPSET
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.runtime.backends.api import Artefacts
from rnn_export.runtime.engine import Engine
from rnn_export.target_options import TargetOptions
from rnn_export.targets import Target


def write(model: StreamingModel, target: Target, options: TargetOptions) -> dict[str, bytes]:
    """`step.onnx` and `sequence.onnx`, at the top of the bundle, where everybody looks for them."""
    opset = BASE_OPSET if options.opset is None else options.opset
    graphs = {"step.onnx": step_graph(model, opset), "sequence.onnx": sequence_graph(model, opset)}
    return {name: graph for name, graph in graphs.items() if graph is not None}


def requires(target: Target, options: TargetOptions) -> dict[str, Any]:
    """Nothing: any runtime of the row's opset will do."""
    return {}


def engines(artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
    return [Engine.of(artefacts, "onnxruntime", options.precision)]
