"""Names of 0.1 that have moved. They work for one more release, each with a DeprecationWarning."""

import warnings
from typing import Any

from rnn_export.lazy import load_module

MOVED = {
    ("rnn_export.models", "StreamingModel"): "rnn_export.export.lift",
    ("rnn_export.models", "lift"): "rnn_export.export.lift",
    ("rnn_export.runtime.batcher", "Batcher"): "rnn_export.runtime.serve.batcher",
    ("rnn_export.runtime.prometheus", "collector"): "rnn_export.runtime.serve.prometheus",
    ("rnn_export.runtime.prometheus", "serve"): "rnn_export.runtime.serve.prometheus",
}


def find(module: str, name: str) -> Any:
    """`name` as `module` had it in 0.1; raises AttributeError where it never had."""
    new = MOVED.get((module, name))
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} stands in {new} now.", DeprecationWarning, stacklevel=3)
    return getattr(load_module(new), name)
