"""Finds the values of a number that calls count, as in `self.cells[self.t % 4]`: few, each of them a branch.

Its computation bounds them, as a remainder does; or all that it is computed from repeats after some calls, for any
inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rnn_export.errors import LiftError, NumberByValue, first_line
from rnn_export.export.lift.ir.source_location import line_of
from rnn_export.export.lift.model.decisions import Decisions, Seen
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.numbers.int_provenance import ComputedInt, StateInt, applied, provenance, states_in
from rnn_export.export.lift.model.sample_inputs import Noise
from rnn_export.export.lift.model.select_branches import MOST

# Calls of the model within which numbers come back, and the most values of what a number is reckoned of.
CALLS, PARTS = 2 * MOST, 4096
RESTS = ("__mod__", "remainder")


def counted(flat: FlatModel, decisions: Decisions, error: NumberByValue) -> Decisions:
    """`decisions` with the possible values of the number of `error`; raises `error`, with the finding, if not few.

    `flat` must be a copy with its states given.
    """
    if error.how is None:
        raise error.with_note(" (it is not of numbers that calls count alone)")
    if error.how in decisions.counted:
        raise error
    runs = Runs(flat, decisions)
    names: set[str] = set()
    values = runs.recurring(error.how)
    if values is None:
        values = runs.bounded(error.how, names)
    if values is None or len(values) > MOST:
        raise error.with_note(f" (it was not seen to be one of up to {MOST} that come back again and again)")
    known = {**decisions.counted, error.how: tuple(sorted(values))}
    left = {**decisions.left, **{name: frozenset(runs.after[name]) for name in names}}
    return replace(decisions, counted=known, left=left, chosen=decisions.chosen | {error.at})


@dataclass
class Runs:
    """Calls of a model, each from the last one's states; `held` has the counters before each, by name.

    Attributes:
        after: by name, each expression by which a call computed its next value, or the number.
        numbers: by call, the values made numbers of Python, with their expressions.
        asked: the expressions of values that decide, None for fed values.
    """

    flat: FlatModel
    decisions: Decisions
    held: list[dict[str, int]] = field(default_factory=list)
    after: dict[str, set[Any]] = field(default_factory=dict)
    numbers: list[list[tuple[int, Any]]] = field(default_factory=list)
    asked: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._states = [leaf.example for leaf in self.flat.states]
        self._noise = Noise(self.flat, seed=6)
        self.go_on(CALLS)

    def go_on(self, calls: int) -> None:
        """Run `calls` more."""
        for _ in range(calls):
            self.held.append({x.name: int(t) for x, t in self._of(self._states)})
            seen = Seen()
            flat = self.flat.replace(
                decisions=replace(
                    self.decisions, watched=True, chosen=frozenset(), counted={}, left={}, variant=None, seen=seen
                )
            )
            inputs = [self._noise.like(leaf.example, {}) for leaf in flat.inputs]
            try:
                with torch.no_grad():
                    results = flat(*inputs, *self._states)
            except Exception as error:  # the user's code may raise anything
                raise LiftError(
                    f"call {len(self.held)} of the model fails{line_of(error)}: {first_line(error)}. A stream has "
                    "no end: let numbers that pick entries come back, as of a ring: self.i = (self.i + 1) % N.",
                    id="counted-call-fails",
                ) from error
            self.numbers.append(seen.numbers)
            self.asked |= {provenance(t) for tensors in seen.tensors.values() for t in tensors}
            self._states = list(results[len(flat.outputs) :])
            for leaf, tensor in self._of(self._states):
                self.after.setdefault(leaf.name, set()).add(provenance(tensor))

    def _of(self, states: Iterable[Tensor]) -> list[tuple[Any, Tensor]]:
        pairs = zip(self.flat.states, states, strict=True)
        return [(leaf, t) for leaf, t in pairs if t.numel() == 1 and not t.is_floating_point()]

    def bounded(self, how: Any, names: set[str]) -> set[int] | None:
        """The values that a number may have by its expression; None without a bound. Counters go to `names`."""
        if isinstance(how, int):
            return {int(how)}
        if isinstance(how, StateInt):
            # Where it is itself again, nothing bounds it.
            variants = self.after.get(how.name, {None}) - {how}
            if how.name in names or None in variants:
                return None
            names.add(how.name)
            found = [self.bounded(variant, names) for variant in variants]
            return None if None in found else {self.held[0][how.name]}.union(*(f for f in found if f is not None))
        if not isinstance(how, ComputedInt):
            return None
        if getattr(how.function, "__name__", "") in RESTS and isinstance(rest := how.args[1], int) and rest > 0:
            return set(range(rest)) if rest <= MOST else None
        parts = [self.bounded(part, names) for part in how.args]
        sets = [part for part in parts if part is not None]
        if len(sets) < len(parts) or sum(1 for _ in itertools.islice(itertools.product(*sets), PARTS)) == PARTS:
            return None
        return {applied(how, values) for values in itertools.product(*sets)}

    def recurring(self, how: Any) -> set[int] | None:
        """The values of a number until its sources repeat; None if they do not, or fed values decide."""
        used = {how, *self.asked, *(h for call in self.numbers for _, h in call)}
        if None in used:
            return None
        names, size = {name for h in used for name in states_in(h)}, -1
        while size < len(names):
            size = len(names)
            names |= {n for name in list(names) for h in self.after.get(name, ()) for n in states_in(h)}
        held = [tuple(sorted((n, v) for n, v in call.items() if n in names)) for call in self.held]
        back = next((i for i in range(1, len(held)) if held[i] in held[:i]), None)
        if back is None or any(not self._is_own(name) for name in names):
            return None
        return {value for call in self.numbers[:back] for value, h in call if h == how}

    def _is_own(self, name: str) -> bool:
        return name in self.after and None not in self.after[name]
