"""Models written by hand as LiteRT's files, without its converter; and as bundles."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.bundle.writing import extend_bundle
from rnn_export.contract.spec import sized
from rnn_export.export.targets.litert.tensor_names import named, packed
from rnn_export.runtime.backends.litert.library import schema
from rnn_export.runtime.backends.litert.model import DTYPES, FILE

from ..trusting import trusted  # noqa: TID252
from .graphs import MODELS, Model

PATH = f"targets/litert-fp32/{FILE}"
KINDS = {name: number for number, name in DTYPES.items()}


class Graph:
    """A graph of LiteRT's under construction: tensors by name, each with zeros of its shape, and operators on them."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []
        self.numbers: dict[str, int] = {}
        self.zeros: dict[str, np.ndarray] = {}

    def add(self, name: str, like: np.ndarray, constant: bool = False) -> str:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [*like.shape], KINDS[str(like.dtype)], 0
        if constant:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(like.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.numbers[name], self.zeros[name] = len(self.graph.tensors), like
        self.graph.tensors.append(tensor)
        return name

    def constant(self, value: Any, dtype: Any = np.int32) -> str:
        return self.add(f"constant {len(self.graph.tensors)}", np.array(value, dtype), constant=True)

    def operator(
        self, kind: str, inputs: list[str], output: str, like: np.ndarray, options: Any = None, version: int = 1
    ) -> None:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        operator.opcodeIndex = len(self.model.operatorCodes)
        self.model.operatorCodes.append(code)
        operator.inputs = [self.numbers[name] for name in inputs]
        operator.outputs = [self.numbers[self.add(output, like)]]
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(operator)

    def signed(self, inputs: list[str], outputs: list[str]) -> None:
        """As a converter leaves it: by number."""
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = [self.port(f"args_{i}", name) for i, name in enumerate(inputs)]
        signature.outputs = [self.port(f"output_{i}", name) for i, name in enumerate(outputs)]
        self.model.signatureDefs = [signature]
        self.graph.inputs = [self.numbers[name] for name in inputs]
        self.graph.outputs = [self.numbers[name] for name in outputs]

    def port(self, name: str, tensor: str) -> Any:
        port = schema.TensorMapT()
        port.name, port.tensorIndex = name, self.numbers[tensor]
        return port


def elementwise(kind: str) -> Callable[..., None]:
    def write(graph: Graph, inputs: list[str], output: str, constants: Mapping, attributes: Mapping) -> None:
        a, b = (graph.zeros[name] for name in inputs)
        graph.operator(kind, inputs, output, a + b, getattr(schema, f"{kind.title()}OptionsT")())

    return write


def maximum(graph: Graph, inputs: list[str], output: str, constants: Mapping, attributes: Mapping) -> None:
    a, b = (graph.zeros[name] for name in inputs)
    graph.operator("MAXIMUM", inputs, output, np.maximum(a, b), schema.MaximumMinimumOptionsT())


def identity(graph: Graph, inputs: list[str], output: str, constants: Mapping, attributes: Mapping) -> None:
    """The tensor itself, under another name."""
    graph.numbers[output], graph.zeros[output] = graph.numbers[inputs[0]], graph.zeros[inputs[0]]


def cumsum(graph: Graph, inputs: list[str], output: str, constants: Mapping, attributes: Mapping) -> None:
    axis = graph.constant(int(constants[inputs[1]]))
    graph.operator("CUMSUM", [inputs[0], axis], output, graph.zeros[inputs[0]], schema.CumsumOptionsT())


def unsqueeze(graph: Graph, inputs: list[str], output: str, constants: Mapping, attributes: Mapping) -> None:
    like = np.expand_dims(graph.zeros[inputs[0]], int(constants[inputs[1]][0]))
    graph.operator("RESHAPE", [inputs[0], graph.constant(like.shape)], output, like, schema.ReshapeOptionsT())


def gather(graph: Graph, inputs: list[str], output: str, constants: Mapping, attributes: Mapping) -> None:
    table, ids = inputs
    options = schema.GatherOptionsT()
    options.axis = attributes.get("axis", 0)
    like = np.take(graph.zeros[table], graph.zeros[ids], options.axis)
    if ids in constants:
        ids = graph.constant(int(constants[ids]) % graph.zeros[table].shape[options.axis])
    graph.operator("GATHER", [table, ids], output, like, options)


def slice_(graph: Graph, inputs: list[str], output: str, constants: Mapping, attributes: Mapping) -> None:
    """Along the axis 1."""
    like = graph.zeros[inputs[0]]
    start, step = int(constants[inputs[1]][0]), int(constants[inputs[4]][0])
    ends = [graph.constant(v) for v in ([0, start, 0], [*like.shape], [1, step, 1])]
    graph.operator("STRIDED_SLICE", [inputs[0], *ends], output, like[:, start::step], schema.StridedSliceOptionsT())


WRITERS: Mapping[str, Callable[..., None]] = {
    **{kind.title(): elementwise(kind) for kind in ("ADD", "SUB", "MUL")},
    "Max": maximum,
    "Identity": identity,
    "CumSum": cumsum,
    "Unsqueeze": unsqueeze,
    "Gather": gather,
    "Slice": slice_,
}


def graph_of(model: Model) -> Graph:
    spec, graph = model.spec, Graph()
    constants = {"0": np.int64(0), "1": np.int64(1), "[0]": np.array([0]), "[1]": np.array([1]), **model.constants}
    ports = {**{t.name: t for t in spec.inputs}, **{s.input: s for s in spec.states}}
    for name, port in ports.items():
        graph.add(name, np.zeros(sized(port.shape, 1, spec.chunk), port.dtype))
    for name, value in constants.items():
        graph.add(name, np.asarray(value), constant=True)
    for op, inputs, (output,), attributes in model.step:
        WRITERS[op](graph, inputs, output, constants, attributes)
    graph.signed([*ports], [*(t.name for t in spec.outputs), *(s.output for s in spec.states)])
    return graph


@cache
def litert_file(name: str) -> bytes:
    """The file of a model of `graphs.MODELS`."""
    return file_of(MODELS[name])


def file_of(model: Model) -> bytes:
    return named(packed(graph_of(model).model), model.spec)


def litert_draft(name: str) -> Draft:
    """As it is before it is written, which needs no trust."""
    model, files = MODELS[name], {PATH: litert_file(name)}
    initial = {s.name: model.initial.get(s.name, np.zeros(s.row, s.dtype)) for s in model.spec.states}
    return Draft(model.spec, files, (TargetRow("litert", "fp32", None, (PATH,), {}),), initial)


def with_litert(path: Path, model: Model, raw: bytes) -> Path:
    """The bundle of `model` with `raw` as its file, trusted."""
    model.write(path)
    extend_bundle(open_bundle(path), TargetRow("litert", "fp32", None, (PATH,), {}), {PATH: raw})
    return trusted(path)
