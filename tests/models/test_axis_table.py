"""Each row of the axis table and a trial of its operator agree on indices, on any axis."""

import pytest
import torch
from torch import Tensor, fx, nn

from rnn_export.export.lift.ir.dependence import axis_table, operator_dependence
from rnn_export.export.lift.ir.dependence.axis_table import AXES
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout
from rnn_export.export.lift.ir.dependence.operator_dependence import IndicesMixed, NotDecided, Operators
from rnn_export.export.lift.ir.fx_nodes import aten, overloads, recorded

X, ONES = torch.zeros(3, 1, 4, 5), torch.ones
# Operators, and the arguments behind a tensor of four axes.
CALLS = [
    ("transpose.int", 0, -1), ("transpose.int", 1, 2), ("permute", [2, -3, 1, 3]),
    ("unsqueeze", 0), ("unsqueeze", -1), ("squeeze.dim", 1), ("squeeze.dim", -1), ("squeeze.dims", [1, 2]),
    ("unbind.int", 2), ("split.Tensor", 2, -1), ("split_with_sizes", [2, 3], 3), ("chunk", 2, 2),
    ("softmax.int log_softmax.int cumsum cumprod logcumsumexp cummax cummin sort", -1), ("sort.stable",), ("topk", 2),
    ("_softmax _log_softmax median.dim max.dim min.dim", 2, False), ("_safe_softmax glu", 2), ("log_softmax.int", 2),
    ("sum.dim_IntList mean.dim amax amin any.dims all.dims logsumexp", [-1, 1]), ("amax", [-2]), ("mean.dim", [0]),
    ("sum.dim_IntList mean.dim amax logsumexp", [2], True), ("any.dim all.dim", -1), ("sum mean any all",),
    ("sum.dim_IntList", None), ("layer_norm", [5]), ("layer_norm", [4, 5]), ("linear", ONES(3, 5), ONES(3)),
    ("conv2d", ONES(2, 1, 3, 3), ONES(2), [1, 1], [1, 1]), ("conv2d.padding", ONES(2, 1, 3, 3), None, [1, 1], "same"),
    ("conv_transpose2d.input", ONES(1, 2, 3, 3)), ("avg_pool2d", [2]), ("max_pool2d", [2, 1], [1, 1]),
    ("avg_pool3d max_pool3d", [1, 2, 2]), ("conv_transpose3d.input", ONES(3, 2, 1, 2, 2)),
    ("conv3d", ONES(2, 3, 1, 2, 2)), ("conv3d.padding", ONES(2, 3, 1, 2, 2), None, [1], "valid"),
    ("constant_pad_nd", [1, 2], 3.0), ("constant_pad_nd", [1, 2, 0, 0]), ("pad", [1, 2, 2, 1], "reflect"),
    ("batch_norm", *[ONES(1)] * 4, False, 0.1, 1e-5, False), ("batch_norm", *[ONES(1)] * 4, True, 0.1, 1e-5, False),
    ("matmul", ONES(5, 2)), ("matmul", ONES(3, 1, 5, 2)), ("matmul", ONES(5)), ("tril",), ("triu", 1),
    ("roll", 1, 0), ("roll", 2),
    ("clone _to_copy alias detach contiguous zeros_like ones_like",), ("full_like", 2),
    ("type_as", ONES(1)), ("to.dtype", torch.float64), ("dropout", 0.5, False), ("dropout", 0.5, True),
]  # fmt: skip
FORMS = {f"{op}{i}": (op, *args) for i, (names, *args) in enumerate(CALLS) for op in sorted(overloads(names), key=str)}
# What is drawn for them is no square matrix with an inverse.
MATRICES = {
    "inverse": (aten.linalg_inv.default,),
    "solution": (aten.linalg_solve.default, torch.eye(4)),
    "factor": (aten.linalg_cholesky.default,),
}
A, B = torch.zeros(2, 3, 4), torch.zeros(2, 4, 3)
# By operator, values, the axis of each that has indices, and further arguments.
SEVERAL = {
    aten.bmm.default: [([A, B], axes) for axes in ((0, 0), (1, None), (None, 2), (1, 2), (2, 1), (1, 1))],
    aten.matmul.default: [([A, B[0]], (axis, None)) for axis in range(3)] + [([A, B[:1]], (None, 2))],
    aten.mm.default: [([A[0], B[0]], axes) for axes in ((0, None), (1, 0), (None, 1))],
    aten.addmm.default: [([A[0, :, :1], A[0], B[0]], axes) for axes in ((None, 0, None), (None, 1, 0))],
    aten.baddbmm.default: [([A[:, :, :1], A, B], axes) for axes in ((None, 0, 0), (0, 0, 0), (None, 2, 1))],
    aten.stack.default: [([A, A], (axis, axis), -1) for axis in range(3)] + [([A, A], (0, 1), 0)],
    aten.copy.default: [([A, A], (axis, axis)) for axis in range(3)],
    aten.t.default: [([A[0]], (0,)), ([A[0]], (1,))],
    **{
        operator: [([A], (axis,), *args) for axis in range(3)]
        for operator, *args in (
            (aten.conv1d.default, ONES(2, 3, 3)), (aten.conv1d.padding, ONES(2, 3, 3), None, [1], "same"),
            (aten.conv_transpose1d.default, ONES(3, 2, 3)), (aten.avg_pool1d.default, [2]),
            (aten.max_pool1d.default, [2], [1]),
        )
    },
}  # fmt: skip


def depends(operator, args, few, more, axes) -> object:
    """The dependences of `operator` on `few`, tensors with indices in `axes`, and on `more`; or the error type."""
    held, graph = nn.Module(), fx.Graph()
    given = [graph.placeholder(f"x{i}") for i in range(len(few))]
    taken = []
    for i, value in enumerate(args):
        if isinstance(value, Tensor):
            held.register_buffer(f"weight{i}", value)
        taken.append(graph.get_attr(f"weight{i}") if isinstance(value, Tensor) else value)
    is_list = operator in (aten.cat.default, aten.stack.default)
    node = graph.call_function(operator, ([*given], *taken) if is_list else (*given, *taken))
    graph.output((node,))
    try:
        runs = [recorded(fx.GraphModule(held, graph), values) for values in (few, more)]
        layouts = {n: AxisLayout(axis) for n, axis in zip(given, axes, strict=True) if axis is not None}
        return Operators(*runs, lambda n: False).dependences(node, layouts)
    except (IndicesMixed, RuntimeError, ValueError) as refused:
        return type(refused)


def one_more(value: Tensor, axis: int | None) -> Tensor:
    return value if axis is None else torch.cat([value, value.narrow(axis, 0, 1)], axis)


def told_and_tried(monkeypatch, *asked) -> tuple[object, object]:
    told = depends(*asked)
    monkeypatch.setattr(axis_table, "AXES", {})
    return told, depends(*asked)


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_row_tells_what_a_trial_finds(form, axis, monkeypatch):
    operator, *args = form
    told, tried = told_and_tried(monkeypatch, operator, args, [X], [one_more(X, axis)], [axis])
    # One index alone mixes with no other, and a trial may not decide.
    assert told == tried or (told is IndicesMixed and (tried is NotDecided or X.shape[axis] == 1))


@pytest.mark.parametrize(("operator", "form"), [(op, form) for op, forms in SEVERAL.items() for form in forms])
def test_a_row_of_several_values_tells_what_a_trial_finds(operator, form, monkeypatch):
    values, axes, *args = form
    more = [one_more(t, axis) for t, axis in zip(values, axes, strict=True)]
    told, tried = told_and_tried(monkeypatch, operator, args, values, more, axes)
    assert told == tried


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
    "narrowed": (aten.narrow.default, 2, 1, 2),
    "without ones": (aten.squeeze.default,),
    "moved": (aten.movedim.int, 0, 2),
    "split of a product": (aten._unsafe_view.default, [3, 1, 2, 2, 5]),
}


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("form", MOVING_FORMS.values(), ids=MOVING_FORMS)
def test_the_indices_of_entries_go_where_a_row_and_a_trial_say(form, axis, monkeypatch):
    operator, *args = form
    told, moved = told_and_tried(monkeypatch, operator, args, [X], [one_more(X, axis)], [axis])
    monkeypatch.setattr(operator_dependence, "MOVING", frozenset())
    assert told == moved == depends(operator, args, [X], [one_more(X, axis)], [axis])


@pytest.mark.parametrize("axes", [(0, 0), (2, 2), (0, 2), (1, 1)])
def test_the_indices_of_joined_entries_go_where_a_trial_says(axes, monkeypatch):
    more = [one_more(X, axis) for axis in axes]
    moved = depends(aten.cat.default, [2], [X, X], more, axes)
    monkeypatch.setattr(operator_dependence, "MOVING", frozenset())
    assert moved == depends(aten.cat.default, [2], [X, X], more, axes)


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("form", MATRICES.values(), ids=MATRICES)
def test_matrices_are_independent_and_their_entries_are_not(form, axis):
    """No trial says so: of what is drawn for it many matrices have no inverse."""
    operator, *args = form
    few = torch.eye(4).expand(2, 3, 4, 4).contiguous()
    said = depends(operator, args, [few], [torch.cat([few, few], axis)], [axis])
    assert (said == [AxisLayout(axis)]) == (axis < 2)


@pytest.mark.parametrize("operator", [aten.one_hot.default, aten.embedding.default])
@pytest.mark.parametrize("axis", [0, 1])
def test_numbers_stay_where_they_are(operator, axis):
    values, args = ([], [5]) if operator is aten.one_hot.default else ([torch.ones(5, 4)], [])
    few = torch.zeros(2, 3, dtype=torch.long)
    axes = [*[None] * len(values), axis]
    assert depends(operator, args, [*values, few], [*values, one_more(few, axis)], axes) == [AxisLayout(axis)]


def test_every_operator_of_the_table_is_tried():
    """But for some on matrices, whose row is that of three others, and for new values without entries."""
    forms = (*FORMS.values(), *MOVING_FORMS.values(), *MATRICES.values())
    tried = {operator for operator, *_ in forms} | set(SEVERAL)
    tried |= {aten.one_hot.default, aten.embedding.default, aten.empty_like.default, aten.cat.default}
    matrices = {operator for operator, row in AXES.items() if row is AXES[aten.linalg_inv.default]}
    assert set(AXES) - tried <= matrices
    assert {operator for operator, *_ in FORMS.values()} <= set(AXES)
