"""Settles decisions by value: one of two branches may be right for any value, or raise an exception."""

from __future__ import annotations

import copy
import dis
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import CodeType, TracebackType

import torch
from torch import Tensor

from rnn_export.contract.spec import Assumption
from rnn_export.errors import DecidedByValue, LiftError, NumberByValue
from rnn_export.export.lift.branches.counter_values import counted
from rnn_export.export.lift.ir.compare import BRANCH_TOLERANCE, same
from rnn_export.export.lift.ir.source_location import is_foreign
from rnn_export.export.lift.model.decisions import Decisions, Seen
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.sample_inputs import Noise
from rnn_export.export.lift.trace.dataflow import Dataflow
from rnn_export.export.lift.trace.tracing import export_program
from rnn_export.runtime.replay.levels import LOUD, QUIET

# Trials with a kind of its own for each input, beside those of one kind for all.
MIXED = 12
# Pairs of trials, of the one way and of the other, between which it is sought where the decision turns.
ALTERNATIONS, HALVINGS = 4, 24
# Trials, none of them silent, that each way should be seen in, and how many are drawn in search of them.
ENOUGH, DRAWS = 3, 24
# Of each way, trials in which some entries of an input are replaced by loud ones, and how many entries, one by one.
REPLACED, ENTRIES = 2, 4
LOUD_ENTRIES = (1e6, -1e6, 1e12, -1e12)


def resolve_branch(flat: FlatModel, error: DecidedByValue) -> Decisions:
    """The decisions of `flat` with that of `error` known as well.

    `flat` must be a copy that decides as known, its states given. Both branches are computed if neither is right alone;
    raises `error`, with the trials, if that fails too.
    """
    decisions = flat.decisions
    while True:
        if isinstance(error, NumberByValue):
            try:
                decisions = counted(flat, decisions, error)
            except NumberByValue:
                if decisions.sized or not error.is_end:
                    raise
                # Where it says how many entries there are, there may be room for all.
                decisions = replace(decisions, sized=True, numbers=False, chosen=frozenset(), counted={}, left={})
        elif error.line:
            flags = decisions.flags | set(_flags_of(flat, decisions, (error.file, error.line)))
            try:
                decisions = replace(decisions, known=(*decisions.known, _resolved(flat, decisions, error)), flags=flags)
            except DecidedByValue as refusal:
                if error.at in decisions.chosen:
                    raise
                # Both ways are computed, as long as nothing is against it.
                decisions.seen.spared[error.at] = refusal
                decisions = replace(decisions, chosen=decisions.chosen | {error.at})
        elif decisions.numbers:
            raise error
        else:
            decisions = replace(decisions, numbers=True)
        flat = flat.replace(decisions=decisions)
        tensors = [leaf.example for leaf in (*flat.inputs, *flat.states)]
        try:
            export_program(flat, tensors, (tuple({} for _ in tensors),))
        except DecidedByValue as another:
            error = another
        except LiftError:
            return decisions
        else:
            return decisions


@dataclass(frozen=True)
class _Run:
    """The results of a run or its exception."""

    results: tuple[Tensor, ...] | None
    error: Exception | None = None

    @property
    def is_finite(self) -> bool:
        return self.results is not None and all(bool(torch.isfinite(t).all()) for t in self.results)

    def gives(self, other: _Run) -> bool:
        """True if both give the same results."""
        if self.results is None or other.results is None:
            return False
        return all(same(a, b, BRANCH_TOLERANCE) for a, b in zip(self.results, other.results, strict=True))


def _resolved(flat: FlatModel, decisions: Decisions, error: DecidedByValue) -> Assumption:
    here = (error.file, error.line)
    found: list[tuple[set[bool], _Run, dict[bool, _Run]]] = []
    is_fed = False
    sure: dict[bool, list[Sequence[Tensor]]] = {False: [], True: []}
    usual = set[bool]()
    more = (_more_trials(flat, sure), _alternations(flat, decisions, here, sure), _with_loud_entries(flat, sure))
    trials = itertools.chain(_trials(flat), *more)
    for number, fed in enumerate(trials):
        own, seen = _run(flat, replace(decisions, seen=Seen()), fed)
        values, of_fed = seen.values.get(here, set()), _asks_what_is_fed(flat, decisions, fed, here)
        is_fed = is_fed or of_fed
        # First come the example and noise, as verification draws it: it breaks an assumption that these break.
        if number < (4 if flat.states else 2):
            usual |= values
        if values:
            variants = {v: _run(flat, _with(decisions, error.at, v), fed)[0] for v in (False, True)}
            found.append((values, own, variants))
            if len(values) == 1 and own.is_finite:
                sure[next(iter(values))].append(fed)
    ran = [(values, own, variants) for values, own, variants in found if own.results is not None]
    kinds = set().union(*(values for values, _, _ in found))
    if found and not is_fed and len(kinds) == 1:
        return Assumption(error.at, kinds.pop(), "weights")
    seen_values = set().union(*(values for values, _, _ in ran))
    # What is NaN both ways shows nothing.
    shown = set().union(*(values for values, own, _ in ran if own.is_finite))
    for value in (False, True):
        if seen_values == {value} and all(_raises(variants[not value], here) for _, _, variants in ran):
            return Assumption(error.at, value, "raises")
        # Where ways that are not taken are computed too, it may be that none of them shows.
        if not decisions.chosen and len(shown) == 2 and all(variants[value].gives(own) for _, own, variants in ran):
            return Assumption(error.at, value, "either")
    tried = {
        0: "",
        1: f" (it was {next(iter(seen_values), '')} in all {len(ran)} calls that were tried)",
        2: f" (in {len(ran)} calls with both, neither was seen to give what the model gives)",
    }
    raise DecidedByValue(*here, error.source, tried[len(seen_values)], usual if len(usual) == 1 else ())


def _alternations(
    flat: FlatModel, decisions: Decisions, here: tuple[str, int], sure: Mapping[bool, Sequence[Sequence[Tensor]]]
) -> Iterator[list[Tensor]]:
    """Trials on both sides of the threshold of the decision, between trials that surely decide one way.

    They show a branch that is right in its own trials, but not up to the threshold. Flags stay.
    """
    pairs = list(itertools.islice(zip(*(trials[::-1] for trials in sure.values()), strict=False), ALTERNATIONS))
    stay = [i for i, leaf in enumerate(flat.inputs) if _is_flag(leaf.example)]
    for one, other in pairs:
        ends = [list(one), list(other)]
        for _ in range(HALVINGS):
            middle = [
                (a + b) / 2 if a.is_floating_point() and i not in stay else a
                for i, (a, b) in enumerate(zip(*ends, strict=True))
            ]
            values = _run(flat, replace(decisions, seen=Seen()), middle)[1].values.get(here, set())
            ends[values == {True}] = middle
        yield from ends


def _is_flag(example: Tensor) -> bool:
    return example.is_floating_point() and bool(((example == 0) | (example == 1)).all())


def _with(decisions: Decisions, at: str, value: bool) -> Decisions:
    return replace(decisions, known=(*decisions.known, Assumption(at, value, "said")), seen=Seen())


def _run(flat: FlatModel, decisions: Decisions, fed: Sequence[Tensor]) -> tuple[_Run, Seen]:
    called = copy.deepcopy(flat).replace(decisions=replace(decisions, watched=True))
    try:
        with torch.no_grad():
            return _Run(called(*(t.clone() for t in fed))), decisions.seen
    except Exception as error:  # the user's code may raise anything
        return _Run(None, error), decisions.seen


def _asks_what_is_fed(flat: FlatModel, decisions: Decisions, fed: Sequence[Tensor], here: tuple[str, int]) -> bool:
    """True if the tensors asked at `here` hold values computed from the inputs or states."""
    given = [t.clone() for t in fed]
    decisions = replace(decisions, seen=Seen())
    with (flow := Dataflow(enumerate(given))):
        _run(flat, decisions, given)
    return any(flow.names_of(t) for t in decisions.seen.tensors.get(here, []))


def _flags_of(flat: FlatModel, decisions: Decisions, here: tuple[str, int]) -> Iterator[str]:
    """The inputs of zeros and ones that decide by being zero, not by their size."""
    noise = Noise(flat, seed=4)
    fed = [noise.like(leaf.example, {}) for leaf in flat.inputs]
    states = [leaf.example for leaf in flat.states]

    def decided(*inputs: Tensor) -> set[bool]:
        return _run(flat, replace(decisions, seen=Seen()), [*inputs, *states])[1].values.get(here, set())

    usual = decided(*fed)
    for i, leaf in enumerate(flat.inputs):
        if _is_flag(leaf.example):
            variants = (torch.zeros_like(fed[i]), QUIET * fed[i], -fed[i])
            zero, *others = (decided(*fed[:i], variant, *fed[i + 1 :]) for variant in variants)
            if zero != usual and all(other == usual for other in others):
                yield leaf.name


def _raises(run: _Run, here: tuple[str, int]) -> bool:
    """True if a run ended in a `raise` or `assert` of the function that decided."""
    trace = run.error.__traceback__ if run.error is not None else None
    frames = list(_frames(trace))
    if not frames:
        return False
    code, last, _ = frames[-1]
    raised = next((i.opname for i in dis.get_instructions(code) if i.offset == last), "") == "RAISE_VARARGS"
    users = [(c, n) for c, _, n in frames if not is_foreign(c.co_filename)]
    decided = {c for c, _, _ in frames if c.co_filename == here[0] and here[1] in {n for _, _, n in c.co_lines()}}
    # A check of torch's is raised below the line that called it.
    below = bool(users) and (users[-1][0].co_filename, users[-1][1]) == here and code not in {c for c, _ in users}
    return raised and (code in decided or below)


def _frames(trace: TracebackType | None) -> Iterator[tuple[CodeType, int, int]]:
    while trace is not None:
        yield trace.tb_frame.f_code, trace.tb_lasti, trace.tb_lineno
        trace = trace.tb_next


def _trials(flat: FlatModel) -> Iterator[list[Tensor]]:
    """Inputs of every kind, and of kinds mixed among inputs, with states that calls of the model leave."""
    noise, leaves = Noise(flat, seed=3), flat.inputs
    kinds = list(_KINDS)
    alike = [[kind] * len(leaves) for kind in kinds]
    picks = torch.randint(len(kinds), (MIXED, len(leaves)), generator=noise.generator).tolist()
    mixed = [[kinds[i] for i in row] for row in picks] if len(leaves) > 1 else []
    for chosen in itertools.chain(alike, mixed):
        # What is loud may show in some states alone.
        for starts in (True, False) if flat.states else (True,):
            inputs = [_KINDS[kind](noise, leaf.example) for kind, leaf in zip(chosen, leaves, strict=True)]
            states = [x.example if starts else noise.between(flat.seen[x.name], 1)[0] for x in flat.states]
            yield [*inputs, *states]


def _more_trials(flat: FlatModel, sure: Mapping[bool, Sequence[Sequence[Tensor]]]) -> Iterator[list[Tensor]]:
    """Noise around other means until each branch has `ENOUGH` trials: on silence branches agree by chance."""
    noise = Noise(flat, seed=5)
    for k in range(DRAWS):
        if all(sum(_has_values(flat, fed) for fed in trials) >= ENOUGH for trials in sure.values()):
            return
        inputs = []
        for leaf in flat.inputs:
            drawn = noise.like(leaf.example, {})
            if _is_flag(leaf.example):
                drawn = drawn * (k % 2)
            inputs.append(drawn + (k % 3 - 1) if drawn.is_floating_point() and not _is_flag(leaf.example) else drawn)
        yield [*inputs, *(x.example for x in flat.states)]


def _with_loud_entries(flat: FlatModel, sure: Mapping[bool, Sequence[Sequence[Tensor]]]) -> Iterator[list[Tensor]]:
    """Trials of each way with one entry of the last axis of an input loud: what only that entry shows, others hide."""
    draws = torch.Generator().manual_seed(6)
    for fed in [fed for trials in sure.values() for fed in list(trials)[:REPLACED]]:
        for i, leaf in enumerate(flat.inputs):
            if not leaf.example.is_floating_point() or not leaf.example.dim() or _is_flag(leaf.example):
                continue
            for entry in torch.randperm(leaf.example.shape[-1], generator=draws)[:ENTRIES].tolist():
                for scale in LOUD_ENTRIES:
                    changed = fed[i].clone()
                    changed[..., entry] = scale * (0.5 + torch.rand(changed.shape[:-1], generator=draws))
                    yield [*fed[:i], changed, *fed[i + 1 :]]


def _has_values(flat: FlatModel, fed: Sequence[Tensor]) -> bool:
    """True if no input of numbers is zero throughout."""
    numbers = [x for leaf, x in zip(flat.inputs, fed, strict=False) if not _is_flag(leaf.example)]
    return all(bool(x.count_nonzero()) for x in numbers if x.is_floating_point())


def _flags(noise: Noise, example: Tensor) -> Tensor:
    return torch.randint(2, example.shape, generator=noise.generator).to(example)


def _one_nan(noise: Noise, example: Tensor) -> Tensor:
    drawn = noise.like(example, {})
    if drawn.is_floating_point():
        drawn.view(-1)[0] = torch.nan
    return drawn


def _scaled(scale: float) -> Callable[[Noise, Tensor], Tensor]:
    def drawn(noise: Noise, example: Tensor) -> Tensor:
        value = noise.like(example, {})
        return value * scale if value.is_floating_point() else value

    return drawn


_KINDS: dict[str, Callable[[Noise, Tensor], Tensor]] = {
    "example": lambda noise, example: example.clone(),
    "noise": _scaled(1.0),
    "zeros": lambda noise, example: torch.zeros_like(example),
    "ones": lambda noise, example: torch.ones_like(example),
    "flags": _flags,
    "negative": _scaled(-1.0),
    "louder": _scaled(4.0),
    "strong": _scaled(30.0),
    "loud": _scaled(LOUD),
    "quiet": _scaled(QUIET),
    "NaN": _one_nan,
}
