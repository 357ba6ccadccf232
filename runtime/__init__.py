"""Streaming on the device: load a bundle, open streams, step. Needs numpy and one backend; never torch or onnx."""

from typing import TYPE_CHECKING

from rnn_export.lazy import attributes

if TYPE_CHECKING:
    from rnn_export.runtime.engine import Engine, load
    from rnn_export.runtime.pool import Pool
    from rnn_export.runtime.stream import Stream

__all__ = ["Engine", "Pool", "Stream", "load"]

__getattr__ = attributes(
    __name__,
    {
        "Engine": "rnn_export.runtime.engine",
        "Pool": "rnn_export.runtime.pool",
        "Stream": "rnn_export.runtime.stream",
        "load": "rnn_export.runtime.engine",
    },
)
