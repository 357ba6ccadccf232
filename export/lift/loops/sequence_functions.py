"""Functions of the user's code that take a whole sequence, as loops over its frames, which lifting folds.

A scan of an operator, after jax's and torch's `associative_scan`, has other operators at each length. Chunkwise forms
of linear attention, state space models and delta rules take many frames at once, and pass a state from chunk to chunk.
Both are known by trying them on the arguments of a call: a scan gives what its operator gives frame after frame, and a
chunkwise form gives the same frame by frame if each call is given the state that the one before returned.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops import associative_scan
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.compare import BRANCH_TOLERANCE, same
from rnn_export.export.lift.ir.op_recorder import CountsOperators
from rnn_export.export.lift.ir.recurrence_operators import LOUD
from rnn_export.export.lift.trace.call_profiler import Called
from rnn_export.export.lift.trace.patches import as_it_is

# Lengths at which a loop is tried, beside that of the call, and how many times as long a call shows its chunks.
FEW, LONGER = (1, 2, 7), 9
# Calls of one function that are looked at.
TRIES = 3
Loop = Callable[..., Any]


def sequence_loops(calls: Sequence[Called], declared: Mapping[FunctionType, FunctionType]) -> dict[FunctionType, Loop]:
    """The sequence functions among `calls`, those `declared` and torch's associative scan, each with its loop.

    Trials leave what they will in the model. Raises LiftError if the model does not call one of those declared.
    """
    called_code = {called.code for called in calls}
    if idle := next((f for f in declared if calls and f.__code__ not in called_code), None):
        raise LiftError(
            f"recurrent_form names {idle.__qualname__} of {idle.__module__}, which the model does not call, or by a "
            "wrapper: leave it out, or name the function that stands in the file of the model.",
            id="recurrent-form-never-called",
        )
    # The package has a function of its module's name.
    loops: dict[FunctionType, Loop] = {associative_scan.__globals__["generic_associative_scan"]: _sequential}
    loops |= declared
    tried, found = Counter[CodeType](), {f.__code__ for f in loops}
    known = set[Called]()
    for called in calls:
        if called.code not in found and known.isdisjoint(called.inside) and tried[called.code] < TRIES:
            tried[called.code] += 1
            with torch.no_grad():
                loop = _fold_of(called) or _chunkwise(called)
            if loop is not None:
                loops[called.function] = loop
                found.add(called.code)
        if called.code in found or not known.isdisjoint(called.inside):
            known.add(called)
    return loops


def _same(given: Any, want: Any) -> bool:
    return given.dtype == want.dtype and same(given, want, BRANCH_TOLERANCE)


# --- scans


def _fold_of(called: Called) -> Loop | None:
    """The loop of a scan; a function is among its arguments, and a list of tensors, whose shapes the results have."""
    given = called.arguments
    operators = [n for n, v in given.items() if isinstance(v, FunctionType | MethodType | partial)]
    sequences = [n for n, v in given.items() if isinstance(v, list | tuple) and v and all(map(torch.is_tensor, v))]
    results, spec = tree_flatten(called.result)
    if len(operators) != 1 or len(sequences) != 1 or called.function is None:
        return None
    (operator,), (sequence,), own = operators, sequences, as_it_is(called.function)
    elements = given[sequence]
    if [getattr(r, "shape", None) for r in results] != [e.shape for e in elements]:
        return None
    loud = [[*elements[:i], n * x, *elements[i + 1 :]] for n in LOUD for i, x in enumerate(elements)]

    def agrees(dim: int, values: Sequence[Tensor], want: Sequence[Tensor] | None = None) -> bool:
        try:
            want = tree_leaves(own(**given | {sequence: values})) if want is None else want
            pairs = zip(_fold(given[operator], values, dim), want, strict=True)
            return all(_same(a, b) or not bool(b.isfinite().all()) for a, b in pairs)
        except Exception:  # an axis or values that it does not take
            return False

    dims = (d for d in range(min(e.dim() for e in elements)) if elements[0].shape[d] > 2)
    dim = next((d for d in dims if agrees(d, elements, results)), None)
    if dim is None or not all(agrees(dim, values) for values in loud):
        return None
    signature, axis = inspect.signature(own), dim

    def loop(*args: Any, **kwargs: Any) -> Any:
        taken = signature.bind(*args, **kwargs).arguments
        return tree_unflatten(_fold(taken[operator], taken[sequence], axis), spec)

    return loop


def _fold(operator: Any, elements: Sequence[Tensor], dim: int) -> list[Tensor]:
    frames = [[t.narrow(dim, i, 1) for t in elements] for i in range(elements[0].shape[dim])]
    carried = [frames[0]]
    for frame in frames[1:]:
        carried.append(list(operator(carried[-1], frame)))
    return [torch.cat(parts, dim) for parts in zip(*carried, strict=True)]


def _sequential(operator: Any, leaves: Sequence[Tensor], dim: int = 0, additional_inputs: Any = ()) -> list[Tensor]:
    """The running combination of `leaves` along axis 0; `operator` combines two frames, leaf by leaf."""
    combine = {**operator.keywords}
    # One frame has no axis that `combine_fn` would be mapped over: what torch.vmap holds takes it.
    combine["combine_fn"] = inspect.getclosurevars(combine["combine_fn"]).nonlocals["func"]
    carried = [leaf.select(0, 0) for leaf in leaves]
    frames = [carried]
    for t in range(1, leaves[0].shape[0]):
        carried = tree_leaves(operator.func(*carried, *(leaf.select(0, t) for leaf in leaves), **combine))
        frames.append(carried)
    return [torch.stack(leaf) for leaf in zip(*frames, strict=True)]


# --- chunkwise forms


def _chunkwise(called: Called) -> Loop | None:
    """The loop over single frames of a function that takes them in chunks, if each can go on from a state."""
    given, output = called.arguments, _first(called.result)
    starts = [n for n, v in given.items() if v is None or isinstance(v, Tensor)]
    if not isinstance(output, Tensor):
        return None
    for axis in (a for a in (1, 2) if output.dim() > a):
        frames = output.shape[axis]
        timed = [n for n, v in given.items() if isinstance(v, Tensor) and v.dim() > axis and v.shape[axis] == frames]
        if not timed or not {*starts} - {*timed} or frames <= max(FEW) or called.function is None:
            continue
        form = _Chunkwise(as_it_is(called.function), given, called.result, axis, timed)
        flags = [{n: True} for n, v in given.items() if v is False]
        left = [({}, _states(called.result)), *((flag, _states(form.tried(0, frames, flag))) for flag in flags)]
        if not any(states for _, states in left) or not form.does_more_by_chunks():
            continue
        # The length of a chunk is a number whose results do not depend on it.
        counts = [{n: 1} for n, v in given.items() if type(v) is int and v > 1]
        names = [n for n in starts if n not in timed]
        for final, states in left:
            for first in range(len(names) - len(states) + 1) if states else ():
                for options in [*counts, {}]:
                    found = replace(form, options={**final, **options}, starts=names[first:][: len(states)])
                    if found.is_right():
                        return found.loop
    return None


@dataclass(frozen=True)
class _Chunkwise:
    """A function of tensors with frames along `axis`, the arguments `timed`.

    `options` let it return the state after the last frame, and take single ones; `starts` are the arguments that take
    such a state.
    """

    own: FunctionType
    given: Mapping[str, Any]
    result: Any
    axis: int
    timed: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    starts: Sequence[str] = ()

    @property
    def frames(self) -> int:
        return int(self.given[self.timed[0]].shape[self.axis])

    def called(self, start: int, count: int, others: Mapping[str, Any]) -> Any:
        """The result over frames of the call, which begin anew behind its last one."""
        more = -(-(start + count) // self.frames)
        cut = {n: torch.cat([self.given[n]] * more, self.axis).narrow(self.axis, start, count) for n in self.timed}
        return self.own(**{**self.given, **cut, **others})

    def tried(self, start: int, count: int, others: Mapping[str, Any]) -> Any:
        """The same; None where the function takes no such call."""
        try:
            return self.called(start, count, others)
        except Exception:  # the user's code may raise anything
            return None

    def does_more_by_chunks(self) -> bool:
        """True if many frames go through more operators, but not through more with each."""
        frames = self.frames
        less, own, more = (self._operators(n) for n in (frames - 1, frames, LONGER * frames))
        return more > own and not (less and more - own == (own - less) * (LONGER - 1) * frames)

    def _operators(self, frames: int) -> int:
        with CountsOperators() as counted:
            return 0 if self.tried(0, frames, {}) is None else counted.calls

    def loop(self, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(self.own).bind(*args, **kwargs)
        bound.apply_defaults()
        others = [n for n, p in bound.signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]
        given = {**bound.arguments, **{key: value for n in others for key, value in bound.arguments.pop(n).items()}}
        states, outputs = [given[n] for n in self.starts], list[Tensor]()
        for t in range(given[self.timed[0]].shape[self.axis]):
            frame = {**given, **self.options, **{n: given[n].narrow(self.axis, t, 1) for n in self.timed}}
            if any(state is None for state in states):
                # All iterations are alike where the first one starts from zeros too.
                states = [last.new_zeros(last.shape) for last in _states(self.own(**frame))]
            result = self.own(**{**frame, **dict(zip(self.starts, states, strict=True))})
            states = _states(result)
            outputs.append(_first(result))
        (leaves, spec), left = tree_flatten(self.result), iter(states)
        rest = [next(left) if isinstance(v, Tensor) else v for v in leaves[1:]]
        return tree_unflatten([torch.cat(outputs, self.axis), *rest], spec)

    def is_right(self) -> bool:
        """True if the loop gives the same over the frames of the call, and over fewer, quiet and loud."""
        frames, want = self.frames, _first(self.result)
        half = frames // 2
        try:
            if not _same(_first(self.loop(**self.given)), want):
                return False
            last = _states(self.called(0, half, self.options))
            rest = self.called(half, frames - half, dict(zip(self.starts, last, strict=True)))
            # One state may stand for another, as a sum with another scale taken out of it.
            if not _same(_first(rest), want.narrow(self.axis, half, frames - half)):
                return False
            for count in FEW:
                # It may take whole chunks alone.
                if (few := self.tried(0, count, {})) is not None:
                    cut = {n: self.given[n].narrow(self.axis, 0, count) for n in self.timed}
                    if not _same(_first(self.loop(**{**self.given, **cut})), _first(few)):
                        return False
        except Exception:  # values that it does not take, or results of another kind
            return False
        return all(map(self._has_no_limit, self.timed))

    def _has_no_limit(self, name: str) -> bool:
        """True if the function, linear in an argument about 1, is so where it is loud; or if it is not linear in it."""

        def is_linear(scale: float) -> bool:
            result = self.tried(0, self.frames, {name: scale * self.given[name]})
            return result is not None and _same(_first(result), scale * _first(self.result))

        return not self.given[name].is_floating_point() or not is_linear(2.0) or all(map(is_linear, LOUD))


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple | list) and result else result


def _states(result: Any) -> list[Tensor]:
    return [v for v in tree_leaves(result[1:]) if isinstance(v, Tensor)] if isinstance(result, tuple | list) else []
