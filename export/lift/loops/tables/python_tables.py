"""(frames, frames) tables that the user's code makes by Python loops, such as masks, as lookups of any size.

A function that takes plain values and loops is called at several sizes. If its entry at (i, j) depends only on the
distance of the frames, or repeats every few frames, a lookup by frame index replaces the function in calls with a
symbolic size.
"""

from __future__ import annotations

import contextlib
import dis
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from rnn_export.export.lift.ir.dependence.length_runs import UNIT
from rnn_export.export.lift.trace.call_profiler import Called
from rnn_export.export.lift.trace.patches import as_it_is, standing_in

# Sizes at which a function is called, first few frames and then many.
SIZES = ((160, 224), (1280, 1408))
# Frames over which a table is held to the rows that were found.
FAR = UNIT // 2
# As far as a quarter of the frames shows it.
LONGEST_PERIOD = 128
PLAIN = (int, float, str, type(None), torch.device, torch.dtype)


@dataclass(frozen=True)
class _TableCall:
    """A call of `function`: `sizes` are the arguments that are as large as the table, `others` those that are not."""

    function: FunctionType
    sizes: tuple[str, ...]
    others: tuple[tuple[str, Any], ...]

    def of(self, frames: int) -> Tensor | None:
        """The table of `frames` frames; None if there is none."""
        try:
            table = self.function(**dict.fromkeys(self.sizes, frames), **dict(self.others))
        except Exception:  # the user's code may raise anything
            return None
        return table if isinstance(table, Tensor) and table.shape == (frames, frames) else None


@contextlib.contextmanager
def tables_of_numbers(calls: Sequence[Called]) -> Iterator[None]:
    """Let the tables among the results of `calls` be looked up in the block, if their size is symbolic."""
    tables = dict.fromkeys(table for called in calls if (table := _table_of(called)) is not None)
    rows = {call: found for call in tables if (found := _rows_of_call(call)) is not None}
    others = {function: _looked_up(function, rows) for function in {call.function for call in rows}}
    with standing_in(others):
        yield


def _table_of(called: Called) -> _TableCall | None:
    """The call as one of a function that takes plain values, loops, and gives a table as large as one of them."""
    table, given = called.result, called.arguments
    if not isinstance(table, Tensor) or table.dim() != 2 or not table.shape[0] == table.shape[1] > 1:
        return None
    sizes = tuple(n for n, v in given.items() if type(v) is int and v == len(table))
    others = tuple((n, v) for n, v in given.items() if n not in sizes)
    if not sizes or not all(isinstance(v, PLAIN) for v in given.values()) or not _loops(called.code):
        return None
    is_fixed = not called.code.co_flags & 0x0C and not called.code.co_freevars
    return _TableCall(called.function, sizes, others) if is_fixed and called.function is not None else None


def _loops(code: Any) -> int:
    """The number of loops in a function; those in each other take too long over many frames."""
    inner = (c for c in code.co_consts if isinstance(c, type(code)))
    return sum(i.opname == "FOR_ITER" for i in dis.get_instructions(code)) + sum(map(_loops, inner))


def _rows_of_call(call: _TableCall) -> Tensor | None:
    for few, more in SIZES:
        small, large = call.of(few), call.of(more)
        if small is None or large is None:
            return None
        if (rows := rows_of(small, large)) is not None:
            is_short = _loops(call.function.__code__) > 1
            return rows if is_short or is_table_of(rows, call.of(FAR)) else None
    return None


def is_table_of(rows: Tensor, table: Tensor | None) -> bool:
    """True if a table of more frames is that of `rows`."""
    return table is not None and torch.equal(table_of(rows, torch.arange(len(table))), table)


def rows_of(small: Tensor, large: Tensor) -> Tensor | None:
    """(period, 2 n + 1, ...): entries by frame and by distance, at most n, of one table at two sizes.

    Tables are (frames, frames, ...). None if the entries do not repeat.
    """
    few, more = len(small), len(large)
    longest = min(LONGEST_PERIOD, few // 4) if few >= SIZES[0][0] else 0
    reach = few // 2 - longest - 1
    for period in range(1, longest + 1) if small.shape[2:] == large.shape[2:] else ():
        first = torch.arange(period) + more // 2 // period * period
        rows = large[first[:, None], first[:, None] + torch.arange(-reach, reach + 1)]
        if is_table_of(rows, small) and is_table_of(rows, large):
            return rows
    return None


def table_of(rows: Tensor, numbers: Tensor) -> Tensor:
    """(frames, frames, ...) for frames of these indices."""
    reach = rows.shape[1] // 2
    offsets = (numbers[None] - numbers[:, None]).clamp(-reach, reach) + reach
    return rows.flatten(0, 1)[(numbers % len(rows))[:, None] * rows.shape[1] + offsets]


def _looked_up(function: FunctionType, rows: Mapping[_TableCall, Tensor]) -> Callable[..., Any]:
    own = as_it_is(function)
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = dict(zip(reversed(names), reversed(function.__defaults__ or ()), strict=False))
    defaults |= function.__kwdefaults__ or {}

    def call(*args: Any, **kwargs: Any) -> Any:
        given = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        sizes: list[Any] = [value for value in given.values() if isinstance(value, torch.SymInt)]
        for call, found in rows.items() if len({value.node.expr for value in sizes}) == 1 else ():
            same = all(isinstance(given.get(n), torch.SymInt) for n in call.sizes)
            if call.function is function and same and all(given.get(n) == v for n, v in call.others):
                return table_of(found, torch.arange(sizes[0]))
        return own(*args, **kwargs)

    return call
