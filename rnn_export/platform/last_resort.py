"""Unforeseen exceptions as errors of ours: none of them leaves a public call as it is.

The message has the module of the user's model and the source line, where the exception passed through the user's code;
the exception itself is the cause of ours.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from inspect import signature
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from rnn_export.errors import RnnExportError, first_line

P = ParamSpec("P")
R = TypeVar("R")
OURS = __name__.partition(".")[0]
# Whose code is neither ours nor the user's.
LIBRARIES = {"torch", "numpy", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "sympy", "rich", "functorch"}


def last_resort(
    kind: type[RnnExportError], callbacks: tuple[str, ...] = (), name: str = ""
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A call, `name` in messages, that raises only errors of ours: any other becomes one of `kind`.

    Exceptions of `callbacks`, keyword arguments by name, are the user's own and pass. So do a package that is not
    installed, a reader that closes its pipe, and arguments that the call does not have.
    """

    def of(call: Callable[P, R]) -> Callable[P, R]:
        taken = signature(call)

        @wraps(call)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            taken.bind(*args, **kwargs)
            own: list[Exception] = []
            named: dict[str, Any] = kwargs
            for argument in callbacks:
                if callable(callback := named.get(argument)):
                    named[argument] = _watched(callback, own)
            try:
                return call(*args, **kwargs)
            except (RnnExportError, ModuleNotFoundError, BrokenPipeError):
                raise
            except Exception as error:
                if any(error is e for e in own):
                    raise
                raise _unforeseen(kind, name or call.__name__, error) from error

        return guarded

    return of


def _watched(callback: Callable[..., Any], raised: list[Exception]) -> Callable[..., Any]:
    """`callback`, whose exceptions are put into `raised`."""

    @wraps(callback)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except Exception as error:
            raised.append(error)
            raise

    return call


def place_in_code(error: BaseException) -> str:
    """Source location in the user's code of an exception, as "module (file.py:12: `source`)"; empty if elsewhere."""
    frames = _frames(error)
    users = [(frame, line) for frame, line in frames if _package(frame) != OURS]
    if not users:
        return ""
    frame, line = users[-1]
    file = frame.f_code.co_filename
    source = linecache.getline(file, line).strip()
    at = f"{file.rpartition('/')[2]}:{line}" + (f": `{source}`" if source else "")
    return f"{_module_path(frames)} ({at})"


def failing_at(error: BaseException) -> str:
    """The same, as ", in ..."."""
    place = place_in_code(error)
    return f", in {place}" if place else ""


def _unforeseen(kind: type[RnnExportError], call: str, error: Exception) -> RnnExportError:
    """An error of `kind`: the finding and its place, why that ends it, a fix."""
    frame, line = next((f, n) for f, n in reversed(_frames(error)) if _package(f) == OURS)
    stage = f"{frame.f_globals['__name__'].partition('.')[2]}.{frame.f_code.co_name}"
    cause = f"{type(error).__name__}: {first_line(error)}"
    if not (place := place_in_code(error)):
        return kind(
            f"{call} met an error in {stage} (line {line}) that no check of it foresaw: {cause}. It cannot go on, and "
            "nothing was written. No code of the model raised it, so it is most likely a defect of rnn-export: report "
            "it with the model and this message, whose cause has the whole traceback.",
            id="unforeseen-error",
        )
    return kind(
        f"{place}: {cause}, when {call} ran this in {stage}. Copies of the model are run on other batch sizes, lengths "
        "and values than the example's, and traced, so the code must take these; nothing was written. Let the line do "
        "without what fails there; if it works on all of these, report it with the model and this message, whose "
        "cause has the whole traceback.",
        id="unforeseen-in-model",
    )


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    """Those of ours and of the user's code that an exception passed through, with their lines."""
    return [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if not _is_library(frame)]


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_library(frame: FrameType) -> bool:
    return _package(frame) in LIBRARIES or _package(frame) in sys.stdlib_module_names - {"__main__"}


def _module_path(frames: list[tuple[FrameType, int]]) -> str:
    """The path, in the user's model, of the module whose code ran last."""
    modules = [value for frame, _ in frames if hasattr(value := frame.f_locals.get("self"), "named_modules")]
    flat = [vars(module)["_modules"].get("model") for module in modules if type(module).__name__ == "FlatModel"]
    names = {id(module): path for model in flat if model is not None for path, module in model.named_modules()}
    return next((path for module in reversed(modules) if (path := names.get(id(module)))), "") or "the model"
