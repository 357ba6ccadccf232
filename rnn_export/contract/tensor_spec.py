"""The tensors of a contract: inputs, outputs and states, by name, dtype and shape."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from typing import Literal

from rnn_export import limits
from rnn_export.errors import SpecError

BATCH = "batch"
TIME = "time"
# Of "time*P/Q": P and Q from 2 on, as numbers are written.
_RATE = re.compile(r"time(?:\*([2-9]|[1-9][0-9]{1,8}))?(?:/([2-9]|[1-9][0-9]{1,8}))?")
# The bytes of a value by dtype.
ITEM_BYTES = {"float16": 2, "float32": 4, "float64": 8, "int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int64": 8}
ITEM_BYTES |= {"bool": 1}
DTYPES = tuple(ITEM_BYTES)

Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """An input or output. A dimension is a positive int, or the symbol `"batch"` or `"time"`.

    An output that has P frames for every Q frames of the sequence has `"time*P/Q"`, `"time/Q"` or `"time*P"`; an input
    of which N frames go with each frame of the sequence `"time*N"`.

    `lengths` are the frames that an output has where a whole sequence is over: for 0, 1, ... frames of the input, less
    than Q or a multiple of it, and so on with P more for every Q. Empty where the end gives none.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_tensor(self.name, self.dtype, self.shape, (BATCH, TIME))

    def axis(self, symbol: str) -> int | None:
        """The axis of `symbol` in the shape, or None; `"time"` stands for `"time*P/Q"` too."""
        return next((a for a, dim in enumerate(self.shape) if _symbol(dim) == symbol), None)

    @cached_property
    def canonical_axes(self) -> tuple[int, ...]:
        """The axes in the order batch, time if there is any, the rest."""
        moving = [axis for axis in (self.axis(BATCH), self.axis(TIME)) if axis is not None]
        return (*moving, *(axis for axis in range(len(self.shape)) if axis not in moving))

    @cached_property
    def graph_axes(self) -> tuple[int, ...]:
        """Index in the canonical order of each axis of the shape."""
        return tuple(self.canonical_axes.index(axis) for axis in range(len(self.shape)))

    @cached_property
    def rate(self) -> Fraction:
        """Number of frames for each frame of the sequence."""
        axis = self.axis(TIME)
        return Fraction(1) if axis is None else _rate(self.shape[axis])

    @property
    def every(self) -> int:
        """The fewest frames of the input for which this has a whole number of frames."""
        return self.rate.denominator

    def frames_of(self, frames: int) -> int:
        """Number of frames where the input has `frames`."""
        return frames * self.rate.numerator // self.rate.denominator

    def length_of(self, frames: int) -> int:
        """Number of frames for a whole sequence of `frames`, by `lengths`."""
        periods, rest = divmod(frames, len(self.lengths))
        return max(self.frames_of(periods * len(self.lengths)) + self.lengths[rest], 0)

    @property
    def frame(self) -> tuple[int, ...]:
        """The shape of one frame, without the batch and time axes."""
        return tuple(d for d in self.shape if isinstance(d, int))


@dataclass(frozen=True)
class PackedState:
    """A state that lies in another one, whose row holds several: its entries from `offset` on, in `shape`.

    `shape` is that of one stream, without a batch axis.
    """

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class StateSpec:
    """One tensor of memory: fed as `input`, returned as `output`. Axis 0 of `shape` is always the batch.

    `initial` is `"zeros"`, or `"stored"` where the value of one row lies in the bundle's `initial_states.npz`.
    `parts` are the states that lie in it, one behind the other, where several are packed into one; else none.
    """

    name: str
    input: str
    output: str
    dtype: str
    shape: tuple[Dim, ...]
    initial: Literal["zeros", "stored"] = "zeros"
    parts: tuple[PackedState, ...] = ()

    def __post_init__(self) -> None:
        _check_tensor(self.name, self.dtype, self.shape, (BATCH,))
        if self.shape[:1] != (BATCH,):
            raise SpecError(
                f"state {self.name!r} has shape {self.shape}: axis 0 of every state must be 'batch'.",
                id="state-without-batch-axis",
            )
        if self.initial not in ("zeros", "stored"):
            raise SpecError(
                f"state {self.name!r}: initial is {self.initial!r}, but only 'zeros' and 'stored' exist.",
                id="state-initial-unknown",
            )
        end = 0
        for part in self.parts:
            _check_tensor(part.name, self.dtype, part.shape, ())
            if type(part.offset) is not int or part.offset != end:
                raise SpecError(
                    f"{part.name!r} lies at {part.offset!r} of {self.name!r}: it must follow at {end}.",
                    id="packed-part-misplaced",
                )
            end += part.size
        if self.parts and self.row != (end,):
            raise SpecError(
                f"state {self.name!r} has shape {self.shape}, but what is packed in it has {end} entries.",
                id="packed-size-differs",
            )

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of one stream's state: everything but the batch axis."""
        return tuple(d for d in self.shape if isinstance(d, int))

    @property
    def bytes(self) -> int:
        """Its bytes for one stream."""
        return math.prod(self.row) * ITEM_BYTES[self.dtype]


def _check_tensor(name: str, dtype: str, shape: Sequence[Dim], symbols: Sequence[str]) -> None:
    if not name or not isinstance(name, str):
        raise SpecError(f"a tensor needs a name, not {name!r}.", id="tensor-without-name")
    if len(name) > limits.NAME or len(shape) > limits.AXES:
        found = f"{len(name)} characters of name and {len(shape)} axes"
        raise SpecError(
            f"tensor {name[:80]!r} has {found}, over the limits of {limits.NAME} and {limits.AXES}.",
            id="tensor-over-limits",
        )
    if dtype not in DTYPES:
        raise SpecError(f"{name!r} has dtype {dtype!r}; known are {', '.join(DTYPES)}.", id="contract-dtype-unknown")
    for dim in shape:
        if not (_symbol(dim) in symbols if isinstance(dim, str) else type(dim) is int and dim >= 1):
            known = ", ".join(symbols)
            raise SpecError(
                f"{name!r} has dimension {dim!r}: it must be a positive int or one of {known}.",
                id="tensor-dimension-invalid",
            )
    bases = [_symbol(d) for d in shape if isinstance(d, str)]
    if doubled := {d for d in bases if bases.count(d) > 1}:
        raise SpecError(
            f"{name!r} has shape {tuple(shape)}: {doubled.pop()!r} stands there twice.", id="tensor-axis-twice"
        )


def sized(shape: Sequence[Dim], batch: int, frames: int) -> tuple[int, ...]:
    """A shape of numbers: that of `batch` streams and a piece of `frames` frames of the input."""
    numbers = {BATCH: batch, TIME: frames}
    rates = ((d, _rate(d)) if isinstance(d, str) else (d, None) for d in shape)
    return tuple(
        int(d) if rate is None else numbers[_symbol(d) or ""] * rate.numerator // rate.denominator for d, rate in rates
    )


@cache
def _symbol(dim: Dim) -> str | None:
    """The symbol of a dimension: `"time"` for `"time*P/Q"`."""
    if not isinstance(dim, str):
        return None
    return TIME if _RATE.fullmatch(dim) else dim


def _rate(dim: Dim) -> Fraction:
    found = _RATE.fullmatch(dim) if isinstance(dim, str) else None
    return Fraction(1) if found is None else Fraction(int(found[1] or 1), int(found[2] or 1))


def rated(rate: Fraction) -> str:
    """The dimension of a time axis that has `rate` frames for each frame of the input."""
    more, fewer = (f"{sign}{n}" if n > 1 else "" for sign, n in (("*", rate.numerator), ("/", rate.denominator)))
    return f"{TIME}{more}{fewer}"
