"""The target `onnx`: the step, and where there is one the sequence graph, verified on ONNX Runtime."""

from typing import TYPE_CHECKING, Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.export.graph.passes.naming import NameByModules, names_in
from rnn_export.export.graph.passes.opset import ConvertOpset
from rnn_export.export.graph.passes.pipeline import apply, parse, serialise
from rnn_export.export.targets.base import StepWriter
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts

if TYPE_CHECKING:
    from rnn_export.export.lift.streaming_model import StreamingModel


class Writer(StepWriter):
    """The writer of ONNX graphs."""

    def write(self, model: "StreamingModel", target: Target, options: TargetOptions) -> dict[str, bytes]:
        """`step.onnx` and `sequence.onnx`, at the top of the bundle, where everybody looks for them."""
        # All else here starts from a step that is written, and needs no torch.
        from rnn_export.export.graph.step import sequence_graph, step_graph
        from rnn_export.export.graph.translation import BASE_OPSET

        opset = BASE_OPSET if options.opset is None else options.opset
        graphs = {"step.onnx": step_graph(model, opset), "sequence.onnx": sequence_graph(model, opset)}
        return {name: graph for name, graph in graphs.items() if graph is not None}

    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
    ) -> dict[str, bytes]:
        """`step.onnx` at the opset of `options`, or its own."""
        model = parse(step)
        if options.opset not in (None, model.opset_imports.get("")):
            assert options.opset is not None
            apply(model, ConvertOpset(options.opset), NameByModules(keep=names_in(model)))
            step = serialise(model, check=True)
        return {"step.onnx": step}

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """Nothing: any runtime of the row's opset will do."""
        return {}

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        return [Engine.of(artefacts, "onnxruntime", options.precision)]
