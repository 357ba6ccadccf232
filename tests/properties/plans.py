"""The plan of an architecture, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from fractions import Fraction

from . import nets
from .flaws import FLAWS, NO_FLAWS
from .parts import Cell, Part
from .sketches import Sketch, chain

# Where a model keeps the memory of one stream in itself.
BUFFERS = ("reassigned", "copied", "born", "set", "attribute")


@dataclass(frozen=True)
class Plan:
    """The plan of an architecture: `build(Plan(...))` makes it again.

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
        packed: whether the user wants states in one tensor.
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
    packed: bool = False
    seed: int = 0

    def __repr__(self) -> str:
        """The fields unlike the defaults."""
        said = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default)
        return f"Plan({', '.join(said)})"

    @property
    def features(self) -> int:
        return self.size * (nets.BANDS if self.layout in ("bctf", "btfc") else 1)

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(inner.kind for sketch in self.body for inner in sketch.all())

    @property
    def unit(self) -> int:
        """Frames of the input of which a chunk has to have a multiple."""
        unit, rate = 1, Fraction(1)
        for part in self._parts():
            unit = math.lcm(unit, (rate / part.needs).denominator)
            rate *= part.rate
        return math.lcm(unit, rate.denominator, (rate / 2).denominator if self.outputs == "slower" else 1)

    @property
    def lost(self) -> int:
        """At least as many frames of the input as its parts need before their first output."""
        lost, rate = Fraction(0), Fraction(1)
        for part in self._parts():
            lost += (part.lost + part.least) / rate
            rate *= part.rate
        return math.ceil(lost)

    @property
    def ahead(self) -> bool:
        """True if only the end of a sequence gives its last frames."""
        return any(part.ahead for part in self._parts()) or self.outputs == "slower"

    def _parts(self) -> Iterator[Part]:
        return (p for p in chain(self.features, self.body).parts if isinstance(p, Part))

    @property
    def cells(self) -> int:
        return sum(len(p.rows) for p in chain(self.size, self.body).parts if isinstance(p, Cell))

    @property
    def buffered(self) -> bool:
        """True if the model keeps the memory of one stream in itself."""
        return self.memory in BUFFERS or "BufferedLayer" in self.kinds

    @property
    def planted(self) -> str | None:
        """The mix of frames or rows behind a gate."""
        return next((s.says() for sketch in self.body for s in sketch.all() if s.kind == "Planted"), None)

    @property
    def refusal(self) -> str | None:
        """The reason of a refusal."""
        flaw = next((sketch for sketch in self.body if sketch.kind in FLAWS), None)
        if flaw is not None and not self._streams(flaw):
            return flaw.says()
        return "chunk is no multiple of the stride" if self.chunk % self.unit else None

    def _streams(self, flaw: Sketch) -> bool:
        """True if a former flaw streams by now: by whole periods, and decisions of one frame of one row.

        Behind a gate for what is above zero, a mean is above zero, or of zeros, for which both ways are one.
        """
        if flaw.kind == "DataBranch":
            last = self.body[: self.body.index(flaw)][-1:]
            gated = bool(last) and last[0].kind == "Gate" and not last[0].options["keyed"]
            one_sided = gated and last[0].options["how"] not in ("hardshrink", "softshrink")
            return (self.way == "frames" and self.batch == 1) or one_sided
        before = chain(self.features, self.body[: self.body.index(flaw)]).parts
        rate = math.prod((p.rate for p in before if isinstance(p, Part)), start=Fraction(1))
        return flaw.says() in NO_FLAWS and self.chunk % (rate / NO_FLAWS[flaw.says()]).denominator == 0
