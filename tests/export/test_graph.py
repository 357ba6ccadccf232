"""Graphs of lifted models: the contract in them, any batch and length, the names of all, and what they say."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from rnn_export import __version__
from rnn_export.contract.spec import StreamSpec
from rnn_export.export.graph.step import sequence_graph, step_graph
from rnn_export.export.lift.streaming_model import StreamingModel

from ..lifting import lift  # noqa: TID252
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


def all_names(graph: onnx.GraphProto) -> tuple[list[str], list[str]]:
    """Names of nodes and values, inside of nodes too."""
    nodes = [node.name for node in graph.node]
    values = [*(v.name for v in (*graph.input, *graph.initializer)), *(n for node in graph.node for n in node.output)]
    for body in (a.g for node in graph.node for a in node.attribute if a.HasField("g")):
        for names, more in zip((nodes, values), all_names(body), strict=True):
            names += more
    return nodes, [name for name in values if name]


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_is_that_of_its_contract(graphs, name):
    spec = graphs(name)[0].spec
    for model, time in both(graphs(name)):
        graph = model.graph

        def sized(shape, time=time):
            return tuple(time if d == "time" else d for d in shape)

        # Inputs and outputs in their order, and no symbol but batch and time.
        fed = {t.name: sized(t.shape) for t in spec.inputs} | {s.input: s.shape for s in spec.states}
        given = {t.name: sized(t.shape) for t in spec.outputs} | {s.output: s.shape for s in spec.states}
        assert list(shapes(graph.input).items()) == list(fed.items())
        assert list(shapes(graph.output).items()) == list(given.items())
        values = [*graph.input, *graph.output, *graph.value_info]
        assert {d for shape in shapes(values).values() for d in shape if isinstance(d, str)} <= {"batch", time}
        (stored,) = [p.value for p in model.metadata_props if p.key == "rnn_export.spec"]
        assert stored == spec.dumps()
        assert StreamSpec.from_json(json.loads(stored)) == spec
        onnx.checker.check_model(model, full_check=True)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
        assert (model.producer_name, model.producer_version) == ("rnn-export", __version__)
        assert not model.functions
        # No path and no stack trace.
        raw = model.SerializeToString()
        for leak in (b".py", b"Traceback", b"site-packages", b"stack_trace", str(Path(__file__).parents[2]).encode()):
            assert leak not in raw
        assert not any(node.doc_string for node in graph.node)
        # Every node and value has a name of its own.
        for names in all_names(graph):
            assert len({*names}) == len(names)
            assert not [n for n in names if not n.isprintable() or n.startswith(("val_", "node_", "flat."))]
    _, step, sequence = graphs(name)
    assert not {node.op_type for node in step.graph.node} & {"Loop", "Scan", "If"}
    assert (sequence is None) == (not spec.has_time)


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_takes_any_batch_and_length(graphs, name):
    for model, time in both(graphs(name)):
        session = ort.InferenceSession(model.SerializeToString())
        for batch, frames in ((1, 9), (5, 1)) if time == "time" else ((1, time), (5, time)):
            sizes = {"batch": batch, "time": frames}
            kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
            feed = {
                name: np.zeros([sizes.get(d, d) for d in shape], onnx.helper.tensor_dtype_to_np_dtype(kinds[name]))
                for name, shape in shapes(model.graph.input).items()
            }
            wanted = [tuple(sizes.get(d, d) for d in shape) for shape in shapes(model.graph.output).values()]
            assert [output.shape for output in session.run(None, feed)] == wanted


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


def spread(s, x):
    """In each way that torch has: by all, by all but one, without its axis, with the mean, over several axes."""
    several = x.unflatten(2, (2, 2)).var((2, 3), correction=2, keepdim=True)[..., 0]
    ways = [x.var(2, keepdim=True), x.var(2, unbiased=False, keepdim=True), x.std(2)[..., None]]
    return s.gru(x)[0] * torch.cat([*ways, *torch.var_mean(x, 2, keepdim=True), several], 2)


def test_a_spread_is_written_in_its_own_size():
    """Torch widens it to the size that it has, by an Expand whose size no reader of the graph knows."""
    lifted = lift(Call(spread, gru=nn.GRU(4, 6, batch_first=True)), torch.randn(1, 8, 4))
    step = step_graph(lifted)
    assert step is not None
    assert "Expand" not in {node.op_type for node in onnx.load_from_string(step).graph.node}
    x, h = torch.randn(3, 1, 4), torch.randn(3, 6)
    with torch.no_grad():
        wanted, _ = lifted.module(x, h)
    names = [*(t.name for t in lifted.spec.inputs), *(s.input for s in lifted.spec.states)]
    feeds = dict(zip(names, (x.numpy(), h.numpy()), strict=True))
    got = ort.InferenceSession(step).run([lifted.spec.outputs[0].name], feeds)[0]
    np.testing.assert_allclose(got, wanted.numpy(), 1e-5, 1e-6)


class Keyed(nn.Module):
    """A convolution with its norm behind it, a GRU, and layers by keys that are no identifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)
        self.rnn = nn.GRU(6, 5, 2, batch_first=True)
        self.heads = nn.ModuleDict({"a b": nn.Linear(5, 3), "a/b": nn.Linear(3, 3), "tür": nn.Linear(3, 2)})
        with torch.no_grad():
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(nn.functional.pad(x.transpose(1, 2), (2, 0)))).relu().transpose(1, 2)
        y = self.rnn(y)[0]
        for head in self.heads.values():
            y = head(y)
        return y


@pytest.fixture(scope="module")
def keyed():
    torch.manual_seed(0)
    model = Keyed().eval()
    raw = step_graph(lift(model, (torch.zeros(1, 9, 4),)))
    return model, raw, onnx.load_from_string(raw)


def test_nodes_are_called_by_module_and_operator(keyed):
    nodes = {node.name: node for node in keyed[2].graph.node}
    modules = ["conv/Conv", "rnn.l0/GRU", "rnn.l1/GRU", *(f"heads.{k}/{op}" for k in ("a b", "a/b", "tür") for op in
               ("MatMul", "Add"))]  # fmt: skip
    assert [name for name in nodes if name in modules] == modules
    # Of no module: the model's own code, and what reads and writes states.
    assert {"Relu", "Unsqueeze", "Unsqueeze_2"} <= set(nodes)
    assert list(nodes["rnn.l0/GRU"].output) == ["rnn.l0/GRU", "rnn.l0/GRU:1"]


def test_weights_are_called_as_in_the_model_and_say_what_became_of_them(keyed):
    model, _, graph = keyed
    stored = {
        tensor.name: (onnx.numpy_helper.to_array(tensor), tensor.doc_string) for tensor in graph.graph.initializer
    }
    known = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name in set(stored) & set(known):
        np.testing.assert_array_equal(stored[name][0], known[name])
    assert set(stored) & set(known) == {f"heads.{key}.bias" for key in ("a b", "a/b", "tür")}
    for key in ("a b", "a/b", "tür"):
        array, text = stored[f"heads.{key}.weight.T"]
        np.testing.assert_array_equal(array, known[f"heads.{key}.weight"].T)
        assert text == f"heads.{key}.weight, transposed"
    assert {name: text for name, (_, text) in stored.items() if name.startswith(("conv", "rnn"))} == {
        "conv.weight.folded": "conv.weight, with norm folded in",
        "conv.bias.folded": "conv.bias, with norm folded in",
        **{
            f"rnn.l{i}.{letter}": f"{source} as {letter} of ONNX's GRU, gates z, r, h"
            for i in (0, 1)
            for letter, source in {
                "W": f"rnn.weight_ih_l{i}",
                "R": f"rnn.weight_hh_l{i}",
                "B": f"rnn.bias_ih_l{i} and rnn.bias_hh_l{i}",
            }.items()
        },
    }


def test_constants_are_called_by_what_reads_them_or_by_their_value(keyed):
    graph = keyed[2].graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (sliced,) = [node for node in graph.node if node.op_type == "Slice"]
    assert list(sliced.input) == ["Concat", "Slice/starts", "Slice/ends", "Slice/axes", "int64[1]"]
    assert stored["int64[1]"].tolist() == [1]


def test_a_bare_layer_is_called_as_its_states_are():
    graph = onnx.load_from_string(step_graph(lift(nn.LSTM(4, 5, bias=False).eval(), (torch.zeros(1, 1, 4),)))).graph
    stored = {tensor.name: tensor.doc_string for tensor in graph.initializer}
    assert graph.name == "LSTM"
    assert "l0/LSTM" in {node.name for node in graph.node}
    assert stored["l0.W"] == "weight_ih_l0 as W of ONNX's LSTM, gates i, o, f, c"
    assert stored["l0.B"] == "zeros as B of ONNX's LSTM, gates i, o, f, c"


def test_the_graph_says_how_it_is_fed(keyed):
    graph = keyed[2]
    assert graph.doc_string.splitlines() == [
        "Keyed as a pure function of inputs and states: one step of 1 frame a call, any number of streams (batch).",
        "A stream feeds each state back, from call to call:",
        "- conv.frames <- conv.frames.next: the 2 frames before each window of 3; starts at zero",
        "- rnn.l0.h <- rnn.l0.h.next: h of the layer rnn.l0; starts at zero",
        "- rnn.l1.h <- rnn.l1.h.next: h of the layer rnn.l1; starts at zero",
        f"Written by rnn-export {__version__}; the whole contract is the JSON of rnn_export.spec in the metadata.",
    ]
    docs = {value.name: value.doc_string for value in (*graph.graph.input, *graph.graph.output)}
    assert docs["x"] == "Axes: batch (streams), time (1 frame), 4."
    assert docs["rnn.l0.h"] == (
        "State: h of the layer rnn.l0. It starts at zero; feed rnn.l0.h.next back at the next call."
    )
    assert docs["rnn.l0.h.next"] == "The next rnn.l0.h: feed it as rnn.l0.h at the next call."


def test_the_docs_say_what_is_not_usual(graphs):
    _, step, sequence = graphs("learned")
    assert step.graph.input[1].doc_string.endswith(
        "It starts at its row of initial_states.npz; feed gru.l0.h.next back at the next call."
    )
    assert sequence.doc_string.startswith("LearnedStart as a pure function of inputs and states: any number of steps ")
    assert sequence.graph.input[0].doc_string == "Axes: batch (streams), time (frames), 4."
    assert graphs("ids")[1].graph.input[0].doc_string.startswith("Whole numbers; axes: batch (streams), time (1 frame)")
    chunk = graphs("chunk")[1]
    assert "one step of 3 frames a call" in chunk.doc_string
    assert "time (3 frames)" in chunk.graph.input[0].doc_string


def test_the_same_export_gives_the_same_bytes(keyed):
    model, raw, _ = keyed
    assert step_graph(lift(model, (torch.zeros(1, 9, 4),))) == raw
