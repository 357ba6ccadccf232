"""Made-up words of vowels, from a small synthesiser: nothing has to be recorded, and no human voice is in them."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLE_RATE = 16000  # Hz

# The first three formants of a man's vowels, Hz (Peterson and Barney 1952).
FORMANTS = {"a": (730, 1090, 2440), "i": (270, 2290, 3010), "u": (300, 870, 2240)}
# The words to find, made of the same vowels in another order.
WORDS = ("iau", "uia", "aui")
HARMONICS = 30


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
    return whole + 0.01 * torch.randn(len(whole), generator=generator), ends
