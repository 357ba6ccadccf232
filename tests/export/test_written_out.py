"""Decompositions of operators that ONNX lacks: small matrices, and entries by their order."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from rnn_export.export.graph.step import step_graph
from tests.models.streams import Call

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252

FREE = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
SWAPPED = torch.eye(4).flip(0)
EVEN = FREE @ FREE.mT + torch.eye(4)


def mixed(x, matrix):
    """A matrix for each row and frame, whose entries follow from the input."""
    return matrix + 0.1 * x[..., None] * torch.eye(4) + 0.05 * x[..., None, :].tanh()


def sure(x):
    return EVEN + torch.diag_embed(x.abs())


FORMS = {
    "inv": lambda x: torch.linalg.inv(mixed(x, FREE)),
    "inv that needs pivots": lambda x: torch.inverse(mixed(x, SWAPPED)),
    "solve": lambda x: torch.linalg.solve(mixed(x, FREE), sure(x)),
    "solve for vectors": lambda x: torch.linalg.solve(mixed(x, FREE), x),
    "solve from the right": lambda x: torch.linalg.solve(mixed(x, FREE), sure(x)[..., :2, :], left=False),
    "cholesky": lambda x: torch.linalg.cholesky(sure(x)),
    "cholesky, upper": lambda x: torch.linalg.cholesky(sure(x), upper=True),
    "cholesky_solve": lambda x: torch.cholesky_solve(x[..., None], torch.linalg.cholesky(sure(x))),
    "cholesky_inverse": lambda x: torch.cholesky_inverse(torch.linalg.cholesky(sure(x))),
    "solve_triangular": lambda x: torch.linalg.solve_triangular(sure(x).tril(), x[..., None], upper=False),
    "solve_triangular, of ones": lambda x: torch.linalg.solve_triangular(
        sure(x), sure(x), upper=True, left=False, unitriangular=True
    ),
    "median": lambda x: x.median(-1).values,
    "where a median stands": lambda x: x.median(2, keepdim=True).indices.float(),
    "kthvalue": lambda x: x.kthvalue(3, -1)[0],
    "searchsorted": lambda x: torch.searchsorted(torch.tensor([-0.5, 0.0, 0.7]), x, right=True).float(),
    "cdist": lambda x: torch.cdist(x, FREE[None]),
    "cdist of one": lambda x: torch.cdist(x, FREE[None], p=1.0),
    "cdist of the largest": lambda x: torch.cdist(x, FREE[None], p=float("inf")),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_is_written_is_what_torch_gives(form):
    """Behind a layer, for any number of rows, each from itself."""
    model = Call(lambda s, x: form(s.gru(x)[0]), gru=nn.GRU(4, 4, batch_first=True))
    lifted = lift(model, (torch.randn(1, 8, 4),), time_axis=1)
    step = step_graph(lifted)
    assert step is not None
    assert lifted.spec.rows is None
    x, h = torch.randn(3, 1, 4), torch.randn(3, 4)
    with torch.no_grad():
        wanted = lifted.module(x, h)[0]
    got = ort.InferenceSession(step).run([lifted.spec.outputs[0].name], {"x": x.numpy(), "gru.l0.h": h.numpy()})[0]
    np.testing.assert_allclose(got, wanted.numpy(), 2e-4, 2e-5)


def test_what_has_no_form_is_named_with_its_line():
    model = Call(lambda s, x: s.gru(x)[0].lgamma(), gru=nn.GRU(4, 4, batch_first=True))
    with raises("operator-without-onnx", "test_written_out.py:", "prims.lgamma"):
        step_graph(lift(model, (torch.randn(1, 8, 4),), time_axis=1))


def test_large_matrices_are_not_written_out():
    def forward(s, x):
        return torch.linalg.solve(torch.eye(33) + torch.diag_embed(s.gru(x)[0]), x)

    model = Call(forward, gru=nn.GRU(33, 33, batch_first=True))
    with raises("matrix-too-large", "33", "32"):
        step_graph(lift(model, (torch.randn(1, 8, 33),), time_axis=1))
