"""Refuses a counter that leaves the entries that it indexes, as in `self.buf[:, self.i]`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from rnn_export.errors import LiftError
from rnn_export.export.lift.branches.counter_values import RESTS, Runs
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.numbers.int_provenance import ComputedInt, StateInt, applied, value_of

# Where these take numbers between two ends, what they give lies between what they give of the ends.
MONOTONE = ("add", "sub", "mul", "neg")
# Calls that are run, and those that are reckoned, in search of one that picks what is not there.
RUN, AHEAD = 1024, 20_000


def refuse_beyond_entries(flat: FlatModel) -> None:
    """Raise LiftError if a call counter leaves the entries that it indexes; after the capture of `flat`."""
    picks = dict.fromkeys(p for p in flat.decisions.seen.picks if p[0] is not None)
    if not picks:
        return
    runs = Runs(flat, flat.decisions)
    for how, size, place in picks:
        ends = _ends(runs, how, ())
        if ends is not None and -size <= ends[0] and ends[1] < size:
            continue
        for call, value in enumerate(_values(runs, how, size), 1):
            if not -size <= value < size:
                raise LiftError(
                    f"{place}: call {call} of the model picks entry {value} of {size}: there it fails, but a stream "
                    f"has no end. Let the number come back, as of a ring: self.i = (self.i + 1) % {size}.",
                    id="counter-beyond-table",
                )


def _ends(runs: Runs, how: Any, inside: tuple[str, ...]) -> tuple[int, int] | None:
    """The least and greatest value of a number, from its computation; None if it has no bound."""
    if isinstance(how, int):
        return how, how
    if isinstance(how, StateInt):
        variants = runs.after.get(how.name, {None}) - {how}
        found = [None if how.name in inside else _ends(runs, variant, (*inside, how.name)) for variant in variants]
        ends = [end for pair in found if pair is not None for end in pair] + [runs.held[0][how.name]]
        return None if None in found else (min(ends), max(ends))
    if not isinstance(how, ComputedInt):
        return None
    name = getattr(how.function, "__name__", "").strip("_")
    if f"__{name}__" in RESTS or name in RESTS:
        return (0, how.args[1] - 1) if isinstance(how.args[1], int) and how.args[1] > 0 else None
    parts = [_ends(runs, part, inside) for part in how.args]
    known = [part for part in parts if part is not None]
    if name.removeprefix("r") not in MONOTONE or len(known) < len(parts):
        return None
    corners = [applied(how, values) for values in product(*known)]
    return min(corners), max(corners)


def _values(runs: Runs, how: Any, size: int) -> Iterator[int]:
    """The value of a number at each call, until the counters repeat."""
    seen = set()
    for held in _held(runs, size + 1):
        known = {StateInt(name): value for name, value in held.items()}
        value, state = value_of(how, known), tuple(sorted(held.items()))
        if value is None or state in seen:
            return
        seen.add(state)
        yield value


def _held(runs: Runs, calls: int) -> Iterator[dict[str, int]]:
    """The counters before each of more calls: by running them, or computed if no value decides."""
    yield from runs.held
    variants = {name: next(iter(variants)) for name, variants in runs.after.items() if len(variants) == 1}
    if runs.asked or len(variants) < len(runs.after) or None in variants.values():
        while len(runs.held) < min(calls, RUN):
            runs.go_on(1)
            yield runs.held[-1]
        return
    held = runs.held[-1]
    for _ in range(min(calls, AHEAD)):
        known = {StateInt(name): value for name, value in held.items()}
        after = {
            name: variant if isinstance(variant, int) else value_of(variant, known)
            for name, variant in variants.items()
        }
        held = {name: value for name, value in after.items() if value is not None}
        yield held
