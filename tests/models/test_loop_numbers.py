"""Loops that use the iteration number, and loops over a part of the frames, against the whole model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_export.export.lift.loops.iteration_counters import counted
from rnn_export.export.lift.loops.loop_operands import Counted

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.rand(2, 12, 3, generator=torch.Generator().manual_seed(0)) + 0.5


def looped(start: Tensor, frames, step) -> Tensor:
    h, ys = start, []
    for t, frame in enumerate(frames):
        h, y = step(t, frame, h)
        ys.append(y)
    return torch.stack(ys, 1)


def zeros(x: Tensor) -> Tensor:
    return torch.zeros(x.shape[0], 3)


def mean_so_far(s: nn.Module, x: Tensor) -> Tensor:
    return looped(zeros(x), x.unbind(1), lambda t, v, h: (h + (v - h) / (t + 1),) * 2)


def mean_of_sum(s: nn.Module, x: Tensor) -> Tensor:
    def step(t, v, h):
        h = h + v
        return h, h / (t + 1) - v / 2

    return looped(zeros(x), x.unbind(1), step)


def two_numbers(s: nn.Module, x: Tensor) -> Tensor:
    return looped(zeros(x), x.unbind(1), lambda t, v, h: ((h * t + v) / (t + 1),) * 2)


def seconds(s: nn.Module, x: Tensor) -> Tensor:
    return looped(zeros(x), x.unbind(1), lambda t, v, h: (0.5 * h + v * (t * 0.01), h))


def seconds_of_a_tensor(s: nn.Module, x: Tensor) -> Tensor:
    return looped(zeros(x), x.unbind(1), lambda t, v, h: (0.5 * h + v * torch.tensor(t * 0.25), h))


def by_arange(s: nn.Module, x: Tensor) -> Tensor:
    numbers = torch.arange(1, x.shape[1] + 1)
    return looped(zeros(x), x.unbind(1), lambda t, v, h: ((h * 0.9 + v) / numbers[t],) * 2)


def compared(s: nn.Module, x: Tensor) -> Tensor:
    return looped(zeros(x), x.unbind(1), lambda t, v, h: (h + v, torch.where(h > t, h, v)))


def carried(s: nn.Module, x: Tensor) -> Tensor:
    """As a refusal of other numbers advises."""
    h, n, ys = zeros(x), torch.zeros(x.shape[0], 1), []
    for v in x.unbind(1):
        n = n + 1
        h = 0.9 * h + 0.1 * v
        ys.append(h / (1 - 0.9**n))
    return torch.stack(ys, 1)


def behind_a_layer(s: nn.Module, x: Tensor) -> Tensor:
    """A count that waits for the first frame of what looks ahead."""
    y = F.conv1d(x.transpose(1, 2), torch.ones(3, 1, 3), padding=1, groups=3).transpose(1, 2)
    return mean_so_far(s, y)


def after_the_first(s: nn.Module, x: Tensor) -> Tensor:
    h = x[:, 0]
    ys = [h]
    for v in x[:, 1:].unbind(1):
        h = 0.8 * h + 0.2 * v
        ys.append(h)
    return torch.stack(ys, 1)


def in_pairs(s: nn.Module, x: Tensor) -> Tensor:
    h = zeros(x)
    ys = [h]
    for before, v in zip(x[:, :-1].unbind(1), x[:, 1:].split(1, 1), strict=False):
        h = 0.5 * h + v.squeeze(1) - before
        ys.append(h)
    return torch.stack(ys, 1)


def likelihoods(s: nn.Module, x: Tensor) -> Tensor:
    """The forward algorithm."""
    a, moves = x[:, 0], torch.eye(3) + 0.1
    ys = [a.softmax(-1)]
    for e in x[:, 1:].unbind(1):
        a = torch.logsumexp(a[:, :, None] + moves.log(), 1) + e
        ys.append(a.softmax(-1))
    return torch.stack(ys, 1)


def held_on(s: nn.Module, x: Tensor) -> Tensor:
    """Decisions of truth values, the first from one that is always false."""
    on, left, ys = torch.zeros(x.shape[0], dtype=torch.bool), torch.zeros(x.shape[0], dtype=torch.int64), []
    for v in x[..., 0].unbind(1):
        on = (v > 1.1) | (on & ~(v < 0.9)) ^ (v > 1.4)
        left = torch.where(on, torch.full_like(left, 3), (left - 1).clamp(min=0))
        ys.append((on | (left > 0)).float())
    return torch.stack(ys, 1)


def from_one_hot(s: nn.Module, x: Tensor) -> Tensor:
    """Attention that moves on from the first entry."""
    a, ys = F.one_hot(torch.zeros(x.shape[0], dtype=torch.long), 3).float(), []
    for v in x.unbind(1):
        a = (a + F.pad(a[:, :-1], (1, 0))) * torch.softmax(v, -1)
        ys.append(a)
    return torch.stack(ys, 1)


COUNTING = (
    mean_so_far, mean_of_sum, two_numbers, seconds, seconds_of_a_tensor, by_arange, compared, carried, behind_a_layer,
)  # fmt: skip
OTHERS = (after_the_first, in_pairs, likelihoods, held_on, from_one_hot)


@pytest.mark.parametrize("forward", [*COUNTING, *OTHERS], ids=lambda f: f.__name__)
def test_a_loop_is_a_stream(forward):
    assert_whole(Call(forward), X, time_axis=1)


def test_the_number_of_an_iteration_is_a_state():
    state = next(s for s in lift(Call(mean_so_far), (X,), time_axis=1).spec.states if s.dtype == "int64")
    assert (state.name, state.row) == ("count", (1,))


REFUSED = {
    "no further than 100": (
        lambda s, x: looped(zeros(x), x.unbind(1), lambda t, v, h: (h + (v - h) / min(t + 1, 100),) * 2),
        ("loop-number-not-linear", 256),
    ),
    "a sine": (
        lambda s, x: looped(zeros(x), x.unbind(1), lambda t, v, h: (h + v, h / (2 + math.sin(t)))),
        ("loop-frames-unlike", "(aten.div.Tensor: "),
    ),
}


@pytest.mark.parametrize(("forward", "message"), REFUSED.values(), ids=REFUSED)
def test_numbers_that_are_not_in_even_steps_are_refused(forward, message):
    with raises(*message):
        lift(Call(forward), (X,), time_axis=1)


def test_what_counts():
    assert counted([3, 5, 7, 9]) == Counted(3, 2)
    assert counted([0.0, 0.1, 0.2, 0.30000000000000004]) is not None
    for numbers in (
        [1, 2, 3],
        [2, 2, 2, 2],
        [1, 2, 4, 8],
        [1, 2.0, 3, 4],
        [True, 2, 3, 4],
        [0.0, 1.0, 2.0, float("inf")],
    ):
        assert counted(numbers) is None


def crossed(s: nn.Module, x: Tensor) -> Tensor:
    """Operators whose results a start of zeros hides."""
    h, state, ys = zeros(x), torch.zeros(x.shape[0], 3, 3), []
    for v in x.unbind(1):
        h = torch.tanh(torch.linalg.cross(h, v) + v)
        state = 0.5 * state + torch.einsum("bi,bj->bij", v, h - torch.einsum("bij,bi->bj", state, v))
        ys.append(torch.einsum("bij,bi->bj", state, v) * 0.1)
    return torch.stack(ys, 1)


def test_zeros_that_a_loop_starts_from_hide_no_rows():
    lifted = assert_whole(Call(crossed), X, time_axis=1)
    assert lifted.spec.rows is None


def test_what_vmap_maps_is_exported_as_what_it_does():
    """Over modules of one kind, whose convolutions torch writes in another form inside of it."""
    modules = nn.ModuleList(nn.Conv1d(3, 3, 3) for _ in range(2))

    def forward(s, x):
        held, _ = torch.func.stack_module_state(list(s.modules_of_one_kind))
        y = F.pad(x.transpose(1, 2), (2, 0))
        first = s.modules_of_one_kind[0]
        maps = torch.func.vmap(lambda parameters: torch.func.functional_call(first, parameters, (y,)))
        return s.gru(maps(held).mean(0).transpose(1, 2))[0]

    model = Call(forward, modules_of_one_kind=modules, gru=nn.GRU(3, 3, batch_first=True))
    assert_whole(model, X, time_axis=1)


def test_nothing_is_compiled_while_it_is_tried():
    sizes = []

    def counting(module, samples):
        sizes.append(samples)
        return module.forward

    compiled = torch.compile(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), backend=counting)
    model = Call(lambda s, x: s.gru(s.compiled(x))[0], compiled=compiled, gru=nn.GRU(3, 3, batch_first=True))
    lift(model, (X,), time_axis=1)
    assert not sizes
