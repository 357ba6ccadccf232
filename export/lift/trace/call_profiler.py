"""Observes the calls of Python functions while code runs."""

from __future__ import annotations

import contextlib
import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch

from rnn_export.export.lift.model.outside_values import FOREIGN


@dataclass(eq=False)
class Called:
    """A call of a function of the user's: its arguments by name, its result, and the calls in it."""

    code: CodeType
    arguments: dict[str, Any]
    names: dict[str, Any] = field(repr=False)
    inside: list[Called] = field(default_factory=list)
    result: Any = None

    @cached_property
    def function(self) -> Any:
        """The function, or one that has its code where closures are made of it; None if it is gone."""
        owner = type(next(iter(self.arguments.values()), None))
        near = (self.names.get(self.code.co_name), getattr(owner, self.code.co_name, None))
        own = [f for f in map(inspect.unwrap, filter(callable, near)) if getattr(f, "__code__", None) is self.code]
        return next((f for f in own or gc.get_referrers(self.code) if isinstance(f, FunctionType)), None)


@contextlib.contextmanager
def watching(see: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Make `see` the function of `sys.setprofile`; on exit, the user's profiler goes on."""
    before: Any = sys.getprofile()
    sys.setprofile(see)
    try:
        yield
    finally:
        sys.setprofile(None)
        # One of Python's own is an object that sets itself.
        sys.setprofile(before) if before is None or callable(before) else before.enable()


def calls_of(run: Callable[[], Any]) -> list[Called]:
    """The calls that returned in a run, the inner ones first; of a function that calls itself, the outer one."""
    begun, found = list[tuple[FrameType, Called]](), list[Called]()

    def look(frame: FrameType, event: str, given: Any) -> None:
        if event == "call" and str(frame.f_globals.get("__name__")).partition(".")[0] not in FOREIGN:
            if all(called.code is not frame.f_code for _, called in begun):
                begun.append((frame, Called(frame.f_code, _arguments(frame), frame.f_globals)))
        elif event == "return" and begun and begun[-1][0] is frame:
            called = begun.pop()[1]
            called.result = given
            found.append(called)
            if begun:
                begun[-1][1].inside.append(called)

    with watching(look), torch.no_grad(), contextlib.suppress(Exception):  # what fails here fails again where it counts
        run()
    return found


def _arguments(frame: FrameType) -> dict[str, Any]:
    """Arguments by name, with those in `**kwargs` among them; those in `*args` have none."""
    code = frame.f_code
    count, starred = code.co_argcount + code.co_kwonlyargcount, code.co_flags >> 2 & 1
    others = code.co_varnames[count + starred : count + starred + (code.co_flags >> 3 & 1)]
    own = {name: frame.f_locals[name] for name in code.co_varnames[:count] if name in frame.f_locals}
    return own | {key: value for name in others for key, value in frame.f_locals[name].items()}
