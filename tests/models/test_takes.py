"""The view of operators that take entries of an axis holds what each of them gives."""

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import END, aten
from rnn_export.export.lift.ir.takes import Take, take_of, takes_of

PARTS: dict[str, tuple[Any, tuple[Any, ...], int | None]] = {
    "slice": (aten.slice.Tensor, (1, 2, 5), None),
    "slice from the end": (aten.slice.Tensor, (-2, -3), None),
    "slice in steps": (aten.slice.Tensor, (1, 1, END, 2), None),
    "slice of nothing left out": (aten.slice.Tensor, (1,), None),
    "select": (aten.select.int, (1, 3), None),
    "select the last": (aten.select.int, (-2, -1), None),
    "unbind": (aten.unbind.int, (1,), 4),
    "unbind of the first axis": (aten.unbind.int, (), 1),
    "split": (aten.split.Tensor, (2, 1), 1),
    "last of a split": (aten.split.Tensor, (4, 1), 1),
    "split of given sizes": (aten.split_with_sizes.default, ([1, 4, 2], -2), 1),
    "flip": (aten.flip.default, ([1],), None),
}


def _node(target: Any, args: tuple[Any, ...], part: int | None) -> tuple[fx.Node, fx.Node, Tensor, Tensor]:
    """A value, the node that takes of it, and both as tensors."""
    graph, value = fx.Graph(), torch.randn(2, 7, 3)
    source = graph.placeholder("x")
    source.meta["val"] = value
    node, taken = graph.call_function(target, (source, *args)), target(value, *args)
    if part is not None:
        node.meta["val"] = taken
        node, taken = graph.call_function(operator.getitem, (node, part)), taken[part]
    return source, node, value, taken


def _entries(take: Take, value: Tensor) -> Tensor:
    index: list[Any] = [slice(None)] * value.dim()
    if take.drops_axis:
        index[take.axis] = take.entry
    elif take.step > 0:
        index[take.axis] = slice(take.start, take.end, take.step)
    else:
        return value.flip(take.axis)
    return value[tuple(index)]


@pytest.mark.parametrize("name", PARTS)
def test_a_take_has_the_entries_of_its_operator(name: str) -> None:
    source, node, value, taken = _node(*PARTS[name])
    take = take_of(node)
    assert take is not None
    assert take.source is source
    assert torch.equal(_entries(take, value), taken)
    assert (node, take) in takes_of(source)


@pytest.mark.parametrize(
    ("target", "args", "part"),
    [
        pytest.param(aten.flip.default, ([0, 1],), None, id="two axes turned"),
        pytest.param(aten.max.dim, (1,), 0, id="one of two results"),
        pytest.param(aten.roll.default, ([1], [1]), None, id="rolled"),
    ],
)
def test_others_take_no_entries_of_one_axis(target: Any, args: tuple[Any, ...], part: int | None) -> None:
    assert take_of(_node(target, args, part)[1]) is None
