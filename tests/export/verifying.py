"""A lifted model held to the user's module: with graphs on ONNX Runtime, or the step in torch alone."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from rnn_export.bundle import TargetRow
from rnn_export.bundle.draft import Draft
from rnn_export.contract.precision import TOLERANCES
from rnn_export.export.graph.step import sequence_graph, step_graph
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify import verification
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.drift import ParityReport

from ..lifting import lift  # noqa: TID252

X = torch.zeros(2, 7, 4)


class Stateful(nn.Module):
    """One frame of one stream a call: its buffer takes no other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5)
        self.register_buffer("h", torch.zeros(1, 5))

    def forward(self, x: Tensor) -> Tensor:
        self.h.copy_(self.cell(x, self.h))
        return 2 * self.h


def once(models: dict[str, Callable[[], tuple]]) -> Callable[[str], StreamingModel]:
    """Lifts each of `models` at most once: a function that gives the model, its example, and its options by name."""

    @cache
    def lifted(name: str) -> StreamingModel:
        torch.manual_seed(0)
        model, example, *options = models[name]()
        return lift(model.eval(), example, **(options[0] if options else {}))

    return lifted


def graphs_of(model: StreamingModel) -> dict[str, bytes]:
    graphs = {"step.onnx": step_graph(model), "sequence.onnx": sequence_graph(model)}
    return {name: graph for name, graph in graphs.items() if graph is not None}


def held(model: StreamingModel, files=None, recording=None, frames: int = 24, reference: bytes | None = None):
    """The report and the golden vectors; `reference` is the graph that ONNX's own evaluator reads."""
    engines = []
    if files:
        initial = {name: value.numpy() for name, value in model.initial.items()}
        draft = Draft(model.spec, files, (TargetRow("onnx", "fp32", 18, tuple(files), {}),), initial)
        engines = [Engine.of(draft, "onnxruntime")]
    exact = TOLERANCES["fp32"]
    with pytest.MonkeyPatch.context() as patch:
        if not engines:
            nothing = ParityReport("torch", "cpu", frames, 2, exact, ())
            patch.setattr(verification, "as_one", lambda reports: nothing)
        return verification.verify_model(model, engines, reference, recording, frames, exact, lambda stage: None)


def sabotaged(model: StreamingModel, weight: str, change: Callable[[Tensor], object]) -> StreamingModel:
    """`model` with one tensor of its lifted module changed, which its own module does not have."""
    module = copy.deepcopy(model.module)
    (found,) = [t for name, t in module.state_dict().items() if name.endswith(weight)]
    with torch.no_grad():
        change(found)
    return replace(model, module=module)


def rewritten(model: StreamingModel, target: object, change: Callable) -> StreamingModel:
    """`model` with the one node of its lifted module that calls `target` changed."""
    module = copy.deepcopy(model.module)
    (node,) = [n for n in module.graph.nodes if n.target is target]
    change(node)
    module.recompile()
    return replace(model, module=module)
