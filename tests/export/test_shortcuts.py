"""torch.onnx's trace of each program is skipped only where that changes nothing."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_export.export.graph import shortcuts
from rnn_export.export.graph.step import step_graph

from ..lifting import lift  # noqa: TID252


class Written(nn.Module):
    """(B, T, 4), frame by frame."""

    def __init__(self, write):
        super().__init__()
        self.write, self.rnn = write, nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.rnn(x)[0])


SEPARATE = {
    "none": lambda y: y.softmax(-1) + y.mean(-1, keepdim=True),
    "one": lambda y: torch.special.entr(y.abs() + 0.1),
    "one after another": lambda y: torch.rsub(1 - y, y) * y.var(-1, unbiased=False, keepdim=True),
    "with several results": lambda y: y.aminmax(dim=-1, keepdim=True)[1] - y.aminmax(dim=-1, keepdim=True)[0],
    "of constants": lambda y: y * torch.hann_window(4),
    "in place inside": lambda y: F.rms_norm(y, (4,)) + F.cosine_similarity(y, y.flip(-1), -1)[..., None],
    "of others without": lambda y: F.pairwise_distance(y, y.flip(-1))[..., None] * y.nanmean(-1, keepdim=True),
    "that is put out": lambda y: 1 - y,
}


def _results(graph: bytes) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    drawn = np.random.default_rng(0)
    given = {i.name: [n if isinstance(n, int) else 2 for n in i.shape] for i in session.get_inputs()}
    return session.run(None, {name: drawn.standard_normal(shape, "float32") for name, shape in given.items()})


@pytest.mark.parametrize("how", SEPARATE)
def test_operators_without_translation_are_decomposed_in_their_places(how, monkeypatch):
    torch.manual_seed(0)
    model, x = Written(SEPARATE[how]).eval(), torch.randn(1, 6, 4)
    with monkeypatch.context() as patch:
        patch.setattr(shortcuts, "decompose_nodes", lambda program, table: False)
        anew = _results(step_graph(lift(model, (x,))))
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", None)
    for there, here in zip(anew, _results(step_graph(lift(model, (x,)))), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-6, atol=1e-6)


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
