"""Idioms of published models: rows that are counted, states in a dataclass, graphs of sequences, and far values."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_export.export.graph.passes.foreign import infer_shapes
from rnn_export.export.graph.step import sequence_graph, step_graph
from rnn_export.onnx.graph_inspection import inspect_graph

from ..lifting import lift  # noqa: TID252
from ..zoo.idioms import Belief, World, X, by_bands, of_batch  # noqa: TID252
from .streams import Call, stepped


@pytest.mark.parametrize("model", [Call(by_bands), Call(of_batch)], ids=["before the batch", "behind the batch"])
def test_rows_of_a_stream_are_counted_with_it_wherever_they_stand(model):
    lifted = lift(model, (X,), time_axis=1)
    early, late = torch.randn(1, 12, 6), torch.randn(1, 7, 6)
    states = stepped(lifted, early[:, :5])[1][-1]
    fresh = [lifted.initial[s.name].expand(1, *s.row) for s in lifted.spec.states]
    joined = [torch.cat(pair) for pair in zip(states, fresh, strict=True)]
    for t in range(7):
        y, *joined = lifted.step(torch.cat([early[:, 5 + t], late[:, t]])[:, None], *joined)
        want = torch.cat([model(early[:, : 6 + t])[:, -1:], model(late[:, : t + 1])[:, -1:]])
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-6)


def test_a_dataclass_is_a_state_by_its_fields():
    model, belief = World().eval(), Belief(torch.zeros(2, 2), torch.zeros(2, 4))
    lifted = lift(model, (torch.randn(2, 3), belief), states={"before": 1})
    assert [s.name for s in lifted.spec.states] == ["before.mean", "before.memory"]
    states = [torch.zeros(2, 2), torch.zeros(2, 4)]
    for x in torch.randn(6, 2, 3):
        got, *states = lifted.step(x, *states)
        want, belief = model(x, belief)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(states, [belief.mean, belief.memory])


def counted(s: nn.Module, x: Tensor, mels: Tensor) -> Tensor:
    """A GRU over samples that stand for frames of another input; calls are counted, and nothing reads it."""
    s.calls += 1
    return s.gru(torch.stack([x, mels[..., 2:-2].repeat_interleave(6, -1)], 2))[0]


def test_a_count_of_calls_is_no_memory_of_a_layer():
    model = Call(counted, calls=torch.zeros(1, dtype=torch.long), gru=nn.GRU(2, 3, batch_first=True))
    assert "calls" not in [s.name for s in lift(model, (torch.randn(2, 36), torch.randn(2, 10))).spec.states]


def test_a_bare_cell_gives_its_states():
    cell = Call(lambda s, x, h, c: s.cell(x, (h, c)), cell=nn.LSTMCell(3, 4))
    lifted = lift(cell, (torch.randn(2, 3), torch.zeros(2, 4), torch.zeros(2, 4)), states={"h": 0, "c": 1})
    assert [t.name for t in lifted.spec.outputs] == ["output0", "output1"]
    h, c, next_h, next_c = lifted.step(torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4))
    assert torch.equal(h, next_h)
    assert torch.equal(c, next_c)


def padded_in_loop(s: nn.Module, x: Tensor) -> Tensor:
    """A loop each of whose frames pads by nothing, and widens a norm to the shape of the batch."""
    x = F.normalize(F.pad(x, (0, 0, 0, 0)).unflatten(2, (2, 3)), dim=-1).flatten(2)
    h, ys = x.new_zeros(x.shape[0], 6), []
    for t in range(x.shape[1]):
        h = s.w(h) * 0.5 + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def padded_again(s: nn.Module, x: Tensor) -> Tensor:
    """A window without padding, and its frames put behind zeros: there at once, but computed of frames to come."""
    return F.pad(s.conv(x.transpose(1, 2)), (2, 0)).transpose(1, 2) + 1


SEQUENCES = {
    "sizes made of shapes in a body": Call(padded_in_loop, w=nn.Linear(6, 6)),
    "frames held still beyond the delay": Call(padded_again, conv=nn.Conv1d(6, 6, 3)),
}


@pytest.mark.parametrize("model", SEQUENCES.values(), ids=SEQUENCES)
def test_a_sequence_graph_can_be_loaded_and_gives_what_the_model_gives(model):
    lifted, x = lift(model, (X,), time_axis=1), torch.randn(3, 11, 6)
    raw = sequence_graph(lifted)
    assert raw is not None
    inspect_graph("sequence.onnx", raw, lifted.spec, infer_shapes)
    states = {s.input: lifted.initial[s.name].expand(3, *s.row).numpy() for s in lifted.spec.states}
    got = ort.InferenceSession(raw).run(None, {"x": x.numpy(), **states})[0]
    np.testing.assert_allclose(got, model(x).detach().numpy(), rtol=1e-5, atol=1e-5)


def logarithms(s: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return (
        F.logsigmoid(x),
        torch.logaddexp(x, -0.5 * x),
        torch.logaddexp(x, 1.0 * x),
        torch.logaddexp2(x, -x),
        torch.hypot(x, x.flip(-1)),
    )


def test_exponentials_that_overflow_are_not_taken():
    far = torch.cat([torch.linspace(-300, 300, 61), torch.tensor([1e-3, -1e-3, torch.inf, -torch.inf])])[None]
    raw = step_graph(lift(Call(logarithms), (torch.randn(far.shape),), time_axis=None))
    assert raw is not None
    for got, want in zip(ort.InferenceSession(raw).run(None, {"x": far.numpy()}), logarithms(None, far), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-6, atol=1e-7)
