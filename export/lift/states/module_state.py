"""Makes states of the module state: buffers and plain attributes that change between calls."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.ir.compare import EXACT, MEMORY, START, Tolerance, same
from rnn_export.export.lift.model.call.complex_parts import parts_of
from rnn_export.export.lift.model.call.pytree import leaves_of
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.module_attributes import AttributePath, attributes, separate_entries
from rnn_export.export.lift.model.sample_inputs import SCALES, Noise
from rnn_export.export.lift.model.script.script_modules import unscripted
from rnn_export.export.lift.states.hidden_state import CALLS, Hidden, hidden_memory
from rnn_export.export.lift.states.other_memory import changed_by_calls, refuse_other_memory
from rnn_export.export.lift.states.undefined_initial import why_nan
from rnn_export.export.lift.states.unread_counters import unread_counters
from rnn_export.export.lift.trace.dataflow import Dataflow
from rnn_export.platform.last_resort import failing_at

# How often what is found leads to more.
ROUNDS = 4
# Values that a state may start from, each tried with each of the others.
STARTS, TRIED = 6, 64
INSTEAD = (
    "Register it as a buffer, self.register_buffer(name, tensor): that becomes a state. Or take it as an argument, "
    "return its next value, and declare it: states={argument: output} (--state ARGUMENT=OUTPUT)."
)


def with_states(flat: FlatModel) -> FlatModel:
    """A deep copy that decides as known, with the attributes that calls change and later ones read as states.

    Raises LiftError, with the path, for memory that is no tensor of one shape, grows, or has an unknown initial value.
    """
    decisions = replace(flat.decisions, checked=False)
    flat = flat.with_model(unscripted).replace(decisions=decisions, packs_full_rows=flat.packs)
    noise = Noise(flat)
    try:
        with torch.no_grad():
            separate_entries(flat.model)
            _warm_up(flat, noise)
            _keep(flat, _changed_buffers(copy.deepcopy(flat), noise), noise)
            for _ in range(ROUNDS):
                hidden = hidden_memory(copy.deepcopy(flat), _draw(flat, noise, module_states=True))
                found = [path for path in hidden.read if path not in flat.module_state_paths]
                if hidden.grown or not found:
                    break
                _keep(flat, found, noise)
            _refuse(hidden, flat, noise)
            flat.forget(unread_counters(flat, _draw(flat, noise, module_states=True)))
            _warm_up(flat, noise)
            _refuse_random_state(flat, noise)
            refuse_other_memory(flat, lambda scale: _draw(flat, noise, module_states=True, scale=scale))
        flat.check_names()
        return flat
    except LiftError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise LiftError(
            f"the model fails on noise in the shape of its example: {first_line(error)}{failing_at(error)}. A stream "
            "may be fed any values, and its tensors are dense and on the CPU: let the code take and make such.",
            id="fails-on-noise",
        ) from error


def _draw(flat: FlatModel, noise: Noise, module_states: bool = False, scale: float = 1.0) -> list[Tensor]:
    """Inputs, `scale` times the example's, and declared states, and with `with_states` the others."""
    states = flat.states if module_states else flat.declared
    inputs = (noise.like(leaf.example, {}) for leaf in flat.inputs)
    return [
        *(x * scale if x.is_floating_point() else x for x in inputs),
        *(noise.between(flat.seen[leaf.name], 1)[0] for leaf in states),
    ]


def _warm_up(flat: FlatModel, noise: Noise) -> None:
    """Record values that calls leave in states: noise of other kinds may be none."""
    called, states = copy.deepcopy(flat), [leaf.example for leaf in flat.states]
    seen = [states]
    for _ in range(CALLS):
        results = called(*(noise.like(leaf.example, {}) for leaf in flat.inputs), *(t.clone() for t in states))
        states = [t.clone() for t in results[len(flat.outputs) :]]
        seen.append(states)
    for leaf, values in zip(flat.states, zip(*seen, strict=True), strict=True):
        flat.seen[leaf.name] = torch.stack(values)


def _changed_buffers(flat: FlatModel, noise: Noise) -> list[AttributePath]:
    """The buffers that calls change: another tensor, other values, or the same ones written again."""
    paths = [AttributePath(path, (name,)) for path, module in flat.model.named_modules() for name in module._buffers]

    def versions() -> list[tuple[int, int]]:
        held = [path.get(flat.model) for path in paths]
        return [(id(t), t._version if isinstance(t, Tensor) else 0) for t in held]

    # What is held cannot have its id given to another tensor.
    first, values = versions(), [path.get(flat.model) for path in paths]
    copies = [copy.deepcopy(value) for value in values]
    changed: set[AttributePath] = set()
    for _ in range(CALLS):
        flat.call_stateful(*_draw(flat, noise))
        for path, before, now, value in zip(paths, first, versions(), copies, strict=True):
            if before != now or not _same(value, path.get(flat.model), EXACT):
                changed.add(path)
    return [path for path in paths if path in changed]


def _keep(flat: FlatModel, paths: Sequence[AttributePath], noise: Noise) -> None:
    """Make states of `paths`, each with the initial value that the first call of the model uses."""
    called = copy.deepcopy(flat)
    seen: dict[AttributePath, list[Tensor]] = {path: [] for path in paths}
    for _ in range(CALLS):
        called.call_stateful(*_draw(flat, noise))
        for path, values in seen.items():
            values.append(_as_state(path, called.model, values))
    set_once = [path for path, values in seen.items() if _is_set_once(path.get(flat.model), values)]
    # What calls set may follow from what they decide by values: then it is as it was until one does.
    if set_once and not flat.decisions.chosen:
        try:
            return _keep_seen(flat, called, seen, set_once, noise)
        except LiftError:
            # What a first call does otherwise, a flag that is a state decides.
            if not all(isinstance(path.get(flat.model), int | float) for path in set_once):
                raise
    return _keep_seen(flat, called, seen, [], noise)


def _keep_seen(
    flat: FlatModel,
    called: FlatModel,
    seen: Mapping[AttributePath, Sequence[Tensor]],
    set_once: Sequence[AttributePath],
    noise: Noise,
) -> None:
    """Make states of the paths `seen`; those `set_once` stay as the first call left them."""
    paths = list(seen)
    groups = _aliases(flat.model, called.model, [path for path in paths if path not in set_once])
    last = [seen[group[0]][-1] for group in groups]
    starts = [_start_of(group[0].get(flat.model), value) for group, value in zip(groups, last, strict=True)]
    zeros = [torch.zeros_like(value) for value in last]
    known = [zero if start is None else start for start, zero in zip(starts, zeros, strict=True)]
    with_states = copy.deepcopy(flat)
    for path in set_once:
        path.put(with_states.model, path.get(called.model))
    with_states.keep(groups, known, called.model)
    created = {i: zero for i, (start, zero) in enumerate(zip(starts, zeros, strict=True)) if start is None}
    if created or set_once:
        known = _first_used(flat, with_states, known, created, set_once, noise)
    for path in set_once:
        path.put(flat.model, path.get(called.model))
    flat.keep(groups, known, called.model)


def _is_set_once(before: Any, seen: Sequence[Tensor]) -> bool:
    """True if every call sets a number to the same other value: a flag that the first one sets."""
    if not isinstance(before, int | float) or _same(torch.tensor(before), seen[0], EXACT):
        return False
    return all(_same(x, seen[0], EXACT) for x in seen)


def _aliases(first: nn.Module, called: nn.Module, paths: Sequence[AttributePath]) -> list[tuple[AttributePath, ...]]:
    """`paths`, each with the others of the same tensor before and after calls, and none of them twice."""

    def held(model: nn.Module) -> dict[AttributePath, int]:
        return {path: id(value) for path, value in attributes(model) if isinstance(value, Tensor)}

    before, after = held(first), held(called)
    same_in_both = {path: (before[path], after[path]) for path in before if path in after}
    groups: dict[AttributePath, tuple[AttributePath, ...]] = {}
    for path in paths:
        if not any(path in group for group in groups.values()):
            here = same_in_both.get(path)
            others = [p for p, ids in same_in_both.items() if ids == here and p != path]
            groups[path] = (path, *others)
    return list(groups.values())


def _as_state(path: AttributePath, model: nn.Module, before: Sequence[Tensor]) -> Tensor:
    """The value left by a call at `path`, as a tensor; `before` are earlier ones."""
    value, what = path.get(model), f"{kind_of(path, model)} {str(path)!r}"
    if value is None:
        raise LiftError(
            f"{what} is set to None by a call: a state must be a tensor of one shape.", id="state-set-to-none"
        )
    if not isinstance(value, Tensor | int | float):
        raise LiftError(
            f"{what}, which calls of the model change and read, is a {type(value).__name__}: a state must be a tensor "
            f"or a number. {INSTEAD}",
            id="state-not-a-tensor",
        )
    tensor = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(value)
    if before and before[0].shape != tensor.shape:
        raise LiftError(
            f"{what} changes its shape from call to call, from {tuple(before[0].shape)} to {tuple(tensor.shape)}: a "
            "state must keep its shape. Keep a fixed number of frames in it.",
            id="state-shape-changes",
        )
    return tensor


def kind_of(path: AttributePath, model: nn.Module) -> str:
    """The kind of state at `path`."""
    return "buffer" if path.is_buffer(model) else "attribute"


def _start_of(before: Any, after: Tensor) -> Tensor | None:
    """The first value of a state that calls leave as `after`; None if the first call makes it."""
    if not isinstance(before, Tensor | int | float):
        return None
    value = torch.as_tensor(before)
    try:
        return value.expand_as(after).to(after.dtype).clone()
    except RuntimeError:  # of another shape: a placeholder
        return None


class _Unfed(Dataflow):
    """The tensors that a call makes of weights and constants alone: possible initial values."""

    def __init__(self, fed: Sequence[Tensor]) -> None:
        super().__init__(enumerate(fed))
        self.made: list[Tensor] = []

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        results = super().see(func, args, kwargs)
        self.made += [t.clone() for t in leaves_of(results) if not self.names_of(t)]
        return results


@dataclass(frozen=True)
class _FirstCall:
    """The results of a first call, and the tensors that it makes of weights and constants."""

    fed: list[Tensor]
    outputs: tuple[Tensor, ...]
    left: list[Tensor]
    made: list[Tensor]

    @classmethod
    def of(cls, flat: FlatModel, with_states: FlatModel, fed: list[Tensor]) -> _FirstCall:
        called, made = copy.deepcopy(flat), _Unfed(fed)
        with made:
            outputs = called.call_stateful(*fed)
        new = with_states.module_states[len(flat.module_states) :]
        left = parts_of(_as_state(group[0], called.model, ()) for group in new)
        return cls(fed, outputs, list(left), made.made)

    def is_as_from(self, with_states: FlatModel, states: Sequence[Tensor]) -> bool:
        """True if `with_states` gives and leaves the same from `states`."""
        # A copy, since a call may change what is no state yet.
        results = copy.deepcopy(with_states)(*(t.clone() for t in (*self.fed, *parts_of(states))))
        wanted = [*self.outputs, *results[len(self.outputs) : len(results) - len(self.left)], *self.left]
        return all(_same(a, b, START) for a, b in zip(results, wanted, strict=True))


def _first_used(
    flat: FlatModel,
    with_states: FlatModel,
    known: list[Tensor],
    created: Mapping[int, Tensor],
    set_once: Sequence[AttributePath],
    noise: Noise,
) -> list[Tensor]:
    """`known` with initial values for `created` states, so that `with_states` does what a first call of `flat` does.

    In `with_states` the numbers at `set_once` are those that a first call leaves.
    """
    others = [leaf.example for leaf in flat.states[len(flat.declared) :]]
    trials = [_FirstCall.of(flat, with_states, _draw(flat, noise, scale=scale)) for scale in SCALES]
    choices = {i: _distinct(zero, trials[0].made) for i, zero in created.items()}
    for choice in itertools.islice(itertools.product(*choices.values()), TRIED):
        starts = [dict(zip(choices, choice, strict=True)).get(i, start) for i, start in enumerate(known)]
        if all(trial.is_as_from(with_states, [*others, *starts]) for trial in trials):
            return starts
    names = ", ".join(
        repr(str(path))
        for path in (*(with_states.module_states[len(flat.module_states) + i][0] for i in created), *set_once)
    )
    raise LiftError(
        f"{names}: the first call sets this, and does something else than later ones do from zeros, or from what it "
        "makes of weights and constants: register the state as a buffer with the value that it starts from. Where no "
        "value makes them alike, as of a mean that starts at its first frame, register a flag beside it, "
        "`started`, zeros of (batch, 1) and torch.bool; let each call compute both, choose by "
        "torch.where(self.started, later, first), and set the flag to torch.ones_like(self.started).",
        id="first-call-sets-state",
    )


def _distinct(zero: Tensor, made: Sequence[Tensor]) -> list[Tensor]:
    """Zeros, and tensors of `made` of their shape and dtype."""
    found = [zero]
    for value in made:
        if len(found) < STARTS and value.dtype == zero.dtype and value.shape == zero.shape:
            found += [] if any(_same(value, other, EXACT) for other in found) else [value]
    return found


def _refuse(hidden: Hidden, flat: FlatModel, noise: Noise) -> None:
    """Raise LiftError for memory that can be no state."""
    if hidden.grown:
        names = ", ".join(dict.fromkeys(repr(str(path)) for path in hidden.grown))
        raise LiftError(
            f"the model remembers more with each call, in {names}: a state must keep its shape. Keep a fixed number of "
            "frames in it.",
            id="memory-grows-with-calls",
        )
    if hidden.read:
        names = ", ".join(dict.fromkeys(repr(str(path.root)) for path in hidden.read))
        raise LiftError(
            f"the model remembers {names} between calls in a way that was not followed. {INSTEAD}",
            id="memory-not-followed",
        )
    if hidden.other:
        raise LiftError(_random_state(flat, noise), id="state-drawn-at-random")


def _random_state(flat: FlatModel, noise: Noise) -> str:
    """The message for a model whose outputs differ from call to call; it names what calls change."""
    if moved := changed_by_calls(flat, lambda scale: _draw(flat, noise, module_states=True, scale=scale)):
        return (
            f"calls of the model change {', '.join(moved)}, which is no tensor and no number, and do "
            "something else then: what they do must be the same at every call. Keep it as a tensor; let a first call "
            "do what later ones do, from a buffer that holds what it starts from; choose between two ways with "
            "torch.where."
        )
    return (
        "the model gives other outputs for the same inputs at each call: it draws random numbers, or remembers "
        "something between calls that was not found in its attributes. Make eval mode deterministic; return what is "
        "remembered."
    )


def _refuse_random_state(flat: FlatModel, noise: Noise) -> None:
    """Raise LiftError if a call with given states gives NaN or varies between calls."""
    arguments = _draw(flat, noise, module_states=True)
    once, called = copy.deepcopy(flat)(*arguments), copy.deepcopy(flat)
    if any(bool(torch.isnan(t).any()) for t in once):
        raise LiftError(f"the model gives NaN for ordinary noise: {why_nan(flat, arguments)}", id="noise-gives-nan")
    called(*arguments)
    if not all(_same(a, b, MEMORY) for a, b in zip(once, called(*arguments), strict=True)):
        raise LiftError(_random_state(flat, noise), id="state-drawn-at-random")


def _same(a: Tensor | None, b: Tensor | None, tolerance: Tolerance) -> bool:
    return a is b or (a is not None and b is not None and same(a, b, tolerance))
