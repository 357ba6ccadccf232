"""Values that are known while a model is read: where states start, and numbers that are made of constants."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(1))
FRAME, EVEN, ZERO = X[:, 0], torch.full((1, 4), 0.25), torch.zeros(1, 4)


def gru():
    return nn.GRU(8, 5, batch_first=True)


def from_start(start):
    """A cell in a loop, whose first state is written into zeros."""

    def forward(s, x):
        h, ys = torch.zeros(x.shape[0], 4), []
        start(s, h)
        for t in range(x.shape[1]):
            h = s.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)

    parts = {"one": nn.Parameter(torch.randn(1)), "two": nn.Parameter(torch.randn(2))}
    return case(Call(forward, cell=nn.GRUCell(8, 4), **parts), X[:, :4]).streams(states=["cell.l0.h"])


def ones(s, h):
    h[:, 0] = 1.0


def of_a_tensor(s, h):
    h[:, 0] = s.one


def of_whole_numbers(s, h):
    h[:, 1:3] = torch.tensor([2, 3])


def of_several(s, h):
    h[:, :2] = s.two
    h[:, -1].fill_(0.25)


def filled(s, h):
    h.fill_(s.one[0])


def next_to_frames(s, x):
    z = torch.zeros(x.shape[0], x.shape[1], 10)
    z[..., :8], z[..., 8], z[..., 9] = x, s.one, 1
    return z.cumsum(1)


def belief(s, x, p):
    """The belief in four hidden states so far."""
    q = p * s.seen(x).exp()
    q = q / q.sum(-1, keepdim=True)
    return q, q


def belief_of_logs(s, x, p):
    q = (p.log() + s.seen(x)).softmax(-1)
    return q, q


def optional(s, x, p=None):
    return belief(s, x, torch.full((x.shape[0], 4), 0.25) if p is None else p)


def of_probabilities(function, *example, **options):
    return case(Call(function, seen=nn.Linear(8, 4)), FRAME, *example, states={"p": 1}, **options)


def starts_even(lifted):
    return torch.equal(lifted.initial["p"], EVEN[0])


def with_nan():
    held = gru()
    with torch.no_grad():
        held.bias_ih_l0[0] = torch.nan
    return held


def over_another_axis(s, x):
    return s.gru(x.flatten(0, 1).unsqueeze(-1))[0].unflatten(0, x.shape[:2])


def over_other_axes(s, x):
    y = s.gru(x)[0]
    return y - y.mean(torch.arange(2, y.dim()).tolist(), keepdim=True)


def scaled(s, x):
    return s.gru(x)[0] / torch.hann_window(8).sum().item() * torch.arange(1, 3).max()


def written_through_a_view(s, x):
    ends = torch.zeros(3, dtype=torch.int64)
    ends[1:].add_(2)
    return s.gru(x)[0][..., : int(ends.sum())]


def picked(s, x):
    return s.gru(x)[0][..., torch.nonzero(torch.tensor([1, 0, 1, 0, 1]))[:, 0]]


def decided(s, x):
    y = s.gru(x)[0]
    return y * 2 if torch.arange(3).sum() > 2 else y


def looped(numbers):
    def forward(s, x):
        h, ys = x.new_zeros(x.shape[0], 5), []
        for t in numbers(torch.arange(x.shape[1])):
            h = s.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)

    return case(Call(forward, cell=nn.GRUCell(8, 5)), X).streams(states=["cell.l0.h"])


def of_its_input(s, x):
    known = torch.zeros(3)
    known[0] = x[0, 0]
    return x[:, : int(known.max())]


def known(function):
    return case(Call(function, gru=gru()), X).streams(end=False, holds=lambda lifted: not lifted.spec.assumptions)


NAN = "noise-gives-nan"
TABLE = {
    "a start is written into zeros": {
        "of several": from_start(of_several),
        "numbers next to frames": case(Call(next_to_frames, one=nn.Parameter(torch.randn(1))), X).streams(atol=1e-5),
        "ones": from_start(ones),
        "of a tensor": from_start(of_a_tensor),
        "of whole numbers": from_start(of_whole_numbers),
        "filled": from_start(filled),
    },
    "a probability starts at its given value": {
        "an example of it": of_probabilities(belief, EVEN, initial={"p": EVEN[0]}).streams(holds=starts_even),
        "logarithms, an example of zeros": of_probabilities(belief_of_logs, ZERO, initial={"p": EVEN[0]}).streams(
            holds=starts_even
        ),
        "left out": of_probabilities(optional, initial={"p": EVEN[0]}).streams(holds=starts_even),
    },
    "what makes NaN is told": {
        "a start at zero": of_probabilities(belief, EVEN).refused(
            "state-starts-nan", "'p'", ", zeros,", "initial={'p': tensor}"
        ),
        "logarithms, an example of zeros": of_probabilities(belief_of_logs, ZERO).refused(
            NAN, "'p' is 1", "initial={'p': tensor}"
        ),
        "logarithms, a start at zero": of_probabilities(belief_of_logs, EVEN).refused(
            "state-starts-nan", "'p'", ", zeros,", "initial={'p': tensor}"
        ),
        "left out": of_probabilities(optional).refused(NAN, "the state 'p' is 1", "initial="),
        "inputs": case(Call(lambda s, x: s.gru(x.log())[0], gru=gru()), 0 * X).refused(
            NAN, "it makes none of positive inputs: give an example"
        ),
        "weights": case(with_nan, X).refused(NAN, "bias_ih_l0' holds NaN"),
    },
    "what keeps no state is noted": {
        "a layer over another axis": case(
            Call(over_another_axis, gru=nn.GRU(1, 4, batch_first=True)), X, time_axis=1
        ).streams(
            notes=["gru: starts anew at each frame, since it goes over another axis than time, and keeps no state"]
        ),
        "a layer that no call reaches": case(
            Call(lambda s, x: F.relu(x), cell=nn.GRUCell(8, 4)), X, time_axis=1
        ).streams(
            holds=lambda lifted: lifted.notes == ("this model has no state: each frame is computed from itself alone",)
        ),
    },
    "what is made of constants is known": {
        **{f.__name__: known(f) for f in (decided, picked, over_other_axes, scaled, written_through_a_view)},
        "a loop over numbers of a list": looped(torch.Tensor.tolist),
        "a loop over tensors": looped(lambda numbers: numbers),
        "shares of quantiles": case(
            Call(lambda s, x: torch.quantile(x, s.shares, -1).movedim(0, -1), shares=torch.tensor([0.2, 0.7])),
            X,
            time_axis=1,
        ).streams(output=("batch", "time", 2)),
    },
}
