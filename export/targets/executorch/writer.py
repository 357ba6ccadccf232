"""The targets `executorch` and `executorch-portable`: one step of one stream as ExecuTorch's file, its state inside.

`step.pte` keeps the states in buffers of its method `step`. `executorch` runs on XNNPACK as far as it can, and else on
ExecuTorch's own kernels, which are all of `executorch-portable`. `runner.cpp` is a stream in C++, and a program.
"""

from typing import TYPE_CHECKING, Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.export.targets.base import StepWriter
from rnn_export.export.targets.executorch.pte_runner import runner
from rnn_export.platform.arrays import Arrays
from rnn_export.platform.isolated_process import run_isolated
from rnn_export.runtime.backends.executorch.backend import open_target
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts, folder

if TYPE_CHECKING:
    from torch import nn

    from rnn_export.export.lift.streaming_model import StreamingModel


class Writer(StepWriter):
    """The writer of ExecuTorch."""

    def write(self, model: "StreamingModel", target: Target, options: TargetOptions) -> dict[str, bytes]:
        """`step.pte`, which ExecuTorch writes in a process of its own, and `runner.cpp`."""
        from rnn_export.export.targets.torch_step.aten_step import aten_step

        initial = {name: value.cpu().numpy() for name, value in model.initial.items()}
        return _converted(aten_step(model), model.spec, initial, target, options)

    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
    ) -> dict[str, bytes]:
        """The same from a step graph, which is written in torch's operators first."""
        from rnn_export.export.targets.torch_step.aten_step import step_of_graph

        return _converted(step_of_graph(step, spec), spec, initial, target, options)

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The oldest ExecuTorch that reads the file, and the libraries to link beside its own kernels."""
        return {"executorch": target.min_version, "delegates": ["xnnpack"] if target.name == "executorch" else []}

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        return [Engine(artefacts, target.name, open_target(artefacts, target.name, options.precision))]


def _converted(
    step: "nn.Module", spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
) -> dict[str, bytes]:
    words = {"specs": {"step": spec.to_json()}, "targets": {"step": target.name}}
    given = {"step.pt2": saved(step, spec, initial)}
    made = run_isolated("rnn_export.export.targets.executorch.pte_conversion", "convert", given, words)
    made["runner.cpp"] = runner(spec).encode()
    return {f"{folder(target.name, options.precision)}/{name}": data for name, data in made.items()}


def saved(step: "nn.Module", spec: StreamSpec, initial: Arrays) -> bytes:
    """The step with its states inside as a saved program of torch's for one stream."""
    import torch

    from rnn_export.export.targets.executorch.pte_states import StatefulStep
    from rnn_export.export.targets.torch_step.aten_step import example, saved_program

    ports = example(spec, 1)
    inputs, zeros = ports[: len(spec.inputs)], ports[len(spec.inputs) :]
    states = [
        torch.as_tensor(initial[s.name])[None].clone() if s.initial == "stored" else zero
        for s, zero in zip(spec.states, zeros, strict=True)
    ]
    return saved_program(StatefulStep(step, inputs, states).requires_grad_(False), inputs)
