"""Random architectures, composed from parts as users write them.

A sketch is plain data, drawn from a random.Random: of a number (`random_architecture(7)` is the same in every
run) or of hypothesis, which shrinks it. `build` makes of it a model with its example, its options, and how its user
calls it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from . import mixes, nets, parts, thresholds

# Of a hundred, how many have something that a stream cannot have.
FLAWED = 15
# How far `shaken` moves a value, relative to it: some roundings of float32.
SHAKE = 1e-6


class Pick:
    """Draws in which the first choice is the simplest."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def one(self, *choices: Any) -> Any:
        return choices[self.random.randrange(len(choices))]

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) >= 100 - percent


@dataclass(frozen=True)
class Sketch:
    """A part that is not built yet: `part("Layer", cell="GRU", ...)`."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"part({', '.join([repr(self.kind), *(f'{k}={v!r}' for k, v in self.options.items())])})"

    def build(self, size: int) -> Any:
        options = {k: v.build(size) if isinstance(v, Sketch) else v for k, v in self.options.items()}
        if self.kind == "Chain":
            return chain(size, self.options["inside"])
        if self.kind in ("Softmax", "DataBranch"):
            return _kind(self.kind)(size)
        if self.kind == "Branches":
            options["left"], options["right"] = (self.options[k].build(size) for k in ("left", "right"))
        return _kind(self.kind)(size, **options)

    def all(self) -> Iterator[Sketch]:
        yield self
        for value in self.options.values():
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, Sketch):
                    yield from inner.all()

    def says(self) -> str:
        """Its kind, with the choice that makes it special."""
        told = ("cell", "layer", "how", "style", "over", "gate")
        special = [v for k, v in self.options.items() if k in told and isinstance(v, str)]
        inner = [v.says() for v in self.options.values() if isinstance(v, Sketch)]
        return f"{self.kind}({', '.join([*special, *inner])})" if special or inner else self.kind


def _kind(name: str) -> Any:
    return next(getattr(module, name) for module in (parts, thresholds, mixes) if hasattr(module, name))


def part(kind: str, **options: Any) -> Sketch:
    return Sketch(kind, options)


def chain(size: int, sketches: tuple[Sketch, ...]) -> parts.Chain:
    built = []
    for sketch in sketches:
        built.append(sketch.build(size))
        size = built[-1].width
    return parts.Chain(size, built)


# --- drawing parts ------------------------------------------------------------------------------------------------


def draw_dense(p: Pick) -> Sketch:
    more = {"dead": True} if p.chance(10) else {}
    return part("Dense", width=p.one(4, 3, 5, 6), activation=p.one(*parts.ACTIVATIONS), **more)


def draw_plain(p: Pick) -> Sketch:
    kind = p.one("Norm", "Softmax", "GLU", "BatchNorm", "Dropout")
    return part(kind, width=p.one(4, 5)) if kind == "GLU" else part(kind)


def draw_layer(p: Pick) -> Sketch:
    cell = p.one("GRU", "LSTM", "RNN")
    more: dict[str, Any] = {}
    if cell == "RNN" and p.chance(50):
        more["relu"] = True
    if cell == "LSTM" and p.chance(25):
        more["proj"] = 2
    elif p.chance(15):
        more["twice"] = True
    start = p.one("none", "none", "zeros", "new_zeros", "learned", "repeated")
    if start != "none" and p.chance(10):
        more["asks"] = True
    if p.chance(4):
        more["deaf"] = True
    return part(
        "Layer",
        cell=cell,
        hidden=p.one(4, 3, 5),
        layers=p.one(8, 10, 12) if p.chance(6) else p.one(1, 1, 2, 3),
        batch_first=not p.chance(40),
        bias=not p.chance(20),
        start=start,
        **more,
    )


def draw_ours(p: Pick) -> Sketch:
    kind = p.one("CustomGRU", "CustomLSTM", "SimpleRNN")
    return part("Ours", layer=kind, hidden=p.one(4, 3), layers=p.one(1, 2), form=p.chance(50))


def draw_cell(p: Pick) -> Sketch:
    kind = p.one("TorchCell", "TorchCell", "ReluGRU", "MinimalGated", "Leaky", "Peephole", "TwoAgo", "Feedback")
    more = {}
    if kind == "TorchCell":
        more["cell"] = p.one("GRUCell", "LSTMCell", "RNNCell", "CustomGRUCell", "CustomLSTMCell")
    return part(kind, hidden=p.one(4, 3, 5), **more)


# Of gates and limits: seen in noise on both sides, rarely, never.
LEVELS = (0.5, 2.0, 20.0)


def draw_gate(p: Pick) -> Sketch:
    kind = p.one("Gate", "Limit", "Detector")
    if kind == "Gate":
        return part(kind, how=p.one(*thresholds.GATES), level=p.one(*LEVELS), keyed=p.chance(30))
    if kind == "Limit":
        return part(kind, how=p.one(*thresholds.LIMITS), level=p.one(*LEVELS))
    return part(kind, level=p.one(*LEVELS))


def draw_memory(p: Pick) -> Sketch:
    if p.chance(50):
        return part(p.one("Squelch", "Limiter", "Hold", "Alarm", "Integrator"), level=p.one(*LEVELS))
    kind = p.one("Average", "Difference", "Ring")
    if kind == "Average":
        return part(kind, counted=p.chance(40))
    return part(kind, width=p.one(4, 3), kernel=p.one(2, 3)) if kind == "Ring" else part(kind)


def draw_loop(p: Pick) -> Sketch:
    inside = draw_memory(p) if p.chance(30) else draw_cell(p)
    styles = ["list", "unbind", "written", "time_first"]
    if inside.options.get("cell") in ("GRUCell", "LSTMCell", "RNNCell"):
        styles.append("none")
    return part("Loop", cell=inside, style=p.one(*styles), head=p.chance(30))


def draw_causal(p: Pick) -> Sketch:
    how = p.one("pad", "chomp", "constant", "cat")
    kernel, dilation = p.one(2, 3, 4), p.one(1, 1, 2, 3)
    return part("Causal", width=p.one(4, 3), kernel=kernel, dilation=dilation, grouped=p.chance(25), how=how)


def draw_separable(p: Pick) -> Sketch:
    return part("Separable", kernel=p.one(2, 3), dilation=p.one(1, 2, 4))


def draw_spectral(p: Pick) -> Sketch:
    return part("Spectral", channels=p.one(2, 1), kernel=p.one(2, 3), band=p.one(1, 2))


def draw_shift(p: Pick) -> Sketch:
    return part("TokenShift", how=p.one("pad", "cat", "module"))


def draw_dual(p: Pick) -> Sketch:
    return part("DualPath", bands=p.one(2, 3), cell=p.one("GRU", "LSTM"), by_view=p.chance(50))


def draw_valid(p: Pick) -> Sketch:
    return part("Valid", width=p.one(4, 3), kernel=p.one(2, 3), dilation=p.one(1, 1, 2), residual=p.chance(30))


def draw_strided(p: Pick) -> Sketch:
    if p.chance(20):
        return part("Pool", average=p.chance(50))
    how, stride = p.one("causal", "full", "valid"), 2
    return part("Strided", width=p.one(4, 3), kernel=stride + p.one(0, 1, 2), stride=stride, how=how)


def draw_running(p: Pick) -> Sketch:
    if p.chance(20):
        return part("Positions", how=p.one("sinus", "turns", "fades"))
    if p.chance(10):
        return part("Latch", how=p.one("cumsum", "cummax", "any"), level=p.one(*LEVELS))
    return part("Running", how=p.one("mean", "norm", "max", "min", "log", "product"))


# What keeps the number of frames.
STEADY = (
    draw_layer,
    draw_layer,
    draw_loop,
    draw_dense,
    draw_causal,
    draw_plain,
    draw_ours,
    draw_separable,
    draw_shift,
    draw_spectral,
    draw_dual,
    draw_gate,
    draw_gate,
    draw_running,
)


def draw_residual(p: Pick) -> Sketch:
    return part("Residual", inside=p.one(*STEADY)(p), **({"fresh": True} if p.chance(15) else {}))


def draw_branches(p: Pick) -> Sketch:
    left, right = (draw_valid(p) if p.chance(15) else p.one(*STEADY)(p) for _ in range(2))
    return part("Branches", left=left, right=right, how=p.one("cat", "gate"))


FLAWS: dict[str, Callable[[Pick], dict[str, Any]]] = {
    "Bidirectional": lambda p: {"cell": p.one("GRU", "LSTM", "RNN")},
    "Attention": lambda p: {"how": p.one("matmul", "sdpa", "module", "causal")},
    "OverTime": lambda p: {"how": p.one("softmax", "mean", "max", "flip", "roll", "standardised")},
    "LookAhead": lambda p: {"how": p.one("same", "padding", "pad", "shift")},
    "Table": lambda p: {},
    "OverRows": lambda p: {"how": p.one("mean", "max", "softmax", "roll", "first", "standardised")},
    "Statistics": lambda p: {"how": p.one("batch", "group", "instance")},
    "DataBranch": lambda p: {},
    "Packed": lambda p: {},
    "OddLoop": lambda p: {"how": p.one("backwards", "alternating", "counting", "start")},
}


def draw_body(p: Pick, own_state: bool) -> tuple[Sketch, ...]:
    """One to four parts; `own_state` leaves out what makes them late or fewer."""
    drawn: list[Sketch] = []
    for _ in range(p.one(1, 2, 2, 3, 3, 4)):
        drawers = [*STEADY, draw_residual, draw_branches]
        if not own_state:
            drawers.append(draw_valid)
            if not any(sketch.kind in ("Strided", "Pool") for sketch in drawn):
                drawers.append(draw_strided)
        drawn.append(p.one(*drawers)(p))
    return tuple(drawn)


# --- drawing architectures ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What an architecture is made from: `build(Plan(...))` makes it again.

    Attributes:
        way: "whole" sequences; "declared" states beside them; "frames", one per call.
        layout: of the input; see Net.
        size: features of the input.
        body: its parts.
        outputs: see Heads.
        end: of the heads; see ENDS.
        other: a second input, "sequence" or "held".
        memory: where the states are, of frames ("args", "none", "tuple", "dict", "reassigned", "copied", "born", "set",
            "attribute"), or declared ones ("args", "tuple").
        cell, layers: of the declared layer.
        chunk: frames per step.
        batch, frames: of the example; its frames are beyond what the body loses.
        axis: whether the user says which axis is time.
        seed: of the weights.
    """

    way: str = "whole"
    layout: str = "btc"
    size: int = 4
    body: tuple[Sketch, ...] = ()
    outputs: str = "tensor"
    end: str = ""
    other: str = ""
    memory: str = ""
    cell: str = "GRU"
    layers: int = 1
    chunk: int = 1
    batch: int = 2
    frames: int = 6
    axis: bool = False
    seed: int = 0

    def __repr__(self) -> str:
        """What differs from the defaults."""
        said = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default)
        return f"Plan({', '.join(said)})"

    @property
    def features(self) -> int:
        return self.size * (nets.BANDS if self.layout in ("bctf", "btfc") else 1)

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(inner.kind for sketch in self.body for inner in sketch.all())

    @property
    def stride(self) -> int:
        return math.prod(part.stride for part in self._parts())

    @property
    def lost(self) -> int:
        """At least as many frames of the input as its parts need before their first output."""
        lost, stride = 0, 1
        for part in self._parts():
            lost += part.lost * stride
            stride *= part.stride
        return lost

    def _parts(self) -> Iterator[Any]:
        return (p for p in chain(self.features, self.body).parts if isinstance(p, parts.Part))

    @property
    def cells(self) -> int:
        return sum(len(p.rows) for p in chain(self.size, self.body).parts if isinstance(p, parts.Cell))

    @property
    def buffered(self) -> bool:
        """Whether the model keeps the memory of one stream in itself."""
        return self.memory in BUFFERS or "BufferedLayer" in self.kinds

    @property
    def planted(self) -> str | None:
        """What mixes frames or rows behind a gate."""
        return next((s.says() for sketch in self.body for s in sketch.all() if s.kind == "Planted"), None)

    @property
    def refusal(self) -> str | None:
        """What a stream cannot have."""
        flaw = next((sketch for sketch in self.body if sketch.kind in FLAWS), None)
        if flaw is not None:
            return flaw.says()
        return "chunk is no multiple of the stride" if self.chunk % self.stride else None


BUFFERS = ("reassigned", "copied", "born", "set", "attribute")


def draw_plan(random: Random) -> Plan:
    p = Pick(random)
    way = p.one(*["whole"] * 6, "frames", "frames", "declared", "buffered")
    plan = Plan(
        way,
        size=p.one(4, 3, 5, 6),
        outputs=p.one("tensor", "tensor", "tensor", "tuple", "dict"),
        batch=p.one(2, 1, 3),
        frames=p.one(6, 4, 7, 9),
        seed=random.randrange(1000),
    )
    plan = _draw_frames(p, plan) if way == "frames" else _draw_whole(p, plan)
    if p.chance(FLAWED):
        return _flawed(p, plan)
    return replace(plan, end=p.one(*nets.ENDS)) if p.chance(12) else plan


def _draw_whole(p: Pick, plan: Plan) -> Plan:
    layout = p.one("btc", "btc", "btc", "tbc", "bct", "bt", "tb", "b1tf", "bctf", "btfc")
    plan = replace(plan, layout=layout, axis=p.chance(15))
    plan = replace(plan, body=draw_body(p, own_state=plan.way != "whole"))
    plan = replace(plan, chunk=plan.stride * p.one(1, 1, 1, 1, 2, 3))
    if plan.way == "declared":
        cell = p.one("GRU", "LSTM")
        memory = p.one("args", "tuple") if cell == "LSTM" else "args"
        return replace(plan, memory=memory, cell=cell, layers=p.one(1, 2))
    if plan.way == "buffered":
        at = p.random.randrange(len(plan.body) + 1)
        buffered = part(
            "BufferedLayer", hidden=p.one(4, 3), layers=p.one(1, 2), how=p.one("reassigned", "copied", "attribute")
        )
        return replace(plan, way="whole", body=(*plan.body[:at], buffered, *plan.body[at:]), batch=1)
    if layout in ("btc", "tbc", "bct"):
        plan = replace(plan, other=p.one(*[""] * 5, "sequence", "held"))
    if p.chance(6):
        return replace(plan, outputs="last")
    return replace(plan, outputs="named") if plan.outputs == "tuple" and p.chance(30) else plan


def _draw_frames(p: Pick, plan: Plan) -> Plan:
    plan = replace(plan, layout="bc", memory=p.one("args", "none", "tuple", "dict", *BUFFERS))
    drawn: list[Sketch] = []
    for i in range(p.one(1, 2, 3, 4)):
        drawer = p.one(draw_cell, draw_memory) if i == 0 or p.chance(40) else p.one(draw_dense, draw_plain, draw_gate)
        sketch = drawer(p)
        drawn.append(part("Norm") if sketch.kind in ("BatchNorm", "Dropout", "Detector") else sketch)
    plan = replace(plan, body=tuple(drawn), batch=1 if plan.memory in BUFFERS else plan.batch)
    return replace(plan, memory="tuple") if plan.memory == "args" and plan.cells > 2 else plan


def _flawed(p: Pick, plan: Plan) -> Plan:
    if plan.way == "frames":
        return replace(plan, body=(*plan.body, part("DataBranch")))
    if plan.stride > 1 and p.chance(30):
        return replace(plan, chunk=plan.stride + 1)
    kind = p.one(*FLAWS)
    at = p.random.randrange(len(plan.body) + 1)
    return replace(plan, body=(*plan.body[:at], part(kind, **FLAWS[kind](p)), *plan.body[at:]))


# --- building -----------------------------------------------------------------------------------------------------

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
            swap = {"tbc": (0, 1), "tb": (0, 1), "bct": (1, 2)}.get(self.plan.layout)
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
    inputs = architecture.draw(plan.batch, plan.stride * plan.frames + plan.lost, 0)
    states = first_states(plan, model, inputs[0])
    options: dict[str, Any] = {"chunk": plan.chunk} if plan.chunk > 1 else {}
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


def architectures() -> st.SearchStrategy[Architecture]:
    """Of hypothesis, which shrinks them: the first choice of every draw is the simplest."""
    return st.randoms(use_true_random=False).map(draw_plan).map(build)


# --- shrinking without hypothesis ---------------------------------------------------------------------------------


def smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with one thing less."""
    for i, sketch in enumerate(plan.body):
        if len(plan.body) > 1:
            yield replace(plan, body=(*plan.body[:i], *plan.body[i + 1 :]))
        for simple in _simpler(sketch):
            yield replace(plan, body=(*plan.body[:i], simple, *plan.body[i + 1 :]))
    for f in fields(plan):
        if f.name not in ("body", "way", "memory", "seed") and getattr(plan, f.name) != f.default:
            if f.name == "layout" and plan.way == "frames":
                continue
            yield replace(plan, **{f.name: f.default})


def _simpler(sketch: Sketch) -> Iterator[Sketch]:
    for key, value in sketch.options.items():
        if isinstance(value, Sketch) and key in ("inside", "left", "right"):
            yield value
        if isinstance(value, Sketch):
            yield from (replace(sketch, options={**sketch.options, key: v}) for v in _simpler(value))
        simplest = {
            "layers": 1,
            "bias": True,
            "batch_first": True,
            "start": "none",
            "dilation": 1,
            "kernel": 2,
            "head": False,
            "grouped": False,
            "twice": False,
            "proj": 0,
            "relu": False,
            "counted": False,
            "keyed": False,
            "dead": False,
            "deaf": False,
            "fresh": False,
            "join": "add",
        }
        if key in simplest and value != simplest[key] and sketch.kind != "Strided":
            yield replace(sketch, options={**sketch.options, key: simplest[key]})


def smallest(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """A plan that fails still, while nothing less of it does."""
    for _ in range(30):
        less = next((p for p in smaller(plan) if _can_be(p) and fails(p)), None)
        if less is None:
            break
        plan = less
    return plan


def _can_be(plan: Plan) -> bool:
    """Whether the model runs at all."""
    try:
        architecture = build(plan)
        architecture.truth(architecture.draw(1, plan.lost + 4 * math.lcm(plan.chunk, plan.stride), 0))
    except Exception:  # a part that is taken out may leave no sense
        return False
    return True
