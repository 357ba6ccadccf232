"""Streaming on the device: load a bundle, open streams, step. Needs numpy and one backend; never torch or onnx."""

from typing import TYPE_CHECKING

from rnn_export.lazy import attributes

if TYPE_CHECKING:
    from rnn_export.runtime.engine import Engine, load
    from rnn_export.runtime.pool import Pool
    from rnn_export.runtime.stream import Stream

__all__ = ["Engine", "Pool", "Stream", "load"]

_MODULES = {"Engine": "engine", "Pool": "pool", "Stream": "stream", "load": "engine"}
__getattr__ = attributes(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
