"""An ONNX file read without the onnx package, refused where it holds more than a bundle's graph may.

The numbers of fields are those of onnx.proto (github.com/onnx/onnx, onnx/onnx.proto).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rnn_export.errors import BundleError
from rnn_export.onnx.operator_list import OPERATORS
from rnn_export.onnx.protobuf import Value, fields, packed, signed, text
from rnn_export.platform.arrays import Array

# Graphs inside of graphs; values of a constant that sizes are computed from.
DEPTH, SMALL = 8, 64
_INT64, _INT32 = 7, 6
# The note on a node that says of which module it is.
MODULE = "rnn_export.module"


@dataclass(frozen=True, eq=False)
class Node:
    """`numbers` are the attributes that are whole numbers, `bodies` the graphs inside, by attribute.

    `constant` is the value of a Constant where it is a few whole numbers, `raw` the message. `module` is the path of
    the module that it comes from, "" where that is not known.
    """

    raw: memoryview
    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[str, Sequence[int]]
    bodies: Mapping[str, Graph]
    constant: Array | None
    module: str = ""

    @property
    def title(self) -> str:
        return f"node {self.name!r} ({self.op})" if self.name else f"node {self.op} giving {self.outputs[:1]}"


@dataclass(frozen=True, eq=False)
class Graph:
    """`raw` is the message, `inputs` and `outputs` the names that it takes and gives.

    `initializers` are its tensors by name, as messages, `shapes` theirs, and `constants` those values that are a few
    whole numbers.
    """

    raw: memoryview
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: Mapping[str, memoryview]
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Array]

    def captured(self) -> set[str]:
        """Names of the graphs around that it reads."""
        own = {*self.inputs, *self.initializers, *(name for node in self.nodes for name in node.outputs)}
        read = {name for node in self.nodes for name in node.inputs} | set(self.outputs)
        for node in self.nodes:
            for body in node.bodies.values():
                read |= body.captured()
        return read - own - {""}


def check_model(file: str, raw: bytes) -> None:
    """Raise BundleError where `read_model` refuses the file of a bundle."""
    try:
        read_model(raw)
    except ValueError as error:
        raise BundleError(
            f"{file} cannot be used: {error}. Export the bundle again.", id="graph-model-unusable"
        ) from error


def read_model(raw: bytes) -> Graph:
    """The graph of a `ModelProto`.

    Raises ValueError where it is damaged; where a tensor at any depth is sparse or lies in another file; and on
    functions, domains and operators that no graph of a bundle has.
    """
    graphs = []
    for number, _, value in fields(memoryview(raw)):
        if number in (20, 25):
            raise ValueError("it holds functions or training, which no graph of a bundle has")
        if number == 7:
            graphs.append(_graph(_message(value), 0))
    if len(graphs) != 1:
        raise ValueError(f"it holds {len(graphs)} graphs, not one")
    return graphs[0]


def _graph(message: memoryview, depth: int) -> Graph:
    if depth > DEPTH:
        raise ValueError(f"its graphs are nested deeper than {DEPTH} levels")
    nodes, inputs, outputs = list[Node](), list[str](), list[str]()
    initializers, shapes, constants = dict[str, memoryview](), dict[str, tuple[int, ...]](), dict[str, Array]()
    for number, _, value in fields(message):
        if number == 1:
            nodes.append(_node(_message(value), depth))
        elif number == 5:
            name, dims, constant = _tensor(_message(value))
            initializers[name], shapes[name] = _message(value), dims
            if constant is not None:
                constants[name] = constant
        elif number == 15:
            raise ValueError("it holds a sparse tensor, which can be larger than the file")
        elif number in (11, 12):
            (inputs if number == 11 else outputs).append(_name(_message(value)))
    constants |= {node.outputs[0]: node.constant for node in nodes if node.constant is not None and node.outputs}
    return Graph(message, tuple(nodes), tuple(inputs), tuple(outputs), initializers, shapes, constants)


def _node(message: memoryview, depth: int) -> Node:
    names: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    numbers, bodies, constant, module = dict[str, Sequence[int]](), dict[str, Graph](), None, ""
    for number, _, value in fields(message):
        if number in names:
            names[number].append(text(value))
        elif number == 5:
            name, ints, graphs, tensor = _attribute(_message(value), depth)
            numbers[name] = ints
            bodies |= {f"{name}{i or ''}": graph for i, graph in enumerate(graphs)}
            constant = tensor if name == "value" else constant
        elif number == 9:
            key, note = _note(_message(value))
            module = note if key == MODULE else module
    op, domain = ("".join(names[number][-1:]) for number in (4, 7))
    node = Node(
        message, op, "".join(names[3][-1:]), tuple(names[1]), tuple(names[2]), numbers, bodies, constant, module
    )
    if domain not in ("", "ai.onnx"):
        raise ValueError(f"{node.title} is of the domain {domain!r}, which is not ONNX's own")
    if op not in OPERATORS:
        raise ValueError(f"{node.title} is an operator that no graph of a bundle has")
    return node


def _note(message: memoryview) -> tuple[str, str]:
    """Key and value of a node's metadata entry."""
    found = {number: text(value) for number, _, value in fields(message) if number in (1, 2)}
    return found.get(1, ""), found.get(2, "")


def _attribute(message: memoryview, depth: int) -> tuple[str, list[int], list[Graph], Array | None]:
    name, ints, graphs, constant = "", list[int](), list[Graph](), None
    for number, _, value in fields(message):
        if number == 1:
            name = text(value)
        elif number in (3, 8):
            ints += [signed(value)] if isinstance(value, int) else packed(value)
        elif number in (5, 10):
            _, _, constant = _tensor(_message(value))
        elif number in (6, 11):
            graphs.append(_graph(_message(value), depth + 1))
        elif number in (22, 23):
            raise ValueError("it holds a sparse tensor, which can be larger than the file")
    return name, ints, graphs, constant


def _tensor(message: memoryview) -> tuple[str, tuple[int, ...], Array | None]:
    """The name, the shape, and the values where they are few whole numbers."""
    name, kind, dims, values = "", 0, list[int](), list[int]()
    raw: memoryview | None = None
    for number, _, value in fields(message):
        if number == 13 or (number == 14 and value):
            raise ValueError(f"the tensor {name!r} lies in another file, which no hash of the bundle covers")
        if number == 1:
            dims += packed(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number in (5, 7):
            values += packed(value) if len(values) <= SMALL else []
        elif number == 8:
            name = text(value)
        elif number == 9:
            raw = _message(value)
    # The smallest types have two values a byte.
    if min(dims, default=0) < 0 or math.prod(dims) > 2 * len(message):
        raise ValueError(f"the tensor {name!r} says {dims}, which its {len(message)} bytes do not hold")
    if kind not in (_INT64, _INT32) or math.prod(dims) > SMALL:
        return name, tuple(dims), None
    whole = np.array(values, np.int64) if raw is None else np.frombuffer(raw, "<i8" if kind == _INT64 else "<i4")
    if whole.size != math.prod(dims):
        raise ValueError(f"the tensor {name!r} says {dims}, but has {whole.size} values")
    return name, tuple(dims), whole.astype(np.int64).reshape(dims)


def _name(value_info: memoryview) -> str:
    return "".join([text(value) for number, _, value in fields(value_info) if number == 1][-1:])


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def walk(graph: Graph) -> Iterator[Node]:
    """Every node, those inside of nodes too."""
    for node in graph.nodes:
        yield node
        for body in node.bodies.values():
            yield from walk(body)
