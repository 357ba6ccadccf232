"""Operators written by others: each row of the table is the operator, and all of them export."""

import pytest
import torch
from torch.nn import functional as F

from rnn_export.export import export
from rnn_export.export.graph.decompositions import DECOMPOSITIONS
from rnn_export.export.lift.ir.fx_nodes import overloads

from ..models.streams import Call  # noqa: TID252

DRAWN = torch.Generator().manual_seed(0)
ROUGH = torch.randint(-3, 4, (3, 4, 6), generator=DRAWN)
FINE = torch.randn(3, 4, 6, generator=DRAWN)
WITH_NAN = FINE.masked_fill(ROUGH == 0, float("nan"))
LABELS = ROUGH[:, 0, :4].abs()
BY_TENSORS = ((ROUGH, ROUGH.abs()), (ROUGH.int(), ROUGH.int() ** 2))
# By operator, arguments that its row has a form for.
GIVEN = {
    "cummax": [(FINE, 1), (ROUGH, -1), (WITH_NAN, 0)],
    "cummin": [(FINE, 1), (ROUGH, -1), (WITH_NAN, 2)],
    "logcumsumexp": [(FINE, 1), (100 * FINE, -1)],
    "mode": [(ROUGH, 1), (ROUGH.float(), -1, True), (FINE, 0)],
    "diagonal": [(FINE, 0, 1, 2), (FINE, 2, -1, 0), (ROUGH, -1, 0, 2), (FINE[:, :3], -2)],
    "rrelu": [(FINE,), (FINE, 0.1, 0.2)],
    **dict.fromkeys((f"__{way}shift__.Scalar" for way in "lr"), ((ROUGH, 2), (ROUGH.int(), 0))),
    **dict.fromkeys((f"__{way}shift__.Tensor" for way in "lr"), BY_TENSORS),
    **dict.fromkeys(
        (f"bitwise_{way}_shift.Tensor_Scalar" for way in ("left", "right")), ((ROUGH, 2), (ROUGH.int(), 0))
    ),
    **dict.fromkeys((f"bitwise_{way}_shift.Tensor" for way in ("left", "right")), BY_TENSORS),
    "cross_entropy_loss": [
        (FINE[..., 0], LABELS[:, 0], None, 0),
        (FINE.mT, ROUGH[..., 0].abs(), FINE[0, 0].abs(), 0, 1),
    ],
    "nll_loss_forward": [(FINE[..., 0], LABELS[:, 0], None, 0, 1)],
    "nll_loss2d_forward": [(FINE[..., None, :2].repeat(1, 1, 3, 1), ROUGH[:, :3, :2].abs(), None, 0, -100)],
}


def test_every_row_is_tried():
    assert {o for name in GIVEN for o in overloads(name)} == DECOMPOSITIONS.keys()


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, several in GIVEN.items() for args in several])
def test_what_is_written_by_others_is_the_operator(name, args):
    (operator,) = overloads(name)
    made, known = (x if isinstance(x, tuple) else (x,) for x in (DECOMPOSITIONS[operator](*args), operator(*args)))
    for here, there in zip(made, known, strict=True):
        torch.testing.assert_close(here, there, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("diagonal", (FINE, 9)),
        ("rrelu", (FINE, 0.1, 0.2, True)),
    ],
)
def test_an_operator_stays_where_it_has_no_other_form(name, args):
    (operator,) = overloads(name)
    assert DECOMPOSITIONS[operator](*args) is NotImplemented


def test_operators_without_a_form_in_onnx_are_exported(tmp_path):
    """The export compares the graph and the C with the model."""

    def forward(s, x):
        masked, whole = x.clone(), (4 * x).long()
        masked[x < 0] = 0.5
        loss = F.cross_entropy(x.mT, x.argmax(-1), reduction="none")
        several = torch.cat([x.cummax(-1)[0], x.cummin(-1)[0], x.logcumsumexp(-1), F.rrelu(x), masked], -1)
        matrices = x.unsqueeze(-1) * x.unsqueeze(-2)
        numbers = whole.mode(-1, keepdim=True)[0] + (whole << 2) + (whole >> 1) + (whole >> torch.tensor(1))
        return several, matrices.diagonal(1, -2, -1), loss, numbers

    export(Call(forward), (torch.randn(2, 6, 4),), tmp_path / "net.rnnx", time_axis=1, targets=("onnx", "c"), steps=8)
