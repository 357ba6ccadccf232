"""The target `pt2`: the step as torch.export saves it, in torch's own ops alone."""

import io
from typing import Any

import torch
from torch import fx

from rnn_export.contract.spec import BATCH, StateSpec, TensorSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.errors import BundleError, ExportError, first_line
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.targets.base import TargetWriter
from rnn_export.export.targets.torch_step.aten_step import aten_step, example
from rnn_export.runtime.backends.torchscript.backend import SPEC_FILE, TorchSession
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts, folder, target_row

# torch notes in each node where it came from: paths and lines of the user's code, most of the file.
KEPT = ("val", "tensor_meta")


class Writer(TargetWriter):
    """The writer of torch.export programs."""

    def write(self, model: StreamingModel, target: Target, options: TargetOptions) -> dict[str, bytes]:
        """`step.pt2`: (inputs..., states...) -> (outputs..., next states...), the contract among its extra files."""
        spec, batch = model.spec, torch.export.Dim("batch")
        ports: list[TensorSpec | StateSpec] = [*spec.inputs, *spec.states]
        shapes = [{} if spec.rows else {port.shape.index(BATCH): batch} for port in ports]
        try:
            program = torch.export.export(
                aten_step(model), example(spec, spec.rows or 3), dynamic_shapes=(*shapes,), strict=False
            )
        except Exception as error:  # torch.export raises many kinds
            raise ExportError(
                f"torch.export cannot follow the step: {first_line(error)}", id="pt2-trace-fails"
            ) from error
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
                node.meta = {key: value for key, value in node.meta.items() if key in KEPT}
        program.example_inputs = None
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={SPEC_FILE: spec.dumps()})
        return {f"{folder('pt2', options.precision)}/step.pt2": file.getvalue()}

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The torch that wrote the file; others read it as far as torch keeps its format."""
        return {"torch": torch.__version__}

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        """On torch itself: the loaded program, called step by step."""
        (name,) = target_row(artefacts, "pt2", options.precision).files
        try:
            step = torch.export.load(io.BytesIO(artefacts.read(name))).module()
        except Exception as error:  # torch.export raises many kinds
            raise BundleError(f"{name} cannot be loaded: {first_line(error)}", id="pt2-program-unloadable") from error
        return [Engine(artefacts, "pt2", TorchSession("pt2", artefacts.spec, step, torch.device("cpu")))]
