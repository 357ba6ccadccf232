"""Parts with two sides, one unseen by ordinary input: gates, clamps, noise gates, latches; and parts over rows.

As in parts.py: a part maps x (B, T, C) -> (B, T, C), a cell steps one frame (B, C).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .parts import Cell, Part, State

# How a value is let through above a level, and is zero below it.
GATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "relu": lambda x, level: torch.relu(x - level),
    "where": lambda x, level: torch.where(x > level, x, 0.0),
    "product": lambda x, level: x * (x > level),
    "clamp": lambda x, level: x.clamp(min=level) - level,
    "hardshrink": lambda x, level: F.hardshrink(x, level),
    "softshrink": lambda x, level: F.softshrink(x, level),
    "threshold": lambda x, level: F.threshold(x, level, 0.0),
    "masked": lambda x, level: x.masked_fill(x <= level, 0.0),
}
LIMITS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "clamp": lambda x, level: x.clamp(-level, level),
    "above": lambda x, level: x.clamp(level, level + 1),
    "soft": lambda x, level: level * torch.tanh(x / level),
    "saturated": lambda x, level: x.sign() * torch.minimum(x.abs(), torch.full_like(x, level)),
    "compressed": lambda x, level: torch.where(x.abs() > level, x.sign() * (level + 0.1 * (x.abs() - level)), x),
}


class Gate(Part):
    """`how`: of GATES; of all features, or `keyed` by the first of them."""

    def __init__(self, size: int, how: str, level: float, keyed: bool = False) -> None:
        super().__init__(size)
        self.how, self.level, self.keyed = how, level, keyed

    def forward(self, x: Tensor) -> Tensor:
        if self.keyed:
            return x * (GATES[self.how](x[..., :1], self.level) != 0)
        return GATES[self.how](x, self.level)


class Limit(Part):
    """`how`: of LIMITS."""

    def __init__(self, size: int, how: str, level: float) -> None:
        super().__init__(size)
        self.how, self.level = how, level

    def forward(self, x: Tensor) -> Tensor:
        return LIMITS[self.how](x, self.level)


class Detector(Part):
    """The input as long as the mean loudness of the last three frames is above a level."""

    def __init__(self, size: int, level: float) -> None:
        super().__init__(size)
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        loudness = F.avg_pool1d(F.pad(x.abs().transpose(1, 2), (2, 0)), 3, 1).transpose(1, 2)
        return x * (loudness > self.level).to(x.dtype)


# --- cells ----------------------------------------------------------------------------------------------------------


class Squelch(Cell):
    """Opened above a level, closed below half of it."""

    def __init__(self, size: int, level: float) -> None:
        super().__init__(size, (size,))
        self.level = level

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        held = torch.where(x.abs() < self.level / 2, torch.zeros_like(x), state[0])
        is_open = torch.where(x.abs() > self.level, torch.ones_like(x), held)
        return x * is_open, (is_open,)


class Limiter(Cell):
    """Turned down while the peak, which decays, is above a level."""

    def __init__(self, size: int, level: float) -> None:
        super().__init__(size, (size,))
        self.level = level

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        peak = torch.maximum(x.abs(), 0.9 * state[0])
        return x * (self.level / peak.clamp(min=self.level)), (peak,)


class Hold(Cell):
    """The last value above a level."""

    def __init__(self, size: int, level: float) -> None:
        super().__init__(2 * size, (size,))
        self.level = level

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        held = torch.where(x > self.level, x, state[0])
        return torch.cat([x, torch.tanh(held)], -1), (held,)


class Alarm(Cell):
    """A latch: silent from the first event on, which `counted` makes the third."""

    def __init__(self, size: int, level: float, counted: bool = False) -> None:
        super().__init__(size, (size,))
        self.level, self.events = level, 3.0 if counted else 1.0

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        seen = (state[0] + (x > self.level).float()).clamp(max=self.events)
        return x * (seen < self.events), (seen,)


class Integrator(Cell):
    """A sum that saturates at a level."""

    def __init__(self, size: int, level: float) -> None:
        super().__init__(size, (size,))
        self.level = level

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        total = torch.clamp(state[0] + x, -self.level, self.level)
        return total, (total,)
