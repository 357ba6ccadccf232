"""Spectra of frames of samples, and samples from them."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Part


class Spectrum(Part):
    """The magnitudes of a transform of one signal, as frames every `hop` samples."""

    def __init__(self, size: int, window: int, hop: int, centred: bool) -> None:
        super().__init__(window // 2 + 1)
        self.window, self.hop, self.centred, self.ahead = window, hop, centred, centred
        self.needs, self.rate, self.least = hop, Fraction(1, hop), window
        self.mix = nn.Linear(size, 1)
        self.register_buffer("hann", torch.hann_window(window))

    def forward(self, x: Tensor) -> Tensor:
        signal = self.mix(x)[..., 0]
        spectrum = torch.stft(signal, self.window, self.hop, window=self.hann, center=self.centred, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + 1e-3).sqrt().transpose(1, 2)


class Denoiser(Part):
    """A signal to its spectrum, a mask by a GRU on it, and back, beside the input."""

    ahead = True

    def __init__(self, size: int, window: int, hop: int) -> None:
        super().__init__(size)
        self.window, self.hop, self.needs, self.least = window, hop, hop, window
        self.mix, self.back = nn.Linear(size, 1), nn.Linear(1, size)
        self.mask = nn.GRU(window // 2 + 1, window // 2 + 1, batch_first=True)
        self.register_buffer("hann", torch.hann_window(window))

    def forward(self, x: Tensor) -> Tensor:
        signal = self.mix(x)[..., 0]
        spectrum = torch.stft(signal, self.window, self.hop, window=self.hann, return_complex=True)
        loudness = (spectrum.real.square() + spectrum.imag.square() + 1e-3).sqrt()
        spectrum = spectrum * torch.sigmoid(self.mask(loudness.transpose(1, 2))[0]).transpose(1, 2)
        y = torch.istft(spectrum, self.window, self.hop, window=self.hann, length=x.shape[1])
        return x + self.back(y.unsqueeze(-1))


class Overlapped(Part):
    """Windows of `window` frames every `hop`, changed, and added up again: as many frames as the windows reach."""

    ahead = True

    def __init__(self, size: int, window: int, hop: int) -> None:
        super().__init__(size)
        self.window, self.hop, self.needs, self.least = window, hop, hop, window
        self.linear = nn.Linear(window, window)

    def forward(self, x: Tensor) -> Tensor:
        windows = torch.tanh(self.linear(x.transpose(1, 2).unfold(2, self.window, self.hop)))
        count = windows.shape[2]
        columns = windows.transpose(2, 3).flatten(1, 2)
        whole = F.fold(columns, (1, (count - 1) * self.hop + self.window), (1, self.window), stride=(1, self.hop))
        return whole[:, :, 0].transpose(1, 2)
