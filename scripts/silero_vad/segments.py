"""From the probability of speech, frame by frame, to the stretches of speech."""

import numpy as np
import numpy.typing as npt

OPEN = 0.5  # speech begins at a frame this probable
CLOSE = 0.35  # and ends before the first one below this
SHORTEST = 0.25  # seconds; what is shorter is no speech
PADDING = 0.03  # seconds put before and after each segment


def speech_segments(probability: npt.NDArray[np.floating], frame_seconds: float) -> list[tuple[float, float]]:
    """Find the segments of speech with Silero's usual thresholds.

    `probability` (T,) has one number per frame of `frame_seconds`. Gives (start, end) of each segment in seconds from
    the start of the clip, in order, apart from each other and within the T frames. Raises ValueError where
    `probability` is not (T,).
    """
    if probability.ndim != 1:
        raise ValueError(f"probability has shape {probability.shape}; give one number per frame, shape (T,)")
    clip_end = len(probability) * frame_seconds
    segments: list[tuple[float, float]] = []
    for first, stop in _open_runs(probability):
        if (stop - first) * frame_seconds < SHORTEST:
            continue
        start = max(first * frame_seconds - PADDING, 0.0)
        end = min(stop * frame_seconds + PADDING, clip_end)
        if segments and start <= segments[-1][1]:
            start = segments.pop()[0]
        segments.append((start, end))
    return segments


def _open_runs(probability: npt.NDArray[np.floating]) -> list[tuple[int, int]]:
    """Give the frames [first, stop) from each opening to its closing."""
    runs: list[tuple[int, int]] = []
    first: int | None = None
    for frame, p in enumerate(probability.tolist()):
        if first is None and p >= OPEN:
            first = frame
        elif first is not None and p < CLOSE:
            runs.append((first, frame))
            first = None
    if first is not None:
        runs.append((first, len(probability)))
    return runs
