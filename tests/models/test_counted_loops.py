"""`while_loop` with a constant number of iterations in each frame is unrolled; others are refused."""

import torch
from torch import nn
from torch._higher_order_ops import while_loop

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)


def solved(s, x, most):
    """A fixed point, some times closer to it."""

    def closer(i, h):
        return i < most

    def body(i, h):
        return i + 2, torch.tanh(s.l(h) + x)

    _, h = while_loop(closer, body, (torch.tensor(0), torch.zeros_like(x)))
    return s.g(h)[0]


def parts():
    torch.manual_seed(0)
    return {"l": nn.Linear(4, 4), "g": nn.GRU(4, 4, batch_first=True)}


def test_a_loop_that_constants_number_is_its_iterations_one_after_the_other():
    lifted = assert_whole(Call(lambda s, x: solved(s, x, 5), **parts()), X, time_axis=1)
    assert [s.name for s in lifted.spec.states] == ["g.l0.h"]
    assert sum("tanh" in str(node.target) for node in lifted.module.graph.nodes) == 3


def test_more_iterations_than_a_graph_can_hold_are_refused():
    with raises("while-loop-by-value", "test_counted_loops.py"):
        lift(Call(lambda s, x: solved(s, x, 600), **parts()), (X,), time_axis=1)
