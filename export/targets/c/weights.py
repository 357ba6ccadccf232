"""The constants of a step in C: as arrays in the source, or as one file beside it where they are large."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

import numpy as np

from rnn_export.arrays import Array
from rnn_export.export.targets.c.literals import array_literal
from rnn_export.runtime.build.native.c_types import C_TYPES

# Bytes that a source still holds as text; beyond it compilers become slow.
EMBEDDED = 4 * 2**20
LINE = 64


@dataclass
class Weights:
    """Arrays in the order they were asked for, each under a name of C's; equal ones are one.

    Those of `further` are none of the step's: they stand in the source, where only what names them is compiled too.
    """

    arrays: list[Array] = field(default_factory=list)
    known: dict[tuple[str, bytes], str] = field(default_factory=dict)
    further: set[int] = field(default_factory=set)

    def plain(self, array: Array | None) -> str:
        """The name of an array, flat."""
        assert array is not None
        flat = np.ascontiguousarray(array).reshape(-1)
        key = (flat.dtype.name, flat.tobytes())
        if key not in self.known:
            self.known[key] = f"W{len(self.arrays)}"
            self.arrays.append(flat)
        return self.known[key]

    def keep(self, step: str, more: str = "") -> None:
        """Forget what neither text names; the others keep their names, and what only `more` names is `further`."""
        own, others = ({int(name[1:]) for name in re.findall(r"\bW\d+\b", text)} for text in (step, more))
        self.arrays = [a if i in own | others else a[:0] for i, a in enumerate(self.arrays)]
        self.further = others - own

    @property
    def own(self) -> list[Array]:
        """Those of the step, each in its place, where the others are empty."""
        return [a[:0] if i in self.further else a for i, a in enumerate(self.arrays)]

    @property
    def size(self) -> int:
        return sum(a.nbytes for a in self.own)

    @property
    def embedded(self) -> bool:
        return self.size <= EMBEDDED

    def blob(self) -> bytes:
        """The arrays of the step, each on a cache line."""
        return b"".join(a.tobytes() + bytes(-a.nbytes % LINE) for a in self.own)

    def definitions(self) -> str:
        """What defines the names of the step's arrays in the source."""
        if self.embedded:
            return "\n".join(_definition(f"W{i}", a) for i, a in enumerate(self.own) if a.size)
        lines, offset = [], 0
        for i, array in enumerate(self.own):
            if not array.size:
                continue
            kind = C_TYPES[array.dtype.name]
            lines.append(f"#define W{i} ((const {kind} *)(const void *)(weights + {offset}))")
            offset += array.nbytes + -array.nbytes % LINE
        return "\n".join(lines)

    def further_definitions(self) -> str:
        """The same of those that are none of the step's."""
        return "\n".join(_definition(f"W{i}", self.arrays[i]) for i in sorted(self.further))


def checksum(blob: bytes) -> int:
    """CRC-32 as zlib and IEEE 802.3 have it."""
    return zlib.crc32(blob)


def _definition(name: str, array: Array) -> str:
    values = array_literal(array)
    return f"static const {C_TYPES[array.dtype.name]} {name}[{array.size}] RNN_ALIGNED = {{\n{values}}};"


def tiled(matrix: Array) -> Array:
    """(outputs, k) as tiles of 64 outputs, [tile][k][output], the outputs filled up with zeros to a multiple of 16."""
    n, k = matrix.shape
    full = np.zeros((-(-n // 16) * 16, k), matrix.dtype)
    full[:n] = matrix
    tiles = [full[i : i + 64].T.reshape(-1) for i in range(0, len(full), 64)]
    return np.concatenate(tiles)


def filled(bias: Array) -> Array:
    """(outputs,) with zeros up to a multiple of 16."""
    return np.concatenate([bias, np.zeros(-len(bias) % 16, bias.dtype)])
