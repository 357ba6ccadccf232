"""Operators that give several results."""

from __future__ import annotations

import operator

from torch import fx

from rnn_export.export.lift.program.fx import args_of
from rnn_export.export.lift.streaming.context import StreamingContext
from rnn_export.export.lift.streaming.general import general
from rnn_export.export.lift.streaming.registry import rule
from rnn_export.export.lift.streaming.time_axis import NodeInfo


@rule(operator.getitem)
def one_of_several(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """What is known of that result."""
    source, index = args_of(node)
    infos = context.info.get(source)
    return infos[index] if isinstance(infos, list) else general(context, node)
