"""Whole models around the parts: their inputs, outputs, and the place of a stream's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Cell, Part, State, silenced

# Values of an id, and features of each band, of a second sequence and of a held vector.
IDS, BANDS, OTHER, HELD = 11, 2, 5, 4


class Named(NamedTuple):
    first: Tensor
    second: Tensor


# What is made of an output at last.
ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda y: y,
    "zero": lambda y: y,
    "threshold": lambda y: y > 0.9,
    "event": lambda y: (y > 0.3).float(),
    "clamp": lambda y: y.clamp(5, 6),
    "saturated": lambda y: F.hardtanh(y),
}


# Of a second output (B, T, 2), which has other frames than the first.
OTHER_FRAMES: dict[str, Callable[[Tensor], Tensor]] = {
    "faster": lambda y: y.repeat_interleave(2, 1),
    "slower": lambda y: F.max_pool1d(y.transpose(1, 2), 3, 2, 1).transpose(1, 2),
}


# (B, T, C) of an input in some layout, and the axes that change places in it.
ENTERED: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("tbc", "tb"), lambda x: x.transpose(0, 1)),
    "bct": lambda x: x.transpose(1, 2),
    "b1tf": lambda x: x.squeeze(1),
    "bctf": lambda x: x.permute(0, 2, 1, 3).flatten(2),
    "btfc": lambda x: x.flatten(2),
}
SWAPPED = {"tbc": (0, 1), "tb": (0, 1), "bct": (1, 2)}


class Heads(nn.Module):
    """`kind`: one "tensor", or two: a "tuple", "dict", "named" tuple, "last" (a tuple, one as of the last frame), or a
    tuple whose second has twice the frames ("faster") or half of them ("slower").
    """

    end = ""

    def __init__(self, size: int, kind: str) -> None:
        super().__init__()
        self.kind, self.first = kind, nn.Linear(size, 3)
        self.second = None if kind == "tensor" else nn.Linear(size, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs = {"first": self.first(x)}
        if self.second is not None:
            y = self.second(x[:, -1] if self.kind == "last" else x)
            outputs["second"] = OTHER_FRAMES[self.kind](y) if self.kind in OTHER_FRAMES else y
        return {name: ENDS[self.end](y) for name, y in outputs.items()}

    def ended(self, end: str) -> None:
        """`end`: of ENDS; "zero" has its weights at zero, as a fresh head may."""
        self.end = end
        if end == "zero":
            for linear in self.children():
                silenced(linear)


def returned(kind: str, outputs: dict[str, Tensor], states: dict[str, Any]) -> Any:
    """Outputs and states as `kind` has them."""
    if kind == "dict":
        return {**outputs, **states}
    if kind == "named" and not states:
        return Named(**outputs)
    both = (*outputs.values(), *states.values())
    return both[0] if len(both) == 1 else both


class Net(nn.Module):
    """Sequences in, in some layout, through the body.

    `layout`: of the input, b(atch), t(ime), c (features), f (bands); ids have no c. The output is (B, T, C), or as the
    input where that has these three axes.
    """

    def __init__(self, layout: str, size: int, body: Part, outputs: str) -> None:
        super().__init__()
        self.layout, self.kind, self.body, self.heads = layout, outputs, body, Heads(body.width, outputs)
        self.embedding = nn.Embedding(IDS, size) if layout in ("bt", "tb") else None

    def enter(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
        return ENTERED.get(self.layout, lambda x: x)(x)

    def leave(self, y: Tensor) -> dict[str, Tensor]:
        outputs = self.heads(y)
        swap = SWAPPED.get(self.layout)
        return {n: a.transpose(*swap) if swap and a.dim() == 3 else a for n, a in outputs.items()}

    def forward(self, x: Tensor) -> Any:
        return returned(self.kind, self.leave(self.body(self.enter(x))), {})


class TwoInputs(Net):
    """A second sequence, (B, T, 5)."""

    extra = OTHER

    def __init__(self, layout: str, size: int, body: Part, outputs: str) -> None:
        super().__init__(layout, size, body, outputs)
        self.mix = nn.Linear(self.extra, size)

    def forward(self, x: Tensor, other: Tensor) -> Any:
        return returned(self.kind, self.leave(self.body(self.enter(x) + self.mix(other))), {})


class Held(TwoInputs):
    """A vector that is the same for all frames, (B, 4)."""

    extra = HELD

    def forward(self, x: Tensor, speaker: Tensor) -> Any:
        return returned(self.kind, self.leave(self.body(self.enter(x) + self.mix(speaker).unsqueeze(1))), {})


# --- states that go in and come out ---------------------------------------------------------------------------------


class Declared(Net):
    """A layer behind the body takes and returns its state, (layers, B, hidden)."""

    def __init__(self, layout: str, size: int, body: Part, outputs: str, cell: str, layers: int) -> None:
        super().__init__(layout, size, body, outputs)
        self.rnn = getattr(nn, cell)(body.width, 4, layers, batch_first=True)
        self.heads = Heads(4, outputs)

    def run(self, x: Tensor, state: Any) -> tuple[dict[str, Tensor], Any]:
        y, after = self.rnn(self.body(self.enter(x)), state)
        return self.leave(y), after


class DeclaredH(Declared):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        outputs, h = self.run(x, h)
        return returned(self.kind, outputs, {"h": h})


class DeclaredHC(Declared):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        outputs, (h, c) = self.run(x, (h, c))
        return returned(self.kind, outputs, {"h": h, "c": c})


class DeclaredPair(Declared):
    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        outputs, state = self.run(x, state)
        return returned(self.kind, outputs, {"state": state})


# --- one frame per call -------------------------------------------------------------------------------------------


class Frames(nn.Module):
    """x (B, C) through parts and cells; the states are one flat tuple."""

    def __init__(self, parts: Sequence[Part | Cell], outputs: str) -> None:
        super().__init__()
        self.kind, self.parts, self.heads = outputs, nn.ModuleList(parts), Heads(parts[-1].width, outputs)

    @property
    def rows(self) -> list[tuple[int, ...]]:
        return [row for part in self.parts if isinstance(part, Cell) for row in part.rows]

    def zeros(self, x: Tensor) -> State:
        return tuple(torch.zeros(x.shape[0], *row) for row in self.rows)

    def run(self, x: Tensor, state: Sequence[Tensor]) -> tuple[dict[str, Tensor], State]:
        after: list[Tensor] = []
        for part in self.parts:
            if isinstance(part, Cell):
                own = tuple(state[len(after) : len(after) + len(part.rows)])
                x, moved = part.step(x, own)
                after.extend(moved)
            else:
                x = part(x)
        return self.heads(x), tuple(after)


class FramesH(Frames):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        outputs, (h,) = self.run(x, (h,))
        return returned(self.kind, outputs, {"h": h})


class FramesHC(Frames):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        outputs, (h, c) = self.run(x, (h, c))
        return returned(self.kind, outputs, {"h": h, "c": c})


class FramesFromNone(Frames):
    def forward(self, x: Tensor, state: State | None = None) -> Any:
        outputs, after = self.run(x, self.zeros(x) if state is None else state)
        return returned(self.kind, outputs, {"state": after})


class FramesTuple(Frames):
    def forward(self, x: Tensor, state: State) -> Any:
        outputs, after = self.run(x, state)
        return returned(self.kind, outputs, {"state": after})


class FramesDict(Frames):
    def forward(self, x: Tensor, memory: dict[str, Tensor]) -> Any:
        outputs, after = self.run(x, [memory[f"m{i}"] for i in range(len(self.rows))])
        return returned(self.kind, outputs, {"memory": {f"m{i}": a for i, a in enumerate(after)}})


class FramesInBuffers(Frames):
    """`how`: "reassigned", "copied" into, "born" in the first call, "set" to other values than zeros."""

    def __init__(self, parts: Sequence[Part | Cell], outputs: str, how: str) -> None:
        super().__init__(parts, outputs)
        self.how = how
        for i, row in enumerate(self.rows):
            start = torch.rand(1, *row) if how == "set" else torch.zeros(1, *row)
            self.register_buffer(f"memory{i}", None if how == "born" else start)

    def forward(self, x: Tensor) -> Any:
        names = [f"memory{i}" for i in range(len(self.rows))]
        if self.how == "born" and self.memory0 is None:
            for name, zero in zip(names, self.zeros(x), strict=True):
                setattr(self, name, zero)
        outputs, after = self.run(x, [getattr(self, name) for name in names])
        for name, value in zip(names, after, strict=True):
            if self.how == "copied":
                getattr(self, name).copy_(value)
            else:
                setattr(self, name, value)
        return returned(self.kind, outputs, {})


class FramesInAttribute(Frames):
    """The states in a plain list, which the first call makes."""

    def __init__(self, parts: Sequence[Part | Cell], outputs: str) -> None:
        super().__init__(parts, outputs)
        self.memory: Sequence[Tensor] | None = None

    def forward(self, x: Tensor) -> Any:
        outputs, self.memory = self.run(x, self.zeros(x) if self.memory is None else self.memory)
        return returned(self.kind, outputs, {})
