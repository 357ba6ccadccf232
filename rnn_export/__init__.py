"""Recurrent networks from PyTorch to the edge: one pure step, its states named, exported, verified and streamed."""

from typing import TYPE_CHECKING

from rnn_export import moved
from rnn_export.lazy import attributes

if TYPE_CHECKING:
    from rnn_export.bundle.reporting import report
    from rnn_export.export.api import export as export
    from rnn_export.export.lift.options import LiftOptions
    from rnn_export.export.lift.stages import lift
    from rnn_export.runtime.engine import load
    from rnn_export.runtime.serve.batcher import Batcher

__version__ = "0.3.0"
__all__ = ["Batcher", "LiftOptions", "__version__", "export", "lift", "load", "report"]

moved.install()
__getattr__ = attributes(
    __name__,
    {
        "Batcher": "rnn_export.runtime.serve.batcher",
        "LiftOptions": "rnn_export.export.lift.options",
        "export": "rnn_export.export",
        "lift": "rnn_export.export.lift.stages",
        "load": "rnn_export.runtime.engine",
        "report": "rnn_export.bundle.reporting",
    },
)
