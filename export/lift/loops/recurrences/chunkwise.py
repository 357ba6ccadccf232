"""Chunkwise functions, which pass a state from chunk to chunk of a sequence, called frame by frame.

Chunkwise forms of linear attention, state space models and delta rules are functions of one kind: they take an initial
state, and return the final one on request. So each can be called with one frame and a state. A trial shows if the
results frame by frame equal those of the whole sequence.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from rnn_export.export.lift.ir.compare import BRANCH_TOLERANCE, same
from rnn_export.export.lift.loops.recurrences.linear_recurrences import LOUD
from rnn_export.export.lift.trace.patches import as_it_is, standing_in

# What the parameters are called: the states to start from, whether the last ones are given, the frames of a piece.
START = re.compile(r"initial|init_|(init|prev|past).*state")
FINAL = re.compile(r"(return|output|final|last).*state")
SEGMENT = re.compile(r"(chunk|block).*(size|len)")
# Lengths at which it is tried, beside that of the call.
FEW = (1, 2, 7)
OURS = ("torch", "rnn_export", "numpy", "sympy", "onnx")


@dataclass(frozen=True)
class _Names:
    """The parameters of a function: `frames` has the axis of time of each that has one."""

    start: tuple[str, ...]
    final: str
    segment: str | None
    frames: Mapping[str, int]


@contextlib.contextmanager
def chunkwise_functions(call: Callable[[], Any]) -> Iterator[None]:
    """Let the chunkwise functions that `call` uses go frame by frame in the block."""
    found = {f: loop for f, seen in _used(call).items() if (loop := _frame_by_frame(f, *seen)) is not None}
    with standing_in(found):
        yield


def _used(call: Callable[[], Any]) -> dict[FunctionType, tuple[dict[str, Any], Any]]:
    """The chunkwise functions that `call` uses, with the arguments and the result of a call of each."""
    used: dict[FunctionType, tuple[dict[str, Any], Any]] = {}

    def seen(function: FunctionType) -> Callable[..., Any]:
        original, signature = as_it_is(function), inspect.signature(function)

        def look(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            used.setdefault(function, (dict(bound.arguments), result))
            return result

        return look

    candidates = list(_candidates())
    if candidates:
        with standing_in({f: seen(f) for f in candidates}), torch.no_grad(), contextlib.suppress(Exception):
            call()  # what fails here fails again where it counts
    return used


def _candidates() -> Iterator[FunctionType]:
    found = set[FunctionType]()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in sys.stdlib_module_names or name.split(".")[0] in OURS:
            continue
        for value in list(getattr(module, "__dict__", {}).values()):
            function = inspect.unwrap(value) if isinstance(value, FunctionType) else None
            if isinstance(function, FunctionType) and function not in found and not function.__closure__:
                names = _parameters(function)
                if any(map(START.search, names)) and any(map(FINAL.search, names)):
                    found.add(function)
                    yield function


def _parameters(function: FunctionType) -> Sequence[str]:
    code = function.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _frame_by_frame(function: FunctionType, given: dict[str, Any], result: Any) -> Callable[..., Any] | None:
    """`function` as a loop over its frames; None if that gives something else."""
    parameters = _parameters(function)
    final = next(filter(FINAL.search, parameters))
    start = tuple(n for n in parameters if START.search(n) and n != final)
    segment = next(filter(SEGMENT.search, parameters), None)
    if not start or not isinstance(given[final], bool):
        return None
    tensors = {n: v for n, v in given.items() if isinstance(v, Tensor) and n not in start and v.dim() > 1}
    for axis in (1, 2):
        sizes = [v.shape[axis] for v in tensors.values() if v.dim() > axis]
        frames = max(sizes, default=0)
        of_frames = {n: axis for n, v in tensors.items() if v.dim() > axis and v.shape[axis] == frames}
        names = _Names(start, final, segment, of_frames)
        loop = _loop(function, names, isinstance(result, Tensor))
        if frames > 1 and _agrees(function, loop, given, names, frames, result):
            return loop if all(_has_no_limit(function, given, name, result) for name in of_frames) else None
    return None


def _has_no_limit(function: FunctionType, given: Mapping[str, Any], name: str, result: Any) -> bool:
    """True if the function, linear in an argument about 1, is so where it is loud; or if it is not linear in it."""

    def is_linear(scale: float) -> bool:
        try:
            called = function(**_flat(inspect.signature(function), {**given, name: scale * given[name]}))
        except Exception:  # values that it does not take
            return False
        return _same(_output(called), scale * _output(result))

    with torch.no_grad():
        return not given[name].is_floating_point() or not is_linear(2.0) or all(map(is_linear, LOUD))


def _agrees(
    chunkwise: FunctionType,
    loop: Callable[..., Any],
    given: Mapping[str, Any],
    names: _Names,
    frames: int,
    result: Any,
) -> bool:
    """True if `loop` gives the same over the frames of the call, and over fewer."""
    (axis, *_), half = names.frames.values(), frames // 2

    def called(function: Callable[..., Any], start: int, count: int, **others: Any) -> Any:
        cut = {n: v.narrow(names.frames[n], start, count) if n in names.frames else v for n, v in given.items()}
        return function(**{**_flat(inspect.signature(chunkwise), cut), **others})

    try:
        with torch.no_grad():
            if not _same(_output(called(loop, 0, frames)), _output(result)):
                return False
            last = _parts(called(loop, 0, half, **{names.final: True})[1])
            rest = called(chunkwise, half, frames - half, **dict(zip(names.start, last, strict=True)))
            # One state may stand for another, as a sum with another scale taken out of it.
            if not _same(_output(rest), _output(result).narrow(axis, half, frames - half)):
                return False
            for count in (n for n in FEW if n < frames):
                try:
                    want = called(chunkwise, 0, count)
                except Exception:  # no whole piece
                    continue
                if not _same(_output(called(loop, 0, count)), _output(want)):
                    return False
            return True
    except Exception:  # an axis that it does not take, or results of another kind
        return False


def _output(result: Any) -> Any:
    return result if isinstance(result, Tensor) else result[0]


def _flat(signature: inspect.Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, with those in `**kwargs` among them."""
    others = next((p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD), "")
    return {**{n: v for n, v in given.items() if n != others}, **given.get(others, {})}


def _same(given: Tensor, want: Tensor) -> bool:
    return given.dtype == want.dtype and same(given, want, BRANCH_TOLERANCE)


def _loop(function: FunctionType, names: _Names, gives_one: bool) -> Callable[..., Any]:
    original, signature = as_it_is(function), inspect.signature(function)

    def frame_by_frame(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = _flat(signature, bound.arguments)
        states = [given[n] for n in names.start]
        name, axis = next(iter(names.frames.items()))
        options = {names.final: True, **({names.segment: 1} if names.segment else {})}
        outputs: list[Tensor] = []
        for t in range(given[name].shape[axis]):
            frame = {**given, **options, **{n: given[n].narrow(a, t, 1) for n, a in names.frames.items()}}
            if any(state is None for state in states):
                # All iterations are alike where the first one starts from zeros too.
                states = [torch.zeros_like(last) for last in _parts(original(**frame)[1])]
            output, last = original(**{**frame, **dict(zip(names.start, states, strict=True))})
            states = _parts(last)
            outputs.append(output)
        whole = torch.cat(outputs, axis)
        if given[names.final]:
            return whole, last
        return whole if gives_one else (whole, None)

    return frame_by_frame


def _parts(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)
