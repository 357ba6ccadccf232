"""Which frames, and which rows of the batch, a value depends on: two questions, whatever the method that answers them.

* `frame_dependence`: does each frame of an operator's results depend on the same frame of its arguments alone, and
  where do the frames of the results stand?
* `batch_layout`: where do the rows of the batch stand in a value?

Both are answered by trials on values that were recorded from the model: what is exchanged in an argument may move
nothing but its own frame or row of the result.
"""

from rnn_export.export.lift.dependence.layouts import (
    BatchLayout,
    Dependence,
    FrameDependence,
    FrameLayout,
    growing_axes,
)
from rnn_export.export.lift.dependence.probe import NotFrameLocal, frame_dependence
from rnn_export.export.lift.dependence.rows import RowsMixed, batch_layout

__all__ = [
    "BatchLayout",
    "Dependence",
    "FrameDependence",
    "FrameLayout",
    "NotFrameLocal",
    "RowsMixed",
    "batch_layout",
    "frame_dependence",
    "growing_axes",
]
