"""Relative positions in attention: a query times a table, shifted, and products with a (T, T) table.

    q @ P.T                   (..., T, L): frame t times each row of a table made for the length
    pad, reshape, slice       (..., T, T): entry (t, s) is entry (t, c) of the product, for some column c

The moves are found by running them on indices in the place of the product. If entry (t, s) in a window is of row t, and
of a table row that is the same for all s - t, a query is multiplied with as many rows as the window has frames.

    einsum("bhid,ijd->bhij", q, K)      scores that are added to those of the keys, K[i, j] a row for j - i
    einsum("bhij,ijd->bhid", p, V)      a sum that is added to that of the values

In any layout they are linear, frame by frame. So the table is found by running the code on ones, and checked on random
values; if it is alike along a window, each place has a row of it.

Sources: Z. Dai and others, Transformer-XL, 2019, appendix B; C. Huang and others, Music Transformer, 2018, section 3.4;
P. Shaw and others, Self-Attention with Relative Position Representations, 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import guard_or_false

from rnn_export.export.lift.ir.dependence.axis_table import MOVING
from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, args_of, overloads, sources_of
from rnn_export.export.lift.rewrite.attention.attention_windows import AttentionWindow

PRODUCTS = overloads("matmul bmm")
# These put entries elsewhere, and leave them as they are.
MOVES = MOVING | overloads("view_as pad constant_pad_nd as_strided gather index_select")
SIZES = SHAPE_ONLY | overloads("sym_stride.int")
# Of a table that a layer makes for more or fewer frames, relative to its largest entry.
NEAR = 1e-5
LINEAR = MOVES | PRODUCTS | overloads("mul.Tensor mul.Scalar div.Tensor div.Scalar sum.dim_IntList einsum")
# Of what is computed in another order, relative to its largest entry.
ROUNDED = 1e-4
# What a path gives of a value in its place.
Through = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TableProduct:
    """`path`, in order, makes `result` of `given`: scores (..., T, T) of queries (..., T, E), or values of weights."""

    given: fx.Node
    path: tuple[fx.Node, ...]
    result: fx.Node

    @property
    def has_rows(self) -> bool:
        """True if each frame has a table of its own."""
        constants = (n for node in self.path for n in node.all_input_nodes if is_constant(n))
        return any(sum(isinstance(size, torch.SymInt) for size in _shape(n)) > 1 for n in constants)

    def of_queries(self, through: Through, sizes: Sequence[int], window: AttentionWindow) -> Tensor | None:
        """The rows (..., size, E) that multiply a query, by place in the window; None if frames differ."""
        ones = torch.eye(sizes[-1])
        rows = [_along(window, through(one.expand(*sizes).contiguous())) for one in ones]
        if not rows or any(row is None for row in rows):
            return None
        table = torch.stack([row for row in rows if row is not None], -1)
        drawn = torch.randn(sizes, generator=torch.Generator().manual_seed(0))
        want = _entries(window, through(drawn))
        scores = (drawn.unsqueeze(-2) @ table.mT.unsqueeze(-3)).squeeze(-2)
        return table if _is_same(torch.where(_is_there(window, sizes[-2]), scores, 0.0), want) else None

    def of_probabilities(self, through: Through, sizes: Sequence[int], window: AttentionWindow) -> Tensor | None:
        """The rows (..., size, E) that attention weights sum, by place in the window; None if frames differ."""
        frames, is_there = sizes[-1], _is_there(window, sizes[-1])
        drawn = torch.rand(*sizes[:-2], frames, window.size, generator=torch.Generator().manual_seed(0)) * is_there
        at = torch.arange(frames)[:, None] + torch.arange(-window.behind, window.ahead + 1)

        def given(along: Tensor) -> Tensor:
            whole = torch.zeros(*along.shape[:-1], frames + 1)
            places = torch.where(is_there, at, frames).expand_as(along)
            return through(whole.scatter(-1, places, along)[..., :frames].contiguous())

        rows = []
        for place in range(window.size):
            of_one = given((torch.arange(window.size) == place).float() * is_there.expand(drawn.shape))
            there = of_one[..., is_there[:, place], :]
            if not there.shape[-2] or not _is_same(there, there[..., :1, :].expand_as(there)):
                return None
            rows.append(_one_of_each(there[..., 0, :], 1))
        table = torch.stack(rows, -2)
        return table if _is_same(drawn @ table, given(drawn)) else None


def table_of_queries(scores: fx.Node) -> TableProduct | None:
    """The product of the queries with a table that makes `scores`, or None."""
    path, node, has_product = [scores], scores, False
    shape = _shape(scores)
    while node.target in LINEAR:
        before = [n for n in node.all_input_nodes if not is_constant(n)]
        if len(before) != 1:
            return None
        has_product = has_product or _takes_table(node)
        (node,) = before
        if has_product and _is_like(_shape(node), shape) and isinstance(_shape(node)[-1], int):
            return TableProduct(node, tuple(reversed(path)), scores)
        path.append(node)
    return None


def table_of_probabilities(probabilities: fx.Node, first: fx.Node) -> TableProduct | None:
    """The product of `probabilities` with a table that begins at `first`, or None."""
    path, node, has_product = list[fx.Node](), first, False
    shape = _shape(probabilities)
    while node.target in LINEAR and all(is_constant(n) or n in (probabilities, *path) for n in node.all_input_nodes):
        path.append(node)
        has_product = has_product or _takes_table(node)
        if has_product and _is_like(_shape(node), shape) and isinstance(_shape(node)[-1], int):
            return TableProduct(probabilities, tuple(path), node)
        if len(node.users) != 1:
            return None
        node = next(iter(node.users))
    return None


def _takes_table(node: fx.Node) -> bool:
    return any(is_constant(n) and _shape(n) for n in node.all_input_nodes)


def _shape(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _is_like(shape: Sequence[Any], other: Sequence[Any]) -> bool:
    """True if all sizes but the last are the same."""
    pairs = zip(shape[:-1], other[:-1], strict=False)
    return len(shape) == len(other) > 1 and all(guard_or_false(a == b) for a, b in pairs)


def _is_there(window: AttentionWindow, frames: int) -> Tensor:
    """The mask (T, size) of the places in the window that are in the sequence."""
    at = torch.arange(frames)[:, None] + torch.arange(-window.behind, window.ahead + 1)
    return (at >= 0) & (at < frames)


def _entries(window: AttentionWindow, table: Tensor) -> Tensor:
    """A table (..., T, T) as (..., T, size), zero outside of the sequence."""
    frames = table.shape[-1]
    rows = torch.arange(frames)[:, None]
    at = rows + torch.arange(-window.behind, window.ahead + 1)
    return torch.where(_is_there(window, frames), table[..., rows.expand_as(at), at.clamp(0, frames - 1)], 0.0)


def _along(window: AttentionWindow, table: Tensor) -> Tensor | None:
    """The row (..., size) of a table (..., T, T) alike along the window, constant axes reduced to 1; or None."""
    entries, is_there = _entries(window, table), _is_there(window, table.shape[-1])
    one = entries[..., window.behind, :]
    alike = torch.where(is_there, entries, one.unsqueeze(-2))
    return _one_of_each(one, 1) if _is_same(alike, one.unsqueeze(-2).expand_as(alike)) else None


def _one_of_each(value: Tensor, last: int) -> Tensor:
    """`value` with its constant axes reduced to size 1, except the `last` ones."""
    for axis in range(value.dim() - last):
        first = value.narrow(axis, 0, 1)
        value = first if torch.equal(value, first.expand_as(value)) else value
    return value


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a - b).abs() <= ROUNDED * b.abs().max()).all())


@dataclass(frozen=True)
class Relative:
    """`product` is of `query` and `table` (..., E, L); `moves`, in order, make `scores` of it."""

    query: fx.Node
    table: fx.Node
    product: fx.Node
    moves: tuple[fx.Node, ...]
    scores: fx.Node

    def numbers(self, frames: int, columns: int) -> Tensor:
        """Indices (T, L), from 1 on, that stand for the entries of the product."""
        return torch.arange(1, frames * columns + 1, dtype=torch.float64).reshape(frames, columns)

    def along(self, moved: Tensor, table: Tensor, window: AttentionWindow) -> Tensor | None:
        """The table row (..., size, E) at each place of a window, by `numbers` moved to (..., T, T).

        None if frames differ.
        """
        frames = moved.shape[-1]
        if moved.dim() < 2 or moved.shape[-2] != frames:
            return None
        places = moved.reshape(-1, frames, frames)
        if not torch.equal(places, places[:1].expand_as(places)):
            return None
        rows = torch.arange(frames)[:, None]
        at = rows + torch.arange(-window.behind, window.ahead + 1)
        is_there = (at >= 0) & (at < frames)
        number = places[0][rows.expand_as(at), at.clamp(0, frames - 1)].long() - 1
        if not bool(((number >= 0) & (number // table.shape[-1] == rows))[is_there].all()):
            return None
        by_place = table.mT[..., (number % table.shape[-1]).clamp(min=0), :]
        one = by_place[..., window.behind, :, :]
        alike = torch.where(is_there[..., None], by_place, one.unsqueeze(-3))
        return one if is_near(alike, one.unsqueeze(-3).expand_as(alike)) else None


def relative_of(scores: fx.Node) -> Relative | None:
    """The product with a table that is moved to be `scores`, or None."""
    moves: list[fx.Node] = []
    node = scores
    while node.target in MOVES:
        moves.append(node)
        moving = [n for n in node.all_input_nodes if not is_constant(n)]
        if len(moving) != 1:
            return None
        (node,) = moving
    if node.target not in PRODUCTS:
        return None
    query, table = args_of(node)
    if is_constant(query) or not is_constant(table):
        return None
    return Relative(query, table, node, tuple(reversed(moves)), scores)


def is_constant(node: fx.Node) -> bool:
    """True if a value is made of weights and sizes alone."""
    sources = sources_of(node, lambda n: [] if n.target in SIZES else n.all_input_nodes)
    return all(n.op != "placeholder" for n in sources)


def is_near(a: Tensor, b: Tensor) -> bool:
    """True if two tables are equal up to rounding."""
    return a.shape == b.shape and bool(((a - b).abs() <= NEAR * b.abs().max()).all())
