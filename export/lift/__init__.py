"""The front end: from a PyTorch model to one pure step with named states."""

from typing import TYPE_CHECKING

from rnn_export.lazy import attributes

if TYPE_CHECKING:
    from rnn_export.export.lift.api import StreamingModel, lift

__all__ = ["StreamingModel", "lift"]

__getattr__ = attributes(__name__, dict.fromkeys(__all__, "rnn_export.export.lift.api"))
