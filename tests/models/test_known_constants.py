"""Numbers computed from input values are refused with their line, and without torch's print of the graph."""

import pytest
import torch

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.values import FRAME, of_its_input  # noqa: TID252
from .streams import Call


def by_a_mask(s, x):
    return torch.stack([row[row > 0].sum() for row in x])


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (of_its_input, ("number-by-value", "at values.py")),
        (by_a_mask, ("ragged-operator-refused", "(test_known_constants.py")),
    ],
    ids=["a number", "a mask"],
)
def test_what_is_made_of_values_is_not_known(forward, message, capfd):
    with raises(*message):
        lift(Call(forward), (FRAME,), time_axis=None)
    assert not capfd.readouterr().err
