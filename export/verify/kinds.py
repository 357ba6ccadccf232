"""The kinds of input that a model is tried on beside ordinary noise: each a row of one batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rnn_export.export.lift.model.sample_inputs import Noise
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.inputs import example_to_draw
from rnn_export.platform.arrays import Array
from rnn_export.runtime.replay.levels import CONSTANTS, ENDS, levels_of


def trial_inputs(model: StreamingModel, frames: int) -> tuple[tuple[str, ...], dict[str, Array]]:
    """The kinds, and of every input a row for each: (kinds, frames, ...), or (kinds, ...) where it has no time axis.

    A float is noise like the example's times the level of its frame. A whole number or bool has the low end of its
    range where the level is below 1, the high end where it is above, and is drawn from all of it where it is 1.
    """
    noise, spec, levels = Noise(model.original, seed=2), model.spec, levels_of(frames)
    held, inputs = list(levels).index(CONSTANTS), {}
    for tensor, leaf in zip(spec.inputs, model.original.inputs, strict=True):
        timed, example, each = spec.timed(tensor), example_to_draw(model, leaf), tensor.rate.numerator
        shape = (len(levels), *((frames * each,) if timed else ()), *tensor.frame)
        drawn, near = noise.shaped(example, shape), torch.randint(ENDS, shape, generator=noise.generator)
        level = torch.tensor(np.stack(list(levels.values()))).repeat_interleave(each, 1)
        if timed:
            drawn[held], near[held] = drawn[held, :1], near[held, :1]
        else:
            # One value for all frames has the level that they all have, and that of noise where they differ.
            level = torch.where((level == level[:, :1]).all(1), level[:, 0], 1.0)
        level = level.reshape(*level.shape, *(1 for _ in tensor.frame))
        if not drawn.is_floating_point():
            drawn = _at_the_ends(drawn, level, near, example, noise.rows)
        else:
            # Zero is 0, and not -0.
            drawn = (drawn * level + 0.0).to(drawn.dtype)
        inputs[tensor.name] = drawn.to(leaf.example.dtype).numpy()
    return tuple(levels), inputs


def _at_the_ends(drawn: Tensor, level: Tensor, near: Tensor, example: Tensor, rows: int | None) -> Tensor:
    """`drawn` where the level is 1, else values `near` an end of the range: that of the embedding, or the example."""
    if drawn.dtype == torch.bool:
        return torch.where(level == 1, drawn, level > 1)
    low = 0 if rows else min(int(example.min()), 0)
    high = max(rows - 1 if rows else int(example.max()), low)
    near = torch.where(level == 0, 0, near.clamp(max=high - low))
    return torch.where(level == 1, drawn, torch.where(level > 1, high - near, low + near).to(drawn.dtype))
