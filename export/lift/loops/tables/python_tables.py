"""(frames, frames) tables that the user's code makes by Python loops, such as masks, as lookups of any size.

A function that takes plain values and loops is called at several sizes. If its entry at (i, j) depends only on the
distance of the frames, or repeats every few frames, a lookup by frame index replaces the function in calls with a
symbolic size.
"""

from __future__ import annotations

import contextlib
import dis
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor

from rnn_export.export.lift.ir.dependence.length_runs import UNIT
from rnn_export.export.lift.trace.call_profiler import watching
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
def tables_of_numbers(call: Callable[[], Any]) -> Iterator[None]:
    """Let the tables that `call` makes by loops be looked up in the block, if their size is symbolic."""
    rows = {call: found for call in _used(call) if (found := _rows_of_call(call)) is not None}
    others = {function: _looked_up(function, rows) for function in {call.function for call in rows}}
    with standing_in(others):
        yield


def _used(call: Callable[[], Any]) -> list[_TableCall]:
    """The calls of functions of modules that take plain values, loop, and give a table as large as one of them."""
    begun, found = dict[FrameType, dict[str, Any]](), dict[_TableCall, None]()

    def look(frame: FrameType, event: str, given: Any) -> None:
        if event == "call" and _is_plain(frame):
            begun[frame] = _arguments(frame)
        elif event == "return" and frame in begun:
            arguments = begun.pop(frame)
            if isinstance(given, Tensor) and given.dim() == 2 and given.shape[0] == given.shape[1] > 1:
                sizes = tuple(n for n, v in arguments.items() if type(v) is int and v == len(given))
                others = tuple((n, v) for n, v in arguments.items() if n not in sizes)
                if sizes:
                    found[_TableCall(frame.f_globals[frame.f_code.co_name], sizes, others)] = None

    with watching(look), torch.no_grad(), contextlib.suppress(Exception):  # what fails here fails again where it counts
        call()
    return list(found)


def _is_plain(frame: FrameType) -> bool:
    """True if a call is of a module-level function with loops, and of plain values alone."""
    code, function = frame.f_code, frame.f_globals.get(frame.f_code.co_name)
    own = isinstance(function, FunctionType) and function.__code__ is code and not code.co_freevars
    if not own or str(frame.f_globals.get("__name__", "")).partition(".")[0] in ("torch", "rnn_export"):
        return False
    is_fixed = not code.co_flags & 0x0C and bool(code.co_argcount + code.co_kwonlyargcount)
    return is_fixed and all(isinstance(v, PLAIN) for v in _arguments(frame).values()) and _loops(code) > 0


def _arguments(frame: FrameType) -> dict[str, Any]:
    code = frame.f_code
    return {name: frame.f_locals[name] for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]}


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
