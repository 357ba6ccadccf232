"""A model's own loop over frames is a Scan over its step: any length, any batch, the same numbers."""

from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from rnn_export.export.graph.step import sequence_graph, step_graph
from rnn_export.export.lift.streaming_model import StreamingModel

from ..lifting import lift  # noqa: TID252
from ..models.nets import GRUCellByIndex, Loop, Projected  # noqa: TID252

X = torch.zeros(2, 8, 4)


class Last(nn.Module):
    """An output of every frame, one as of the last, and an input that is held."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 5), nn.Linear(5, 3)

    def forward(self, x, bias):
        h, outputs = x.new_zeros(x.shape[0], 5), []
        for frame in x.unbind(1):
            h = self.cell(frame + bias, h)
            outputs.append(h)
        return torch.stack(outputs, 1), self.head(h)


class Valid(nn.Module):
    """Every other frame of a convolution without padding, driven by a cell: a delay, and half as many frames."""

    def __init__(self):
        super().__init__()
        self.conv, self.cell = nn.Conv1d(4, 4, 4, stride=2), nn.GRUCell(4, 5)

    def forward(self, x):
        h, outputs = x.new_zeros(x.shape[0], 5), []
        for frame in self.conv(x.mT).unbind(2):
            h = self.cell(frame, h)
            outputs.append(h)
        return torch.stack(outputs, 1)


def by_name(model: nn.Module, *example: torch.Tensor, **options: object) -> StreamingModel:
    torch.manual_seed(0)
    return lift(model.eval(), example, **options)


MODELS = {
    "a loop": lambda chunk: by_name(Loop(), X, torch.zeros(2, 5), states={"h": 1}, chunk=chunk),
    "time first": lambda chunk: by_name(GRUCellByIndex(), X.transpose(0, 1), chunk=chunk),
    "as of the last": lambda chunk: by_name(Last(), X, X[:, 0], chunk=chunk),
    "a projected layer": lambda chunk: by_name(Projected(), X, chunk=chunk),
}


@pytest.fixture(scope="module")
def lifted():
    return cache(lambda name, chunk: MODELS[name](chunk))


def feed_of(model: StreamingModel, batch: int, frames: int) -> list[np.ndarray]:
    random, sizes = np.random.default_rng(0), {"batch": batch, "time": frames}
    tensors = [*model.spec.inputs, *model.spec.states]
    return [random.standard_normal([sizes.get(d, d) for d in t.shape]).astype(np.float32) for t in tensors]


def assert_same(model: StreamingModel, sequence: bytes, batch: int, frames: int) -> None:
    session, feed = ort.InferenceSession(sequence), feed_of(model, batch, frames)
    given = session.run(None, dict(zip([v.name for v in session.get_inputs()], feed, strict=True)))
    with torch.no_grad():
        want = model.module(*map(torch.from_numpy, feed))
    for a, b in zip(given, want, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-5)


CHUNKS = [("as of the last", 4), ("as of the last", 1), *((name, 4) for name in MODELS if name != "as of the last")]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("name", "chunk"), CHUNKS)
def test_the_sequence_graph_scans_the_step(lifted, name, chunk):
    model = lifted(name, chunk)
    sequence = sequence_graph(model)
    assert [n.op_type for n in onnx.load_from_string(sequence).graph.node].count("Scan") == 1
    for batch, frames in ((1, chunk), (3, 3 * chunk)):
        assert_same(model, sequence, batch, frames)


def test_the_shapes_are_those_of_the_contract(lifted):
    model = lifted("as of the last", 4)
    graph = onnx.load_from_string(sequence_graph(model)).graph
    shapes = {
        v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*graph.input, *graph.output)
    }
    spec = model.spec
    assert shapes == {t.name: t.shape for t in (*spec.inputs, *spec.outputs)} | {
        n: s.shape for s in spec.states for n in (s.input, s.output)
    }
    assert {d for shape in shapes.values() for d in shape if isinstance(d, str)} == {"batch", "time"}


@pytest.mark.parametrize("opset", [13, 21])
def test_at_every_opset(lifted, opset):
    model = lifted("as of the last", 4)
    sequence = sequence_graph(model, opset)
    proto = onnx.load_from_string(sequence)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", opset)]
    assert_same(model, sequence, 2, 12)


def test_fewer_frames_come_out_of_a_stride():
    model = by_name(Valid(), torch.zeros(2, 16, 4), chunk=4)
    sequence = sequence_graph(model)
    session, feed = ort.InferenceSession(sequence), feed_of(model, 2, 16)
    feed[1:] = [np.zeros_like(a) for a in feed[1:]]
    given = session.run(None, dict(zip([v.name for v in session.get_inputs()], feed, strict=True)))
    assert given[0].shape == (2, 8, 5)
    with torch.no_grad():
        want = Valid.forward(model.original.model, torch.from_numpy(feed[0])).numpy()
    late = model.spec.delay // 2
    np.testing.assert_allclose(given[0][:, late:], want[:, : 8 - late], rtol=1e-5, atol=1e-5)


def test_the_step_itself_has_no_scan(lifted):
    kinds = {n.op_type for n in onnx.load_from_string(step_graph(lifted("as of the last", 4))).graph.node}
    assert not kinds & {"Scan", "Loop", "If"}
