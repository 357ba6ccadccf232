"""torch.onnx is spared the trace that it makes of each program, where that changes nothing."""

import pytest
import torch
from torch import Tensor, nn

from rnn_export.export.graph import shortcuts
from rnn_export.export.graph.step import step_graph
from rnn_export.export.lift import lift


class Written(nn.Module):
    """(B, T, 4), frame by frame."""

    def __init__(self, write):
        super().__init__()
        self.write, self.rnn = write, nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.rnn(x)[0])


@pytest.mark.parametrize(
    ("write", "anew"),
    [
        pytest.param(lambda y: y.softmax(-1) + y.mean(-1, keepdim=True), 0, id="all of it has a translation"),
        pytest.param(lambda y: torch.special.entr(y.abs() + 0.1), 1, id="one operator has none"),
    ],
)
def test_a_program_is_traced_anew_only_to_take_operators_apart(write, anew, monkeypatch):
    torch.manual_seed(0)
    lifted = lift(Written(write).eval(), (torch.randn(1, 6, 4),))
    calls, original = [], torch.export.ExportedProgram.run_decompositions
    monkeypatch.setattr(
        torch.export.ExportedProgram,
        "run_decompositions",
        lambda program, table: calls.append(program) or original(program, table),
    )
    assert step_graph(lifted)
    assert len(calls) == anew


@pytest.mark.parametrize(
    "write",
    [
        lambda y: y + 1,
        lambda y: (y > 0) * 0.5 + torch.sin((y * 7).long()),
        lambda y: torch.where(y > 0, y, 2) + (y > 0).sum(-1, keepdim=True) / 3,
        lambda y: torch.cat([y, (y > 0).long()], -1)[..., 2:6] + (y > 1),
    ],
)
def test_types_are_promoted_as_torch_does(write, monkeypatch):
    """The step is the same, to the byte, as where torch computes each operator anew."""
    torch.manual_seed(0)
    model, x = Written(write).eval(), torch.randn(1, 6, 4)
    quick = step_graph(lift(model, (x,)))
    monkeypatch.setattr(shortcuts, "_computed_where_promoted", shortcuts._traced_where_needed)
    assert quick == step_graph(lift(model, (x,)))
