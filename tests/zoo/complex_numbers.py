"""Nets with complex numbers, as people write them: pairs of real ones inside, and two tensors at the boundary."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

C = torch.complex64


def drawn(*shape, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), **options)


class Diagonal(nn.Module):
    """A diagonal recurrence whose complex state is an argument (LRU)."""

    def __init__(self):
        super().__init__()
        self.size, self.angle = nn.Parameter(torch.rand(6)), nn.Parameter(3 * torch.rand(6))
        self.b, self.c = (nn.Parameter(torch.randn(*s, dtype=C) / 2) for s in ((6, 4), (4, 6)))
        self.d, self.h = nn.Parameter(torch.randn(4)), None

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


def linear(s, x):
    z = s.a(torch.complex(x[..., :4], x[..., 4:]))
    z = z * torch.sigmoid(z.abs())
    return s.gru(torch.cat([z.real, z.imag], -1))[0]


def phases(s, x):
    """A phase vocoder's: phases from frame to frame, turned and put together again."""
    z = torch.view_as_complex(x)
    s.phase = 0.9 * s.phase + torch.angle(z * s.last.conj())
    s.last = z
    return torch.view_as_real(torch.polar(z.abs(), s.phase))


def convolved(s, x):
    z = s.conv(F.pad(torch.complex(x, 0.5 * x), (2, 0)))
    return z.abs(), z.imag


def transformed(s, x):
    """A transform of each frame, and back."""
    z = torch.fft.rfft(x * torch.hann_window(16))
    return torch.fft.irfft(z * torch.sigmoid(s.gru(z.abs())[0]), n=16)


def taps(s, x, taps):
    """A deep filter: complex taps over the last frames."""
    z = F.pad(torch.view_as_complex(x), (0, 0, 2, 0)).unfold(1, 3, 1)
    return torch.view_as_real((z * torch.view_as_complex(taps).movedim(2, -1)).sum(-1))


def gru(size: int, inputs: int) -> nn.GRU:
    return nn.GRU(inputs, size, batch_first=True)


def pairs(model, *example, states, **options):
    """No tensor of the step is complex."""

    def no_complex(lifted):
        values = (node.meta.get("val") for node in lifted.step.graph.nodes)
        return not any(value.is_complex() for value in values if isinstance(value, torch.Tensor))

    return case(model, *example, **options).streams(states=states, holds=no_complex, atol=1e-5)


LAST = {"last": torch.ones(1, 5, dtype=C), "phase": torch.zeros(1, 5)}
TABLE = {
    "complex numbers over a sequence stream": {
        "a loop": pairs(DiagonalLoop, drawn(2, 7, 4), states=["state", "call1.state"]),
        # Each part goes into two of the four real convolutions, and is kept once.
        "a convolution": pairs(
            Call(convolved, conv=nn.Conv1d(3, 4, 3, dtype=C)),
            drawn(2, 3, 9),
            time_axis=2,
            states=["conv.frames", "conv.call2.frames"],
        ),
        "linear": pairs(Call(linear, a=nn.Linear(4, 5, dtype=C), gru=gru(6, 10)), drawn(2, 7, 8), states=["gru.l0.h"]),
        "a spectrum": pairs(Call(transformed, gru=gru(9, 9)), drawn(2, 6, 16), states=["gru.l0.h"]),
        "taps": pairs(
            Call(taps), drawn(2, 8, 4, 2), drawn(2, 8, 3, 4, 2), time_axis=1, states=["frames", "call1.frames"]
        ),
    },
    "complex states are kept from call to call": {
        "an attribute": pairs(DiagonalKept, drawn(1, 4), time_axis=None, states=["h.real", "h.imag"]),
        "a buffer": pairs(StateSpace, drawn(1, 4), time_axis=None, states=["state.real", "state.imag"]),
        "phases": pairs(
            Call(phases, **LAST), drawn(1, 5, 2), time_axis=None, states=["last.real", "last.imag", "phase"]
        ),
    },
}
