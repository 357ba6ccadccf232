"""Convolutions whose output positions lie across vectors, so that one weight is read for many, the image in place.

An image is cut into polyphase components, one for each offset within a stride, in which a window moves by one; its
padding is zero. A position is then an index of a plane of one component and channel, and each value of a window is
at a constant distance from there: a tap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.notation import index_expression, strides_of
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.export.targets.c.operators.data_movement import copy_strided
from rnn_export.export.targets.c.operators.image_windows import SlidingWindow
from rnn_export.platform.arrays import Array

# As many as the widest vector has.
FEWEST = 16
MOST_COMPONENTS = 16
# Outputs that share a reading of the image.
BLOCKS = (4, 2, 1)


@dataclass(frozen=True)
class Polyphase:
    """An image layout: the sizes of a plane, and the offsets within a stride that some value of a window has."""

    plane: Sequence[int]
    used: Sequence[tuple[int, ...]]

    @staticmethod
    def of(sliding: SlidingWindow) -> "Polyphase":
        ends = [sliding.last(axis) + sliding.pads[axis] + 1 for axis in range(len(sliding.window))]
        plane = [-(-end // stride) for end, stride in zip(ends, sliding.strides, strict=True)]
        each = [
            sorted({k * d % s for k in range(w)})
            for w, d, s in zip(sliding.window, sliding.dilations, sliding.strides, strict=True)
        ]
        return Polyphase(plane, list(product(*each)))

    @property
    def size(self) -> int:
        return math.prod(self.plane)


def many_places(sliding: SlidingWindow) -> bool:
    """True if there are enough positions, in a plane that is not mostly padding."""
    parts, places = Polyphase.of(sliding), math.prod(sliding.places)
    count = _count(sliding, parts)
    return FEWEST <= count <= 2 * places and len(parts.used) <= MOST_COMPONENTS


def across_places(
    code: CodeBuilder, sliding: SlidingWindow, x: CTensor, y: CTensor, weight: Array, bias: Array, groups: int
) -> None:
    parts, places = Polyphase.of(sliding), math.prod(sliding.places)
    count, outputs, channels = _count(sliding, parts), len(weight) // groups, weight.shape[1]
    code.macs += y.size * channels * math.prod(sliding.window)
    code.more_kernels.add("places")
    taps = code.weights.name_of(_taps(sliding, parts, x.shape[1]))
    kernels = code.weights.name_of(np.concatenate([_blocks(w) for w in np.split(weight, groups)]))
    biases = code.weights.name_of(bias)
    as_it_lies = list(parts.plane) == list(sliding.sizes) and len(parts.used) == 1 and not any(sliding.pads)
    source = x if as_it_lies else code.alloc("float", (len(parts.used), x.shape[1], parts.size))
    row, plane_stride = sliding.places[-1], parts.plane[-1]
    # Rows of whole vectors are computed alone; of others, what lies between them too.
    if len(sliding.places) == 2 and row % FEWEST == 0:
        count = places
    else:
        row, plane_stride = count, 0
    target = y if count == places else code.alloc("float", (len(weight), count))
    size = channels * math.prod(sliding.window)
    with code.loop("m", x.shape[0]):
        if not as_it_lies:
            _lay_out(code, sliding, parts, x, source)
        with code.loop("g", groups):
            weights = f"{kernels} + g * {outputs * size}, {biases} + g * {outputs}, {outputs}"
            image = f"{source.address} + {f'm * {x.size // x.shape[0]} + ' * as_it_lies}g * {channels * parts.size}"
            first = f"{f'm * {len(weight)} + ' * (target is y)}g * {outputs}"
            window = f"{channels}, {parts.size}, {taps}, {math.prod(sliding.window)}"
            to = f"{target.address} + ({first}) * {count}, {count}, {row}, {plane_stride}"
            code.emit(f"rnn_places_f32({weights}, {image}, {window}, {to});")
        if target is not y:
            _separate_rows(code, sliding, parts, target, y)


def _count(sliding: SlidingWindow, parts: Polyphase) -> int:
    """The span from the first position to the last, with gaps between rows."""
    strides = strides_of(parts.plane)
    return sum((places - 1) * stride for places, stride in zip(sliding.places, strides, strict=True)) + 1


def _taps(sliding: SlidingWindow, parts: Polyphase, channels: int) -> Array:
    found = []
    for values in product(*map(range, sliding.window)):
        at = [k * d for k, d in zip(values, sliding.dilations, strict=True)]
        component = parts.used.index(tuple(i % s for i, s in zip(at, sliding.strides, strict=True)))
        inside = sum(i // s * n for i, s, n in zip(at, sliding.strides, strides_of(parts.plane), strict=True))
        found.append(component * channels * parts.size + inside)
    return np.array(found, np.int32)


def _blocks(weight: Array) -> Array:
    """(outputs, channels, *window) as blocks of outputs, [block][channel][value][output]."""
    flat, parts = weight.reshape(len(weight), -1), []
    while len(flat):
        width = next(block for block in BLOCKS if block <= len(flat))
        parts.append(flat[:width].T.reshape(-1))
        flat = flat[width:]
    return np.concatenate(parts)


def _lay_out(code: CodeBuilder, sliding: SlidingWindow, parts: Polyphase, x: CTensor, source: CTensor) -> None:
    """Image `m` in its components."""
    code.emit(f"memset({source.address}, 0, {source.size} * sizeof(float));")
    strides, channels = strides_of(sliding.sizes), x.shape[1]
    for number, offsets in enumerate(parts.used):
        loops, target, first = [(channels, parts.size, math.prod(sliding.sizes))], number * channels * parts.size, 0
        for axis, offset in enumerate(offsets):
            step, before = sliding.strides[axis], sliding.pads[axis] - offset
            start = max(-(-before // step), 0)
            end = min((sliding.sizes[axis] - 1 + before) // step + 1, parts.plane[axis])
            inner = strides_of(parts.plane)[axis]
            loops.append((max(end - start, 0), inner, step * strides[axis]))
            target, first = target + start * inner, first + (start * step - before) * strides[axis]
        if all(count for count, _, _ in loops):
            image = replace(x, address=f"{x.address} + m * {x.size // x.shape[0]}")
            copy_strided(code, source, target, image, first, loops)


def _separate_rows(code: CodeBuilder, sliding: SlidingWindow, parts: Polyphase, wide: CTensor, y: CTensor) -> None:
    """Copy the positions of every output without the gaps of rows."""
    outputs, length = y.shape[1], sliding.places[-1]
    variables, rows = sliding.variables("l")[:-1], sliding.places[:-1]
    target = index_expression(variables, strides_of(sliding.places)[:-1])
    source = index_expression(variables, strides_of(parts.plane)[:-1])
    with code.loops(["o", *variables], [outputs, *rows]):
        to = f"{y.address} + (m * {outputs} + o) * {math.prod(sliding.places)} + {target}"
        of = f"{wide.address} + o * {wide.shape[1]} + {source}"
        code.emit(f"memcpy({to}, {of}, {length} * sizeof(float));")
