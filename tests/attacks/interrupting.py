"""Interrupts at every instruction: the signal is noted there, and CPython raises it where it next looks for one."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any

import rnn_export.runtime

RUNTIME = os.path.dirname(os.path.realpath(rnn_export.runtime.__file__)) + os.sep
# Notes SIGINT, in C: a tracer in Python would be interrupted itself, before it could return.
NOTE = ctypes.pythonapi.PyErr_SetInterrupt
NOTE.argtypes, NOTE.restype = [ctypes.py_object] * 3, None


class Interrupt(BaseException):
    """The exception of a user's signal handler, like KeyboardInterrupt."""


def inside(frame: FrameType | None) -> bool:
    """True if the runtime is at work in `frame` or in a caller of it."""
    while frame is not None:
        if is_runtime(frame.f_code):
            return True
        frame = frame.f_back
    return False


def is_runtime(code: CodeType) -> bool:
    return _is_runtime(code.co_filename)


@cache
def _is_runtime(file: str) -> bool:
    return os.path.realpath(file).startswith(RUNTIME)


class At:
    """Calls `act` and notes an interrupt before the `number`th instruction of the runtime; see `outcome`."""

    def __init__(self, number: int, act: Callable[[], Any]) -> None:
        self.left, self.armed, self.raised = number, False, False
        before, traced = signal.signal(signal.SIGINT, self._interrupt), sys.gettrace()
        try:
            sys.settrace(self._enter)
            act()
            sys.settrace(None)
        except Interrupt:
            self.raised = True
        finally:
            sys.settrace(traced)
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, *_: Any) -> None:
        sys.settrace(None)
        raise Interrupt

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        if self.armed or not is_runtime(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._look

    def _look(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            self.left -= 1
            if not self.left:
                self.armed = True
        # From the next instruction of this frame on it is C that is asked.
        return NOTE if self.armed else self._look


def everywhere(
    act: Callable[[], Any], check: Callable[[], None], prepare: Callable[[], None] = lambda: None, each: int = 1
) -> int:
    """Interrupt `act` at `each` of its instructions in turn, and `check` after it; how many interrupts there were."""
    count, number = 0, 1
    while True:
        prepare()
        at = At(number, act)
        if not at.armed:
            return count
        count += at.raised
        check()
        number += each
