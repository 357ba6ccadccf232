"""Generated Triton configs, read with Triton's own definition and held to the graphs in ONNX Runtime."""

import base64
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from rnn_export.bundle import open_bundle
from rnn_export.contract.layout import canonical, graph_layout
from rnn_export.contract.spec import DTYPES, StateSpec, StreamSpec
from rnn_export.export import export
from rnn_export.export.triton import pbtxt
from rnn_export.export.triton.config import Serving, config, data_file
from rnn_export.export.triton.repository import write_repository
from rnn_export.export.triton.state_io import add_state_io, check_config
from rnn_export.platform.arrays import unpack_arrays
from rnn_export.runtime.backends.remote.wire import TYPES, WireFormat

from ..messages import raises  # noqa: TID252
from ..runtime.graphs import MODELS, START, state, tensor  # noqa: TID252

SERVED = [name for name, model in MODELS.items() if not model.spec.sequence_only]
# Their states can be begun from a given value in a graph.
IN_GRAPHS = [n for n in SERVED if n not in [f"previous_{d}" for d in ("int8", "uint8", "int16", "bool")]]
SERVING = Serving("net", "python", "fp32", streams=256, batch=64, idle_s=60, delay_us=200)


def written(bundle, tmp_path, backend: str, **options) -> tuple[pb.ModelConfig, bytes | None]:
    """The config of a repository as Triton reads it, and the graph, where there is one."""
    write_repository(bundle, tmp_path / "repo", backend=backend, **options)
    (place,) = (tmp_path / "repo" / "models").iterdir()
    message = text_format.Parse((place / "config.pbtxt").read_text(), pb.ModelConfig())
    graph = place / "1" / "model.onnx"
    return message, graph.read_bytes() if graph.exists() else None


def parameters(message: pb.ModelConfig) -> dict[str, str]:
    return {key: value.string_value for key, value in message.parameters.items()}


def face(graph: bytes) -> tuple[dict, dict]:
    """By name the dtype and the dims without the batch, of what a graph takes and of what it gives."""
    read = onnx.load_from_string(graph).graph

    def told(value):
        kind = value.type.tensor_type
        first, *dims = kind.shape.dim
        assert first.dim_param == "batch"
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), [d.dim_value for d in dims]

    return {v.name: told(v) for v in read.input}, {v.name: told(v) for v in read.output}


def said(message: pb.ModelConfig) -> tuple[dict, dict]:
    """The same as a config says it."""
    dtypes = {pb.DataType.Value(name): dtype for dtype, name in TYPES.items()}
    states = message.sequence_batching.state
    takes = {i.name: (dtypes[i.data_type], list(i.dims)) for i in message.input}
    gives = {o.name: (dtypes[o.data_type], list(o.dims)) for o in message.output}
    takes |= {s.input_name: (dtypes[s.data_type], list(s.dims)) for s in states}
    gives |= {s.output_name: (dtypes[s.data_type], list(s.dims)) for s in states}
    return takes, gives


# --- the python backend


@pytest.mark.parametrize("name", SERVED)
def test_config_of_the_python_backend(name, bundle, tmp_path):
    spec = MODELS[name].spec
    message, _ = written(bundle(name), tmp_path, "python")
    assert (message.name, message.backend, message.max_batch_size) == (name, "python", 64)
    takes, gives = said(message)
    assert list(takes) == [*(t.name for t in spec.inputs), "rnn_seed"]
    assert list(gives) == [*(t.name for t in spec.outputs), "rnn_snapshot"]
    assert takes["rnn_seed"] == gives["rnn_snapshot"] == ("bytes", [1])
    for t, found in [*((t, takes) for t in spec.inputs), *((t, gives) for t in spec.outputs)]:
        # One step of one row, as numpy moves it.
        sizes = [{"batch": 1, "time": spec.chunk, "time/2": spec.chunk // 2}.get(d, d) for d in t.shape]
        assert found[t.name] == (t.dtype, list(canonical(np.empty(sizes), t).shape[1:]) or [1])
    # With `state` the python backend gives zeros, and says nothing.
    assert not message.sequence_batching.state
    kinds = {c.name: pb.ModelSequenceBatching.Control.Kind.Name(c.control[0].kind) for c in controls(message)}
    assert kinds == {n: f"CONTROL_SEQUENCE_{n}" for n in ("START", "READY", "END", "CORRID")}
    (group,) = message.instance_group
    assert (group.count, group.kind) == (1, pb.ModelInstanceGroup.KIND_CPU)


def controls(message: pb.ModelConfig):
    return message.sequence_batching.control_input


@pytest.mark.parametrize("backend", ["python", "onnxruntime", "tensorrt"])
def test_the_contract_is_among_the_parameters(backend, bundle, tmp_path):
    message, _ = written(bundle("lstm"), tmp_path, backend)
    found, spec = parameters(message), open_bundle(bundle("lstm")).spec
    assert StreamSpec.from_json(json.loads(found.pop("rnn_export.spec"))) == spec
    assert found.pop("rnn_export.runtime_backend", "auto") == "auto"
    wire = "bytes" if backend == "python" else "tensors"
    assert found == {"rnn_export.wire": wire, "rnn_export.backend": backend, "rnn_export.precision": "fp32"}


@pytest.mark.parametrize("backend", ["python", "onnxruntime"])
def test_initial_states_that_are_not_zero(backend, bundle, tmp_path):
    """h is stored, and g is zeros."""
    model = MODELS["stored"]
    both = replace(model.spec, states=(*model.spec.states, state("g", 3)))
    model = replace(model, spec=both, step=[*model.step, ("Identity", ["g"], ["g.next"], {})])
    message, _ = written(model.write(tmp_path / "net.rnnx"), tmp_path, backend)
    told = unpack_arrays(base64.b64decode(parameters(message)["rnn_export.initial_states"]))
    assert {name: row.tolist() for name, row in told.items()} == {"h": START.tolist()}
    place = tmp_path / "repo" / "models" / "net" / "initial_state"
    if backend == "python":
        assert not place.exists()
        return
    for found in message.sequence_batching.state:
        (initial,) = found.initial_state
        assert (initial.data_type, list(initial.dims)) == (found.data_type, list(found.dims))
        assert initial.zero_data == (found.input_name == "g")
        if found.input_name == "h":
            assert np.frombuffer((place / initial.data_file).read_bytes(), np.float32).tolist() == START.tolist()


def test_states_of_like_names_have_a_file_each():
    names = ["a/b", "a_b", "a%2Fb", "a b", "A/b", ".."]
    files = {data_file(StateSpec(n, n, f"{n}.next", "float32", ("batch", 1), "stored")) for n in names}
    assert len(files) == len(names)
    assert all("/" not in file for file in files)


def test_how_many_and_how_long(bundle, tmp_path):
    message, _ = written(bundle("sum"), tmp_path, "python", streams=10, batch=5, idle_s=1.5, delay_us=0)
    sequences = message.sequence_batching
    assert message.max_batch_size == 5
    assert sequences.max_sequence_idle_microseconds == 1_500_000
    assert sequences.oldest.max_candidate_sequences == 10
    assert sequences.oldest.max_queue_delay_microseconds == 0
    assert list(sequences.oldest.preferred_batch_size) == [2, 5]
    # No batch is larger than the streams.
    message, _ = written(bundle("sum"), tmp_path, "python", streams=1, force=True)
    assert message.max_batch_size == 1
    assert list(message.sequence_batching.oldest.preferred_batch_size) == [1]


def test_every_dtype_of_a_contract_has_a_type_of_tritons():
    for dtype in DTYPES:
        assert TYPES[dtype] in pb.DataType.keys()  # noqa: SIM118
    assert len(set(TYPES.values())) == len(TYPES)


def test_text_with_any_character():
    value = 'a"b\\c\n\té☃\x00\x7f'
    message = text_format.Parse(pbtxt.text({"name": value}), pb.ModelConfig())
    assert message.name == value


def test_a_config_that_is_none_is_refused():
    with raises("pbtxt-unreadable", "no field named"):
        pbtxt.check(pbtxt.text({"nmae": "net"}))


# --- onnxruntime and tensorrt


@pytest.mark.parametrize("name", IN_GRAPHS)
def test_the_config_is_that_of_the_graph(name, bundle, tmp_path):
    message, graph = written(bundle(name), tmp_path, "onnxruntime")
    assert message.backend == "onnxruntime"
    assert said(message) == face(graph)
    # What is listed must be an input of the graph.
    assert not controls(message)
    spec = MODELS[name].spec
    assert [s.input_name for s in message.sequence_batching.state] == [s.input for s in spec.states]
    for found in message.sequence_batching.state:
        # Without one, Triton takes memory as it comes.
        assert len(found.initial_state) == 1
        # An output that is the state itself fails on batches.
        assert found.output_name not in [o.name for o in message.output]


def test_the_graph_of_tensorrt_has_no_recurrent_operator(bundle, tmp_path):
    message, graph = written(bundle("lstm"), tmp_path, "tensorrt")
    assert (message.platform, message.backend) == ("tensorrt_plan", "")
    assert said(message) == face(graph)
    assert not {"LSTM", "GRU", "RNN"} & {node.op_type for node in onnx.load_from_string(graph).graph.node}


def test_states_of_half_precision_are_seeded_in_single(tmp_path):
    model = torch.nn.GRU(3, 4).eval()
    options = {"targets": ("tensorrt",), "precision": "fp16", "state_precision": "fp16", "steps": 16}
    bundle = export(model, (torch.zeros(1, 1, 3),), tmp_path / "net.rnnx", **options)
    message, graph = written(bundle.path, tmp_path, "tensorrt")
    assert said(message) == face(graph)
    takes, gives = said(message)
    (kept,) = bundle.spec.states
    assert takes[kept.input] == gives[kept.output] == ("float16", [4])
    assert takes[f"{kept.name}.seed"] == gives[f"{kept.name}.snap"] == ("float32", [4])
    assert parameters(message)["rnn_export.precision"] == "fp16"


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message["input"][0].update(name="other"),
        lambda message: message["output"][-1].update(dims=[4]),
        lambda message: message["sequence_batching"]["state"][0].update(data_type="TYPE_FP16"),
    ],
)
def test_a_config_of_another_graph_is_refused(change):
    model = MODELS["sum"]
    graph = add_state_io(model.files()["step.onnx"], model.spec)
    message = config(model.spec, {"h": np.zeros(3, np.float32)}, replace(SERVING, backend="onnxruntime"))
    check_config(message, graph)
    change(message)
    with raises("triton-config-differs"):
        check_config(message, graph)


def test_a_graph_of_another_model_is_refused():
    with raises("triton-graph-differs", "['a', 'b', 's', 'p']", "['x', 'h']"):
        add_state_io(MODELS["pair"].files()["step.onnx"], MODELS["sum"].spec)


@pytest.mark.parametrize("dtype", ["bool", "int16"])
def test_states_that_no_graph_can_begin_from(dtype, bundle, tmp_path):
    with raises("triton-state-dtype", f"'h' is {dtype}"):
        write_repository(bundle(f"previous_{dtype}"), tmp_path / "repo", backend="onnxruntime")
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("bytes", {"inputs": (tensor("rnn_seed", "batch", 3),)}),
        ("bytes", {"inputs": (tensor("CORRID", "batch", 3),)}),
        ("bytes", {"outputs": (tensor("rnn_snapshot", "batch", 3),)}),
        ("tensors", {"inputs": (tensor("h.seed", "batch", 3),)}),
        ("tensors", {"outputs": (tensor("h.snap", "batch", 3),)}),
    ],
)
def test_names_that_are_taken(kind, changes):
    with raises("wire-name-taken"):
        WireFormat.of(replace(MODELS["sum"].spec, **changes), kind)


# --- the movable graph, in ONNX Runtime


def session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(graph: ort.InferenceSession, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [o.name for o in graph.get_outputs()]
    return dict(zip(names, graph.run(names, feed), strict=True))


class Stateful:
    """A movable graph with its states kept as Triton keeps them: `n` rows from the initial states."""

    def __init__(self, graph: bytes, spec: StreamSpec, initial, n: int) -> None:
        self.session, self.spec, self.n = session(graph), spec, n
        self.shapes = {i.name: (n, *i.shape[1:]) for i in self.session.get_inputs()}
        self.states = {
            s.input: np.tile(initial[s.name], (n, *[1] * len(s.row))).reshape(self.shapes[s.input]) for s in spec.states
        }

    def step(self, inputs, seeded=(), seeds=None):
        """The outputs, by name; rows `seeded` begin from `seeds`."""
        flag = np.zeros((self.n, 1), np.float32)
        flag[list(seeded)] = 1
        feed = {"rnn_seed": flag, **inputs, **self.states}
        for s in self.spec.states:
            # What is not asked for may be anything.
            feed[f"{s.name}.seed"] = np.full(self.shapes[f"{s.name}.seed"], 77, s.dtype)
            if seeds is not None:
                feed[f"{s.name}.seed"][list(seeded)] = seeds[s.name]
        given = run(self.session, feed)
        self.states = {s.input: given[s.output] for s in self.spec.states}
        return given


def graph_of(name, bundle):
    opened = open_bundle(bundle(name))
    return add_state_io(opened.read("step.onnx"), opened.spec), opened


def noise(spec, shapes, rng):
    """Frames as the wire has them."""
    made = {}
    for t in spec.inputs:
        low, high = (0, 2) if t.dtype == "bool" else (0, 5)
        made[t.name] = rng.integers(low, high, shapes[t.name]).astype(t.dtype)
    return made


@pytest.mark.parametrize("name", [*IN_GRAPHS, "lstm"])
def test_many_steps_are_those_of_the_plain_graph(name, bundle):
    graph, opened = graph_of(name, bundle)
    spec, rng = opened.spec, np.random.default_rng(0)
    initial = opened.initial_states()
    kept, plain = Stateful(graph, spec, initial, 3), session(opened.read("step.onnx"))
    states = {s.input: np.tile(initial[s.name], (3, *[1] * len(s.row))) for s in spec.states}
    for _ in range(20):
        inputs = noise(spec, kept.shapes, rng)
        given = kept.step(inputs)
        rows = {t.name: inputs[t.name] if len(t.shape) > 1 else inputs[t.name][:, 0] for t in spec.inputs}
        wanted = run(plain, {**states, **{t.name: graph_layout(rows[t.name], t) for t in spec.inputs}})
        for t in spec.outputs:
            expected = canonical(wanted[t.name], t)
            np.testing.assert_array_equal(given[t.name].reshape(expected.shape), expected)
        for s in spec.states:
            np.testing.assert_array_equal(given[s.output].reshape(wanted[s.output].shape), wanted[s.output])
            np.testing.assert_array_equal(given[f"{s.name}.snap"], given[s.output])
        states = {s.input: wanted[s.output] for s in spec.states}


@pytest.mark.parametrize("name", ["lstm", "pair", "stored", "tokens", "previous_int64"])
def test_one_row_is_seeded_and_the_others_are_not(name, bundle):
    """Row 1 of one graph goes on in row 2 of another one, whose other rows never notice."""
    graph, opened = graph_of(name, bundle)
    spec, rng = opened.spec, np.random.default_rng(1)
    initial = opened.initial_states()
    first, second, alone = (Stateful(graph, spec, initial, 3) for _ in range(3))
    for _ in range(5):
        given = first.step(noise(spec, first.shapes, rng))
        inputs = noise(spec, second.shapes, rng)
        second.step(inputs)
        alone.step(inputs)
    seeds = {s.name: given[f"{s.name}.snap"][1] for s in spec.states}
    for step in range(5):
        inputs = noise(spec, first.shapes, rng)
        moved = {n: array.copy() for n, array in inputs.items()}
        for array in moved.values():
            array[2] = array[1]
        here = first.step(inputs)
        there = second.step(moved, *(([2], seeds) if step == 0 else ()))
        without = alone.step(moved)
        for t in spec.outputs:
            np.testing.assert_array_equal(there[t.name][2], here[t.name][1])
            np.testing.assert_array_equal(there[t.name][:2], without[t.name][:2])
        for s in spec.states:
            np.testing.assert_array_equal(there[f"{s.name}.snap"][2], here[f"{s.name}.snap"][1])
            np.testing.assert_array_equal(there[s.output][:2], without[s.output][:2])
