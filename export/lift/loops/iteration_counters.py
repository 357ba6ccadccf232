"""Numbers in a loop's code that grow evenly with its iterations, as in `sum / (t + 1)`: a state counts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.loops.loop_operands import Counted

# Copies of which a number must be in steps, at least.
LEAST = 4
# How many such numbers of one operator an iteration may have.
SEVERAL = 4
# How far a float may be from even steps, relative to the largest: one of torch's may be rounded to 32 bits.
ROUNDING = 1e-6
# These take a number as their second argument, and a tensor in its place by the operator beside.
TAKING: Mapping[Any, Any] = {
    aten.add.Tensor: aten.add.Tensor,
    aten.sub.Tensor: aten.sub.Tensor,
    aten.mul.Tensor: aten.mul.Tensor,
    aten.div.Tensor: aten.div.Tensor,
    aten.rsub.Scalar: aten.rsub.Tensor,
    aten.pow.Tensor_Scalar: aten.pow.Tensor_Tensor,
    aten.lt.Scalar: aten.lt.Tensor,
    aten.le.Scalar: aten.le.Tensor,
    aten.gt.Scalar: aten.gt.Tensor,
    aten.ge.Scalar: aten.ge.Tensor,
}


def counted(numbers: Sequence[Any]) -> Counted | None:
    """The start and step of `numbers`, one for each copy; None if they are not evenly spaced."""
    if len(numbers) < LEAST or any(type(n) is not type(numbers[0]) for n in numbers):
        return None
    if type(numbers[0]) not in (int, float) or not all(map(math.isfinite, numbers)):
        return None
    step = (numbers[-1] - numbers[0]) / (len(numbers) - 1)
    found = Counted(numbers[0], int(step) if type(numbers[0]) is int else step)
    near = ROUNDING * max(map(abs, numbers))
    return found if step and all(abs(found.of(k) - n) <= near for k, n in enumerate(numbers)) else None


def counting_tokens(tokens: Iterable[fx.Node]) -> set[fx.Node]:
    """The tokens whose number changes by even steps each time their source line runs."""
    alike: dict[Any, list[fx.Node]] = {}
    for node in tokens:
        if takes_counts(node) and type(node.args[1]) in (int, float):
            alike.setdefault((node.target, node.meta.get("stack_trace")), []).append(node)
    return {node for nodes in alike.values() if _in_steps(nodes) for node in nodes}


def _in_steps(nodes: Sequence[fx.Node]) -> bool:
    """True if the numbers of one line are one or several interleaved sequences, each constant or evenly spaced."""
    numbers: list[Any] = [node.args[1] for node in nodes]
    splits = ([numbers[k::several] for k in range(several)] for several in range(1, SEVERAL + 1))
    return any(all(len({*own}) == 1 or counted(own) for own in split) for split in splits) and len({*numbers}) > SEVERAL


def takes_counts(node: fx.Node) -> bool:
    """True if `node` can take a tensor in place of a number: beside floats."""
    if node.target not in TAKING or node.kwargs or not isinstance(node.args[0], fx.Node):
        return False
    value = node.args[0].meta["val"]
    return bool(value.dtype.is_floating_point) and value.dim() > 0


def by_row(shape: Sequence[Any]) -> list[int] | None:
    """The shape of one number for each row beside a value of `shape`; None if several axes have symbolic sizes."""
    rows = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    return None if len(rows) > 1 else [-1 if axis in rows else 1 for axis in range(len(shape))]
