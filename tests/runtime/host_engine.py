"""An engine without TensorRT: ONNX Runtime computes from and to the raw addresses that a context is bound to."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from rnn_export.bundle import Bundle
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import DeviceError
from rnn_export.runtime import Engine
from rnn_export.runtime.backends.tensorrt.session import TensorRTSession
from rnn_export.runtime.device.cuda import ALIGNMENT

from .graphs import Model
from .host_device import HostDevice

# ONNX Runtime takes numbers of TensorProto where numpy has no dtype.
BFLOAT16 = 16
BATCH = (1, 1, 2**16)
BUILD = "rnn-export build NAME.rnnx --target tensorrt --precision fp32"


class HostEngine:
    """The step graph `graph`, built for a batch of `batch` = (lowest, best, highest).

    `refuses` makes every enqueue raise; `fails` makes every step fail while it runs.
    """

    def __init__(self, graph: bytes, batch: tuple[int, int, int] = BATCH) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        feeds, gives = self.session.get_inputs(), self.session.get_outputs()
        self.inputs, self.outputs = [v.name for v in feeds], [v.name for v in gives]
        self.values = {v.name: v for v in (*feeds, *gives)}
        self.batch, self.refuses, self.fails = batch, False, False
        self.contexts = 0

    def dtype(self, name: str) -> str:
        kind = self.values[name].type.removeprefix("tensor(").removesuffix(")")
        return {"float": "float32", "double": "float64"}.get(kind, kind)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else -1 for d in self.values[name].shape)

    def profile(self, name: str) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(b if d == -1 else d for d in self.shape(name)) for b in self.batch)

    def context(self) -> "HostContext":
        self.contexts += 1
        return HostContext(self)


class HostContext:
    def __init__(self, engine: HostEngine) -> None:
        self.engine = engine
        self.pointers: dict[str, int] = {}
        self.batch = 0

    def bind(self, name: str, pointer: int) -> None:
        assert pointer % ALIGNMENT == 0
        self.pointers[name] = pointer

    def set_batch(self, name: str, shape: tuple[int, ...]) -> None:
        wanted = self.engine.shape(name)
        (self.batch,) = {found for found, want in zip(shape, wanted, strict=True) if want == -1} or {self.batch}
        assert all(want in (-1, found) for found, want in zip(shape, wanted, strict=True))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.batch if d == -1 else d for d in self.engine.shape(name))

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        assert self.shape(name) == shape

    def enqueue(self, stream: Any) -> None:
        """Addresses are those of this moment, as in a captured graph; the work runs when the queue comes to it."""
        engine = self.engine
        if engine.refuses:
            raise DeviceError("TensorRT refused the step.")
        binding = engine.session.io_binding()
        for names, bind in ((engine.inputs, binding.bind_input), (engine.outputs, binding.bind_output)):
            for name in names:
                dtype = engine.dtype(name)
                kind = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype).type
                bind(name, "cpu", 0, kind, list(self.shape(name)), self.pointers[name])

        def run() -> None:
            if engine.fails:
                raise DeviceError("cudaGraphLaunch gave cudaErrorLaunchFailure.")
            try:
                engine.session.run_with_iobinding(binding)
            except RuntimeError as error:
                raise DeviceError(str(error)) from error

        stream.submit(("enqueue", *self.pointers.values()), run)


def host_session(
    spec: StreamSpec, engine: HostEngine, open_device: Callable[[], HostDevice] = HostDevice
) -> TensorRTSession:
    return TensorRTSession(spec, engine, open_device, "host", "fp32", BUILD)


def engine_in(model: Model, kind: str) -> HostEngine:
    """SUM in an engine whose state is of another dtype."""
    number = {"float16": 10, "bfloat16": 16, "float32": 1}
    nodes = [
        ("Cast", ["h"], ["wide"], {"to": number["float32"]}),
        ("Add", ["x", "wide"], ["y"], {}),
        ("Cast", ["y"], ["h.next"], {"to": number[kind]}),
    ]
    graph = onnx.load_from_string(Model(model.spec, nodes).graph(nodes, 1))
    for value in (graph.graph.input[1], graph.graph.output[1]):
        value.type.tensor_type.elem_type = number[kind]
    return HostEngine(graph.SerializeToString())


def host_engine(bundle: Bundle) -> Engine:
    """The step graph of a bundle's target "onnx" as if TensorRT ran it."""
    return Engine(bundle, "tensorrt", host_session(bundle.spec, HostEngine(bundle.read("step.onnx"))))
