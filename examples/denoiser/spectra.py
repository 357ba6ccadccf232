"""Draw the spectra of the clip, of the clip with noise, and of the denoiser's output."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Array = npt.NDArray[np.floating]
RATE = 16000  # Hz


def draw(path: Path, clean: Array, noisy: Array, denoised: Array, decibels: tuple[float, float]) -> None:
    """Write a PNG of 800 x 560 pixels; each sound is (samples,), `decibels` its signal over noise before and after."""
    figure = Figure(figsize=(10, 7), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    titles = (
        "The clip, which the net has not heard",
        f"With noise: {decibels[0]:.1f} dB, what goes in",
        f"Streamed through the denoiser, 8 ms a step: {decibels[1]:.1f} dB",
    )
    places = figure.subplots(3, 1, sharex=True)
    for axes, title, sound in zip(places, titles, (clean, noisy, denoised), strict=True):
        loudness = 20 * np.log10(np.abs(_spectrum(sound)) + 1e-4)
        extent = (0, len(sound) / RATE, 0, RATE / 2000)
        image = axes.imshow(loudness.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-50, vmax=30)
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_ylabel("kHz")
    axes.set_xlabel("time in seconds")
    figure.colorbar(image, ax=places, label="dB")
    figure.savefig(path, format="png")


def _spectrum(sound: Array, window: int = 512, hop: int = 128) -> Array:
    """(frames, frequencies)."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[::hop]
    return np.fft.rfft(frames * np.hanning(window))
