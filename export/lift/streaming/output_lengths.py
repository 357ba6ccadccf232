"""The lengths of outputs for sequences that end within a window, as the model gives them."""

from __future__ import annotations

from dataclasses import replace

import torch

from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.streaming.streaming_pass import Streamed


def cut_as_given(module: BatchFirst, streamed: Streamed, shortest: int) -> Streamed:
    """`streamed` with the model's own lengths, if it cuts off the padding of a last window.

    A graph of whole windows has nothing to cut.
    """
    lengths = [
        tuple(_own(module, i, of_it, rate.numerator / rate.denominator, shortest))
        for i, (of_it, rate) in enumerate(zip(streamed.lengths, streamed.rates, strict=True))
    ]
    return replace(streamed, lengths=lengths)


def _own(module: BatchFirst, output: int, lengths: tuple[int, ...], rate: float, shortest: int) -> list[int]:
    """By remainder of a length, the smaller number of frames beyond whole periods: as found, or as the model gives."""
    period, found = len(lengths), list(lengths)
    whole, axis = -(-shortest // period) * period if period else 0, module.axes.time_out[output]
    most = module.flat.max_frames
    for rest in (r for r in range(period) if found[r] > r * rate):
        if axis is None or (most is not None and whole + rest > most):
            continue
        try:
            with torch.no_grad():
                given = module(*module.sample(1, whole + rest))[output].shape[axis]
        except Exception:  # a length that the model does not take may raise anything
            continue
        found[rest] = min(found[rest], given - int(whole * rate))
    return found
