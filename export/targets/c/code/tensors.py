"""Tensors of a step in C, their memory, and windows that move in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rnn_export.export.targets.c.code.constants import CACHE_LINE
from rnn_export.export.targets.c.code.notation import round_up, strides_of
from rnn_export.platform.arrays import Array
from rnn_export.runtime.build.c_names import SIZES


@dataclass
class Buffer:
    """Floats of the scratch memory that are in use from the node `first` to the node `last`."""

    size: int
    first: int
    last: int
    offset: int = 0


@dataclass(frozen=True)
class CTensor:
    """A dense array of C. `address` is an expression, empty for a constant that no statement reads yet."""

    address: str
    c_type: str
    shape: tuple[int, ...]
    buffer: Buffer | None = None
    constant: Array | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def view(self, offset: int, shape: Sequence[int]) -> "CTensor":
        """Consecutive values of it, from `offset` on, as an array of this shape."""
        size = math.prod(shape)
        constant = None if self.constant is None else self.constant.reshape(-1)[offset : offset + size].reshape(shape)
        address = f"({self.address} + {offset})" if offset else self.address
        return replace(self, address=address, shape=tuple(shape), constant=constant)


@dataclass(frozen=True)
class Slide:
    """A state of `size` values that moves on by `step` values over memory with `steps` steps behind it.

    In C, `member` is that memory, `front` the values before the state there, and `pointer` its first address.
    """

    member: str
    front: str
    pointer: str
    size: int
    step: int
    steps: int

    @property
    def capacity(self) -> int:
        return self.steps * self.step

    @property
    def now(self) -> str:
        """Its address at any time in the step; `pointer` is that at the start."""
        return f"({self.member} + {self.front})"

    def moved(self) -> list[str]:
        """Move on, if there is space; else back to the front of the memory, without what leaves."""
        count = self.size - self.step
        line = f"RNN_EACH({count}, {{ rnn_store_part({self.member} + i, rnn_load_part(from + i, m), m); }});"
        lines = [
            f"if ({self.front} == {self.capacity}) {{",
            f"    const float *const from = {self.pointer} + {self.step};",
        ]
        return [*lines, f"    {line}", f"    {self.front} = 0;", "} else", f"    {self.front} += {self.step};"]


@dataclass(frozen=True)
class Shift:
    """A state, the values `entering` at its end along `axis`, and its `slide` if it slides.

    With `read`, the next state is read in the step, so the state moves before that, not at the end.
    """

    state: CTensor
    entering: CTensor
    axis: int
    slide: Slide | None = None
    read: bool = False

    def joined(self) -> CTensor:
        """Both as one array without memory."""
        shape = list(self.state.shape)
        shape[self.axis] += self.entering.shape[self.axis]
        return CTensor("", self.state.c_type, tuple(shape))

    def value(self, row: str, at: int) -> str:
        """The C of a value along the last axis of both, in a `row` of the axes before."""
        length, new = self.state.shape[-1], self.entering.shape[-1]
        if at < length:
            return f"{self.state.address}[({row}) * {length} + {at}]"
        return f"{self.entering.address}[({row}) * {new} + {at - length}]"

    @property
    def row(self) -> tuple[int, int]:
        """The values in a row of the state, and in a row that enters."""
        inner = math.prod(self.state.shape[self.axis + 1 :])
        return self.state.shape[self.axis] * inner, self.entering.shape[self.axis] * inner

    def statements(self) -> list[str]:
        """Move the state: all of it as one row of values, and then the new values over those of the next row.

        One that slides stays in place in most steps, and begins further on in its memory.
        """
        x, size, state = self.entering, self.state.size, self.state.address
        row, new = self.row
        if self.slide is None:
            lines = [f"for (int i = 0; i < {size - new}; i++)", f"    {state}[i] = {state}[i + {new}];"]
        else:
            lines = self.slide.moved()
            state = self.slide.now
        lines += [f"for (int o = 0; o < {size // row}; o++)", f"    for (int i = 0; i < {new}; i++)"]
        return [*lines, f"        {state}[o * {row} + {row - new} + i] = {x.address}[o * {new} + i];"]


@dataclass(frozen=True)
class Strided:
    """The values of `tensor` along other axes: the sizes and strides of these.

    Those of a window go on in `entering` along `axis`, behind those of its state.
    """

    tensor: CTensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    entering: "Strided | None" = None
    axis: int = 0

    @staticmethod
    def of(tensor: CTensor) -> "Strided":
        return Strided(tensor, tensor.shape, tuple(strides_of(tensor.shape)))

    @staticmethod
    def of_window(window: Shift) -> "Strided":
        return replace(Strided.of(window.state), entering=Strided.of(window.entering), axis=window.axis)

    def transposed(self, order: Sequence[int]) -> "Strided":
        shape, strides = (tuple(each[axis] for axis in order) for each in (self.shape, self.strides))
        entering = self.entering and self.entering.transposed(order)
        return replace(self, shape=shape, strides=strides, entering=entering, axis=list(order).index(self.axis))

    def with_ones(self, shape: Sequence[int]) -> "Strided":
        """The same axes, with others of one entry between them; `shape` is that of the whole."""
        axes = iter(axis for axis, size in enumerate(self.whole) if size > 1)
        of = [next(axes) if size > 1 else None for size in shape]
        sizes, strides = (tuple(0 if i is None else each[i] for i in of) for each in (self.shape, self.strides))
        sizes = tuple(size or 1 for size in sizes)
        if self.entering is None:
            return replace(self, shape=sizes, strides=strides)
        axis = of.index(self.axis)
        entering = replace(
            self.entering,
            shape=tuple(1 if i is None else self.entering.shape[i] for i in of),
            strides=tuple(0 if i is None else self.entering.strides[i] for i in of),
        )
        return replace(self, shape=sizes, strides=strides, entering=entering, axis=axis)

    @property
    def whole(self) -> tuple[int, ...]:
        """The shape with `entering`."""
        if self.entering is None:
            return self.shape
        sizes = list(self.shape)
        sizes[self.axis] += self.entering.shape[self.axis]
        return tuple(sizes)


def assign_offsets(buffers: Sequence[Buffer]) -> int:
    """Give each the lowest offset free while it is in use, the largest first; return the floats of them all."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: -b.size):
        taken = sorted((b.offset, _end(b)) for b in placed if b.first <= buffer.last and buffer.first <= b.last)
        buffer.offset = 0
        for start, stop in taken:
            if _end(buffer) <= start:
                break
            buffer.offset = max(buffer.offset, stop)
        placed.append(buffer)
    return max(map(_end, placed), default=0)


def _end(buffer: Buffer) -> int:
    """The next offset: on a cache line."""
    return buffer.offset + round_up(buffer.size, CACHE_LINE // SIZES["float"])
