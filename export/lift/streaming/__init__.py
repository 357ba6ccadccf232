"""The pass that makes a graph of whole sequences one that takes them chunk by chunk, with its states outside.

Every value over time is a stream of frames. Frame j of it can be known `lag` frames after frame j of the input went in:
padding on the left makes frames known earlier, a window that ends later makes them late (see `time_axis`). A window
over frames keeps the frames before it in a state. Values that meet are brought to the same lag. A state that needs
frames that do not exist yet is held until they do. At the end the lag of the outputs is the delay of the stream. An
output with more frames than its lag allows has seen the future.

`export.lift.ir.dependence` tells what an operator does along time. Only operators that move frames, or carry a state
over them, have a rule: a function of the context and a node, in the file of its family under `rules`.
"""

from rnn_export.export.lift.streaming.stream_states import LiftedState
from rnn_export.export.lift.streaming.streaming_pass import Streamed, stream, unchanged

__all__ = ["LiftedState", "Streamed", "stream", "unchanged"]
