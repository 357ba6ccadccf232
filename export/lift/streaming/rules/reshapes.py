"""Reshapes: a size that is the length of the sequence becomes the length of a piece, whatever it is."""

from __future__ import annotations

from torch import fx

from rnn_export.export.lift.program.fx import args_of, aten
from rnn_export.export.lift.streaming.context import StreamingContext
from rnn_export.export.lift.streaming.general import general
from rnn_export.export.lift.streaming.registry import rule
from rnn_export.export.lift.streaming.time_axis import NodeInfo, TimeAxisInfo


@rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default)
def reshape(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """Frame by frame, at any number of frames."""
    has_frames = bool(context.timed_arguments(node))
    info = general(context, node)
    if has_frames and isinstance(info, TimeAxisInfo):
        sizes = list(args_of(node)[1])
        if -1 not in sizes or node.target is aten.expand.default:
            sizes[info.layout.axis] = -1
        node.update_arg(1, sizes)
    return info
