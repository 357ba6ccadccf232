"""Draw the sound, the speech found in it, and why the state must be kept."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

Array = npt.NDArray[np.floating]

CHUNK = 512  # samples behind each probability
THRESHOLD = 0.5

# From the palette of Okabe and Ito, told apart by every eye.
BLUE, ORANGE, SKY, GREY = "#0072B2", "#D55E00", "#56B4E9", "#555555"


def share_found(carried: Array, reset: Array) -> float:
    """The share of speech still found when the state is reset at each call.

    `carried` (T,) is the probability of speech with the state kept, `reset` (T,) with the state reset at each call.
    Gives the share, 0 to 1, of the frames with `carried` >= 0.5 where `reset` is >= 0.5 too; NaN without any speech.
    """
    speech = carried >= THRESHOLD
    return float(np.mean(reset[speech] >= THRESHOLD)) if speech.any() else float("nan")


def draw(
    path: str | Path,
    samples: Array,
    sample_rate: int,
    carried: Array,
    reset: Array,
    segments: Sequence[tuple[float, float]],
) -> None:
    """Write a PNG of 1200 x 700 pixels.

    `samples` (N,) are the sound, full scale ±1, at `sample_rate` Hz. `carried` (T,) is the probability of speech in
    each 512 samples with the state kept, `reset` (T,) with the state reset at each call. `segments` are (start, end)
    of each stretch of speech in seconds.
    """
    figure = Figure(figsize=(12, 7), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasAgg(figure)
    sound, kept, lost = figure.subplots(3, 1, sharex=True)

    seconds = np.arange(len(samples)) / sample_rate
    sound.plot(seconds, samples, color=GREY, linewidth=0.5)
    peak = 1.1 * max(float(np.max(np.abs(samples), initial=0.0)), 1e-3)
    sound.set(ylim=(-peak, peak), ylabel="amplitude")
    for start, end in segments:
        sound.axvspan(start, end, color=SKY, alpha=0.35, linewidth=0)
    plural = "" if len(segments) == 1 else "s"
    _title(sound, f"The sound, shaded where Silero VAD finds speech: {len(segments)} segment{plural}")

    frame_seconds = CHUNK / sample_rate
    _probability(kept, carried, frame_seconds, BLUE)
    _title(kept, "Probability of speech, state kept from call to call")

    share = share_found(carried, reset)
    found = "there is no speech to find" if np.isnan(share) else f"it finds {share:.0%} of the speech above"
    _probability(lost, reset, frame_seconds, ORANGE)
    _title(lost, f"The same net, state reset at each call: {found}")
    lost.set(xlabel="time in seconds", xlim=(0.0, max(len(samples) / sample_rate, frame_seconds)))

    for axes in (sound, kept, lost):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")


def _probability(axes: Axes, probability: Array, frame_seconds: float, color: str) -> None:
    edges = np.arange(len(probability) + 1) * frame_seconds
    axes.stairs(probability, edges, baseline=0, fill=True, color=color, alpha=0.2, linewidth=0)
    axes.stairs(probability, edges, baseline=None, color=color, linewidth=1.3)
    axes.axhline(THRESHOLD, color=GREY, linewidth=1, linestyle="--")
    axes.text(
        0.998, 0.52, f"threshold {THRESHOLD}", transform=axes.get_yaxis_transform(), ha="right", color=GREY, fontsize=9
    )
    axes.set(ylim=(0, 1.05), yticks=(0, THRESHOLD, 1), ylabel="probability")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=12)
