"""The target `litert`: one step of one stream as LiteRT's file, its states as inputs and outputs by name.

`step.tflite` has no recurrent operator and no loop, and all sizes in it are numbers; LiteRT runs it, and so does
TensorFlow Lite for Microcontrollers.
"""

from typing import Any

from rnn_export.apart import run_apart
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.targets.aten_step import aten_step, example, saved
from rnn_export.runtime.backends.api import Artefacts, folder
from rnn_export.runtime.engine import Engine
from rnn_export.target_options import TargetOptions
from rnn_export.targets import Target


def write(model: StreamingModel, target: Target, options: TargetOptions) -> dict[str, bytes]:
    """`step.tflite`; litert-torch writes it in a process of its own, which says nothing."""
    given, words = {"step.pt2": one_stream(model)}, {"specs": {"step": model.spec.to_json()}}
    made = run_apart("rnn_export.export.targets.tflite.convert", "convert", given, words)
    return {f"{folder('litert', options.precision)}/{name}": data for name, data in made.items()}


def one_stream(model: StreamingModel) -> bytes:
    """The step as a saved program of torch's, in which every size is a number."""
    return saved(aten_step(model), example(model.spec, 1))


def requires(target: Target, options: TargetOptions) -> dict[str, Any]:
    """The LiteRT from which on the file can be read."""
    return {"litert": target.min_version}


def engines(artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
    return [Engine.of(artefacts, "litert", options.precision)]
