"""The target `litert`: one step of one stream as LiteRT's file, its states as inputs and outputs by name.

`step.tflite` has no recurrent operator and no loop, and all sizes in it are numbers; LiteRT runs it, and so does
TensorFlow Lite for Microcontrollers. In int8, inputs, outputs and states are float all the same, as in the contract,
and a stream goes on in any precision. Inside, a state has the scale in the manifest.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.export.targets.base import StepWriter
from rnn_export.platform.arrays import Arrays, pack_arrays
from rnn_export.platform.isolated_process import run_isolated
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts, folder

if TYPE_CHECKING:
    from torch import nn

    from rnn_export.export.lift.streaming_model import StreamingModel


class Writer(StepWriter):
    """The writer of LiteRT."""

    def write(self, model: "StreamingModel", target: Target, options: TargetOptions) -> dict[str, bytes]:
        """`step.tflite`; litert-torch writes it in a process of its own, which says nothing."""
        from rnn_export.export.targets.torch_step.aten_step import aten_step

        initial = {name: value.cpu().numpy() for name, value in model.initial.items()}
        return _converted(aten_step(model), model.spec, initial, options)

    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
    ) -> dict[str, bytes]:
        """The same from a step graph, which is written in torch's operators first."""
        from rnn_export.export.targets.torch_step.aten_step import step_of_graph

        return _converted(step_of_graph(step, spec), spec, initial, options)

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The oldest LiteRT that reads the file, and how values are scaled in int8."""
        if options.precision != "int8":
            return {"litert": target.min_version}
        return {"litert": target.min_version, "scales": "at run time" if options.calibration is None else "calibrated"}

    def found(self, spec: StreamSpec, files: Mapping[str, bytes]) -> dict[str, Any]:
        """The scale and zero point of each state that is in int8: the state is scale * (value - zero_point)."""
        from rnn_export.export.targets.litert.quantization import state_scales

        (raw,) = files.values()
        scales = state_scales(raw, spec)
        return {"state_scales": scales} if scales else {}

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        return [Engine.of(artefacts, "litert", options.precision)]


def _converted(step: "nn.Module", spec: StreamSpec, initial: Arrays, options: TargetOptions) -> dict[str, bytes]:
    given = {"step.pt2": saved(step, spec)}
    if options.calibration is not None:
        given |= {"step.initial.npz": pack_arrays(initial), "step.recording.npz": pack_arrays(options.calibration)}
    words = {"specs": {"step": spec.to_json()}, "precision": options.precision}
    made = run_isolated("rnn_export.export.targets.litert.tflite_conversion", "convert", given, words)
    return {f"{folder('litert', options.precision)}/{name}": data for name, data in made.items()}


def saved(step: "nn.Module", spec: StreamSpec) -> bytes:
    """The step as a saved program of torch's for one stream, in which every size is a number."""
    from rnn_export.export.targets.torch_step.aten_step import example, saved_program

    return saved_program(step, example(spec, 1))
