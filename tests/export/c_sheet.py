"""Many operators in one small graph, compiled as C once, and the results of ONNX Runtime."""

import ctypes
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper, shape_inference

from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.export.targets.c.writer import sources
from rnn_export.runtime.backends.native.session import FACE
from rnn_export.runtime.build.native.compilation import compile_native
from rnn_export.runtime.protocols.c_step import StatePlaces

Array = np.ndarray
DIGEST = hashlib.sha256(b"sheet").hexdigest()
LANES = {1: None, 4: "x86-64-v2", 8: "x86-64-v3", 16: "x86-64-v4"}


@dataclass(frozen=True)
class Constant:
    """An input that stands in the graph."""

    value: Array


@dataclass(frozen=True)
class Case:
    """One node: inputs are fed arrays, constants, or None where one is left out; an output without a name is `""`."""

    op: str
    inputs: Sequence[Array | Constant | None]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        shapes = ", ".join("-" if x is None else f"{_of(x).dtype}{list(_of(x).shape)}" for x in self.inputs)
        return f"{self.op}({shapes}){dict(self.attributes) or ''}"


def const(value: Any, dtype: Any = None) -> Constant:
    return Constant(np.asarray(value, dtype))


def case(op: str, *inputs: Any, out: int | Sequence[str] = 1, **attributes: Any) -> Case:
    """Numbers and lists among the inputs are constants: of int64 where they are whole, else of float32."""
    given = [x if x is None or isinstance(x, Array | Constant) else const(x, _kind(x)) for x in inputs]
    names = [f"y{i}" for i in range(out)] if isinstance(out, int) else out
    return Case(op, given, names, attributes)


def pages(cases: Sequence[Case], size: int = 40) -> list[list[Case]]:
    """Compilers take more than twice as long for a function of twice the size."""
    return [list(cases[i : i + size]) for i in range(0, len(cases), size)]


def _kind(value: Any) -> Any:
    return np.float32 if np.asarray(value).dtype.kind == "f" else None


def _of(x: Array | Constant) -> Array:
    return x.value if isinstance(x, Constant) else x


@dataclass
class Sheet:
    """The graph of some cases: every fed array is an input (batch, values), and so is every output."""

    cases: Sequence[Case]
    opset: int = 18
    feed: dict[str, Array] = field(default_factory=dict)
    results: dict[str, Case] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes, constants = [], {"flat": np.array([1, -1])}
        for number, case in enumerate(self.cases):
            names = []
            for i, x in enumerate(case.inputs):
                name = "" if x is None else f"c{number}.{i}"
                names.append(name)
                if isinstance(x, Constant):
                    constants[name] = x.value
                elif x is not None:
                    self.feed[f"{name}.fed"] = x.reshape(1, -1)
                    constants[f"{name}.shape"] = np.array(x.shape, np.int64)
                    nodes.append(helper.make_node("Reshape", [f"{name}.fed", f"{name}.shape"], [name]))
            outputs = [name and f"c{number}.{name}" for name in case.outputs]
            nodes.append(helper.make_node(case.op, names, outputs, name=f"n{number}", **case.attributes))
            for name in filter(None, outputs):
                nodes.append(helper.make_node("Reshape", [name, "flat"], [f"{name}.flat"]))
                self.results[f"{name}.flat"] = case
        self.nodes, self.constants = nodes, constants
        self.wanted = self._run(self.graph(None))
        self.spec = StreamSpec(
            tuple(TensorSpec(name, str(x.dtype), ("batch", x.size)) for name, x in self.feed.items()),
            tuple(TensorSpec(name, str(y.dtype), ("batch", max(y.size, 1))) for name, y in self.wanted.items()),
            (),
            digest=DIGEST,
        )

    def graph(self, spec: StreamSpec | None) -> bytes:
        """With the outputs typed as `spec` says, or left to ONNX Runtime."""
        inputs = [helper.make_tensor_value_info(n, _type(x.dtype), ["batch", x.size]) for n, x in self.feed.items()]
        if spec is None:
            outputs = [helper.make_empty_tensor_value_info(name) for name in self.results]
        else:
            outputs = [helper.make_tensor_value_info(t.name, _type(t.dtype), t.shape) for t in spec.outputs]
        stored = [numpy_helper.from_array(np.asarray(a), name) for name, a in self.constants.items()]
        graph = helper.make_graph(self.nodes, "sheet", inputs, outputs, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        return shape_inference.infer_shapes(model, data_prop=True).SerializeToString()

    def _run(self, graph: bytes) -> dict[str, Array]:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return dict(zip(self.results, session.run(list(self.results), self.feed), strict=True))

    def written(self, precision: str = "fp32", scales: Mapping[str, float] | None = None) -> dict[str, bytes]:
        return sources(self.graph(self.spec), self.spec, {}, "sheet", precision, scales)

    def computed(
        self, lanes: int | None = None, precision: str = "fp32", scales: Mapping[str, float] | None = None
    ) -> dict[str, Array]:
        """The outputs that the C gives; `lanes` floats at once, or as many as the CPU has."""
        step = compiled(self.written(precision, scales), "sheet", self.spec, lanes)
        return step(self.feed)

    def compared(self, lanes: int | None = None) -> Iterator[tuple[Case, Array, Array]]:
        """Each case with what C and what ONNX Runtime gives."""
        got = self.computed(lanes)
        for name, case in self.results.items():
            yield case, got[name], self.wanted[name]

    @staticmethod
    def scale(want: Array) -> float:
        """The scale of errors: the largest finite value, 1 at least; 0 for whole numbers and truths."""
        return max(1.0, np.abs(want[np.isfinite(want)]).max(initial=0)) if want.dtype.kind == "f" else 0


def _type(dtype: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def lanes_of_this_cpu() -> list[int]:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    needed = {1: set(), 4: {"ssse3", "sse4_2"}, 8: {"avx2", "fma"}, 16: {"avx512f", "avx512vl", "avx512bw"}}
    here = [lanes for lanes, words in needed.items() if words <= flags]
    # The widest and the narrowest first.
    return [here[-1], *here[:-1]]


def in_lanes(files: Mapping[str, bytes], lanes: int | None = None) -> dict[str, bytes]:
    """The same sources with vectors of so many floats; what is long to compile is compiled once, not at each call."""
    kernels = files["kernels.h"].decode()
    kernels, found = re.subn(
        r"RNN_INLINE (?=(void|float) rnn_(dense_\w+|few_f32|lstm\w*|gru\w*|softmax|layer_norm)\()",
        "static __attribute__((noinline, noclone, unused)) ",
        kernels,
    )
    assert found >= 8
    return {**files, "kernels.h": f"{f'#define RNN_LANES {lanes}' if lanes else ''}\n{kernels}".encode()}


def loaded(library: bytes) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{hashlib.sha256(library).hexdigest()}.so")
        path.write_bytes(library)
        return ctypes.CDLL(str(path))


class Step:
    """A compiled step with its state, fed by name."""

    def __init__(self, library: bytes, spec: StreamSpec, weights: bytes = b"") -> None:
        self.spec, self.call = spec, loaded(library)
        for name, (result, arguments) in FACE.items():
            function = getattr(self.call, name)
            function.restype, function.argtypes = result, arguments
        self.weights = aligned(weights)
        self.state = aligned(bytes(self.call.rnn_state_bytes()))
        assert self.call.rnn_check(self.weights.ctypes.data, len(weights)) == 0
        self.call.rnn_init(self.state.ctypes.data, self.weights.ctypes.data)

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Every output as one row of values, in memory that held something else."""
        given = [np.ascontiguousarray(feed[t.name], t.dtype) for t in self.spec.inputs]
        made = [np.empty((1, *t.shape[1:]), t.dtype) for t in self.spec.outputs]
        for y in made:
            y.view(np.uint8)[...] = 0xFF
        self.run(given, made)
        return {t.name: y for t, y in zip(self.spec.outputs, made, strict=True)}

    def run(self, given: Sequence[Array], made: Sequence[Array]) -> None:
        self.prepared(given, made)()

    def prepared(self, given: Sequence[Array], made: Sequence[Array]) -> Callable[[], None]:
        """A call without what leads to it; it holds the arrays that it reads and writes."""
        addresses = [(ctypes.c_void_p * len(x))(*(a.ctypes.data for a in x)) for x in (given, made)]
        state, step = ctypes.c_void_p(self.state.ctypes.data), self.call.rnn_step

        def call(held: Sequence[Sequence[Array]] = (given, made)) -> None:
            step(state, *addresses)

        return call

    def states(self) -> dict[str, Array]:
        places = StatePlaces(self.spec, self.call.rnn_state_offset, self.call.rnn_state_front)
        return {name: values[0] for name, values in places.read(self.state[None]).items()}


def compiled(files: Mapping[str, bytes], name: str, spec: StreamSpec, lanes: int | None = None) -> Step:
    march = (LANES[lanes] if lanes else None) or "native"
    made = compile_native(in_lanes(files, lanes), name, spec, march=march, extension=False)
    library = next(data for path, data in made.items() if path.endswith(".so"))
    return Step(library, spec, files.get(f"{name}.bin", b""))


def aligned(data: bytes) -> Array:
    """A copy on a cache line."""
    buffer = np.zeros(len(data) + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    buffer[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return buffer[start : start + len(data)]
