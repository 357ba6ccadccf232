"""Windows that slide over images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from rnn_export.export.targets.c.code.notation import index_expression, strides_of


@dataclass(frozen=True)
class SlidingWindow:
    """For each axis of an image: its size, the positions of a window, the window's size, stride, dilation, pads.

    In C, the variables l0, l1 ... count the positions, and k0, k1 ... the values of a window. `pads` are those before
    every axis, and then those after.
    """

    sizes: Sequence[int]
    places: Sequence[int]
    window: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    pads: Sequence[int]

    @staticmethod
    def of(node: ir.Node, x: Sequence[int], y: Sequence[int], window: Sequence[int]) -> "SlidingWindow":
        """That of a node from shape x (images, channels, *sizes) to y (images, channels, *places)."""
        rank, attributes = len(window), node.attributes
        strides, dilations = (list(attributes.get_ints(name, [1] * rank)) for name in ("strides", "dilations"))
        pads = list(attributes.get_ints("pads", [0] * 2 * rank))
        padding, sizes, places = attributes.get_string("auto_pad", "NOTSET"), x[2:], y[2:]
        if padding.startswith("SAME"):
            steps = zip(sizes, places, window, strides, dilations, strict=True)
            missing = [max((p - 1) * s + (w - 1) * d + 1 - n, 0) for n, p, w, s, d in steps]
            less, more = [m // 2 for m in missing], [m - m // 2 for m in missing]
            pads = less + more if padding == "SAME_UPPER" else more + less
        return SlidingWindow(sizes, places, window, strides, dilations, pads)

    def part(self, places: range) -> "SlidingWindow":
        """Some of the positions of one axis."""
        pads = [self.pads[0] - places.start * self.strides[0], 0]
        return replace(self, places=[len(places)], pads=pads)

    def variables(self, letter: str) -> list[str]:
        return [f"{letter}{axis}" for axis in range(len(self.window))]

    def index(self, axis: int) -> str:
        """The index of a window's value along an axis; the image ends at 0 and at its size."""
        return f"(l{axis} * {self.strides[axis]} + k{axis} * {self.dilations[axis]} - {self.pads[axis]})"

    def read(self) -> tuple[str, list[str]]:
        """The flat index of a value of a window in the image, and the conditions for it to be inside."""
        inside, indices = [], [self.index(axis) for axis in range(len(self.window))]
        for axis, (index, size) in enumerate(zip(indices, self.sizes, strict=True)):
            inside += [f"{index} >= 0"] * (self.pads[axis] > 0)
            inside += [f"{index} < {size}"] * (self.last(axis) >= size)
        return index_expression(indices, strides_of(self.sizes)), inside

    def last(self, axis: int) -> int:
        """The largest `index`."""
        place, value = self.places[axis] - 1, self.window[axis] - 1
        return place * self.strides[axis] + value * self.dilations[axis] - self.pads[axis]
