"""A keyword spotter, from raw samples: log-mel spectrum, a convolution, a GRU, and scores of each word."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from words import sentence

SAMPLE_RATE = 16000  # Hz
FFT, WINDOW, HOP = 512, 400, 160  # samples: 25 ms, every 10 ms
# Frames after the end of a word in which it is to be said that it was there.
SAID_IN = 25


def mel_filters(bands: int) -> Tensor:
    """Triangles that overlap by half, alike in mel (2595 log10(1 + f / 700)), as (frequencies, bands)."""
    top = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), bands + 2) / 2595) - 1)
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)[:, None]
    up = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.minimum(up, down).clamp(min=0)


class Spotter(nn.Module):
    """Sound (B, samples) in, scores (B, frames, words + 1) out; the first is of no word."""

    def __init__(self, words: int = 3, bands: int = 40, hidden: int = 48) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW))
        self.register_buffer("filters", mel_filters(bands))
        self.conv = nn.Conv1d(bands, hidden, 3)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, words + 1)

    def forward(self, sound: Tensor) -> Tensor:
        spectrum = torch.stft(sound, FFT, HOP, WINDOW, self.window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = torch.log(power.transpose(1, 2) @ self.filters + 1e-4) / 4  # (B, frames, bands)
        x = torch.relu(self.conv(F.pad(mel.transpose(1, 2), (2, 0))))
        return self.head(self.gru(x.transpose(1, 2))[0])


def factory(hidden: int = 48) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]:
    """The net with random weights, an example, and the options of `export`."""
    torch.manual_seed(0)
    return Spotter(hidden=hidden).eval(), (torch.zeros(1, 4000),), {"chunk": HOP, "sample_rate": SAMPLE_RATE}


def train(net: Spotter, steps: int = 300, sentences: int = 96) -> None:
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
    """The number of words that the mean score (frames, words + 1) after each names rightly, "none" included."""
    probabilities = scores.softmax(-1)
    said = [int(probabilities[end // HOP : end // HOP + SAID_IN].mean(0).argmax()) for end, _ in ends]
    return sum(here == number for here, (_, number) in zip(said, ends, strict=True))
