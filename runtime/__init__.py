"""Streaming on the device: load a bundle, open streams, step. Needs numpy and one backend; never torch or onnx."""

from rnn_export.runtime.engine import Engine, load
from rnn_export.runtime.pool import Pool
from rnn_export.runtime.stream import Stream

__all__ = ["Engine", "Pool", "Stream", "load"]
