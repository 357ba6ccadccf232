"""A spectral denoiser, from samples to samples: stft, a GRU that gives each frequency a mask, istft."""

from __future__ import annotations

from typing import Any

import torch
from sound import clip, noise, with_noise
from torch import Tensor, nn

SAMPLE_RATE = 16000  # Hz
WINDOW, HOP = 512, 128  # samples: 32 ms, every 8 ms
# The clip's third stretch of speech is for measuring; so much of it is for training.
HEARD = 7 * SAMPLE_RATE
LOUDER = 5  # dB, the clip over its noise where it is measured


class Denoiser(nn.Module):
    """Noisy sound (B, samples) in, the same without its noise out."""

    def __init__(self, samples: int = WINDOW, hop: int = HOP, hidden: int = 64) -> None:
        super().__init__()
        bins = samples // 2 + 1
        self.samples, self.hop = samples, hop
        self.gru = nn.GRU(bins, hidden, batch_first=True)
        self.mask = nn.Linear(hidden, bins)
        self.register_buffer("window", torch.hann_window(samples).sqrt())

    def forward(self, noisy: Tensor) -> Tensor:
        spectrum = torch.stft(
            noisy, self.samples, self.hop, window=self.window, return_complex=True
        )  # (B, bins, frames)
        loudness = torch.log(spectrum.abs() + 1e-4)
        remembered, _ = self.gru(loudness.transpose(1, 2))
        mask = torch.sigmoid(self.mask(remembered)).transpose(1, 2)
        return torch.istft(spectrum * mask, self.samples, self.hop, window=self.window, length=noisy.shape[-1])


def factory(
    window: int = WINDOW, hop: int = HOP, hidden: int = 64
) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]:
    """The net with random weights, an example, and the options of `export`."""
    torch.manual_seed(0)
    net = Denoiser(window, hop, hidden)
    return net.eval(), (torch.zeros(1, 8 * window),), {"chunk": hop, "sample_rate": SAMPLE_RATE}


def train(net: Denoiser, steps: int = 250) -> None:
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
    """The rest of the clip, not heard in training, clean and with noise, (samples,)."""
    clean = clip()[HEARD:]
    return clean, with_noise(clean, LOUDER, torch.Generator().manual_seed(1))
