"""The definition of an operator and a trial of it agree on indices, on any axis."""

import pytest
import torch
from torch import Tensor, fx, nn

from rnn_export.export.lift.ir.dependence import axis_definitions, operator_dependence
from rnn_export.export.lift.ir.dependence.axis_definitions import DEFINITIONS
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout
from rnn_export.export.lift.ir.dependence.operator_dependence import IndicesMixed, Operators
from rnn_export.export.lift.ir.fx_nodes import aten, recorded

X = torch.zeros(3, 1, 4, 5)
FORMS = {
    "transpose": (aten.transpose.int, 0, -1),
    "transpose of others": (aten.transpose.int, 1, 2),
    "permute": (aten.permute.default, [2, -3, 1, 3]),
    "unsqueeze before": (aten.unsqueeze.default, 0),
    "unsqueeze at the end": (aten.unsqueeze.default, -1),
    "squeeze": (aten.squeeze.dim, 1),
    "squeeze of more": (aten.squeeze.dim, -1),
    "softmax": (aten.softmax.int, -1),
    "log_softmax": (aten.log_softmax.int, 2),
    "sum": (aten.sum.dim_IntList, [-1, 1]),
    "sum kept": (aten.sum.dim_IntList, [2], True),
    "sum of all": (aten.sum.dim_IntList, None),
    "mean": (aten.mean.dim, [0]),
    "amax": (aten.amax.default, [-2]),
    "norm": (aten.layer_norm.default, [5]),
    "norm of two": (aten.layer_norm.default, [4, 5]),
    "linear": (aten.linear.default, torch.ones(3, 5), torch.ones(3)),
    "convolution": (aten.conv2d.default, torch.ones(2, 1, 3, 3), torch.ones(2), [1, 1], [1, 1]),
    "convolution, transposed": (aten.conv_transpose2d.input, torch.ones(1, 2, 3, 3)),
    "padding": (aten.constant_pad_nd.default, [1, 2], 3.0),
    "reflections": (aten.pad.default, [1, 2, 2, 1], "reflect"),
    "norm by channels": (aten.batch_norm.default, *[torch.ones(1)] * 4, False, 0.1, 1e-5, False),
    "norm of all": (aten.batch_norm.default, *[torch.ones(1)] * 4, True, 0.1, 1e-5, False),
    "gate": (aten.glu.default, 2),
    "running sum": (aten.cumsum.default, -1),
    "product with a matrix": (aten.matmul.default, torch.ones(5, 2)),
    "product with matrices": (aten.matmul.default, torch.ones(3, 1, 5, 2)),
    "product with rows": (aten.matmul.default, torch.ones(5)),
}


def depends(operator, args, few, more, axes) -> object:
    """The dependences of `operator` on `few`, tensors with indices in `axes`, and on `more`; or the error type."""
    held, graph = nn.Module(), fx.Graph()
    given = [graph.placeholder(f"x{i}") for i in range(len(few))]
    taken = []
    for i, value in enumerate(args):
        if isinstance(value, Tensor):
            held.register_buffer(f"weight{i}", value)
        taken.append(graph.get_attr(f"weight{i}") if isinstance(value, Tensor) else value)
    node = graph.call_function(operator, ([*given], *taken) if operator is aten.cat.default else (*given, *taken))
    graph.output((node,))
    try:
        runs = [recorded(fx.GraphModule(held, graph), values) for values in (few, more)]
        layouts = {n: AxisLayout(axis) for n, axis in zip(given, axes, strict=True)}
        return Operators(*runs, lambda n: False).dependences(node, layouts)
    except (IndicesMixed, RuntimeError, ValueError) as refused:
        return type(refused)


def one_more(value: Tensor, axis: int) -> Tensor:
    return torch.cat([value, value.narrow(axis, 0, 1)], axis)


def said_and_tried(monkeypatch, *asked) -> tuple[object, object]:
    said = depends(*asked)
    monkeypatch.setattr(axis_definitions, "DEFINITIONS", {})
    return said, depends(*asked)


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_definition_says_what_a_trial_finds(form, axis, monkeypatch):
    operator, *args = form
    said, tried = said_and_tried(monkeypatch, operator, args, [X], [one_more(X, axis)], [axis])
    assert said == tried


MOVING_FORMS = {
    "split": (aten.view.default, [3, 1, 2, 2, 5]),
    "merged": (aten.reshape.default, [-1, 5]),
    "merged behind": (aten.flatten.using_ints, 2, 3),
    "split behind": (aten.unflatten.int, -1, [5, 1]),
    "cut": (aten.slice.Tensor, 2, 1, 3),
    "every other": (aten.slice.Tensor, 0, 0, 9, 2),
    "all": (aten.slice.Tensor, 0, 0, 2**63 - 1),
    "the first": (aten.select.int, 0, 0),
    "the last": (aten.select.int, -1, -1),
    "the last of all": (aten.slice.Tensor, 2, -1, 2**63 - 1),
    "windows": (aten.unfold.default, 3, 2, 1),
    "backwards": (aten.flip.default, [2]),
    "repeated": (aten.repeat.default, [2, 1, 1, 1]),
    "repeated in front": (aten.repeat.default, [2, 1, 1, 1, 1]),
    "expanded": (aten.expand.default, [-1, 4, -1, -1]),
    "diagonal": (aten.diagonal.default, 0, 2, 3),
    "apart": (aten.unbind.int, 2),
    "in pieces": (aten.split_with_sizes.default, [2, 3], 3),
}


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("form", MOVING_FORMS.values(), ids=MOVING_FORMS)
def test_the_numbers_of_cells_go_where_a_trial_says(form, axis, monkeypatch):
    operator, *args = form
    asked = operator, args, [X], [one_more(X, axis)], [axis]
    monkeypatch.setattr(axis_definitions, "DEFINITIONS", {})
    moved = depends(*asked)
    monkeypatch.setattr(operator_dependence, "MOVES", frozenset())
    assert moved == depends(*asked)


@pytest.mark.parametrize("axes", [(0, 0), (2, 2), (0, 2), (1, 1)])
def test_the_numbers_of_cells_that_are_joined_go_where_a_trial_says(axes, monkeypatch):
    more = [one_more(X, axis) for axis in axes]
    moved = depends(aten.cat.default, [2], [X, X], more, axes)
    monkeypatch.setattr(operator_dependence, "MOVES", frozenset())
    assert moved == depends(aten.cat.default, [2], [X, X], more, axes)


@pytest.mark.parametrize(("axes", "separate"), [((0, 0), True), ((1, 2), False), ((2, 1), False), ((1, 1), False)])
def test_rows_of_a_batch_are_independent_in_products_and_rows_and_columns_are_not(axes, separate, monkeypatch):
    pair = torch.zeros(2, 3, 4), torch.zeros(2, 4, 3)
    more = [one_more(t, axis) for t, axis in zip(pair, axes, strict=True)]
    said, tried = said_and_tried(monkeypatch, aten.bmm.default, (), pair, more, axes)
    assert said == tried
    assert isinstance(said, list) == separate


MATRICES = {
    "inverse": (aten.linalg_inv.default,),
    "solution": (aten.linalg_solve.default, torch.eye(4)),
    "factor": (aten.linalg_cholesky.default,),
}


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("form", MATRICES.values(), ids=MATRICES)
def test_matrices_are_independent_and_their_entries_are_not(form, axis):
    """No trial says so: of what is drawn for it many matrices have no inverse."""
    operator, *args = form
    few = torch.eye(4).expand(2, 3, 4, 4).contiguous()
    said = depends(operator, args, [few], [torch.cat([few, few], axis)], [axis])
    assert (said == [AxisLayout(axis)]) == (axis < 2)


def test_numbers_in_one_hot_form_stay_where_they_are():
    few = torch.zeros(2, 3, dtype=torch.long)
    for axis in (0, 1):
        more = torch.cat([few, few], axis)
        assert depends(aten.one_hot.default, [5], [few], [more], [axis]) == [AxisLayout(axis)]


def test_every_definition_is_held_to_a_trial():
    assert {operator.overloadpacket for operator, *_ in FORMS.values()} >= {
        aten.transpose, aten.permute, aten.unsqueeze, aten.squeeze, aten.softmax, aten.sum, aten.mean, aten.amax,
        aten.layer_norm, aten.linear, aten.matmul,
    }  # fmt: skip
    assert all(operator in DEFINITIONS for operator, *_ in FORMS.values())
