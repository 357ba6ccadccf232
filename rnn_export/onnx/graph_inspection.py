"""A graph of a bundle inspected before it is loaded: its contents, its contract, and the size that it grows to.

The reader of graphs, ONNX Runtime on a device or onnx where one exports, infers the shapes: of the same graph giving
every value, without the shapes that the file declares for them, for one row and one chunk. Nothing is computed.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rnn_export import limits
from rnn_export.contract.spec import BATCH, TIME, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import BundleError
from rnn_export.onnx.onnx_file import Graph, Node, read_model
from rnn_export.onnx.protobuf import fields, write_bytes, write_number
from rnn_export.onnx.size_values import ShapeValues

# How often what is known of sizes may lead to more.
ROUNDS = 64
# Trips of the loops of a graph, those inside of others multiplied.
TRIPS = 2**20
# Frames of a sequence that is looked at, in chunks.
CHUNKS = 4
# ONNX's numbers of types, by what ONNX Runtime calls them: the type of numpy, and the bytes of a value.
TYPES = {
    "float": (1, "float32", 4), "uint8": (2, "uint8", 1), "int8": (3, "int8", 1), "uint16": (4, "uint16", 2),
    "int16": (5, "int16", 2), "int32": (6, "int32", 4), "int64": (7, "int64", 8), "bool": (9, "bool", 1),
    "float16": (10, "float16", 2), "double": (11, "float64", 8), "uint32": (12, "uint32", 4),
    "uint64": (13, "uint64", 8), "bfloat16": (16, "bfloat16", 2),
}  # fmt: skip


# From a model and sizes of symbols: the name of each value that it takes and gives, its type as ONNX Runtime calls it,
# and its shape, in which what is not known is no number.
Infer = Callable[[bytes, Mapping[str, int]], Iterable[tuple[str, str, Sequence[object]]]]


@dataclass(frozen=True)
class Inferred:
    """A value: its type as ONNX Runtime calls it, and its shape, None where values decide a size."""

    kind: str
    shape: tuple[int | None, ...]

    @property
    def size(self) -> int | None:
        return None if None in self.shape else math.prod(d for d in self.shape if d is not None)


def inspect_graph(file: str, raw: bytes, spec: StreamSpec, infer: Infer, any_float: bool = False) -> None:
    """Raise BundleError where the graph `file` cannot be loaded within bounds, or is not of the contract.

    With `any_float` a state that is a float may be another one in the graph.
    """
    try:
        graph = read_model(raw)
        model = b"".join(write_bytes(n, v) if not isinstance(v, int) else write_number(n, v) for n, v in _around(raw))
        values = _Inspection(model, spec, file == "step.onnx", infer).check(graph)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{file} cannot be used: {str(error).removesuffix('.')}. Export the bundle again.", id="graph-file-unusable"
        ) from error
    _check_contract(file, values, spec, any_float)


def _around(raw: bytes) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a model that are not its graph, without metadata."""
    yield from ((number, value) for number, _, value in fields(memoryview(raw)) if number in (1, 8))


class _Inspection:
    """One file: `model` are the fields around a graph in it; in a `step` all sizes are known."""

    def __init__(self, model: bytes, spec: StreamSpec, step: bool, infer: Infer) -> None:
        self.model, self.step, self.infer = model, step, infer
        frames = spec.chunk if step else CHUNKS * spec.chunk
        self.dims = {BATCH: 1} if spec.sequence_only else {BATCH: 1, TIME: frames}
        self.sizes: list[tuple[str, int]] = []

    def check(self, graph: Graph) -> dict[str, Inferred]:
        """Raise ValueError where it becomes too large or takes too long; gives its nodes' outputs."""
        found = self._check(graph, None, (), {}, {}, 1)
        for excess in limits.excess(self.sizes, "the graph"):
            raise ValueError(excess)
        return found

    def _check(
        self,
        graph: Graph,
        types: Mapping[str, Inferred] | None,
        given: Sequence[bytes],
        outer: Mapping[str, Inferred],
        constants: Mapping[str, bytes],
        trips: int,
    ) -> dict[str, Inferred]:
        found, inside, shapes = self._sized(graph, types, given, outer)
        constants = {**constants, **{name: write_bytes(5, tensor) for name, tensor in graph.initializers.items()}}
        constants |= {node.outputs[0]: write_bytes(1, node.raw) for node in graph.nodes if node.op == "Constant"}
        constants |= {name: write_bytes(5, numbers) for name, numbers in _computed(shapes, inside, constants)}
        for node in graph.nodes:
            count = _iterations(node, inside, graph)
            if trips * count > TRIPS:
                raise ValueError(f"{node.title} takes {trips * count} trips, over the limit of {TRIPS}")
            for name in filter(None, node.outputs):
                self.sizes.append((name, self._bytes(node, name, found[name], shapes, count)))
            for body in node.bodies.values():
                types = _taken(node, body, inside)
                captured = sorted(body.captured())
                given = [constants[name] for name in captured if name in constants]
                types |= {name: inside[name] for name in captured if name in inside and name not in constants}
                self._check(body, types, given, inside, constants, trips * count)
        return found

    def _sized(
        self, graph: Graph, types: Mapping[str, Inferred] | None, given: Sequence[bytes], outer: Mapping[str, Inferred]
    ) -> tuple[dict[str, Inferred], dict[str, Inferred], ShapeValues]:
        """The inferred values of a graph, also from the shapes that it computes itself."""
        known: dict[str, Inferred] = {}
        for _ in range(ROUNDS):
            found = self._infer(graph, _message_of(graph, types, given, known))
            inside = {**outer, **found}
            shapes = ShapeValues(graph, {name: value.shape for name, value in inside.items()})
            made = {}
            for node in graph.nodes:
                name, shape = (node.outputs or ("",))[0], shapes.shape(node)
                if name and name not in known and shape is not None and found[name].size is None:
                    made[name] = Inferred(found[name].kind, shape)
            if not made:
                break
            known |= made
        return found, inside, shapes

    def _infer(self, graph: Graph, message: bytes) -> dict[str, Inferred]:
        found = {}
        for name, kind, shape in self.infer(self.model + write_bytes(7, message), self.dims):
            if kind not in TYPES:
                raise ValueError(f"{name!r} is a {kind}, which no graph of a bundle has")
            known = (self.dims.get(d) if isinstance(d, str) else d for d in shape)
            found[name] = Inferred(kind, tuple(d if isinstance(d, int) else None for d in known))
        if missing := {name for node in graph.nodes for name in node.outputs if name} - set(found):
            raise ValueError(f"nothing is known of the value {min(missing)!r} that it gives")
        return found

    def _bytes(self, node: Node, name: str, value: Inferred, shapes: ShapeValues, trips: int) -> int:
        size = value.size
        if size is None and node.op == "Loop" and None not in value.shape[1:]:
            size = trips * math.prod(d or 1 for d in value.shape[1:])
        if size is None:
            size = shapes.size(node)
        makes = node.op in MAKERS and not (node.op == "Expand" and shapes.is_as_large_as_another(node))
        if size is None and (self.step or makes):
            raise ValueError(f"the size of {name!r}, which {node.title} gives, follows from values: it has no bound")
        return (size or 0) * TYPES[value.kind][2]


# Their result may be of any size, whatever they are given.
MAKERS = frozenset(
    ("CenterCropPad", "Col2Im", "ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile")
)


def _iterations(node: Node, values: Mapping[str, Inferred], graph: Graph) -> int:
    if node.op == "Loop":
        count = graph.constants.get(node.inputs[0]) if node.inputs else None
        if count is None or count.size != 1:
            raise ValueError(f"{node.title} has no constant number of trips, so nothing says that it ends")
        return max(0, int(count.reshape(-1)[0]))
    if node.op != "Scan":
        return 1
    scanned = _scanned(node)
    axes = node.numbers.get("scan_input_axes") or [0] * len(scanned)
    if not scanned or len(axes) != len(scanned):
        raise ValueError(f"{node.title} scans {len(scanned)} values over {len(axes)} axes")
    value = values.get(scanned[0])
    rank = 0 if value is None else len(value.shape)
    if value is None or not -rank <= axes[0] < rank:
        return 1
    return value.shape[axes[0]] or 1


def _scanned(node: Node) -> tuple[str, ...]:
    (count,) = node.numbers.get("num_scan_inputs") or [0]
    if not 0 < count <= len(node.inputs):
        raise ValueError(f"{node.title} scans {count} of {len(node.inputs)} values")
    return node.inputs[len(node.inputs) - count :]


def _taken(node: Node, body: Graph, values: Mapping[str, Inferred]) -> dict[str, Inferred]:
    """A body's inputs from its node, by its own names."""
    if node.op == "Loop":
        first = (Inferred("int64", ()), Inferred("bool", ()))
        given = [*first, *(values.get(name) for name in node.inputs[2:])]
    elif node.op == "Scan":
        scanned = _scanned(node)
        axes = node.numbers.get("scan_input_axes") or [0] * len(scanned)
        states = [values.get(name) for name in node.inputs[: len(node.inputs) - len(scanned)]]
        given = [*states, *(_slice(values.get(n), axis) for n, axis in zip(scanned, axes, strict=True))]
    else:
        given = []
    if len(given) != len(body.inputs):
        raise ValueError(f"the body of {node.title} takes {len(body.inputs)} values, but is given {len(given)}")
    return {name: value for name, value in zip(body.inputs, given, strict=True) if value is not None}


def _slice(value: Inferred | None, axis: int) -> Inferred | None:
    if value is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    axis %= len(value.shape)
    return Inferred(value.kind, value.shape[:axis] + value.shape[axis + 1 :])


def _computed(
    shapes: ShapeValues, values: Mapping[str, Inferred], constants: Mapping[str, bytes]
) -> Iterator[tuple[str, bytes]]:
    """Values that a graph computes from sizes alone, as constants for a body in it."""
    for name, numbers in shapes.values.items():
        value = values.get(name)
        if name not in constants and value is not None and value.kind == "int64" and value.size == numbers.size:
            dims = b"".join(write_number(1, d or 0) for d in value.shape)
            raw = write_bytes(9, numbers.astype("<i8").tobytes())
            yield name, dims + write_number(2, TYPES["int64"][0]) + write_bytes(8, name.encode()) + raw


def _message_of(
    graph: Graph, types: Mapping[str, Inferred] | None, constants: Sequence[bytes], known: Mapping[str, Inferred]
) -> bytes:
    """The graph giving every value of its nodes, untyped but for those `known`.

    Of a body, with inputs of these `types`, and `constants`.
    """
    dropped = (12, 13) if types is None else (11, 12, 13)
    kept = b"".join(write_bytes(n, v) for n, _, v in fields(graph.raw) if n not in dropped and not isinstance(v, int))
    inputs = b"".join(write_bytes(11, _value_info(name, value)) for name, value in (types or {}).items())
    names = dict.fromkeys(name for node in graph.nodes for name in node.outputs if name)
    untyped = (write_bytes(1, name.encode()) for name in names if name not in known)
    outputs = b"".join(write_bytes(12, info) for info in (*untyped, *(_value_info(*item) for item in known.items())))
    return b"".join(constants) + kept + inputs + outputs


def _value_info(name: str, value: Inferred) -> bytes:
    dims = (b"" if d is None else write_number(1, d) for d in value.shape)
    shape = b"".join(write_bytes(1, dim) for dim in dims)
    tensor = write_number(1, TYPES[value.kind][0]) + write_bytes(2, shape)
    return write_bytes(1, name.encode()) + write_bytes(2, write_bytes(1, tensor))


def _check_contract(file: str, values: Mapping[str, Inferred], spec: StreamSpec, any_float: bool) -> None:
    """Names are compared where the graph is loaded; here types and shapes, of one row and one chunk."""
    frames = spec.chunk if file == "step.onnx" else CHUNKS * spec.chunk
    ports: list[tuple[str, str, TensorSpec | StateSpec]] = [("takes", t.name, t) for t in spec.inputs]
    ports += [("takes", s.input, s) for s in spec.states] + [("gives", t.name, t) for t in spec.outputs]
    ports += [("gives", s.output, s) for s in spec.states]
    for what, name, port in ports:
        if name not in values:
            continue
        found, wanted = values[name], sized(port.shape, 1, frames)
        dtype = TYPES[found.kind][1]
        any_time = port.axis(TIME) if spec.sequence_only and isinstance(port, TensorSpec) else None
        pairs = enumerate(zip(found.shape, wanted, strict=False))
        fits = len(found.shape) == len(wanted) and all(f in (None, n) or axis == any_time for axis, (f, n) in pairs)
        floats = any_float and isinstance(port, StateSpec) and "float" in dtype and "float" in port.dtype
        if (dtype != port.dtype and not floats) or not fits:
            raise BundleError(
                f"{file} {what} {name!r} as {dtype} {found.shape}, but the contract says {port.dtype} {wanted}. "
                "Export the bundle again.",
                id="graph-contract-differs",
            )
