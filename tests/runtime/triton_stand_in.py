"""A small Triton in this process: sequences with a state, on both wires, and faults when a test asks for them.

The contract is that of the real one, and so is the config. ONNX Runtime runs the step graph, or on the wire "tensors"
the one that Triton would run, with the states between two steps kept here.
"""

import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnxruntime as ort
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

from rnn_export.contract.layout import canonical, graph_layout
from rnn_export.contract.snapshot import Snapshot, pack, unpack
from rnn_export.contract.spec import sized
from rnn_export.errors import StreamError
from rnn_export.export.triton.config import Serving, config
from rnn_export.export.triton.pbtxt import text
from rnn_export.export.triton.state_io import add_state_io

from .graphs import IDS, Model

DTYPES = {"FP32": "f4", "FP64": "f8", "FP16": "f2", "BOOL": "?", "UINT8": "u1"} | {
    f"INT{8 * n}": f"i{n}" for n in (1, 2, 4, 8)
}
LOST = "inference request for sequence {} to model 'm' must specify the START flag on the first request of the sequence"


def inputs(spec, rows, steps, seed=0):
    """For each step, by name where there are several, (rows, chunk, ...): as a stream and a pool take several rows."""
    random = np.random.default_rng(seed)
    for _ in range(steps):
        given = {}
        for tensor in spec.inputs:
            shape = (rows, *(() if spec.chunk == 1 or tensor.axis("time") is None else (spec.chunk,)), *tensor.frame)
            high = IDS if tensor.dtype == "int64" else 10 if tensor.dtype != "bool" else 2
            low = -9 if tensor.dtype == "float32" else 0
            given[tensor.name] = random.integers(low, high, shape).astype(tensor.dtype)
        yield given if len(given) > 1 else next(iter(given.values()))


def same(got, want):
    if isinstance(want, dict):
        assert list(got) == list(want)
        for name in want:
            same(got[name], want[name])
    else:
        np.testing.assert_array_equal(got, want, strict=True)


class Fault(Exception):
    """An answer that is an error."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.code, self.text = code, text


class StandIn(GRPCInferenceServiceServicer):
    """Serves `model` as "m". `requests` has (id, start, end, seeded, asks) of each; `faults` are raised in turn."""

    def __init__(self, model: Model, wire: str, precision: str = "fp32") -> None:
        self.wire, self.precision, self.version = wire, precision, "1"
        self.sequences: dict[int, dict[str, np.ndarray]] = {}
        self.requests: list[tuple[int, bool, bool, bool, bool]] = []
        self.faults: list[Fault] = []
        self.delay = 0.0
        self.port = 0
        self.lock = threading.Lock()
        self.server: grpc.Server | None = None
        self.replace(model)

    def replace(self, model: Model) -> None:
        """As when a repository is written again and the model loaded again: sequences are gone."""
        self.model, self.spec, wire = model, model.spec, self.wire
        backend = "python" if wire == "bytes" else "onnxruntime"
        initial = {s.name: model.initial.get(s.name, np.zeros(s.row, s.dtype)) for s in model.spec.states}
        self.initial = {name: row[None] for name, row in initial.items()}
        message = config(model.spec, initial, Serving("m", backend, self.precision, 256, 64, 60.0, 200))
        self.config = text_format.Parse(text(message), model_config_pb2.ModelConfig())
        quiet = ort.SessionOptions()
        quiet.log_severity_level = 4
        graph = model.files()["step.onnx"]
        graph = add_state_io(graph, model.spec) if wire == "tensors" else graph
        self.session = ort.InferenceSession(graph, quiet, providers=["CPUExecutionProvider"])
        self.sequences.clear()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> "StandIn":
        self.server = grpc.server(ThreadPoolExecutor(64))
        add_GRPCInferenceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()
        return self

    def stop(self) -> None:
        """All sequences are gone, and connections are reset."""
        if self.server is not None:
            self.server.stop(None).wait()
        self.server = None
        self.sequences.clear()

    def ModelConfig(self, request, context):  # noqa: N802
        if request.name != "m":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        return service_pb2.ModelConfigResponse(config=self.config)

    def ModelInfer(self, request, context):  # noqa: N802
        time.sleep(self.delay)
        try:
            with self.lock:
                return self.infer(request)
        except Fault as fault:
            context.abort(fault.code, fault.text)

    def infer(self, request):
        told = request.parameters
        sequence, start, end = (
            told["sequence_id"].int64_param,
            told["sequence_start"].bool_param,
            told["sequence_end"].bool_param,
        )
        wanted = [output.name for output in request.outputs]
        asks = any(name == "rnn_snapshot" or name.endswith(".snap") for name in wanted)
        fed = self.fed(request)
        seed = fed.get("rnn_seed", np.zeros(1))
        self.requests.append((sequence, start, end, bool(seed if self.wire == "bytes" else seed[0, 0] > 0.5), asks))
        if self.faults and not end:
            raise self.faults.pop(0)
        if not start and sequence not in self.sequences:
            raise Fault(grpc.StatusCode.INVALID_ARGUMENT, LOST.format(sequence))
        if start:
            self.sequences[sequence] = self.initial
        given = (self.snapshot_step if self.wire == "bytes" else self.movable_step)(fed, self.sequences[sequence])
        self.sequences[sequence] = {s.name: given.pop(s.output) for s in self.spec.states}
        if end:
            del self.sequences[sequence]
        return self.response(wanted, given)

    def fed(self, request):
        """Every input by name, as the config has it."""
        forms = {port.name: (1, *port.dims) for port in self.config.input}
        assert {i.name: tuple(i.shape) for i in request.inputs} == forms
        fed = {}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            if tensor.datatype == "BYTES":
                assert struct.unpack("<I", raw[:4]) == (len(raw) - 4,)
                fed[tensor.name] = raw[4:]
                continue
            fed[tensor.name] = array = np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(forms[tensor.name])
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Fault(grpc.StatusCode.INVALID_ARGUMENT, f"{tensor.name!r} holds NaN or Inf")
        return fed

    def movable_step(self, fed, states):
        rows = {s.input: states[s.name].reshape(1, *(s.row or (1,))) for s in self.spec.states}
        given = self.run({**fed, **rows})
        return {s.output: given[s.output].reshape(1, *s.row) for s in self.spec.states} | given

    def snapshot_step(self, fed, states):
        if fed["rnn_seed"]:
            try:
                snapshot = unpack(self.spec, 1, fed["rnn_seed"])
            except StreamError as error:
                raise Fault(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
            # With fewer frames, the pool of the real one would give NaN while the delay lasts.
            assert snapshot.frames >= self.spec.delay
            states = snapshot.states
        feeds = {s.input: states[s.name] for s in self.spec.states}
        for tensor in self.spec.inputs:
            like = canonical(np.empty(sized(tensor.shape, 1, self.spec.chunk), tensor.dtype), tensor)
            feeds[tensor.name] = graph_layout(fed[tensor.name].reshape(like.shape), tensor)
        given = self.run(feeds)
        after = {s.name: given[s.output] for s in self.spec.states}
        given["rnn_snapshot"] = pack(self.spec, 1, Snapshot(self.spec.delay + 1, after, {}))
        return given | {t.name: canonical(given[t.name], t) for t in self.spec.outputs}

    def run(self, feeds):
        try:
            given = self.session.run(None, feeds)
        except Exception as error:
            raise Fault(grpc.StatusCode.INVALID_ARGUMENT, f"onnxruntime refused the frame: {error}") from error
        return {value.name: array for value, array in zip(self.session.get_outputs(), given, strict=True)}

    def response(self, wanted, given):
        response = service_pb2.ModelInferResponse(model_name="m", model_version=self.version)
        # In another order than they were asked for.
        for name in reversed(wanted):
            response.outputs.add(name=name)
            if name == "rnn_snapshot":
                raw = struct.pack("<I", len(given[name])) + given[name]
            else:
                raw = np.ascontiguousarray(given[name]).tobytes()
            response.raw_output_contents.append(raw)
        return response
