"""Sizes that a graph computes from shapes: the few whole numbers behind a ConstantOfShape, in numpy."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rnn_export.onnx.onnx_file import SMALL, Graph, Node
from rnn_export.platform.arrays import Array

Shapes = Mapping[str, tuple[int | None, ...]]
# What stays the same array of numbers.
_SAME = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.floor_divide}


class ShapeValues:
    """The values of a graph, as far as they follow from its constants and `shapes`."""

    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        # Of initializers nothing is inferred.
        self.shapes: Shapes = {**graph.shapes, **shapes}
        self.values: dict[str, Array] = dict(graph.constants)
        # Names of shapes that are those of other values, as they are.
        self.whole: set[str] = set()
        for node in graph.nodes:
            if node.op == "Shape" and not any(node.numbers.get("start") or [0]) and not node.numbers.get("end"):
                self.whole.update(node.outputs)
            value = self._value(node)
            if value is not None and value.size <= SMALL and node.outputs:
                self.values[node.outputs[0]] = value

    def is_as_large_as_another(self, node: Node) -> bool:
        """True if a node's output has the whole shape of another value, known or not."""
        return bool(node.inputs) and node.inputs[-1] in self.whole

    def shape(self, node: Node) -> tuple[int, ...] | None:
        """The output shape of a node that fills, expands, counts, cuts or reshapes, where it is known."""
        if node.op == "Slice":
            return self._sliced(node)
        if node.op == "Range":
            return self._counted(node)
        if node.op == "Reshape":
            return self._reshaped(node)
        known = self.values.get(node.inputs[-1]) if node.inputs else None
        if node.op not in ("ConstantOfShape", "Expand") or known is None:
            return None
        wanted = [int(d) for d in known.reshape(-1).tolist()]
        if node.op == "ConstantOfShape":
            return tuple(max(0, d) for d in wanted)
        given = self.shapes.get(node.inputs[0])
        if given is None or None in given:
            return None
        shape = [d for d in given if d is not None]
        rank = max(len(wanted), len(shape))
        one, other = ([1] * (rank - len(dims)) + [*dims] for dims in (shape, [max(1, d) for d in wanted]))
        return tuple(map(max, one, other))

    def _sliced(self, node: Node) -> tuple[int, ...] | None:
        shape = [*self.shapes.get(node.inputs[0], ())]
        starts, ends = self._numbers(node, 1), self._numbers(node, 2)
        axes = self._numbers(node, 3, range(len(starts)))
        steps = self._numbers(node, 4, [1] * len(starts))
        if not starts or not len(starts) == len(ends) == len(axes) == len(steps):
            return None
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            size = shape[axis] if -len(shape) <= axis < len(shape) else None
            if size is None or step == 0:
                return None
            shape[axis] = len(range(*slice(start, end, step).indices(size)))
        known = tuple(size for size in shape if size is not None)
        return known if len(known) == len(shape) else None

    def _counted(self, node: Node) -> tuple[int, ...] | None:
        parts = [self._numbers(node, place) for place in range(3)]
        if any(len(part) != 1 for part in parts) or parts[2] == [0]:
            return None
        return (len(range(*(part[0] for part in parts))),)

    def _reshaped(self, node: Node) -> tuple[int, ...] | None:
        """Only where it holds as many values as it is given."""
        given, wanted = self.shapes.get(node.inputs[0], (None,)), self._numbers(node, 1)
        if None in given or wanted.count(-1) > 1:
            return None
        (keeps_zeros,) = node.numbers.get("allowzero") or [0]
        shape = [given[i] if d == 0 and not keeps_zeros and i < len(given) else d for i, d in enumerate(wanted)]
        known = [d for d in shape if d is not None]
        size, rest = math.prod(d for d in given if d is not None), math.prod(d for d in known if d != -1)
        if rest and size % rest == 0:
            known = [size // rest if d == -1 else d for d in known]
        return tuple(known) if min(known, default=0) >= 0 and math.prod(known) == size else None

    def _numbers(self, node: Node, place: int, usual: Sequence[int] = ()) -> list[int]:
        """The numbers in a node's input; `usual` where it is left out, empty where it is unknown."""
        name = node.inputs[place] if place < len(node.inputs) else ""
        value = self.values.get(name)
        return [] if name and value is None else [*usual] if value is None else [int(n) for n in value.reshape(-1)]

    def size(self, node: Node) -> int | None:
        """Number of values of a node's output, where its sizes are known."""
        shape = self.shape(node)
        if shape is not None:
            return math.prod(shape)
        given = self.shapes.get(node.inputs[0]) if node.op == "Reshape" and node.inputs else None
        return None if given is None or None in given else math.prod(d for d in given if d is not None)

    def _value(self, node: Node) -> Array | None:
        if node.op == "Shape":
            shape = self.shapes.get(node.inputs[0]) if node.inputs else None
            (start,), (end,) = (node.numbers.get("start") or [0]), (node.numbers.get("end") or [SMALL])
            part = None if shape is None else shape[start:end]
            return None if part is None or None in part else np.array(part, np.int64)
        known = [self.values.get(name) for name in node.inputs]
        if not known or any(value is None for value in known[: 1 if node.op in _SAME else None]):
            return None
        values = [value for value in known if value is not None]
        if node.op in _SAME:
            return values[0].reshape(-1)
        if node.op == "Concat":
            return np.concatenate([value.reshape(-1) for value in values])
        if node.op in _ARITHMETIC and len(values) == 2 and not (node.op == "Div" and not values[1].all()):
            return self._exact(node.op, *values)
        if node.op == "Slice" and values[0].ndim == 1:
            return self._cut(node, values[0])
        if node.op == "Gather" and len(values) == 2 and values[0].ndim == 1:
            index = values[1]
            inside = ((index >= -values[0].size) & (index < values[0].size)).all()
            return values[0][index] if inside else None
        return None

    def _cut(self, node: Node, numbers: Array) -> Array | None:
        """A piece of some numbers that stand in a row."""
        start, end, axis, step = (
            self._numbers(node, place, usual) for place, usual in enumerate(((), (), (0,), (1,)), 1)
        )
        if not len(start) == len(end) == len(axis) == len(step) == 1 or axis[0] not in (0, -1) or step == [0]:
            return None
        return numbers[start[0] : end[0] : step[0]]

    def _exact(self, op: str, a: Array, b: Array) -> Array | None:
        """In Python's integers, since those of numpy wrap; None where no tensor has such numbers."""
        try:
            result = _ARITHMETIC[op](a.reshape(-1).astype(object), b.reshape(-1).astype(object))
            return np.array(result, np.int64)
        except (ValueError, OverflowError):
            return None
