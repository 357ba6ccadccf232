"""Sketches of parts: plain data, of which parts are built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import ahead, attention, cells, convolutions, flaws, framewise, layers, mixes, parts, rates, running, spectra
from . import thresholds as limits

# Where a part is found by its name.
PARTS = (framewise, layers, cells, convolutions, ahead, rates, spectra, attention, running, flaws, limits, mixes, parts)


@dataclass(frozen=True)
class Sketch:
    """A part that is not built yet: `part("Layer", cell="GRU", ...)`."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"part({', '.join([repr(self.kind), *(f'{k}={v!r}' for k, v in self.options.items())])})"

    def build(self, size: int) -> Any:
        """The part, of an input of so many features."""
        options = {k: v.build(size) if isinstance(v, Sketch) else v for k, v in self.options.items()}
        return _kind(self.kind)(size, **options)

    def all(self) -> Iterator[Sketch]:
        yield self
        for value in self.options.values():
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, Sketch):
                    yield from inner.all()

    def says(self) -> str:
        """Its kind, with the choice that makes it special."""
        told = ("cell", "layer", "how", "style", "over", "gate", "mode")
        special = [v for k, v in self.options.items() if k in told and isinstance(v, str)]
        inner = [v.says() for v in self.options.values() if isinstance(v, Sketch)]
        return f"{self.kind}({', '.join([*special, *inner])})" if special or inner else self.kind


def _kind(name: str) -> Any:
    return next(getattr(part, name) for part in PARTS if hasattr(part, name))


def part(kind: str, **options: Any) -> Sketch:
    return Sketch(kind, options)


def chain(size: int, sketches: tuple[Sketch, ...]) -> parts.Chain:
    built = []
    for sketch in sketches:
        built.append(sketch.build(size))
        size = built[-1].width
    return parts.Chain(size, built)
