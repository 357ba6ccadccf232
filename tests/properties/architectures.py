"""Random architectures, composed from parts as users write them.

A plan is plain data, drawn from a number (`random_architecture(7)` is the same in every run). `build` makes of it a
model with its example, its options, and how its user calls it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from . import nets
from .drawing import draw_plan
from .plans import BUFFERS, Plan
from .sketches import chain

# How far `shaken` moves a value, relative to it: some roundings of float32.
SHAKE = 1e-6

# The axis of time of an input; what a sequence (rows, frames, ...) becomes in this layout.
TIME = {"btc": 1, "tbc": 0, "bct": 2, "bt": 1, "tb": 0, "b1tf": 2, "bctf": 2, "btfc": 1}


@dataclass(frozen=True)
class Architecture:
    """A model, an example of its inputs, and the options that its user gives to lift() and export()."""

    plan: Plan
    model: nn.Module
    example: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def refusal(self) -> str | None:
        return self.plan.refusal

    @property
    def unit(self) -> int:
        """Frames that are whole chunks."""
        return self.plan.chunk

    def __str__(self) -> str:
        plan = self.plan
        way = {"whole": "whole sequences", "declared": "sequences and states", "frames": "frame by frame"}[plan.way]
        words = [
            f"{way}, {plan.layout}",
            " > ".join(sketch.says() for sketch in plan.body),
            *([f"and {plan.other}"] if plan.other else []),
            *([f"memory {plan.memory}"] if plan.memory else []),
            *([f"{plan.cell} declared"] if plan.way == "declared" else []),
            f"outputs {plan.outputs}",
            *([f"end {plan.end}"] if plan.end else []),
            *([f"chunk {plan.chunk}"] if plan.chunk > 1 else []),
            *(["packed"] if plan.packed else []),
            *([f"TO REFUSE: {plan.refusal}"] if plan.refusal else []),
        ]
        return f"{'; '.join(words)}\n  build({plan})"

    def draw(self, rows: int, frames: int, seed: int) -> list[Tensor]:
        """Inputs (rows, frames, ...), of what is held (rows, ...)."""
        plan, some = self.plan, torch.Generator().manual_seed(seed)
        frame = {"b1tf": (1, plan.size), "bctf": (nets.BANDS, plan.size), "btfc": (plan.size, nets.BANDS)}
        if plan.layout in ("bt", "tb"):
            drawn = [torch.randint(nets.IDS, (rows, frames), generator=some)]
        else:
            drawn = [torch.randn(rows, frames, *frame.get(plan.layout, (plan.size,)), generator=some)]
        if plan.other == "sequence":
            drawn.append(torch.randn(rows, frames, nets.OTHER, generator=some))
        if plan.other == "held":
            drawn.append(torch.randn(rows, nets.HELD, generator=some))
        return drawn

    def shaken(self, inputs: list[Tensor], seed: int) -> tuple[Architecture, list[Tensor]]:
        """Weights and inputs that differ by a little more than rounding does."""
        some, model = torch.Generator().manual_seed(seed), copy.deepcopy(self.model)

        def shake(x: Tensor) -> Tensor:
            return x * (1 + SHAKE * torch.randn(x.shape, generator=some)) if x.is_floating_point() else x

        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(shake(weight))
        return replace(self, model=model), [shake(x) for x in inputs]

    def exact(self, inputs: list[Tensor]) -> tuple[Architecture, list[Tensor]]:
        """The same in float64: how far the model is from it, rounding alone moves it."""
        doubled = [x.double() if x.is_floating_point() else x for x in inputs]
        return replace(self, model=copy.deepcopy(self.model).double()), doubled

    def takes(self, inputs: list[Tensor]) -> bool:
        """True if the model runs on them and gives at least a frame of every output."""
        try:
            return all(y.numel() for y in self.truth(inputs))
        except RuntimeError:  # too few frames
            return False

    def truth(self, inputs: list[Tensor]) -> list[Tensor]:
        """Outputs (rows, frames, ...), or (rows, ...) as of the last frame, as the user gets them of the model."""
        rows = [[x[i : i + 1] for x in inputs] for i in range(len(inputs[0]))] if self.plan.buffered else [inputs]
        with torch.no_grad():
            given = [self._stream(copy.deepcopy(self.model), row) for row in rows]
        return [torch.cat(outputs) for outputs in zip(*given, strict=True)]

    def _stream(self, model: Any, inputs: list[Tensor]) -> list[Tensor]:
        if self.plan.way != "frames":
            x, *others = inputs
            outputs = self._outputs(model(layouted(x, self.plan.layout), *others, *first_states(self.plan, model, x)))
            swap = nets.SWAPPED.get(self.plan.layout)
            return [y.transpose(*swap) if swap and y.dim() == 3 else y for y in outputs]
        states = first_states(self.plan, model, inputs[0])
        frames = []
        for frame in inputs[0].unbind(1):
            results = model(frame, *states)
            frames.append(self._outputs(results))
            if states:
                after = list(results.values()) if isinstance(results, dict) else list(results)
                states = after[-len(states) :]
        return [torch.stack(one, 1) for one in zip(*frames, strict=True)]

    def _outputs(self, results: Any) -> list[Tensor]:
        if isinstance(results, Tensor):
            return [results]
        values = list(results.values()) if isinstance(results, dict) else list(results)
        return values[: 1 if self.plan.outputs == "tensor" else 2]


def layouted(x: Tensor, layout: str) -> Tensor:
    """(rows, frames, ...) with time where `layout` has it."""
    return x.movedim(1, TIME[layout])


def first_states(plan: Plan, model: Any, x: Tensor) -> list[Any]:
    """The states that the user gives to the first call, one for each argument."""
    dtype = next((weight.dtype for weight in model.parameters()), torch.float32)
    if plan.way == "declared":
        zeros = [torch.zeros(plan.layers, len(x), 4, dtype=dtype) for _ in range(1 if plan.cell == "GRU" else 2)]
    elif plan.memory in ("args", "none", "tuple", "dict"):
        zeros = [torch.zeros(len(x), *row, dtype=dtype) for row in model.rows]
    else:
        return []
    if plan.memory == "dict":
        return [{f"m{i}": zero for i, zero in enumerate(zeros)}]
    return zeros if plan.memory == "args" else [tuple(zeros)]


def build(plan: Plan) -> Architecture:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        model = _model(plan).eval()
    model.heads.ended(plan.end)
    architecture = Architecture(plan, model, (), {})
    inputs = architecture.draw(plan.batch, plan.unit * plan.frames + plan.lost, 0)
    states = first_states(plan, model, inputs[0])
    options: dict[str, Any] = {"chunk": plan.chunk} if plan.chunk > 1 else {}
    options |= {"pack_states": True} if plan.packed else {}
    if plan.way == "frames":
        inputs = [inputs[0][:, 0]]
    else:
        inputs[0] = layouted(inputs[0], plan.layout)
        if plan.axis or plan.outputs == "last":
            options["time_axis"] = {"x": TIME[plan.layout], **({"other": 1} if plan.other == "sequence" else {})}
    if states:
        names = {"dict": ["memory"], "args": ["h", "c"][: len(states)]}.get(plan.memory, ["state"])
        first = 1 if plan.outputs == "tensor" else 2
        options["states"] = {n: n if plan.outputs == "dict" else first + i for i, n in enumerate(names)}
    example = (*inputs, *(states if plan.memory != "none" else ()))
    return Architecture(plan, model, example, options)


def _model(plan: Plan) -> Any:
    inside = chain(plan.features, plan.body)
    if plan.way == "frames":
        modules = list(inside.parts)
        if plan.memory == "attribute":
            return nets.FramesInAttribute(modules, plan.outputs)
        if plan.memory in BUFFERS:
            return nets.FramesInBuffers(modules, plan.outputs, plan.memory)
        kinds = {"none": nets.FramesFromNone, "tuple": nets.FramesTuple, "dict": nets.FramesDict}
        kinds |= {"args": nets.FramesH if plan.cells == 1 else nets.FramesHC}
        return kinds[plan.memory](modules, plan.outputs)
    if plan.way == "declared":
        alone = nets.DeclaredH if plan.cell == "GRU" else nets.DeclaredHC
        kind = nets.DeclaredPair if plan.memory == "tuple" else alone
        return kind(plan.layout, plan.size, inside, plan.outputs, plan.cell, plan.layers)
    kind = {"": nets.Net, "sequence": nets.TwoInputs, "held": nets.Held}[plan.other]
    return kind(plan.layout, plan.size, inside, plan.outputs)


def random_architecture(number: int) -> Architecture:
    """The same of the same number."""
    return build(draw_plan(Random(number)))
