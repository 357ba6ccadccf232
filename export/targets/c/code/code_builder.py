"""A step as C statements over tensors, with the memory of each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import onnx_ir as ir

from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.nodes import input_of
from rnn_export.export.targets.c.code.constants import Weights
from rnn_export.export.targets.c.code.notation import index_expression, shape_of, strides_of
from rnn_export.export.targets.c.code.parallel_regions import SHARED_BYTES, Phase
from rnn_export.export.targets.c.code.tensors import Buffer, CTensor, Shift, Slide, Strided, assign_offsets
from rnn_export.platform.arrays import Array
from rnn_export.runtime.build.c_names import C_TYPES, SIZES

DTYPES = (ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
# After the last node.
END = 1 << 30


class CodeBuilder:
    """Collects the statements of a step.

    `precision` is that of products with constant matrices, `scales` are for int8: the calibrated largest magnitudes of
    activations by the name of their tensor. `fused` has the nodes that were written with an earlier one, `table_rows`
    by address of an index input the fewest rows of its tables. By the address of a state, `next_states` has its next
    value, `shifts` the window that moves it, and `slides` the window that slides over more memory than it fills;
    `windows` has the windows that are not joined.
    `two_ways` is True if a loop changes its direction in every other step: only if `way_member` holds the direction.
    With `by_team`, `phases` are the operators that a team of threads can share.
    `strided` has the views that are not written in the order of their axes until they are read so.
    `notes` has the texts of errors in a step, each with the number that it leaves in `note_member`.
    """

    def __init__(
        self,
        weights: Weights,
        precision: str,
        scales: Mapping[str, float] | None = None,
        way_member: str = "",
        by_team: bool = False,
        note_member: str = "",
        notes: dict[str, int] | None = None,
    ) -> None:
        self.weights, self.precision, self.scales = weights, precision, scales or {}
        self.way_member, self.two_ways = way_member, False
        self.note_member, self.notes = note_member, {} if notes is None else notes
        self.statements: list[str] = []
        self.tensors: dict[ir.Value, CTensor] = {}
        # After each node that was written, how many statements there are.
        self.written: list[tuple[ir.Node, int]] = []
        self.node_index, self.macs, self.uses_libm = 0, 0, False
        # Of the files of functions, those that not every step has.
        self.more_kernels: set[str] = set()
        self.fused: set[ir.Node] = set()
        self.table_rows: dict[str, int] = {}
        self.scales_used: list[float] = []
        self.next_states: dict[str, ir.Value] = {}
        self.shifts: dict[str, Shift] = {}
        self.slides: dict[str, Slide] = {}
        self.windows: dict[ir.Value, Shift] = {}
        self.by_team, self.phases = by_team, list[Phase]()
        self.strided: dict[ir.Value, Strided] = {}
        self._indent = 1
        # The variables of the loops that are open.
        self._loops: list[str] = []
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
        self._loops.append(variable)
        yield
        self._loops.pop()
        self._indent -= 1
        self.emit("}")

    @contextmanager
    def loops(self, variables: Sequence[str], counts: Sequence[int]) -> Iterator[None]:
        with ExitStack() as stack:
            for variable, count in zip(variables, counts, strict=True):
                stack.enter_context(self.loop(variable, count))
            yield

    @contextmanager
    def loop_of_blocks(
        self, blocks: int, nbytes: int, own: Sequence[CTensor], way: str = "", ahead: Sequence[str] = ()
    ) -> Iterator[None]:
        """A loop over the blocks "u" of an operator, which all read `nbytes` of weights; `own` is the memory of one.

        It goes from the last to the first if the C `way` is odd. `ahead` are lines for a block of a team.
        """
        shared = self._begins_phase(blocks, nbytes, way)
        with self.loop("b" if way else "u", blocks):
            if way:
                self.emit(f"const int u = ({way}) & 1 ? {blocks - 1} - b : b;")
            start = len(self.statements)
            yield
            lines = self.statements[start:]
        if shared:
            self.phases.append(Phase(blocks, lines, own, ahead))

    def emit_of_blocks(self, line: str, blocks: int, nbytes: int, block: Sequence[str]) -> None:
        """A line that computes all blocks of an operator, which reads `nbytes` of weights; `block` are those of one."""
        if self._begins_phase(blocks, nbytes):
            self.phases.append(Phase(blocks, block))
        self.emit(line)

    def _begins_phase(self, blocks: int, nbytes: int, way: str = "") -> bool:
        if not self.by_team or nbytes < SHARED_BYTES or blocks < 2 or self._loops not in ([], ["t"]):
            return False
        self.emit(f"RNN_PHASE({len(self.phases)}, {blocks}, {self._loops[0] if self._loops else 0}, {way or 0})")
        return True

    def tensor_of(self, value: ir.Value) -> CTensor:
        """The value's tensor; its buffer is in use until now."""
        if value in self.windows:
            self._join(value, self.windows.pop(value))
        if value in self.strided and value not in self.tensors:
            self._put_in_order(value, self.strided[value])
        if value not in self.tensors:
            assert value.const_value is not None
            constant = value.const_value.numpy()
            self.tensors[value] = CTensor("", self.c_type(value), constant.shape, constant=constant)
        return self.used(self.tensors[value])

    def used(self, tensor: CTensor) -> CTensor:
        """`tensor`, whose buffer is in use until now."""
        if tensor.buffer is not None:
            tensor.buffer.last = max(tensor.buffer.last, self.node_index)
        return tensor

    def _join(self, value: ir.Value, window: Shift) -> None:
        """Write a window as one array after all."""
        self.tensors[value] = y = self.alloc(window.state.c_type, shape_of(value))
        at, row = 0, math.prod(y.shape[window.axis :])
        for part in (window.state, self.used(window.entering)):
            size = math.prod(part.shape[window.axis :])
            with self.loop("o", part.size // size):
                target, source = f"{y.address} + o * {row} + {at}", f"{part.address} + o * {size}"
                self.emit(f"memcpy({target}, {source}, {size} * sizeof({y.c_type}));")
            at += size

    def _put_in_order(self, value: ir.Value, view: Strided) -> None:
        """Write a view as an array after all."""
        self.tensors[value] = y = self.alloc(view.tensor.c_type, view.whole)
        strides, variables, start = strides_of(view.whole), [f"n{axis}" for axis in range(len(view.shape))], 0
        for part in (view, view.entering):
            if part is not None:
                source = self.used(part.tensor)
                with self.loops(variables, part.shape):
                    target = f"{y.address}[{start} + {index_expression(variables, strides)}]"
                    self.emit(f"{target} = {source.address}[{index_expression(variables, part.strides)}];")
            start = view.shape[view.axis] * strides[view.axis]

    def view(self, node: ir.Node, index: int) -> Strided:
        """A view of an input."""
        value = node.inputs[index]
        assert value is not None
        view = self.strided.get(value)
        if value in self.windows:
            view = Strided.of_window(self.windows[value])
        if view is None or value in self.tensors:
            return Strided.of(self.read(node, index))
        for part in (view, view.entering):
            if part is not None:
                self.used(part.tensor)
        return view

    def input(self, node: ir.Node, index: int) -> CTensor:
        """An input that is there; a constant may have no address."""
        value = node.inputs[index]
        assert value is not None
        return self.tensor_of(value)

    def read(self, node: ir.Node, index: int) -> CTensor:
        """An input with an address."""
        return self.with_address(self.input(node, index))

    def read_all(self, node: ir.Node) -> list[CTensor]:
        return [self.read(node, i) for i in range(len(node.inputs))]

    def with_address(self, tensor: CTensor) -> CTensor:
        """`tensor`; a constant becomes a weight."""
        return tensor if tensor.address else replace(tensor, address=self.weights.name_of(tensor.constant))

    def constant(self, node: ir.Node, index: int) -> Array | None:
        """The value of an input, or None where it is left out; raises ExportError where it is not constant."""
        value = input_of(node, index)
        if value is None:
            return None
        constant = self.tensor_of(value).constant
        if constant is None:
            raise refusal(
                node,
                f"its input {value.name!r} is computed, and only a constant can be written there",
                id="c-computed-input",
            )
        return constant

    def required(self, node: ir.Node, index: int) -> Array:
        """The value of a constant input that ONNX requires."""
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
            raise refusal(
                node,
                f"it makes {list(shape)} of {tensor.size} values, as if that did not follow the batch",
                id="c-shape-not-batch",
            )
        self.tensors[value] = tensor.view(0, shape)

    def alloc(self, c_type: str, shape: Sequence[int]) -> CTensor:
        """Memory for a value that is written now."""
        name, size = f"t{len(self._variables)}", max(math.prod(shape), 1)
        buffer = Buffer(size, self.node_index, self.node_index) if c_type == "float" else None
        self._variables.append((name, c_type, buffer or size))
        return CTensor(name, c_type, tuple(shape), buffer)

    def note(self, text: str) -> str:
        """The C that notes an error: in a variable, unless there is a member for it."""
        self.note_member = self.note_member or f"{self.alloc('uint32_t', (1,)).address}[0]"
        return f"{self.note_member} = {self.notes.setdefault(text, len(self.notes) + 1)};"

    def way(self) -> str:
        """The C of a bit that changes with each step; empty if a step has no memory for it."""
        self.two_ways |= bool(self.way_member)
        return self.way_member

    def scale_of(self, name: str) -> float:
        """The calibrated largest magnitude of the tensor `name`; 0 where it has none."""
        self.scales_used.append(self.scales.get(name, 0.0))
        return self.scales_used[-1]

    def c_type(self, value: ir.Value) -> str:
        """The C type of a value; raises ExportError if a step has none for it."""
        assert value.dtype is not None
        if value.dtype not in DTYPES:
            raise ExportError(
                f"{value.name!r} is {value.dtype.name.lower()}, which is not written in C: a step has float32, int64, "
                "int32 and bool. Let the model take one of these, and convert outside of it.",
                id="c-dtype-unwritten",
            )
        return C_TYPES[value.dtype.numpy().name]

    def variables(self) -> dict[str, str]:
        """The types of allocated variables, by name."""
        return {name: c_type for name, c_type, _ in self._variables}

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


def refusal(node: ir.Node, reason: str, *, id: str) -> ExportError:
    return ExportError(f"node {node.name!r} ({node.op_type}) cannot be written in C: {reason}.", id=id)
