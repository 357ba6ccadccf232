"""The targets that TensorRT builds an engine for: graph and recipe are written here, the engine where it runs."""

from __future__ import annotations

from collections.abc import Mapping

from rnn_export.arrays import Array
from rnn_export.errors import ExportError
from rnn_export.export.graph.step import step_graph
from rnn_export.export.lift.api import StreamingModel
from rnn_export.export.targets.tensorrt.lowering import engines, files, requires
from rnn_export.spec import StreamSpec
from rnn_export.target_options import TargetOptions
from rnn_export.targets import Target

__all__ = ["engines", "from_step", "requires", "write"]


def write(model: StreamingModel, target: Target, options: TargetOptions) -> dict[str, bytes]:
    """`step.onnx`, typed and without recurrent operators, and `recipe.json`, in the folder of the target."""
    step = step_graph(model)
    if step is None:
        raise ExportError(f"target {target.name!r} runs a step, but the model takes whole sequences only.")
    return files(step, model.spec, target, options)


def from_step(
    step: bytes, spec: StreamSpec, initial: Mapping[str, Array], target: Target, options: TargetOptions
) -> dict[str, bytes]:
    """The same from the step graph of a bundle."""
    return files(step, spec, target, options)
