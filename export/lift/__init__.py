"""The front end: from a PyTorch model to one pure step with named states."""

from typing import TYPE_CHECKING

from rnn_export.lazy import attributes

if TYPE_CHECKING:
    from rnn_export.export.lift.options import LiftOptions
    from rnn_export.export.lift.stages import lift
    from rnn_export.export.lift.streaming_model import StreamingModel

__all__ = ["LiftOptions", "StreamingModel", "lift"]

__getattr__ = attributes(
    __name__,
    {
        "LiftOptions": "rnn_export.export.lift.options",
        "StreamingModel": "rnn_export.export.lift.streaming_model",
        "lift": "rnn_export.export.lift.stages",
    },
)
