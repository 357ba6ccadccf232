"""Imports by name on first use. The names count as imports of the module that gives them."""

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# torch uses this library wherever its import succeeds, and a folder of model repositories often has its name.
_OFTEN_A_FOLDER = "triton"


def load_module(name: str) -> ModuleType:
    """The module `name`, imported if it is not there yet; raises as its import does."""
    if name not in sys.modules:
        _hide_folder(_OFTEN_A_FOLDER)
    return importlib.import_module(name)


def _hide_folder(name: str) -> None:
    """Let `import name` raise ImportError where it would find only a folder without `__init__.py`."""
    spec = None if name in sys.modules else find_spec(name)
    if spec is not None and spec.origin is None:
        sys.modules[name] = None  # type: ignore[assignment]


def attributes(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a package whose names stand in modules that are imported when they are asked for.

    Where the place of a name is the submodule of that name, it is the submodule itself, to which an import binds it.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = load_module(places[name])
        return module if places[name] == f"{package}.{name}" else getattr(module, name)

    return find
