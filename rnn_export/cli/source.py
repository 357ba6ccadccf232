"""SOURCE on the command line: `file.py:factory` or `package.module:factory`, a function that makes a model."""

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from rnn_export.cli.options import ExportFlags
from rnn_export.errors import SourceError
from rnn_export.export.api import export
from rnn_export.lazy import load_module
from rnn_export.models.weights import load_weights

Source = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def read_source(source: str, weights: Path | None, flags: ExportFlags) -> Source:
    """The model with its weights, its example, and its options with those of the command; raises SourceError."""
    model, example, options = load_source(source)
    if weights is not None:
        load_weights(model, weights)
    options = flags.over(options)
    known = set(inspect.signature(export).parameters) - {"model", "example_inputs", "path", "force", "progress"}
    if unknown := sorted(set(options) - known):
        raise SourceError(f"{source} gives the options {unknown}, but export knows {sorted(known)}.")
    return model, example, options


def load_source(source: str) -> Source:
    """The (model, example_inputs, options of `export`) that the factory makes; raises SourceError."""
    place, colon, name = source.rpartition(":")
    if not colon or not place or not name:
        raise SourceError(f"{source!r} is no source: give file.py:factory or package.module:factory.")
    if place.endswith(".py"):
        module = _from_file(Path(place))
    else:
        sys.path.insert(0, "")
        module = _guarded(f"importing {place} raised", lambda: load_module(place))
    factory = getattr(module, name, None)
    if not callable(factory):
        found = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise SourceError(f"{place} has no function {name!r}; it has {', '.join(found) or 'none'}.")
    return _checked(source, _guarded(f"{source} raised", factory))


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SourceError(f"{path} does not exist: check the path before the colon.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SourceError(f"{path} cannot be imported: is it a Python file?")
    module = importlib.util.module_from_spec(spec)
    # The file may import its neighbours, and dataclasses look their module up.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module
    _guarded(f"importing {path} raised", lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module


def _guarded(what: str, call: Callable[[], Any]) -> Any:
    try:
        # Stdout belongs to the result.
        with contextlib.redirect_stdout(sys.stderr):
            return call()
    except (Exception, SystemExit) as error:  # it is the user's code
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise SourceError(f"{what} {type(error).__name__}: {error} ({at.filename}:{at.lineno})") from error


def _checked(source: str, made: Any) -> Source:
    parts = made if isinstance(made, tuple) else (made,)
    kinds = ", ".join(type(part).__name__ for part in parts)
    returned = f"{source} returned " + (f"({kinds})" if isinstance(made, tuple) else f"a {kinds}")
    if len(parts) not in (2, 3) or not isinstance(parts[0], nn.Module):
        raise SourceError(
            f"{returned}, but must return (model, example_inputs) or (model, example_inputs, options), with a "
            "torch.nn.Module, a tuple of tensors and a dict of export()'s keywords."
        )
    model, example, options = (*parts, {})[:3]
    example = (example,) if isinstance(example, Tensor) else example
    if not isinstance(example, tuple | list) or not isinstance(options, Mapping):
        raise SourceError(f"{returned}: example_inputs must be a tuple of tensors and options a dict.")
    return model, tuple(example), dict(options)
