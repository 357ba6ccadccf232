"""`file.py:name` or `package.module:name` on the command line: a function of the user's own."""

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from rnn_export.errors import SourceError
from rnn_export.lazy import load_module


def find_function(text: str, what: str, name: str) -> Callable[..., Any]:
    """The function that `text` names, for a message `what` it is and what such a `name` looks like.

    Raises SourceError.
    """
    place, colon, attribute = text.rpartition(":")
    if not colon or not place or not attribute:
        raise SourceError(
            f"{text!r} is no {what}: give file.py:{name} or package.module:{name}.", id="function-text-malformed"
        )
    if place.endswith(".py"):
        module = _from_file(Path(place))
    else:
        sys.path.insert(0, "")
        module = guarded(f"importing {place} raised", lambda: load_module(place))
    found = getattr(module, attribute, None)
    if not callable(found):
        others = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise SourceError(
            f"{place} has no function {attribute!r}; it has {', '.join(others) or 'none'}.", id="function-not-found"
        )
    function: Callable[..., Any] = found
    return function


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """Stdout belongs to the result: prints of the user's code go to stderr meanwhile. A command is a process."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def find_metric(text: str) -> Callable[[Any, Any], Any]:
    """The function of --accept and --metric, which may print."""
    function = find_function(text, "function", "fn")

    @wraps(function)
    def quiet(model: Any, stream: Any) -> Any:
        with stdout_kept():
            return function(model, stream)

    return quiet


def guarded(what: str, call: Callable[[], Any]) -> Any:
    """The result of the user's code; raises SourceError with `what` and the place of any exception."""
    try:
        with stdout_kept():
            return call()
    except (Exception, SystemExit) as error:  # it is the user's code
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise SourceError(
            f"{what} {type(error).__name__}: {error} ({at.filename}:{at.lineno})", id="user-function-raised"
        ) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SourceError(f"{path} does not exist: check the path before the colon.", id="source-file-missing")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SourceError(f"{path} cannot be imported: is it a Python file?", id="source-not-importable")
    module = importlib.util.module_from_spec(spec)
    # The file may import its neighbours, and dataclasses look their module up.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module
    guarded(f"importing {path} raised", lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module
