"""The constants of a step in C: as arrays in the source, or as one file beside it if they are large."""

import re
from dataclasses import dataclass, field

import numpy as np

from rnn_export.export.targets.c.code.notation import array_literal, round_up
from rnn_export.platform.arrays import Array
from rnn_export.runtime.build.c_names import C_TYPES

# Bytes that a source still holds as text; beyond it compilers become slow.
EMBEDDED = 4 * 2**20
CACHE_LINE = 64
# Outputs of a tile, and what their number is filled up to a multiple of.
TILE, LANES = 64, 16


@dataclass
class Weights:
    """Arrays in the order they were asked for, each under a name in C; equal ones are one.

    Those of `batch_only` are read by the step of several streams alone: they stand in the source, where they are
    compiled with it.
    """

    arrays: list[Array] = field(default_factory=list)
    names: dict[tuple[str, bytes], str] = field(default_factory=dict)
    batch_only: set[int] = field(default_factory=set)

    def name_of(self, array: Array | None) -> str:
        assert array is not None
        flat = np.ascontiguousarray(array).reshape(-1)
        key = (flat.dtype.name, flat.tobytes())
        if key not in self.names:
            self.names[key] = f"W{len(self.arrays)}"
            self.arrays.append(flat)
        return self.names[key]

    def keep(self, step: str, batch: str) -> None:
        """Forget the arrays that neither text names; the others keep their names."""
        in_step, in_batch = _named(step), _named(batch)
        self.arrays = [a if i in in_step | in_batch else a[:0] for i, a in enumerate(self.arrays)]
        self.batch_only = in_batch - in_step

    def reads_file(self, text: str) -> bool:
        return not self.embedded and bool(_named(text) - self.batch_only)

    @property
    def of_step(self) -> list[Array]:
        """The arrays of the step by number; the others are empty."""
        return [a[:0] if i in self.batch_only else a for i, a in enumerate(self.arrays)]

    @property
    def embedded(self) -> bool:
        return sum(a.nbytes for a in self.of_step) <= EMBEDDED

    def blob(self) -> bytes:
        """The arrays of the step, each on a cache line."""
        return b"".join(a.tobytes().ljust(round_up(a.nbytes, CACHE_LINE), b"\0") for a in self.of_step)

    def definitions(self) -> str:
        if self.embedded:
            return "\n".join(_definition(f"W{i}", a) for i, a in enumerate(self.of_step) if a.size)
        lines, offset = [], 0
        for i, array in enumerate(self.of_step):
            if array.size:
                c_type = C_TYPES[array.dtype.name]
                lines.append(f"#define W{i} ((const {c_type} *)(const void *)(weights + {offset}))")
                offset += round_up(array.nbytes, CACHE_LINE)
        return "\n".join(lines)

    def batch_definitions(self) -> str:
        """The same of those for the step of several streams alone."""
        return "\n".join(_definition(f"W{i}", self.arrays[i]) for i in sorted(self.batch_only))


def _named(text: str) -> set[int]:
    return {int(name[1:]) for name in re.findall(r"\bW\d+\b", text)}


def _definition(name: str, array: Array) -> str:
    values = array_literal(array)
    return f"static const {C_TYPES[array.dtype.name]} {name}[{array.size}] RNN_ALIGNED = {{\n{values}}};"


def tiled_matrix(matrix: Array, tile: int = TILE) -> Array:
    """(outputs, k) as tiles of `tile` outputs, [tile][k][output], the outputs filled up with zeros."""
    n, k = matrix.shape
    full = np.zeros((round_up(n, LANES), k), matrix.dtype)
    full[:n] = matrix
    return np.concatenate([full[i : i + tile].T.reshape(-1) for i in range(0, len(full), tile)])


def tiled_vector(vector: Array) -> Array:
    """(outputs,), filled up with zeros as those of a tiled matrix are."""
    return np.pad(vector, (0, round_up(len(vector), LANES) - len(vector)))
