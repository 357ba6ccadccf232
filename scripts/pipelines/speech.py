"""Sound for the pipelines: the demo's clip with noise, and words of vowels from a small synthesiser."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CLIP = Path(__file__).parents[1] / "silero_vad" / "speech.wav"
SAMPLE_RATE = 16000  # Hz

# The first three formants of a man's vowels, Hz (Peterson and Barney 1952).
FORMANTS = {"a": (730, 1090, 2440), "i": (270, 2290, 3010), "u": (300, 870, 2240)}
# The words to find, made of the same vowels in another order.
WORDS = ("iau", "uia", "aui")
HARMONICS = 30


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
    """How far the difference is below `clean`, dB: the ratio of signal to noise."""
    return float(10 * torch.log10(clean.square().sum() / (other - clean).square().sum()))


def word(vowels: str, generator: torch.Generator) -> Tensor:
    """The vowels in a row, each 0.1 to 0.18 s, by a voice that is another one each time, (samples,)."""

    def drawn(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    pitch, size = drawn(90, 220), drawn(0.9, 1.2)
    parts = []
    for vowel in vowels:
        samples = int(drawn(0.1, 0.18) * SAMPLE_RATE)
        parts.append(size * torch.tensor(FORMANTS[vowel]).expand(samples, 3))
    formants = torch.cat(parts).T
    # 20 ms from one vowel to the next.
    formants = torch.nn.functional.avg_pool1d(formants[None], 321, 1, 160, count_include_pad=False)[0]
    glide = pitch * torch.linspace(1, drawn(0.8, 1.2), formants.shape[1])
    frequencies = torch.arange(1, HARMONICS + 1)[:, None] * glide
    gains = sum(1 / (1 + ((frequencies - f) / 90).square()) for f in formants)
    sound = (gains * torch.sin(2 * torch.pi * (frequencies / SAMPLE_RATE).cumsum(1))).sum(0)
    fade = torch.linspace(0, 1, 320)
    sound[:320] *= fade
    sound[-320:] *= fade.flip(0)
    return 0.1 * drawn(0.5, 2) * sound / sound.square().mean().sqrt()


def sentence(words: int, generator: torch.Generator) -> tuple[Tensor, list[tuple[int, int]]]:
    """Words with gaps and noise, (samples,), and of each its end in samples and its number: 0 is none of `WORDS`."""
    vowels, pieces, ends, samples = list(FORMANTS), [], [], 0
    for _ in range(words):
        gap = torch.zeros(int(torch.randint(3200, 9600, (), generator=generator)))
        order = torch.randint(3, (3,), generator=generator).tolist()
        said = "".join(vowels[n] for n in order)
        if torch.rand((), generator=generator) < 0.6:
            said = WORDS[int(torch.randint(len(WORDS), (), generator=generator))]
        pieces += [gap, word(said, generator)]
        samples += len(gap) + len(pieces[-1])
        ends.append((samples, WORDS.index(said) + 1 if said in WORDS else 0))
    pieces.append(torch.zeros(8000))
    whole = torch.cat(pieces)
    return whole + 0.01 * noise(len(whole), generator), ends
