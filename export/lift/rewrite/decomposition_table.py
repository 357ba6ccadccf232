"""The decomposition table: for every operator that passes of lifting do not read as it is, the rule that rewrites it.

A rule gives the node in the place of one, or None where that stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rnn_export.export.lift.ir.fx_nodes import by_operator
from rnn_export.export.lift.ir.passes import Rule
from rnn_export.export.lift.rewrite.boundary_padding import difference, edged, ended
from rnn_export.export.lift.rewrite.constant_values import CONSTANTS
from rnn_export.export.lift.rewrite.gather_windows import gathered_windows, stacked_frames, strided
from rnn_export.export.lift.rewrite.masked_writes import written_by_mask
from rnn_export.export.lift.rewrite.resampling import RESAMPLING, pooled_to_size, resampled
from rnn_export.export.lift.rewrite.slice_scatter import joined
from rnn_export.export.lift.rewrite.while_loops import unrolled
from rnn_export.export.lift.rewrite.window_decomposition import columns, filtered_by_rows, folded, signal, spectrum
from rnn_export.export.lift.trace.istft_length import istft_to_length as istft_to_length

# Of every graph.
DECOMPOSITIONS: Mapping[Any, Rule] = {
    **CONSTANTS,
    **by_operator(
        {
            written_by_mask: "index_put",
            filtered_by_rows: "conv1d conv1d.padding conv2d conv2d.padding",
        }
    ),
    torch.ops.higher_order.while_loop: unrolled,
}
# Of axes that are symbolic, as windows.
WINDOWS: Mapping[Any, Rule] = {
    **by_operator(
        {
            spectrum: "stft stft.center",
            signal: "istft",
            folded: "col2im",
            columns: "im2col",
            joined: "slice_scatter select_scatter",
            pooled_to_size: "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool3d "
            "_adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
            stacked_frames: "reshape unflatten.int",
            gathered_windows: "index.Tensor index_select",
            strided: "as_strided",
            edged: "cat",
            difference: "diff",
            ended: "slice.Tensor",
        }
    ),
    **dict.fromkeys(RESAMPLING, resampled),
    torch.ops.rnn_export.istft.default: signal,
}
