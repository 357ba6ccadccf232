"""LSTM, GRU and RNN as ONNX defines them, over the frames of a step and any rows, in one or both directions.

Source of the equations and of the order of gates: the ONNX operator reference.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import activations_of, directions_of, input_name, input_of
from rnn_export.export.targets.c.code.code_builder import CodeBuilder, refusal
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.export.targets.c.products.matrix import WEIGHT_BYTES, Operand, Product
from rnn_export.platform.arrays import Array

# Units that are computed together: one vector where vectors are long.
BLOCK = 16
# Bytes that the nearest cache of a CPU holds, and more than it may have of its own.
NEAREST, FAR = 32 * 2**10, 512 * 2**10
# Operators that give what they take, in another shape.
SHAPED = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


@dataclass(frozen=True)
class Direction:
    """One direction of a node: matrices (gates * units, values), biases (gates * units,), and addresses of rows.

    Rows lie without gaps: those of the input at `x`, the states before and after the frame at `h` and `h_next`, and
    that of the LSTM's cell, which changes in place, at `c`. The node has `frames` of them in a step.
    """

    node: ir.Node
    rows: int
    W: Array
    R: Array
    Wb: Array
    Rb: Array
    x: str
    h: str
    h_next: str
    c: str
    frames: int

    @property
    def units(self) -> int:
        return int(self.R.shape[1])

    @property
    def in_blocks(self) -> bool:
        """True if units are computed `BLOCK` at a time, so that the weights of the next are read meanwhile."""
        return self.units % BLOCK == 0

    def from_x(self) -> Operand:
        return Operand(self.W, self.x, self.W.shape[1], input_name(self.node, 0))

    def from_h(self, gates: int | None = None) -> Operand:
        """With the matrix of the first `gates` gates, or of all."""
        matrix = self.R if gates is None else self.R[: gates * self.units]
        return Operand(matrix, self.h, self.units, f"{self.node.name}.h")


def recurrent(code: CodeBuilder, node: ir.Node) -> None:
    """Y (frames, directions, rows, units) and the last states (directions, rows, units)."""
    W, R, B = (code.constant(node, i) for i in (1, 2, 3))
    if W is None or R is None:
        raise refusal(node, "its weights are computed", id="c-recurrent-computed-weights")
    x, units = code.read(node, 0), R.shape[2]
    frames, rows, values = x.shape
    directions = directions_of(node)
    count = len(directions)
    B = np.zeros((count, 2 * R.shape[1]), np.float32) if B is None else B
    y = code.alloc("float", (frames, count, rows, units))
    if node.outputs[0].name:
        code.tensors[node.outputs[0]] = y
    h_first = _first_state(code, node, 5, (count, rows, units))
    c_first = c_last = None
    if node.op_type == "LSTM":
        c_first = _first_state(code, node, 6, (count, rows, units))
        c_last = c_first if _in_place(code, node, c_first) else code.alloc("float", (count, rows, units))
    for d, backward in enumerate(directions):
        Wb, Rb = np.split(B[d], 2)
        offset, frame = d * rows * units, count * rows * units
        if c_first is not None and c_last is not None and c_last is not c_first:
            size = f"{rows * units} * sizeof(float)"
            code.emit(f"memcpy({c_last.address} + {offset}, {c_first.address} + {offset}, {size});")
        t, h = "0", f"{h_first.address} + {offset}"
        if frames > 1:
            before = f"{y.address} + (t {'+' if backward else '-'} 1) * {frame} + {offset}"
            t, h = "t", f"(t == {frames - 1 if backward else 0} ? {h} : {before})"
        x_at, h_next = f"{x.address} + {t} * {rows * values}", f"{y.address} + {t} * {frame} + {offset}"
        c = "" if c_last is None else f"{c_last.address} + {offset}"
        direction = Direction(node, rows, W[d], R[d], Wb, Rb, x_at, h, h_next, c, frames)
        with code.loop("t", frames, down=backward) if frames > 1 else nullcontext():
            CELLS[node.op_type](code, direction)
    _last_state(code, node, y, directions)
    if c_last is not None and len(node.outputs) > 2:
        code.tensors[node.outputs[2]] = c_last


def _first_state(code: CodeBuilder, node: ir.Node, index: int, shape: tuple[int, ...]) -> CTensor:
    if input_of(node, index) is None:
        return code.with_address(CTensor("", "float", shape, constant=np.zeros(shape, np.float32)))
    return code.read(node, index)


def _in_place(code: CodeBuilder, node: ir.Node, c_first: CTensor) -> bool:
    """True if nothing else reads the cell, which is a copy or a state whose next value this node gives."""
    value, after = input_of(node, 6), code.next_states.get(c_first.address)
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        producer = value.producer()
        if producer is None:
            return c_first.buffer is not None or (len(node.outputs) > 2 and _seen_as(after) is node.outputs[2])
        value = producer.inputs[0] if producer.op_type in SHAPED else None
    return False


def _seen_as(value: ir.Value | None) -> ir.Value | None:
    """The value before it was reshaped."""
    while value is not None and (producer := value.producer()) is not None and producer.op_type in SHAPED:
        value = producer.inputs[0]
    return value


def _last_state(code: CodeBuilder, node: ir.Node, y: CTensor, directions: tuple[bool, ...]) -> None:
    """Each direction ends at another frame of y."""
    if len(node.outputs) < 2 or not node.outputs[1].name:
        return
    frames, count, rows, units = y.shape
    size = rows * units
    starts = [((0 if backward else frames - 1) * count + d) * size for d, backward in enumerate(directions)]
    if count == 1:
        code.set_view(node, y.view(starts[0], (1, rows, units)), 1)
        return
    last = code.new_output(node, 1)
    for d, start in enumerate(starts):
        code.emit(f"memcpy({last.address} + {d * size}, {y.address} + {start}, {size} * sizeof(float));")


def _by_block(array: Array, gates: int, block: int) -> Array:
    """(gates * units, ...) with all gates of a block of units together, then those of the next."""
    blocks = array.reshape(gates, -1, block, *array.shape[1:]).swapaxes(0, 1)
    return np.ascontiguousarray(blocks.reshape(array.shape))


def _in_blocks(operand: Operand, gates: int, block: int) -> Operand:
    return replace(operand, matrix=_by_block(operand.matrix, gates, block))


def _block(code: CodeBuilder, units: int) -> int:
    """Units of a block: all of a layer of two blocks, whose functions are then computed side by side."""
    return units if code.precision == "fp32" and units == 2 * BLOCK else BLOCK


@contextmanager
def _blocks(code: CodeBuilder, step: Direction, block: int, own: Sequence[CTensor]) -> Iterator[None]:
    """A loop over the blocks, `u`: from the first to the last, or to and fro if that finds weights in a cache.

    The weights read last are still there: a block that fits the nearest cache of a layer that does not, or as much of a
    layer as the next cache holds. No result depends on the direction.
    """
    count, nbytes = step.units // block, WEIGHT_BYTES[code.precision] * int(step.W.size + step.R.size)
    directions = []
    if count > 1 and (nbytes // count <= NEAREST < nbytes or nbytes > FAR):
        directions = [code.way()] * (step.frames % 2) + ["t"] * (step.frames > 1)
    reads, writes = [(step.x, step.W.shape[1]), (step.h, step.units)], filter(None, (step.c, step.h_next))
    ahead = [f"rnn_fetch({address}, {size * step.rows}, 0);" for address, size in reads]
    ahead += [f"rnn_fetch({address} + u * {block}, {block}, 1);" for address in writes]
    with code.loop_of_blocks(count, nbytes, own, " ^ ".join(filter(None, directions)), ahead):
        yield


def _lstm(code: CodeBuilder, step: Direction) -> None:
    units, rows, bias, x, h = step.units, step.rows, step.Wb + step.Rb, step.from_x(), step.from_h()
    if not step.in_blocks:
        gates = code.alloc("float", (rows, 4 * units)).address
        Product(code, bias, rows, x, h).emit(gates)
        code.emit(f"rnn_lstm({gates}, {units}, {rows}, {units}, {step.c}, {step.h_next});")
        return
    block = _block(code, units)
    x, h = _in_blocks(x, 4, block), _in_blocks(h, 4, block)
    product = Product(code, _by_block(bias, 4, block), rows, x, h, block=4 * block)
    own = [code.alloc("float", (rows, 4 * block))]
    gates = own[0].address
    with _blocks(code, step, block, own):
        product.emit(gates, "u")
        c, h_next = (f"{address} + u * {block}" for address in (step.c, step.h_next))
        code.emit(f"rnn_lstm({gates}, {block}, {rows}, {units}, {c}, {h_next});")


def _gru(code: CodeBuilder, step: Direction) -> None:
    if not step.node.attributes.get_int("linear_before_reset", 0):
        _gru_reset_before_product(code, step)
        return
    units, rows, x, h = step.units, step.rows, step.from_x(), step.from_h()
    if not step.in_blocks:
        from_x, from_h = (code.alloc("float", (rows, 3 * units)).address for _ in range(2))
        Product(code, step.Wb, rows, x).emit(from_x)
        Product(code, step.Rb, rows, h).emit(from_h)
        code.emit(f"rnn_gru({from_x}, {from_h}, {units}, {rows}, {units}, {step.h}, {step.h_next});")
        return
    block = _block(code, units)
    products = [
        Product(code, _by_block(bias, 3, block), rows, _in_blocks(operand, 3, block), block=3 * block)
        for operand, bias in ((x, step.Wb), (h, step.Rb))
    ]
    own = [code.alloc("float", (rows, 3 * block)) for _ in products]
    from_x, from_h = (tensor.address for tensor in own)
    with _blocks(code, step, block, own):
        for product, y in zip(products, (from_x, from_h), strict=True):
            product.emit(y, "u")
        h_before, h_next = (f"{address} + u * {block}" for address in (step.h, step.h_next))
        code.emit(f"rnn_gru({from_x}, {from_h}, {block}, {rows}, {units}, {h_before}, {h_next});")


def _gru_reset_before_product(code: CodeBuilder, step: Direction) -> None:
    """The candidate's product takes what the reset gate leaves of the state."""
    units, rows = step.units, step.rows
    from_x, from_h = (code.alloc("float", (rows, gates * units)).address for gates in (3, 2))
    Product(code, step.Wb, rows, step.from_x()).emit(from_x)
    Product(code, step.Rb[: 2 * units], rows, step.from_h(gates=2)).emit(from_h)
    reset, candidate = (code.alloc("float", (rows, units)).address for _ in range(2))
    code.emit(f"rnn_gru_reset({from_x}, {from_h}, {units}, {rows}, {step.h}, {reset});")
    left = Operand(step.R[2 * units :], reset, units, f"{step.node.name}.h")
    Product(code, step.Rb[2 * units :], rows, left).emit(candidate)
    gates = f"{from_x}, {from_h}, {candidate}"
    code.emit(f"rnn_gru_after_reset({gates}, {units}, {rows}, {step.h}, {step.h_next});")


def _rnn(code: CodeBuilder, step: Direction) -> None:
    sums = code.alloc("float", (step.rows, step.units)).address
    Product(code, step.Wb + step.Rb, step.rows, step.from_x(), step.from_h()).emit(sums)
    activation = activations_of(step.node)[0].lower()
    value = f"rnn_{activation}(rnn_load_part({sums} + i, m))"
    code.emit(f"RNN_EACH({step.rows * step.units}, rnn_store_part({step.h_next} + i, {value}, m));")


CELLS: dict[str, Callable[[CodeBuilder, Direction], None]] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
