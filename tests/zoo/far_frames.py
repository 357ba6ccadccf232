"""Loops that change long after the traced frames, found by long runs, and named by the numbers in their code."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))  # (B, T, C)


def reset(h):
    return torch.zeros_like(h)


def stepping(step):
    """A loop whose body is a function of the frame number."""

    def forward(s, x):
        h, given = x.new_zeros(len(x), 4), []
        for t, frame in enumerate(x.unbind(1)):
            h = s.cell(frame, step(s, t, h))
            given.append(h)
        return torch.stack(given, 1)

    return forward


def by_the_attribute(s, x):
    h, given = x.new_zeros(len(x), 4), []
    for t in range(x.shape[1]):
        if t % s.period == 299:
            h = reset(h)
        h = s.cell(x[:, t], h)
        given.append(h)
    return torch.stack(given, 1)


@stepping
def by_a_method(s, t, h):
    return reset(h) if t % s.config.periods["slow"] == 7 else h


@stepping
def by_the_second(s, t, h):
    return reset(h) if t * s.seconds > 3.0 else h


@stepping
def by_two_counts(s, t, h):
    block = t // 10
    return reset(h) if block % 30 == 29 else h


@stepping
def by_bits(s, t, h):
    return h * s.gains[(t >> 8) & 1]


@stepping
def too_far(s, t, h):
    return reset(h) if t % 16000 == 15999 else h


def counting_down(s, x):
    h, given, left = x.new_zeros(len(x), 4), [], 300
    for frame in x.unbind(1):
        left -= 1
        if not left:
            h, left = reset(h), 300
        h = s.cell(frame, h)
        given.append(h)
    return torch.stack(given, 1)


def far_back(s, x):
    h, given = x.new_zeros(len(x), 4), []
    before = deque([h] * 300, maxlen=300)
    for frame in x.unbind(1):
        h = s.cell(frame, h + before[0])
        before.append(h)
        given.append(h)
    return torch.stack(given, 1)


def by_a_table(s, x):
    h, given = x.new_zeros(len(x), 4), []
    for frame, again in zip(x.unbind(1), itertools.cycle([False] * 299 + [True]), strict=False):
        h = s.cell(frame, reset(h) if again else h)
        given.append(h)
    return torch.stack(given, 1)


def in_a_comprehension(s, x):
    hs = [x.new_zeros(len(x), 4)]
    for i in range(0, x.shape[1], 300):
        hs += [s.cell(f, reset(hs[-1]) if t < 1 else hs[-1]) for t, f in enumerate(x[:, i : i + 300].unbind(1))][-1:]
    return hs[-1]


def ordinary(s, x):
    """Sizes, and no counts."""
    h, given, width = x.new_zeros(len(x), 4), [], s.width
    for t in range(x.shape[1]):
        wide = torch.ones(4, width)[:, : width // 2] * 700
        h = s.cell(x[:, t], h) + (h @ wide)[:, :4]
        given.append(h.view(-1, 4, 1).expand(-1, 4, 600)[..., 0])
    return torch.stack(given, 1)


def counted_in_a_tensor(s, x):
    """As the refusal advises."""
    h, given, count = x.new_zeros(len(x), 4), [], x.new_zeros((len(x), 1), dtype=torch.int64)
    for frame in x.unbind(1):
        h = s.cell(frame, torch.where(count % 300 == 299, reset(h), h))
        count = count + 1
        given.append(h)
    return torch.stack(given, 1)


EDGES, GAINS = [0, 300], np.where(np.arange(10_000) < 300, 1.0, 0.5)
# What asks a count in ways that its code shows no number of.
ASKED = {
    "as a text": (lambda t: str(t) in {"300", "301"}, 300),
    "by bisection": (lambda t: bisect.bisect(EDGES, t) > 1, 300),
    "by its bits": (lambda t: t.bit_length() > 9, 512),
    "by its logarithm": (lambda t: math.log2(t + 1) > 9, 512),
    "in an array": (lambda t: bool((np.array(EDGES) == t).any()) and t > 0, 300),
    "in a table of gains": (lambda t: GAINS[t] < 1, 300),
}


def asked(is_other, longest):
    function = stepping(lambda s, t, h: 0.5 * h if is_other(t) else h)
    return case(model(function), X).refused("axis-with-end", f"may only be up to {longest} long: beyond, the loop does")


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 4)
        given: list[Tensor] = []
        for t in range(x.shape[1]):
            if t % 300 == 299:
                h = torch.zeros_like(h)
            h = self.cell(x[:, t], h)
            given.append(h)
        return torch.stack(given, 1)


def model(function):
    return Call(
        function, cell=nn.GRUCell(3, 4), period=300, config=SimpleNamespace(periods={"slow": 300}), seconds=0.01,
        gains=[1.0, 0.5], width=1024,
    )  # fmt: skip


def refused(function, longest):
    return case(model(function), X).refused(
        "axis-with-end",
        f"may only be up to {longest} long: beyond, the loop does something else than before (far_frames.py:",
        "choose by it with torch.where",
    )


TABLE = {
    "what is done far behind is refused with its line": {
        "by the attribute": refused(by_the_attribute, 299),
        "by two counts": refused(by_two_counts, 290),
        "by the second": refused(by_the_second, 301),
        "far back": refused(far_back, 300),
        "by bits": refused(by_bits, 256),
        "scripted": case(lambda: torch.jit.script(Scripted()), X).refused("axis-with-end", "299", "% 300 == 299"),
    },
    "a count that is asked otherwise is tried over many frames": {
        name: asked(is_other, longest) for name, (is_other, longest) in ASKED.items()
    },
    "what is done far behind streams": {
        "before it is done": case(model(by_the_attribute), X, max_frames=299).streams(lengths=range(295, 300)),
        "counted in a tensor": case(model(counted_in_a_tensor), X).streams(lengths=range(298, 303)),
        "a note says what is too far to be tried": case(model(too_far), X).streams(
            notes=["holds a count against 15999, and the loop was tried over 4096 frames"]
        ),
    },
}
