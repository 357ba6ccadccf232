"""Relative position scores, which attention adds to those of its keys: a query times a table, shifted.

    q @ P.T                   (..., T, L): frame t times each row of a table made for the length
    pad, reshape, slice       (..., T, T): entry (t, s) is entry (t, c) of the product, for some column c

The moves are found by running them on indices in the place of the product. If entry (t, s) in a window is of row t, and
of a table row that is the same for all s - t, a query is multiplied with as many rows as the window has frames.

Sources: Z. Dai and others, Transformer-XL, 2019, appendix B; C. Huang and others, Music Transformer, 2018, section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.dependence.axis_table import MOVING
from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, args_of, overloads, sources_of
from rnn_export.export.lift.rewrite.attention.attention_windows import AttentionWindow

PRODUCTS = overloads("matmul bmm")
# These put entries elsewhere, and leave them as they are.
MOVES = MOVING | overloads("view_as pad constant_pad_nd as_strided gather index_select")
SIZES = SHAPE_ONLY | overloads("sym_stride.int")
# Of a table that a layer makes for more or fewer frames, relative to its largest entry.
NEAR = 1e-5


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
