"""From a model to a verified bundle. Importing this is cheap: torch and onnx are loaded when `export` is first used.

The package can be called: `from rnn_export import export` gives it, whatever was imported before, and a call is one of
`rnn_export.export.api.export`.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rnn_export.lazy import attributes

if TYPE_CHECKING:
    from rnn_export.export.api import export

__all__ = ["export"]

__getattr__ = attributes(__name__, {"export": "rnn_export.export.api"})


class _Callable(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.export(*args, **options)


sys.modules[__name__].__class__ = _Callable
