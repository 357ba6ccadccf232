"""One view of the operators that take entries of an axis: slice, select, split, unbind and flip.

Graphs keep torch's operators, since ONNX has each of them and a split of gates is faster whole.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import END, args_of, aten, named_args, overloads

SPLITS = overloads("split.Tensor split_with_sizes")


class Take(NamedTuple):
    """Entries of `axis` of `source`: every `step`th of those from `start` to `end`, the bounds of a slice.

    A `step` of -1 gives them backwards. One entry alone `drops_axis` if the result has no such axis.
    """

    source: fx.Node
    axis: int
    start: Any = 0
    end: Any = END
    step: Any = 1
    drops_axis: bool = False

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The start and the end, if they are numbers and no entry between them is left out."""
        known = type(self.start) is int and type(self.end) is int and type(self.step) is int and self.step == 1
        return (self.start, self.end) if known else None

    @property
    def entry(self) -> int | None:
        """The number of the only entry that is taken; negative from the end."""
        if self.bounds is None or not (self.drops_axis or self.end - self.start == 1):
            return None
        return int(self.start)


def take_of(node: Any) -> Take | None:
    """The entries that `node` takes of one axis of a value; None if it does anything else."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is operator.getitem:
        several, part = args_of(node)
        return _part_of(several, part) if several.op == "call_function" else None
    if node.target is aten.slice.Tensor:
        given = named_args(node)
        end = END if given["end"] is None else given["end"]
        return Take(*_axis_of(node), given["start"] or 0, end, given["step"])
    if node.target is aten.select.int:
        index = args_of(node)[2]
        return Take(*_axis_of(node), index, index + 1 if type(index) is int and index != -1 else END, drops_axis=True)
    if node.target is aten.flip.default and len(args_of(node)[1]) == 1:
        return Take(*_axis_of(node), step=-1)
    return None


def takes_of(value: fx.Node) -> Iterator[tuple[fx.Node, Take]]:
    """The nodes that take entries of one axis of a value, those of several results among them."""
    for user in value.users:
        for node in (user, *(part for part in user.users if part.target is operator.getitem)):
            if (take := take_of(node)) is not None and take.source is value:
                yield node, take


def _part_of(several: fx.Node, part: int) -> Take | None:
    if several.target is aten.unbind.int:
        return Take(*_axis_of(several), part, part + 1, drops_axis=True)
    if several.target not in SPLITS:
        return None
    sizes = args_of(several)[1]
    before = sizes[: part + 1] if isinstance(sizes, list | tuple) else [sizes] * (part + 1)
    if not all(type(n) is int for n in before):
        return None
    return Take(*_axis_of(several), sum(before[:-1]), sum(before))


def _axis_of(node: fx.Node) -> tuple[fx.Node, int]:
    """The value that `node` takes entries of, and the axis, counted from the front."""
    given = named_args(node)
    axis: Any = given["dims"][0] if "dims" in given else given["dim"]
    return given["self"], axis % given["self"].meta["val"].dim()
