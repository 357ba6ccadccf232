"""The demo's clip of speech, and noise like that of a fan."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CLIP = Path(__file__).parents[2] / "scripts" / "silero_vad" / "speech.wav"
SAMPLE_RATE = 16000  # Hz


def clip() -> Tensor:
    """The demo's clip (samples,), full scale 1."""
    with wave.open(str(CLIP), "rb") as file:
        values = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return torch.from_numpy(values.astype(np.float32) / 32768)


def noise(samples: int, generator: torch.Generator) -> Tensor:
    """Like a fan: steady, louder towards low frequencies, of mean power 1, (samples,)."""
    spectrum = torch.fft.rfft(torch.randn(samples, generator=generator))
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, len(spectrum))
    coloured = torch.fft.irfft(spectrum / (1 + frequencies / 500).sqrt(), samples)
    return coloured / coloured.square().mean().sqrt()


def with_noise(clean: Tensor, decibels: float, generator: torch.Generator) -> Tensor:
    """`clean` (samples,) with noise so many dB below its mean power."""
    return clean + noise(len(clean), generator) * clean.square().mean().sqrt() * 10 ** (-decibels / 20)


def decibels(clean: Tensor, other: Tensor) -> float:
    """The signal-to-noise ratio of `clean` to the difference, in dB."""
    return float(10 * torch.log10(clean.square().sum() / (other - clean).square().sum()))
