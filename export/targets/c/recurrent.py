"""LSTM, GRU and RNN as ONNX defines them, over the frames of a step and any rows, in one or both directions.

Source of the equations and of the order of gates: the ONNX operator reference.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from rnn_export.arrays import Array
from rnn_export.export.graph.passes.recurrent import activations_of, directions_of
from rnn_export.export.targets.c.dense import Operand, Product, dense
from rnn_export.export.targets.c.program import Program, Tensor, refusal

# Units that are computed together: one vector where vectors are long.
BLOCK = 16


@dataclass(frozen=True)
class Direction:
    """One direction of a node: matrices (gates * units, values), biases, and where its rows lie in C, without gaps."""

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

    @property
    def units(self) -> int:
        return int(self.R.shape[1])

    def from_x(self) -> Operand:
        value = self.node.inputs[0]
        assert value is not None
        return Operand(self.W, self.x, self.W.shape[1], str(value.name))

    def from_h(self, matrix: Array | None = None) -> Operand:
        return Operand(self.R if matrix is None else matrix, self.h, self.units, f"{self.node.name}.h")


def recurrent(p: Program, node: ir.Node) -> None:
    """Y (frames, directions, rows, units) and the last states (directions, rows, units)."""
    W, R, B = (p.constant(node, i) for i in (1, 2, 3))
    if W is None or R is None:
        raise refusal(node, "its weights are computed")
    x, units = p.read(node, 0), R.shape[2]
    frames, rows, values = x.shape
    directions = directions_of(node)
    count = len(directions)
    B = np.zeros((count, 2 * R.shape[1]), np.float32) if B is None else B
    y = p.room("float", (frames, count, rows, units))
    if node.outputs[0].name:
        p.tensors[node.outputs[0]] = y
    first = [_state(p, node, i, (count, rows, units)) for i in (5, 6)[: 2 if node.op_type == "LSTM" else 1]]
    c_last = p.room("float", (count, rows, units)) if node.op_type == "LSTM" else None
    for d, backward in enumerate(directions):
        Wb, Rb = np.split(B[d], 2)
        own = d * rows * units
        if c_last is not None:
            p.say(f"memcpy({c_last.text} + {own}, {first[1].text} + {own}, {rows * units} * sizeof(float));")
        with ExitStack() as loops:
            t = "0"
            if frames > 1:
                loops.enter_context(p.loop("t", frames, down=backward))
                t = "t"
            start = f"{first[0].text} + {own}"
            frame = count * rows * units
            before = f"{y.text} + ({t} {'+' if backward else '-'} 1) * {frame} + {own}"
            begins = f"t == {frames - 1 if backward else 0}"
            CELLS[node.op_type](
                p,
                Direction(
                    node,
                    rows,
                    W[d],
                    R[d],
                    Wb,
                    Rb,
                    x=f"{x.text} + {t} * {rows * values}",
                    h=f"({begins} ? {start} : {before})" if frames > 1 else start,
                    h_next=f"{y.text} + {t} * {frame} + {own}",
                    c="" if c_last is None else f"{c_last.text} + {own}",
                ),
            )
    _give_last(p, node, y, directions)
    if c_last is not None and len(node.outputs) > 2:
        p.tensors[node.outputs[2]] = c_last


def _give_last(p: Program, node: ir.Node, y: Tensor, directions: tuple[bool, ...]) -> None:
    if len(node.outputs) < 2 or not node.outputs[1].name:
        return
    frames, count, rows, units = y.shape
    block = rows * units
    if count == 1:
        at = 0 if directions[0] else frames - 1
        p.alias(node, y.part(at * block, (1, rows, units)), 1)
        return
    last = p.make(node, 1)
    for d, backward in enumerate(directions):
        at = ((0 if backward else frames - 1) * count + d) * block
        p.say(f"memcpy({last.text} + {d * block}, {y.text} + {at}, {block} * sizeof(float));")


def _state(p: Program, node: ir.Node, index: int, shape: tuple[int, ...]) -> Tensor:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return p.addressed(Tensor("", "float", shape, array=np.zeros(shape, np.float32)))
    return p.read(node, index)


def _in_blocks(step: Direction) -> bool:
    """Whether units are computed 16 at a time, so that the weights of the next are read meanwhile."""
    return step.units % BLOCK == 0


def _by_unit(matrix: Array, gates: int) -> Array:
    """(gates * units, ...) with all gates of 16 units together, then those of the next."""
    return np.ascontiguousarray(
        matrix.reshape(gates, -1, BLOCK, *matrix.shape[1:]).swapaxes(0, 1).reshape(matrix.shape)
    )


def _lstm(p: Program, step: Direction) -> None:
    units, rows, bias, x, h = step.units, step.rows, step.Wb + step.Rb, step.from_x(), step.from_h()
    if not _in_blocks(step):
        gates = p.room("float", (rows, 4 * units))
        dense(p, gates.text, bias, rows, x, h)
        p.say(f"rnn_lstm({gates.text}, {units}, {rows}, {units}, {step.c}, {step.h_next});")
        return
    x, h = (replace(part, matrix=_by_unit(part.matrix, 4)) for part in (x, h))
    product = Product(p, _by_unit(bias, 4), x, h, rows=rows, block=4 * BLOCK)
    gates = p.room("float", (rows, 4 * BLOCK))
    with p.loop("u", units // BLOCK):
        product.into(gates.text, "u")
        c, h_next = (f"{text} + u * {BLOCK}" for text in (step.c, step.h_next))
        p.say(f"rnn_lstm({gates.text}, {BLOCK}, {rows}, {units}, {c}, {h_next});")


def _gru(p: Program, step: Direction) -> None:
    units, rows, after = step.units, step.rows, step.node.attributes.get_int("linear_before_reset", 0)
    if after and _in_blocks(step):
        x, h = (replace(part, matrix=_by_unit(part.matrix, 3)) for part in (step.from_x(), step.from_h()))
        products = [
            Product(p, _by_unit(bias, 3), part, rows=rows, block=3 * BLOCK)
            for part, bias in ((x, step.Wb), (h, step.Rb))
        ]
        sums = [p.room("float", (rows, 3 * BLOCK)) for _ in products]
        with p.loop("u", units // BLOCK):
            for product, room in zip(products, sums, strict=True):
                product.into(room.text, "u")
            h_before, h_next = (f"{text} + u * {BLOCK}" for text in (step.h, step.h_next))
            p.say(f"rnn_gru({sums[0].text}, {sums[1].text}, {BLOCK}, {rows}, {units}, {h_before}, {h_next});")
        return
    from_x, from_h = p.room("float", (rows, 3 * units)), p.room("float", (rows, (3 if after else 2) * units))
    dense(p, from_x.text, step.Wb, rows, step.from_x())
    if after:
        dense(p, from_h.text, step.Rb, rows, step.from_h())
        p.say(f"rnn_gru({from_x.text}, {from_h.text}, {units}, {rows}, {units}, {step.h}, {step.h_next});")
        return
    dense(p, from_h.text, step.Rb[: 2 * units], rows, step.from_h(step.R[: 2 * units]))
    reset, turned = p.room("float", (rows, units)), p.room("float", (rows, units))
    p.say(f"rnn_gru_reset({from_x.text}, {from_h.text}, {units}, {rows}, {step.h}, {reset.text});")
    hidden = Operand(step.R[2 * units :], reset.text, units, f"{step.node.name}.h")
    dense(p, turned.text, step.Rb[2 * units :], rows, hidden)
    gates = f"{from_x.text}, {from_h.text}, {turned.text}"
    p.say(f"rnn_gru_after_reset({gates}, {units}, {rows}, {step.h}, {step.h_next});")


def _rnn(p: Program, step: Direction) -> None:
    values = step.rows * step.units
    sums = p.room("float", (step.rows, step.units))
    dense(p, sums.text, step.Wb + step.Rb, step.rows, step.from_x(), step.from_h())
    names = activations_of(step.node)
    function = f"rnn_{names[0].lower()}"
    p.say(f"RNN_EACH({values}, rnn_store_part({step.h_next} + i, {function}(rnn_load_part({sums.text} + i, m)), m));")


CELLS: dict[str, Callable[[Program, Direction], None]] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
