"""Loops that change long after the traced frames, found by the numbers in their code."""

from __future__ import annotations

import itertools
from collections import deque
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from rnn_export.errors import BoundedAxis
from rnn_export.export.lift.branches.counter_constants import counted_numbers

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))  # (B, T, C)


def reset(h: Tensor) -> Tensor:
    return torch.zeros_like(h)


def by_the_attribute(s: nn.Module, x: Tensor) -> Tensor:
    h, given = x.new_zeros(len(x), 4), []
    for t in range(x.shape[1]):
        if t % s.period == 299:
            h = reset(h)
        h = s.cell(x[:, t], h)
        given.append(h)
    return torch.stack(given, 1)


def by_a_method(s: nn.Module, x: Tensor) -> Tensor:
    def phase(t: int) -> int:
        return t % s.config.periods["slow"]

    h, given = x.new_zeros(len(x), 4), []
    for t, frame in enumerate(x.unbind(1)):
        h = s.cell(frame, reset(h) if phase(t) == 7 else h)
        given.append(h)
    return torch.stack(given, 1)


def by_the_second(s: nn.Module, x: Tensor) -> Tensor:
    h, given = x.new_zeros(len(x), 4), []
    for t, frame in enumerate(x.unbind(1)):
        h = s.cell(frame, reset(h) if t * s.seconds > 3.0 else h)
        given.append(h)
    return torch.stack(given, 1)


def by_two_counts(s: nn.Module, x: Tensor) -> Tensor:
    h, given = x.new_zeros(len(x), 4), []
    for t, frame in enumerate(x.unbind(1)):
        block = t // 10
        h = s.cell(frame, reset(h) if block % 30 == 29 else h)
        given.append(h)
    return torch.stack(given, 1)


def counting_down(s: nn.Module, x: Tensor) -> Tensor:
    h, given, left = x.new_zeros(len(x), 4), [], 300
    for frame in x.unbind(1):
        left -= 1
        if not left:
            h, left = reset(h), 300
        h = s.cell(frame, h)
        given.append(h)
    return torch.stack(given, 1)


def by_bits(s: nn.Module, x: Tensor) -> Tensor:
    h, given = x.new_zeros(len(x), 4), []
    for t, frame in enumerate(x.unbind(1)):
        h = s.cell(frame, h * s.gains[(t >> 8) & 1])
        given.append(h)
    return torch.stack(given, 1)


def far_back(s: nn.Module, x: Tensor) -> Tensor:
    h, given = x.new_zeros(len(x), 4), []
    before = deque([h] * 300, maxlen=300)
    for frame in x.unbind(1):
        h = s.cell(frame, h + before[0])
        before.append(h)
        given.append(h)
    return torch.stack(given, 1)


def by_a_table(s: nn.Module, x: Tensor) -> Tensor:
    h, given = x.new_zeros(len(x), 4), []
    for frame, again in zip(x.unbind(1), itertools.cycle([False] * 299 + [True]), strict=False):
        h = s.cell(frame, reset(h) if again else h)
        given.append(h)
    return torch.stack(given, 1)


def in_a_comprehension(s: nn.Module, x: Tensor) -> Tensor:
    hs = [x.new_zeros(len(x), 4)]
    for i in range(0, x.shape[1], 300):
        hs += [s.cell(f, reset(hs[-1]) if t < 1 else hs[-1]) for t, f in enumerate(x[:, i : i + 300].unbind(1))][-1:]
    return hs[-1]


def ordinary(s: nn.Module, x: Tensor) -> Tensor:
    h, given, width = x.new_zeros(len(x), 4), [], s.width
    for t in range(x.shape[1]):
        wide = torch.ones(4, width)[:, : width // 2] * 700
        h = s.cell(x[:, t], h) + (h @ wide)[:, :4]
        given.append(h.view(-1, 4, 1).expand(-1, 4, 600)[..., 0])
    return torch.stack(given, 1)


def model(forward) -> Call:
    torch.manual_seed(0)
    return Call(
        forward, cell=nn.GRUCell(3, 4), period=300, config=SimpleNamespace(periods={"slow": 300}), seconds=0.01,
        gains=[1.0, 0.5], width=1024,
    )  # fmt: skip


NAMED = [
    (by_the_attribute, 300), (by_a_method, 300), (by_the_second, 3), (by_two_counts, 30), (counting_down, 300),
    (by_bits, 256), (far_back, 300), (by_a_table, 300), (in_a_comprehension, 300),
]  # fmt: skip


@pytest.mark.parametrize(("forward", "number"), NAMED)
def test_numbers_that_meet_a_count_are_read_from_the_code(forward, number):
    net = model(forward)
    assert number in [n.value for n in counted_numbers(lambda: net(X))]


def test_sizes_are_no_such_numbers():
    net = model(ordinary)
    assert [n.value for n in counted_numbers(lambda: net(X)) if n.value > 8] == []


@pytest.mark.parametrize(
    ("forward", "longest"),
    [(by_the_attribute, 299), (by_the_second, 301), (by_two_counts, 290), (far_back, 300), (by_bits, 256)],
)
def test_what_is_done_far_behind_is_refused_with_its_line(forward, longest):
    with pytest.raises(BoundedAxis) as refusal:
        lift(model(forward), (X,))
    assert f"may only be up to {longest} long: beyond, the loop does something else than before (test_far" in str(
        refusal.value
    )
    assert "choose by it with torch.where" in str(refusal.value)


def test_streams_that_end_before_are_whole():
    assert_whole(model(by_the_attribute), X, lengths=range(295, 300), max_frames=299)


def test_scripted_loops_too():
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

    with raises("axis-with-end", "299", "% 300 == 299"):
        lift(torch.jit.script(Scripted()), (X,))


def test_a_count_in_a_tensor_is_followed():
    """As the refusal advises."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        h, given, count = x.new_zeros(len(x), 4), [], x.new_zeros((len(x), 1), dtype=torch.int64)
        for frame in x.unbind(1):
            h = s.cell(frame, torch.where(count % 300 == 299, reset(h), h))
            count = count + 1
            given.append(h)
        return torch.stack(given, 1)

    assert_whole(model(forward), X, lengths=range(298, 303))


def test_numbers_that_are_too_far_are_said():
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        h, given = x.new_zeros(len(x), 4), []
        for t, frame in enumerate(x.unbind(1)):
            h = s.cell(frame, reset(h) if t % 16000 == 15999 else h)
            given.append(h)
        return torch.stack(given, 1)

    notes = lift(model(forward), (X,)).notes
    assert any("holds a count against 15999, and the loop was tried over 4096 frames" in note for note in notes)
