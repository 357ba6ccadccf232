"""The families of lifting cases: the modules of this folder that have a table, by name."""

import importlib
import pkgutil
from types import ModuleType

from .. import zoo  # noqa: TID252

FAMILIES: dict[str, ModuleType] = {
    info.name: module
    for info in pkgutil.iter_modules(zoo.__path__)
    if info.name not in ("families", "nets", "store") and not info.name.startswith("test_")
    if hasattr(module := importlib.import_module(f"{zoo.__name__}.{info.name}"), "TABLE")
}
