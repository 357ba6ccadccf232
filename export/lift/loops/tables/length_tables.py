"""Looks up (frames, frames) tables that the code makes of the length alone, such as masks.

A run over many frames shows them: tensors that meet values of the inputs, depend on none, and have two axes that grow
with the length. If the entries depend on the distance of two frames, or repeat every few frames, they are looked up by
frame index in every graph of a fixed length, before loops are searched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from rnn_export.export.lift.ir.fx_nodes import aten, depends_on, is_drawn, placeholders, recorded
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.loops.tables.python_tables import FAR, SIZES, is_table_of, rows_of, table_of
from rnn_export.export.lift.model.call.pytree import leaves_of
from rnn_export.export.lift.trace.dataflow import Dataflow

# Frames over which it is seen whether there are any at all.
FEW = (13, 17)
# Values that a table may have, at most.
MOST = 1 << 25


class _Met(Dataflow):
    """`found` are the distinct square tables that meet input values."""

    def __init__(self, inputs: Sequence[Tensor], weights: set[int]) -> None:
        super().__init__(enumerate(inputs))
        self.weights, self.found = weights, list[Tensor]()

    def meet(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        for value in leaves_of((args, kwargs)):
            if self.moves(value) or value.numel() > MOST or value.untyped_storage().data_ptr() in self.weights:
                continue
            if (square := _square(value)) is not None and not any(map(square.equal, self.found)):
                self.found.append(square.clone())


class _MetByFunctions(TorchFunctionMode):
    """Shows `met` the arguments of torch's functions, which may be converted before an operator takes them."""

    def __init__(self, met: _Met) -> None:
        super().__init__()
        self.met = met

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(map(self.met.moves, leaves_of((args, kwargs or {})))):
            self.met.meet(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def tables_of_length(module: nn.Module, samples: Callable[[int], Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """The rows (period, 2 n + 1, ...) of each table of the length; `samples(frames)` are inputs."""
    few = [_met(module, samples(frames)) for frames in FEW]
    if None not in few and len({tuple(len(table) for table in met or ()) for met in few}) == 1:
        return ()
    found: list[Tensor] = []
    for both in SIZES:
        small, large = (_met(module, samples(frames)) or [] for frames in both)
        pairs = [(a, b) for a, b in zip(small, large, strict=False) if len(a) != len(b)]
        rows = [rows_of(a, b) for a, b in pairs] if len(small) == len(large) else []
        found += [r for r in rows if r is not None]
        if len(found) >= len(pairs):
            break
    far = (_met(module, samples(FAR)) or []) if found else []
    return tuple(rows for rows in found if any(_is_alike(rows, t) and is_table_of(rows, t) for t in far))


def _met(module: nn.Module, sample: Sequence[Tensor]) -> list[Tensor] | None:
    """A run's tables, or None."""
    weights = {p.untyped_storage().data_ptr() for p in (*module.parameters(), *module.buffers())}
    met = _Met(sample, weights)
    try:
        with torch.no_grad(), met, _MetByFunctions(met):
            module(*sample)
    except Exception:  # the user's code may raise anything, and is refused elsewhere
        return None
    return met.found


def _square(value: Tensor) -> Tensor | None:
    """(n, n, ...): the last two axes of one size in front, without axes of one; None without two."""
    pairs = [(a, b) for b in range(value.dim()) for a in range(b) if value.shape[a] == value.shape[b] > 1]
    return value.movedim(pairs[-1], (0, 1)).squeeze() if pairs else None


def look_up_tables(module: fx.GraphModule, tables: Sequence[Tensor], sample: Sequence[Tensor]) -> None:
    """Look up tables of the length by frame index in a fixed-length graph, in place."""
    if not tables:
        return
    values = recorded(module, sample)
    for node in list(_met_in(module.graph)):
        value = values[node]
        square = _square(value) if isinstance(value, Tensor) else None
        if square is None:
            continue
        numbers = torch.arange(len(square))
        rows = next((r for r in tables if _is_alike(r, square) and table_of(r, numbers).equal(square)), None)
        if rows is not None:
            _write(module, node, value, rows)
    module.graph.eliminate_dead_code()
    module.recompile()


def _is_alike(rows: Tensor, square: Tensor) -> bool:
    return rows.shape[2:] == square.shape[2:] and rows.dtype == square.dtype


def _met_in(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes of numbers and weights alone that others take."""
    moving, fixed = depends_on(graph, placeholders(graph)), set[fx.Node]()
    for node in graph.nodes:
        if node in moving or node.op not in ("call_function", "get_attr") or is_drawn(node):
            continue
        if all(n in fixed for n in node.all_input_nodes):
            fixed.add(node)
    return (n for n in graph.nodes if n in fixed and any(user not in fixed for user in n.users))


def _write(module: fx.GraphModule, node: fx.Node, value: Tensor, rows: Tensor) -> None:
    """Replace `node` by a lookup in the flat table, by frame and frame, with its other axes as they were."""
    pair = next((a, b) for b in reversed(range(value.dim())) for a in reversed(range(b)) if _are(value, a, b))
    others = [size for axis, size in enumerate(value.shape) if axis not in pair]
    (period, width), count = rows.shape[:2], value.shape[pair[0]]
    write = NodeWriter(module, "of_length")
    write.at = node
    with module.graph.inserting_before(node):
        table = write.constant(rows.reshape(period * width, *others))
        numbers = write.call(aten.arange.default, count)
        here, there = (write.call(aten.unsqueeze.default, numbers, axis) for axis in (1, 0))
        offsets = write.call(aten.clamp.default, write.call(aten.sub.Tensor, there, here), -(width // 2), width // 2)
        row = write.call(aten.mul.Scalar, write.call(aten.remainder.Scalar, here, period), width)
        places = write.call(aten.add.Scalar, write.call(aten.add.Tensor, row, offsets), width // 2)
        found = write.call(aten.index.Tensor, table, [places])
        order = list(range(2, value.dim()))
        for axis, at in zip(pair, (0, 1), strict=True):
            order.insert(axis, at)
        if order != sorted(order):
            found = write.call(aten.permute.default, found, order)
    node.replace_all_uses_with(found)


def _are(value: Tensor, a: int, b: int) -> bool:
    return bool(value.shape[a] == value.shape[b] > 1)
