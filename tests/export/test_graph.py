import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from rnn_export.export.graph.step import sequence_graph, step_graph
from rnn_export.export.lift.api import lift
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.spec import StreamSpec

from ..models.nets import Dict, Explicit, Ids, LastFrame, LearnedStart, Loop, Several, Tagger  # noqa: TID252
from ..models.streams import Call  # noqa: TID252

X = torch.zeros(2, 7, 4)
MODELS = {
    "hidden": lambda: lift(Tagger(nn.LSTM, 2).eval(), (X,)),
    "chunk": lambda: lift(Tagger().eval(), (X,), chunk=3),
    "time-major": lambda: lift(Tagger(batch_first=False).eval(), (X,)),
    "explicit": lambda: lift(
        Explicit().eval(), (X, torch.zeros(2, 2, 5), torch.zeros(2, 2, 5)), states={"h": 1, "c": 2}
    ),
    "tree": lambda: lift(Dict().eval(), (X[:, 0], {n: torch.zeros(2, 5) for n in "hcg"}), states={"memory": "next"}),
    "learned": lambda: lift(LearnedStart().eval(), (X,)),
    "several": lambda: lift(Several().eval(), (X, torch.zeros(2, 7, 3), torch.zeros(2, 2))),
    "ids": lambda: lift(Ids().eval(), (torch.zeros(2, 7, dtype=torch.long),)),
    "loop": lambda: lift(Loop().eval(), (X, torch.zeros(2, 5)), states={"h": 1}),
    "last frame": lambda: lift(LastFrame().eval(), (X,), time_axis=1),
}
Graphs = tuple[StreamingModel, onnx.ModelProto, onnx.ModelProto | None]


@pytest.fixture(scope="module")
def graphs():
    """The lifted model with its step and sequence graph, made once."""

    @cache
    def make(name: str) -> Graphs:
        torch.manual_seed(0)
        lifted = MODELS[name]()
        sequence = sequence_graph(lifted)
        step = onnx.load_from_string(step_graph(lifted))
        return lifted, step, None if sequence is None else onnx.load_from_string(sequence)

    return make


def both(made: Graphs) -> list[tuple[onnx.ModelProto, int | str]]:
    """Each graph with what its time dimension must be."""
    lifted, step, sequence = made
    return [(step, lifted.spec.chunk), *([(sequence, "time")] if sequence is not None else [])]


def shapes(values) -> dict[str, tuple[int | str, ...]]:
    return {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}


every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_inputs_and_outputs_are_those_of_the_contract_in_order(graphs, name):
    spec = graphs(name)[0].spec
    for graph, time in both(graphs(name)):

        def sized(shape, time=time):
            return tuple(time if d == "time" else d for d in shape)

        fed = {t.name: sized(t.shape) for t in spec.inputs} | {s.input: s.shape for s in spec.states}
        given = {t.name: sized(t.shape) for t in spec.outputs} | {s.output: s.shape for s in spec.states}
        assert list(shapes(graph.graph.input).items()) == list(fed.items())
        assert list(shapes(graph.graph.output).items()) == list(given.items())


@every_model
def test_no_symbol_but_batch_and_time(graphs, name):
    for graph, time in both(graphs(name)):
        values = [*graph.graph.input, *graph.graph.output, *graph.graph.value_info]
        symbols = {d for shape in shapes(values).values() for d in shape if isinstance(d, str)}
        assert symbols <= {"batch", time}


@every_model
def test_the_contract_lies_in_the_graph(graphs, name):
    lifted = graphs(name)[0]
    for graph, _ in both(graphs(name)):
        (stored,) = [p.value for p in graph.metadata_props if p.key == "rnn_export.spec"]
        assert stored == lifted.spec.dumps()
        assert StreamSpec.from_json(json.loads(stored)) == lifted.spec


@every_model
def test_the_checker_passes_at_the_default_opset(graphs, name):
    for graph, _ in both(graphs(name)):
        onnx.checker.check_model(graph, full_check=True)
        assert [(o.domain, o.version) for o in graph.opset_import] == [("", 18)]
        assert graph.producer_name == "rnn-export"
        assert not graph.functions


@every_model
def test_no_path_and_no_stack_trace_is_in_the_bytes(graphs, name):
    for graph, _ in both(graphs(name)):
        raw = graph.SerializeToString()
        here = Path(__file__).resolve()
        for leak in (b".py", b"Traceback", b"site-packages", b"stack_trace", str(here.parents[2]).encode()):
            assert leak not in raw
        assert not any(node.doc_string for node in graph.graph.node)


def test_no_sequence_graph_where_a_call_is_one_frame(graphs):
    assert graphs("tree")[2] is None
    assert all((made[2] is None) == (not made[0].spec.has_time) for made in map(graphs, MODELS))


def test_the_step_graph_has_no_loop(graphs):
    for name in MODELS:
        kinds = {node.op_type for node in graphs(name)[1].graph.node}
        assert not kinds & {"Loop", "Scan", "If"}


@every_model
@pytest.mark.parametrize("batch", [1, 5])
def test_onnxruntime_takes_any_batch_and_length(graphs, name, batch):
    for graph, time in both(graphs(name)):
        for frames in (1, 9) if time == "time" else (time,):
            feed = {}
            for value in graph.graph.input:
                shape = [{"batch": batch, "time": frames}.get(d, d) for d in shapes([value])[value.name]]
                kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                feed[value.name] = np.zeros(shape, kind)
            outputs = ort.InferenceSession(graph.SerializeToString()).run(None, feed)
            for value, output in zip(graph.graph.output, outputs, strict=True):
                wanted = [{"batch": batch, "time": frames}.get(d, d) for d in shapes([value])[value.name]]
                assert list(output.shape) == wanted


def test_names_that_the_exporter_uses_too_can_be_chosen():
    lifted = lift(Tagger().eval(), (X,), input_names=["linear"], output_names=["getitem"])
    graph = onnx.load_from_string(step_graph(lifted)).graph
    assert ([v.name for v in graph.input], [v.name for v in graph.output]) == (
        ["linear", "rnn.l0.h"],
        ["getitem", "rnn.l0.h.next"],
    )


@pytest.mark.parametrize("opset", [15, 18, 20])
def test_the_opset_is_the_one_asked_for(graphs, opset):
    graph = onnx.load_from_string(step_graph(graphs("hidden")[0], opset))
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", opset)]
    onnx.checker.check_model(graph, full_check=True)


SPREADS = {
    "var": lambda x: x.var(2, keepdim=True),
    "var of all": lambda x: x.var(2, unbiased=False, keepdim=True),
    "std without its axis": lambda x: x.std(2)[..., None],
    "var_mean": lambda x: torch.cat(torch.var_mean(x, 2, keepdim=True), 2),
    "several axes": lambda x: x.unflatten(2, (2, 2)).var((2, 3), correction=2, keepdim=True)[..., 0],
}


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
def test_a_spread_is_written_in_its_own_size(spread):
    """Torch widens it to the size that it has, by an Expand whose size no reader of the graph knows."""
    model = Call(lambda s, x: s.gru(x)[0] * spread(x).sum(2, keepdim=True), gru=nn.GRU(4, 5, batch_first=True))
    lifted = lift(model, torch.randn(1, 8, 4))
    step = step_graph(lifted)
    assert step is not None
    assert "Expand" not in {node.op_type for node in onnx.load_from_string(step).graph.node}
    x, h = torch.randn(3, 1, 4), torch.randn(3, 5)
    with torch.no_grad():
        wanted, _ = lifted.module(x, h)
    names = [*(t.name for t in lifted.spec.inputs), *(s.input for s in lifted.spec.states)]
    feeds = dict(zip(names, (x.numpy(), h.numpy()), strict=True))
    got = ort.InferenceSession(step).run([lifted.spec.outputs[0].name], feeds)[0]
    np.testing.assert_allclose(got, wanted.numpy(), 1e-5, 1e-6)
