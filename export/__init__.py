"""From a model to a verified bundle. Importing this is cheap: torch and onnx are loaded when `export` is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnn_export.export.api import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    if name == "export":
        from rnn_export.export.api import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
