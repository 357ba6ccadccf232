"""The one door for what is imported by name when it is first used. The names count as imports of whoever gives them."""

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def load_module(name: str) -> ModuleType:
    """The module `name`, imported if it is not there yet; raises what its import raises."""
    return importlib.import_module(name)


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
