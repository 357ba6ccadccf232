"""Nets with complex numbers, as people write them, and their arguments."""

import math

import torch
from torch import nn
from torch.nn import functional as F

C = torch.complex64


class Diagonal(nn.Module):
    """A diagonal recurrence whose complex state is an argument (LRU)."""

    def __init__(self):
        super().__init__()
        self.size, self.angle = nn.Parameter(torch.rand(6)), nn.Parameter(3 * torch.rand(6))
        self.b, self.c = (nn.Parameter(torch.randn(*s, dtype=C) / 2) for s in ((6, 4), (4, 6)))
        self.d = nn.Parameter(torch.randn(4))

    def forward(self, x, h):
        turn = torch.exp(-torch.exp(self.size) + 1j * self.angle)
        h = turn * h + torch.sqrt(1 - turn.abs() ** 2) * (x.to(C) @ self.b.T)
        return (h @ self.c.T).real + self.d * x, h


class DiagonalLoop(Diagonal):
    """The same over a sequence."""

    def forward(self, x):
        h, ys = torch.zeros(x.shape[0], 6, dtype=C), []
        for t in range(x.shape[1]):
            y, h = super().forward(x[:, t], h)
            ys.append(y)
        return torch.stack(ys, 1)


class DiagonalKept(Diagonal):
    """The same with its state in an attribute that the first call makes."""

    def __init__(self):
        super().__init__()
        self.h = None

    def forward(self, x):
        if self.h is None:
            self.h = torch.zeros(x.shape[0], 6, dtype=C)
        y, self.h = super().forward(x, self.h)
        return y


class StateSpace(nn.Module):
    """S4D as a step, its state in a complex buffer."""

    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.log(0.5 * torch.ones(4, 3)))
        self.turn = nn.Parameter(math.pi * torch.arange(3.0).expand(4, 3).clone())
        self.c, self.dt = nn.Parameter(torch.randn(4, 3, 2)), nn.Parameter(torch.rand(4) - 2)
        self.register_buffer("state", torch.zeros(1, 4, 3, dtype=C))

    def forward(self, u):
        a = -self.decay.exp() + 1j * self.turn
        step = torch.exp(a * self.dt.exp()[:, None])
        c = torch.view_as_complex(self.c) * (step - 1) / a
        self.state = step * self.state + u[:, :, None]
        return 2 * (self.state * c).sum(-1).real


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gru = nn.Linear(4, 5, dtype=C), nn.GRU(10, 6, batch_first=True)

    def forward(self, x):
        z = self.a(torch.complex(x[..., :4], x[..., 4:]))
        z = z * torch.sigmoid(z.abs())
        return self.gru(torch.cat([z.real, z.imag], -1))[0]


class Phases(nn.Module):
    """A phase vocoder's: phases from frame to frame, turned and put together again."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.ones(1, 5, dtype=C))
        self.register_buffer("phase", torch.zeros(1, 5))

    def forward(self, x):
        z = torch.view_as_complex(x)
        self.phase = 0.9 * self.phase + torch.angle(z * self.last.conj())
        self.last = z
        return torch.view_as_real(torch.polar(z.abs(), self.phase))


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, dtype=C)

    def forward(self, x):
        z = self.conv(F.pad(torch.complex(x, 0.5 * x), (2, 0)))
        return z.abs(), z.imag


class Mask(nn.Module):
    """A complex mask, made by a GRU."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(10, 10, batch_first=True)

    def forward(self, x):
        mask = torch.tanh(self.gru(x.flatten(2))[0]).unflatten(2, (5, 2))
        return torch.view_as_real(torch.view_as_complex(x) * torch.view_as_complex(mask))


class Spectrum(nn.Module):
    """A transform of each frame, and back."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(9, 9, batch_first=True)

    def forward(self, x):
        z = torch.fft.rfft(x * torch.hann_window(16))
        return torch.fft.irfft(z * torch.sigmoid(self.gru(z.abs())[0]), n=16)


class Boundary(nn.Module):
    """Complex frames in and out."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4, dtype=C) / 3)

    def forward(self, z, h):
        h = h * 0.5 + z @ self.w
        return h * h.abs(), h


class Taps(nn.Module):
    """A deep filter: complex taps over the last frames."""

    def forward(self, x, taps):
        z = F.pad(torch.view_as_complex(x), (0, 0, 2, 0)).unfold(1, 3, 1)
        taps = torch.view_as_complex(taps).movedim(2, -1)
        return torch.view_as_real((z * taps).sum(-1))


def _r(*shape, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), **options)


FRAME, ONE = {"time_axis": None}, {"time_axis": 1}
# By name: the class, what it is called with, options, its states.
NETS = {
    "state as an argument": (
        Diagonal, (_r(2, 4), torch.zeros(2, 6, dtype=C)), {"states": {"h": 1}, **FRAME}, ("h.real", "h.imag")
    ),
    "loop": (DiagonalLoop, (_r(2, 7, 4),), {}, ("state", "call1.state")),
    "attribute": (DiagonalKept, (_r(1, 4),), FRAME, ("h.real", "h.imag")),
    "buffer": (StateSpace, (_r(1, 4),), FRAME, ("state.real", "state.imag")),
    "linear": (Linear, (_r(2, 7, 8),), {}, ("gru.l0.h",)),
    "phases": (Phases, (_r(1, 5, 2),), FRAME, ("last.real", "last.imag", "phase")),
    "convolution": (
        # Each part goes into two of the four real convolutions, and is kept once.
        Convolution, (_r(2, 3, 9),), {"time_axis": 2}, ("conv.frames", "conv.call2.frames"),
    ),
    "mask": (Mask, (_r(2, 6, 5, 2),), {}, ("gru.l0.h",)),
    "spectrum": (Spectrum, (_r(2, 6, 16),), {}, ("gru.l0.h",)),
    "boundary": (
        Boundary, (_r(2, 4, dtype=C), torch.zeros(2, 4, dtype=C)),
        {"states": {"h": 1, "z": None}, **FRAME}, ("h.real", "h.imag"),
    ),
    "taps": (Taps, (_r(2, 8, 4, 2), _r(2, 8, 3, 4, 2)), ONE, ("frames", "call1.frames")),
}  # fmt: skip
