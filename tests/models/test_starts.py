"""Initial states: parts that are written into zeros, and values that a model turns into NaN."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(1))
FRAME = X[:, 0]
EVEN = torch.full((1, 4), 0.25)


def _ones_at(s, h):
    h[:, 0] = 1.0


def _of_a_tensor(s, h):
    h[:, 0] = s.one


def _of_whole_numbers(s, h):
    h[:, 1:3] = torch.tensor([2, 3])


def _of_several(s, h):
    h[:, :2] = s.two
    h[:, -1].fill_(0.25)


def _filled(s, h):
    h.fill_(s.one[0])


@pytest.mark.parametrize("start", [_ones_at, _of_a_tensor, _of_whole_numbers, _of_several, _filled])
def test_a_start_is_written_into_zeros(start):
    """It was refused: "it treats each row of the batch by its number"."""

    def forward(s, x):
        h, ys = torch.zeros(x.shape[0], 4), []
        start(s, h)
        for t in range(x.shape[1]):
            h = s.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)

    torch.manual_seed(0)
    model = Call(forward, cell=nn.GRUCell(8, 4))
    model.one, model.two = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(2))
    lifted = assert_whole(model, X)
    assert [s.name for s in lifted.spec.states] == ["cell.l0.h"]


def test_numbers_are_written_next_to_frames():
    def forward(s, x):
        z = torch.zeros(x.shape[0], x.shape[1], 10)
        z[..., :8], z[..., 8], z[..., 9] = x, s.one, 1
        return z.cumsum(1)

    model = Call(forward)
    model.one = nn.Parameter(torch.randn(1))
    assert_whole(model, X, atol=1e-5)


def belief(logs=False):
    """The belief in four hidden states so far."""

    def forward(s, x, p):
        of_x = s.seen(x)
        if logs:
            q = (p.log() + of_x).softmax(-1)
        else:
            q = p * of_x.exp()
            q = q / q.sum(-1, keepdim=True)
        return q, q

    return Call(forward, seen=nn.Linear(8, 4))


@pytest.mark.parametrize("logs", [False, True])
@pytest.mark.parametrize("example", [EVEN, torch.zeros(1, 4)])
def test_a_probability_starts_at_its_given_value(logs, example):
    lifted = lift(belief(logs), (FRAME, example), states={"p": 1}, initial={"p": EVEN[0]})
    assert torch.equal(lifted.initial["p"], EVEN[0])


@pytest.mark.parametrize("logs", [False, True])
@pytest.mark.parametrize(
    ("example", "message"),
    [(EVEN, ("state-starts-nan", "'p'", ", zeros,")), (torch.zeros(1, 4), ("noise-gives-nan", "'p' is 1"))],
)
def test_a_probability_that_starts_at_zero_is_named(logs, example, message):
    with raises(*message, "initial={'p': tensor}"):
        lift(belief(logs), (FRAME, example), states={"p": 1})


def optional():
    def forward(s, x, p=None):
        q = (torch.full((x.shape[0], 4), 0.25) if p is None else p) * s.seen(x).exp()
        q = q / q.sum(-1, keepdim=True)
        return q, q

    return Call(forward, seen=nn.Linear(8, 4))


def test_a_probability_that_the_example_leaves_out():
    """It was said to be in train mode."""
    with raises("noise-gives-nan", "the state 'p' is 1", "initial="):
        lift(optional(), (FRAME,), states={"p": 1})
    lift(optional(), (FRAME,), states={"p": 1}, initial={"p": EVEN[0]})


def test_what_makes_nan_is_told():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("p", torch.zeros(1, 8))

        def forward(self, x):
            q = self.p * x.exp()
            self.p = q / q.sum(-1, keepdim=True)
            return self.p

    # In train mode, where a share of what is dropped was looked for in the tensor `p`.
    with raises("noise-gives-nan", "it makes none where 'p', which it keeps, is 1"):
        lift(Stateful(), (FRAME,))
    with raises("noise-gives-nan", "it makes none of positive inputs: give an example"):
        lift(Call(lambda s, x: s.gru(x.log())[0], gru=nn.GRU(8, 4, batch_first=True)), (torch.zeros(1, 12, 8),))
    held = nn.GRU(8, 4, batch_first=True).eval()
    with torch.no_grad():
        held.bias_ih_l0[0] = torch.nan
    with raises("noise-gives-nan", "bias_ih_l0' holds NaN"):
        lift(held, (X,))


def test_a_layer_that_no_call_reaches_does_not_start_anew():
    lifted = lift(Call(lambda s, x: F.relu(x), cell=nn.GRUCell(8, 4)), (X,), time_axis=1)
    assert lifted.notes == ("this model has no state: each frame is computed from itself alone",)


def test_a_layer_over_another_axis_starts_anew_at_each_frame():
    def alone(s, x):
        return s.gru(x.flatten(0, 1).unsqueeze(-1))[0].unflatten(0, x.shape[:2])

    lifted = lift(Call(alone, gru=nn.GRU(1, 4, batch_first=True)), (X,), time_axis=1)
    assert lifted.notes == (
        "gru: starts anew at each frame, since it goes over another axis than time, and keeps no state",
    )
