"""Export a model to a verified bundle. The import is cheap: torch and onnx are loaded at the first use of `export`.

The package is callable: `rnn_export.export` and `from rnn_export import export` are this package, whatever was
imported before. A call is a call of `rnn_export.export.api.export`, and `inspect` shows its signature.
"""

import inspect
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

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.export)


sys.modules[__name__].__class__ = _Callable
