"""Numbers computed from constants are known; those computed from input values are refused with their line."""

import pytest
import torch
from torch import nn

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call, assert_streams

X = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(0))


def gru() -> nn.GRU:
    torch.manual_seed(0)
    return nn.GRU(4, 5, batch_first=True)


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


@pytest.mark.parametrize("forward", [over_other_axes, scaled, written_through_a_view, picked, decided])
def test_what_is_made_of_constants_is_known(forward):
    lifted = assert_streams(Call(forward, gru=gru()), X)
    assert not lifted.spec.assumptions


def by_list(s, x):
    h, ys = x.new_zeros(x.shape[0], 5), []
    for t in torch.arange(x.shape[1]).tolist():
        h = s.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def by_tensors(s, x):
    h, ys = x.new_zeros(x.shape[0], 5), []
    for t in torch.arange(x.shape[1]):
        h = s.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize("forward", [by_list, by_tensors])
def test_a_loop_over_numbers_of_frames(forward):
    torch.manual_seed(0)
    lifted = assert_streams(Call(forward, cell=nn.GRUCell(4, 5)), X)
    assert [s.name for s in lifted.spec.states] == ["cell.l0.h"]


def of_its_input(s, x):
    known = torch.zeros(3)
    known[0] = x[0, 0]
    return x[:, : int(known.max())]


def by_a_mask(s, x):
    return torch.stack([row[row > 0].sum() for row in x])


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (of_its_input, ("number-by-value", "at test_known_constants.py")),
        (by_a_mask, ("ragged-operator-refused", "(test_known_constants.py")),
    ],
    ids=["a number", "a mask"],
)
def test_what_is_made_of_values_is_not(forward, message, capfd):
    with raises(*message):
        lift(Call(forward), (X[:, 0],), time_axis=None)
    # torch prints the graph so far.
    assert not capfd.readouterr().err


def test_an_empty_state_that_fills_up_is_refused_by_its_shapes():
    """Nothing, so a count of its rows is none."""

    def forward(s, x):
        s.past = torch.cat([s.past, x[None]])[-2:]
        return s.past.sum(0)

    with raises("state-shape-changes", "'past'"):
        lift(Call(forward, past=torch.zeros(0, 1, 4)), (X[:, 0],))
