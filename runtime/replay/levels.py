"""Levels of the frames, for each kind of input that a model is tried on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnn_export.platform.arrays import Array

# Of the example: a whisper and a shout.
QUIET, LOUD = 1e-3, 1e3
CONSTANTS = "constants"
# Of whole numbers, how many at each end of their range are drawn.
ENDS = 4


def levels_of(frames: int) -> Mapping[str, Array]:
    """By kind, the level of each frame."""
    random = np.random.default_rng(0)
    flat = np.ones(frames)
    loud_frames, steps, held = QUIET * flat, QUIET * flat, QUIET * flat
    places = random.choice(frames, max(1, frames // 10), replace=False)
    loud_frames[places] = np.resize([LOUD, 100.0, 10.0], len(places))
    for start, stop in np.sort(random.choice(frames + 1, 4, replace=False)).reshape(2, 2):
        steps[start:stop] = LOUD
    held[np.arange(frames) * 4 // frames % 2 == 1] = LOUD
    return {
        "noise": flat,
        "quiet noise": QUIET * flat,
        "loud noise": LOUD * flat,
        "zeros": 0 * flat,
        CONSTANTS: held,
        "loud frames": loud_frames,
        "steps": steps,
    }
