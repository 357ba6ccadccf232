"""Models written by hand as LiteRT's files, without its converter."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from rnn_export.contract.spec import sized
from rnn_export.export.targets.litert.tensor_names import named, packed
from rnn_export.runtime.backends.litert.library import schema
from rnn_export.runtime.backends.litert.model import DTYPES, FILE

from .graphs import Model

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


def translate(graph: Graph, op: str, inputs: list[str], output: str, constants: Mapping, axis: int) -> None:
    """A node of `graphs` as an operator."""
    first, *likes = (graph.zeros[name] for name in inputs)
    known = [constants.get(name) for name in inputs]

    def write(kind: str, inputs: list[str], like: np.ndarray, options: str | None = None) -> None:
        made = getattr(schema, f"{options or kind.title()}OptionsT")()
        if kind == "GATHER":
            made.axis = axis
        graph.operator(kind, inputs, output, like, made)

    if op in ("Add", "Sub", "Mul"):
        write(op.upper(), inputs, first + likes[0])
    elif op == "Max":
        write("MAXIMUM", inputs, np.maximum(first, likes[0]), "MaximumMinimum")
    elif op == "Identity":
        graph.numbers[output], graph.zeros[output] = graph.numbers[inputs[0]], first
    elif op == "CumSum":
        write("CUMSUM", [inputs[0], graph.constant(int(known[1]))], first)
    elif op == "Unsqueeze":
        like = np.expand_dims(first, int(known[1][0]))
        write("RESHAPE", [inputs[0], graph.constant(like.shape)], like)
    elif op == "Gather":
        ids = inputs[1] if known[1] is None else graph.constant(int(known[1]) % first.shape[axis])
        write("GATHER", [inputs[0], ids], np.take(first, likes[0], axis))
    else:
        start, step = int(known[1][0]), int(known[4][0])
        ends = [graph.constant(v) for v in ([0, start, 0], [*first.shape], [1, step, 1])]
        write("STRIDED_SLICE", [inputs[0], *ends], first[:, start::step], "StridedSlice")


def graph_of(model: Model) -> Graph:
    spec, graph = model.spec, Graph()
    ports = {**{t.name: t for t in spec.inputs}, **{s.input: s for s in spec.states}}
    for name, port in ports.items():
        graph.add(name, np.zeros(sized(port.shape, 1, spec.chunk), port.dtype))
    for name, value in model.named().items():
        graph.add(name, np.asarray(value), constant=True)
    for op, inputs, (output,), attributes in model.step:
        translate(graph, op, inputs, output, model.named(), attributes.get("axis", 0))
    graph.signed([*ports], [*(t.name for t in spec.outputs), *(s.output for s in spec.states)])
    return graph


def file_of(model: Model) -> bytes:
    return named(packed(graph_of(model).model), model.spec)


def on_microcontroller(raw: bytes, frames: np.ndarray, states: list[np.ndarray], capfd: Any) -> tuple[np.ndarray, int]:
    """The outputs of TFLM's own interpreter, by number and with no signature, and the bytes of its arena."""
    tflm = pytest.importorskip("tflite_micro", reason="tflite-micro has wheels for Linux on x86-64 alone").runtime
    micro, given = tflm.Interpreter.from_bytes(raw), []
    for x in frames:
        for number, value in enumerate([x.reshape(1, 1, -1), *states]):
            micro.set_input(value, number)
        micro.invoke()
        y, *states = (micro.get_output(number) for number in range(1 + len(states)))
        given.append(y.reshape(-1))
    capfd.readouterr()
    micro.print_allocations()
    total = re.search(r"Arena allocation total (\d+) bytes", capfd.readouterr().err)
    assert total is not None
    return np.stack(given), int(total[1])
