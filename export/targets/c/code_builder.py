"""A step as statements of C over tensors, and where each tensor lies."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import onnx_ir as ir

from rnn_export.arrays import Array
from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.nodes import input_of
from rnn_export.export.targets.c.notation import round_up, shape_of
from rnn_export.export.targets.c.weights import CACHE_LINE, Weights
from rnn_export.runtime.build.names import C_TYPES, SIZES

DTYPES = (ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
# After the last node.
END = 1 << 30


@dataclass
class Buffer:
    """Floats of the scratch memory that are in use from the node `first` to the node `last`."""

    size: int
    first: int
    last: int
    offset: int = 0


@dataclass(frozen=True)
class CTensor:
    """A dense array of C. `address` is an expression, empty for a constant that no statement reads yet."""

    address: str
    c_type: str
    shape: tuple[int, ...]
    buffer: Buffer | None = None
    constant: Array | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def view(self, offset: int, shape: Sequence[int]) -> "CTensor":
        """Consecutive values of it, from `offset` on, as an array of this shape."""
        size = math.prod(shape)
        constant = None if self.constant is None else self.constant.reshape(-1)[offset : offset + size].reshape(shape)
        address = f"({self.address} + {offset})" if offset else self.address
        return replace(self, address=address, shape=tuple(shape), constant=constant)


class CodeBuilder:
    """Collects the statements of a step.

    `precision` is that of products with constant matrices, `scales` are for int8: the calibrated largest magnitudes of
    activations by the name of their tensor. `fused` has the nodes that were written with an earlier one, `table_rows`
    by address of an input the fewest rows of the tables that it is an index of.
    """

    def __init__(self, weights: Weights, precision: str, scales: Mapping[str, float] | None = None) -> None:
        self.weights, self.precision, self.scales = weights, precision, scales or {}
        self.statements: list[str] = []
        self.tensors: dict[ir.Value, CTensor] = {}
        self.node_index, self.macs, self.uses_libm = 0, 0, False
        self.fused: set[ir.Node] = set()
        self.table_rows: dict[str, int] = {}
        self.scales_used: list[float] = []
        self._indent = 1
        # Name, type, and where it lies in the scratch memory, or how many values it has outside of it.
        self._variables: list[tuple[str, str, Buffer | int]] = []

    def emit(self, line: str) -> None:
        self.statements.append("    " * self._indent + line)

    @contextmanager
    def loop(self, variable: str, count: int, down: bool = False) -> Iterator[None]:
        """A loop over `count` numbers; one of a single number is still a block."""
        first, rest, step = (count - 1, ">= 0", "--") if down else (0, f"< {count}", "++")
        self.emit(f"for (int {variable} = {first}; {variable} {rest}; {variable}{step}) {{")
        self._indent += 1
        yield
        self._indent -= 1
        self.emit("}")

    @contextmanager
    def loops(self, variables: Sequence[str], counts: Sequence[int]) -> Iterator[None]:
        with ExitStack() as stack:
            for variable, count in zip(variables, counts, strict=True):
                stack.enter_context(self.loop(variable, count))
            yield

    def tensor_of(self, value: ir.Value) -> CTensor:
        """Where a value lies; its buffer is in use until now."""
        if value not in self.tensors:
            assert value.const_value is not None
            constant = value.const_value.numpy()
            self.tensors[value] = CTensor("", self.c_type(value), constant.shape, constant=constant)
        tensor = self.tensors[value]
        if tensor.buffer is not None:
            tensor.buffer.last = max(tensor.buffer.last, self.node_index)
        return tensor

    def input(self, node: ir.Node, index: int) -> CTensor:
        """An input that is there; one that is constant may have no address."""
        value = node.inputs[index]
        assert value is not None
        return self.tensor_of(value)

    def read(self, node: ir.Node, index: int) -> CTensor:
        """The same with an address."""
        return self.with_address(self.input(node, index))

    def read_all(self, node: ir.Node) -> list[CTensor]:
        return [self.read(node, i) for i in range(len(node.inputs))]

    def with_address(self, tensor: CTensor) -> CTensor:
        """The same; a constant becomes a weight."""
        return tensor if tensor.address else replace(tensor, address=self.weights.name_of(tensor.constant))

    def constant(self, node: ir.Node, index: int) -> Array | None:
        """The value of an input, or None where it is left out; raises ExportError where it is not constant."""
        value = input_of(node, index)
        if value is None:
            return None
        constant = self.tensor_of(value).constant
        if constant is None:
            raise refusal(node, f"its input {value.name!r} is computed, and only a constant can be written there")
        return constant

    def required(self, node: ir.Node, index: int) -> Array:
        """The value of an input that ONNX lets nobody leave out."""
        constant = self.constant(node, index)
        assert constant is not None
        return constant

    def new_output(self, node: ir.Node, index: int = 0) -> CTensor:
        value = node.outputs[index]
        self.tensors[value] = self.alloc(self.c_type(value), shape_of(value))
        return self.tensors[value]

    def set_view(self, node: ir.Node, tensor: CTensor, index: int = 0) -> None:
        """Let an output be the values of `tensor`; raises ExportError where they are not as many."""
        value = node.outputs[index]
        shape = shape_of(value)
        if math.prod(shape) != tensor.size:
            raise refusal(node, f"it makes {list(shape)} of {tensor.size} values, as if that did not follow the batch")
        self.tensors[value] = tensor.view(0, shape)

    def alloc(self, c_type: str, shape: Sequence[int]) -> CTensor:
        """Memory for a value that is written now."""
        name, size = f"t{len(self._variables)}", max(math.prod(shape), 1)
        buffer = Buffer(size, self.node_index, self.node_index) if c_type == "float" else None
        self._variables.append((name, c_type, buffer or size))
        return CTensor(name, c_type, tuple(shape), buffer)

    def scale_of(self, name: str) -> float:
        """The calibrated largest magnitude of the tensor `name`; 0 where it has none."""
        self.scales_used.append(self.scales.get(name, 0.0))
        return self.scales_used[-1]

    def c_type(self, value: ir.Value) -> str:
        """The type of a value; raises ExportError where a step has none for it."""
        assert value.dtype is not None
        if value.dtype not in DTYPES:
            raise ExportError(
                f"{value.name!r} is {value.dtype.name.lower()}, which is not written in C: "
                "a step has float32, int64, int32 and bool."
            )
        return C_TYPES[value.dtype.numpy().name]

    def declarations(self) -> tuple[list[str], int]:
        """The variables, those used at different times in the same memory, and the bytes that all of them take."""
        floats = assign_offsets([buffer for *_, buffer in self._variables if isinstance(buffer, Buffer)])
        lines, size = [f"RNN_ALIGNED float scratch[{floats}];"] * (floats > 0), 4 * floats
        for name, c_type, place in self._variables:
            if isinstance(place, Buffer):
                lines.append(f"float *const {name} = scratch + {place.offset};")
            else:
                lines.append(f"{c_type} {name}[{place}];")
                size += SIZES[c_type] * place
        return lines, size


def assign_offsets(buffers: Sequence[Buffer]) -> int:
    """Give each the lowest place that no other has at the same time, the largest first; the floats of them all."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: -b.size):
        taken = sorted((b.offset, _end(b)) for b in placed if b.first <= buffer.last and buffer.first <= b.last)
        buffer.offset = 0
        for start, stop in taken:
            if _end(buffer) <= start:
                break
            buffer.offset = max(buffer.offset, stop)
        placed.append(buffer)
    return max(map(_end, placed), default=0)


def _end(buffer: Buffer) -> int:
    """Where the next may start: on a cache line."""
    return buffer.offset + round_up(buffer.size, CACHE_LINE // SIZES["float"])


def refusal(node: ir.Node, reason: str) -> ExportError:
    return ExportError(f"node {node.name!r} ({node.op_type}) cannot be written in C: {reason}.")
