"""The two nets that are trained, in seconds: the denoiser on the demo's clip, the spotter on made-up words."""

from __future__ import annotations

import torch
from denoiser import Denoiser
from keywords import HOP, Spotter
from speech import clip, decibels, noise, sentence, with_noise
from torch import Tensor
from torch.nn import functional as F

# The clip's third stretch of speech is for measuring; so much of it is for training.
HEARD = 7 * 16000
LOUDER = 5  # dB, the clip over its noise where it is measured
# Frames after the end of a word in which it is to be said that it was there.
SAID_IN = 25


def train_denoiser(net: Denoiser, steps: int = 250) -> None:
    """On seconds of the clip with noise, drawn anew each time."""
    generator, heard = torch.Generator().manual_seed(0), clip()[:HEARD]
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    net.train()
    for _ in range(steps):
        starts = torch.randint(HEARD - 16000, (8,), generator=generator).tolist()
        clean = torch.stack([heard[start : start + 16000] for start in starts])
        loudness = 0.05 * 10 ** (-torch.rand(8, 1, generator=generator))
        noisy = clean + loudness * torch.stack([noise(16000, generator) for _ in starts])
        loss = (net(noisy) - clean).square().mean(1).add(1e-6).log().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()


def noisy_clip() -> tuple[Tensor, Tensor]:
    """What the denoiser has not heard: the rest of the clip, clean and with noise, (samples,)."""
    clean = clip()[HEARD:]
    return clean, with_noise(clean, LOUDER, torch.Generator().manual_seed(1))


def before_and_after(clean: Tensor, noisy: Tensor, denoised: Tensor) -> tuple[float, float]:
    """Signal over noise in dB, before and after."""
    return decibels(clean, noisy), decibels(clean, denoised)


def train_spotter(net: Spotter, steps: int = 300, sentences: int = 96) -> None:
    """On sentences of three words each, made once."""
    generator = torch.Generator().manual_seed(0)
    made = [sentence(3, generator) for _ in range(sentences)]
    longest = max(len(sound) for sound, _ in made)
    sounds = torch.stack([F.pad(sound, (0, longest - len(sound))) for sound, _ in made])
    frames = (longest - 512) // HOP + 1
    labels = torch.zeros(sentences, frames, dtype=torch.int64)
    for row, (_, ends) in zip(labels, made, strict=True):
        for end, number in ends:
            row[end // HOP : end // HOP + SAID_IN] = number
    optimiser = torch.optim.Adam(net.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    # Most frames are of no word.
    weights = torch.tensor([0.3, 1.0, 1.0, 1.0])
    net.train()
    for _ in range(steps):
        rows = torch.randint(sentences, (8,), generator=generator)
        loss = F.cross_entropy(net(sounds[rows]).flatten(0, 1), labels[rows].flatten(), weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()


def spoken(words: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """A sentence that the spotter has not heard, (samples,), and its words."""
    return sentence(words, torch.Generator().manual_seed(1))


def words_right(scores: Tensor, ends: list[tuple[int, int]]) -> int:
    """Of how many words the mean score (frames, words + 1) after each names the right one, or that it is none."""
    chances = scores.softmax(-1)
    said = [int(chances[end // HOP : end // HOP + SAID_IN].mean(0).argmax()) for end, _ in ends]
    return sum(here == number for here, (_, number) in zip(said, ends, strict=True))
