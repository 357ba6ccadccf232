"""Inputs that an adversary would try: loud frames at random places, one loud row among silent ones, zeros, steps.

A kind says how loud each frame of each row is; what is played at that loudness is noise, a constant, or one feature
alone. Of ids, silence is one id and what is loud another.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor

from . import nets
from .architectures import Architecture

LOUD = (30.0, 1000.0)


def loudness(random: Random) -> float:
    low, high = LOUD
    return float(random.choice((-1, 1)) * low * (high / low) ** random.random())


def _loud_frames(random: Random, rows: int, frames: int) -> Tensor:
    gain = torch.ones(rows, frames)
    for row in range(rows):
        for _ in range(random.randint(1, 3)):
            gain[row, random.randrange(frames)] = loudness(random)
    return gain


def _one_loud_frame(random: Random, rows: int, frames: int) -> Tensor:
    gain = torch.zeros(rows, frames)
    gain[random.randrange(rows), random.randrange(frames)] = loudness(random)
    return gain


def _one_loud_row(random: Random, rows: int, frames: int) -> Tensor:
    gain = torch.zeros(rows, frames)
    gain[random.randrange(rows)] = loudness(random)
    return gain


def _steps(random: Random, rows: int, frames: int) -> Tensor:
    gain = torch.zeros(rows, frames)
    for row in range(rows):
        gain[row, random.randrange(frames) :] = loudness(random)
    return gain


def _swell(random: Random, rows: int, frames: int) -> Tensor:
    return torch.logspace(-2, 3, frames).repeat(rows, 1)


# The loudness of each frame, (rows, frames).
KINDS: dict[str, Callable[[Random, int, int], Tensor]] = {
    "loud frames": _loud_frames,
    "one loud frame": _one_loud_frame,
    "one loud row": _one_loud_row,
    "steps": _steps,
    "swell": _swell,
    "zeros": lambda random, rows, frames: torch.zeros(rows, frames),
}


def attack(architecture: Architecture, kind: str, rows: int, frames: int, random: Random) -> list[Tensor]:
    """Inputs of a kind, as `architecture.draw` gives them."""
    drawn = architecture.draw(rows, frames, random.randrange(1000))
    held = architecture.plan.other == "held"
    return [_played(x, KINDS[kind](random, rows, frames), random, held and i == 1) for i, x in enumerate(drawn)]


def _played(noise: Tensor, gain: Tensor, random: Random, held: bool) -> Tensor:
    if held:
        gain = gain[:, random.randrange(gain.shape[1])]
    if not noise.is_floating_point():
        silent, loud = random.sample(range(nets.IDS), 2)
        return noise.where(gain.abs() == 1, torch.where(gain.abs() > 1, loud, silent))
    played = random.choice(("noise", "noise", "constant", "one feature"))
    if played == "constant":
        noise = noise.sign()[:1, :1].expand_as(noise) if not held else noise.sign()
    elif played == "one feature":
        only = torch.zeros(noise.shape[-1])
        only[random.randrange(len(only))] = 1
        noise = only.expand_as(noise)
    return noise * gain.reshape(*gain.shape, *[1] * (noise.dim() - gain.dim()))
