"""Modules of 0.2 that have other names now. The old names work for one release, each with a DeprecationWarning."""

import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from rnn_export.lazy import load_module

MODULES = {
    "rnn_export.arrays": "rnn_export.platform.arrays",
    "rnn_export.export.lift.api": "rnn_export.export.lift.stages",
    "rnn_export.layout": "rnn_export.contract.layout",
    "rnn_export.precision": "rnn_export.contract.precision",
    "rnn_export.runtime.backends.api": "rnn_export.runtime.protocols",
    "rnn_export.snapshot": "rnn_export.contract.snapshot",
    "rnn_export.target_options": "rnn_export.contract.target_options",
    "rnn_export.targets": "rnn_export.contract.target_table",
    "rnn_export.tensor_spec": "rnn_export.contract.tensor_spec",
    "rnn_export.trust": "rnn_export.platform.trusted_code",
}


class _Moved(MetaPathFinder, Loader):
    """Imports a module of `MODULES` by its old name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        new = MODULES[module.__name__]
        warnings.warn(f"{module.__name__} is {new} now.", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = load_module(new)


def install() -> None:
    """Let the old names be imported; a second call changes nothing."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
