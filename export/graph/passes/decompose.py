"""Recurrent operators of a step graph written out as Gemm and activations, with no loop and no recurrent op left.

Source of the equations: the ONNX operator reference for LSTM, GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape

from rnn_export.arrays import Array
from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.recurrent import RECURRENT, activations_of, directions_of, flag, lstm_cell

Value = ir.Value


class DecomposeRecurrent(InPlacePass):
    """The same step graph without LSTM, GRU and RNN, or without those that `which` says.

    Before: the frames of those nodes are a fixed number, their weights constant, their first states wired. After: none
    of those nodes is left. Raises ExportError, with the node's name, where a node cannot be written out.
    """

    def __init__(self, which: Callable[[ir.Node], bool] = lambda node: True) -> None:
        self.which = which

    def chosen(self, model: ir.Model) -> Iterator[ir.Node]:
        return (node for node in model.graph if node.op_type in RECURRENT and self.which(node))

    def requires(self, model: ir.Model) -> None:
        for node in self.chosen(model):
            _refuse(node)

    def call(self, model: ir.Model) -> PassResult:
        nodes = list(self.chosen(model))
        for node in nodes:
            _replace(model.graph, node)
        RemoveUnusedNodesPass()(model)
        return PassResult(model, modified=bool(nodes))

    def ensures(self, model: ir.Model) -> None:
        for node in self.chosen(model):
            raise _error(node, "it is still there, which is a fault of rnn-export")


def _error(node: ir.Node, reason: str) -> ExportError:
    return ExportError(f"node {node.name!r} ({node.op_type}) cannot be decomposed: {reason}.")


def _input(node: ir.Node, index: int) -> Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _first_states(node: ir.Node) -> list[Value | None]:
    return [_input(node, index) for index in ((5, 6) if node.op_type == "LSTM" else (5,))]


def _refuse(node: ir.Node) -> None:
    x, bias = _input(node, 0), _input(node, 3)
    if x is None or x.shape is None or not isinstance(x.shape[0], int):
        raise _error(node, "its time axis is dynamic: only a step graph can be written out")
    if flag(node, "layout"):
        raise _error(node, "it has layout 1")
    unknown = any(_input(node, index) is not None for index in (4, 7))
    if unknown or "clip" in node.attributes or flag(node, "input_forget"):
        raise _error(node, "it uses sequence_lens, peepholes, clip or input_forget")
    if any(len(node.attributes.get_floats(name, [])) for name in ("activation_alpha", "activation_beta")):
        raise _error(node, "its activations have an alpha or beta of their own")
    weights = [_input(node, 1), _input(node, 2), *([bias] if bias is not None else [])]
    if any(weight is None or weight.const_value is None for weight in weights):
        raise _error(node, "its weights are not constant")
    if None in _first_states(node):
        raise _error(node, "it starts from an implicit zero state")


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    writer = _Writer(node)
    outputs = writer.write()
    for old, new in zip(node.outputs, outputs, strict=False):
        new.shape, new.type = old.shape, old.type
    graph.insert_before(node, writer.tape.nodes)
    for initializer in writer.tape.initializers:
        graph.register_initializer(initializer)
    for old, new in zip(node.outputs, outputs, strict=False):
        if old.is_graph_output():
            new.name, old.name = old.name, None
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


class _Operators:
    """Puts a node on a tape by the name of its operator: `op.Add(a, b)`."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape

    def __getattr__(self, op_type: str) -> Callable[..., Value]:
        return lambda *inputs, **attributes: self.tape.op(op_type, inputs, attributes)


class _Writer:
    """Writes one recurrent node out, frame after frame."""

    def __init__(self, node: ir.Node) -> None:
        self.node, self.tape = node, Tape()
        self.op: Any = _Operators(self.tape)
        x, w, r, b = (_input(node, index) for index in range(4))
        assert x is not None
        assert x.shape is not None
        assert isinstance(x.shape[0], int)
        self.x, self.frames = x, x.shape[0]
        self.W, self.R = _constant(w), _constant(r)
        directions, rows = self.W.shape[:2]
        self.bias = np.zeros((directions, 2 * rows), self.W.dtype) if b is None else _constant(b)
        self.count = 0

    def write(self) -> list[Value]:
        """The values of Y, Y_h and, for an LSTM, Y_c."""
        ends = []
        for direction, backward in enumerate(directions_of(self.node)):
            index = self.initializer(np.array(direction, np.int64))
            states = [self.op.Gather(value, index, axis=0) for value in _first_states(self.node)]
            ends.append(self.run(_Cell(self, direction), states, backward))
        y = self.joined([frames for frames, _ in ends], 1)
        return [y, *(self.joined(list(last), 0) for last in zip(*(states for _, states in ends), strict=True))]

    def run(self, cell: _Cell, states: list[Value], backward: bool) -> tuple[Value, list[Value]]:
        """One direction: Y (T, 1, B, H), and the last states (1, B, H)."""
        outputs: dict[int, Value] = {}
        for t in reversed(range(self.frames)) if backward else range(self.frames):
            frame = self.op.Gather(self.x, self.initializer(np.array(t, np.int64)), axis=0)
            states = cell.step(frame, *states)
            outputs[t] = self.op.Unsqueeze(states[0], self.initializer(np.array([0, 1], np.int64)))
        zero = self.initializer(np.array([0], np.int64))
        last = [self.op.Unsqueeze(state, zero) for state in states]
        return self.joined([outputs[t] for t in range(self.frames)], 0), last

    def joined(self, values: list[Value], axis: int) -> Value:
        return values[0] if len(values) == 1 else self.op.Concat(*values, axis=axis)

    def initializer(self, array: Array) -> Value:
        # One initializer for each distinct array of the node: frames share their weights.
        for known in self.tape.initializers:
            other = _constant(known)
            if other.dtype == array.dtype and other.shape == array.shape and np.array_equal(other, array):
                return known
        self.count += 1
        name = f"{self.node.name or self.node.op_type}.{self.count}"
        return self.tape.initializer(ir.tensor(np.array(array, order="C"), name=name))


class _Cell:
    """The equation of one direction: `step(x (B, I), h (B, H)[, c (B, H)])` gives the next states, h first."""

    def __init__(self, writer: _Writer, direction: int) -> None:
        self.writer, self.op, node = writer, writer.op, writer.node
        self.W, self.R = writer.W[direction], writer.R[direction]
        self.Wb, self.Rb = np.split(writer.bias[direction], 2)
        self.units = self.R.shape[1]
        names, directions = activations_of(node), len(directions_of(node))
        each = len(names) // directions
        self.activations = names[direction * each : (direction + 1) * each]
        self.linear_before_reset = flag(node, "linear_before_reset")
        steps: dict[str, Callable[..., list[Value]]] = {"LSTM": self.lstm, "GRU": self.gru, "RNN": self.rnn}
        self.step = steps[node.op_type]

    def lstm(self, x: Value, h: Value, c: Value) -> list[Value]:
        gates = self.op.Add(self.gemm(x, self.W, self.Wb), self.gemm(h, self.R, self.Rb))
        return list(lstm_cell(self.op, self.split(gates, 4), c, self.activations))

    def gru(self, x: Value, h: Value) -> list[Value]:
        op, H = self.op, self.units
        f, g = (getattr(op, name) for name in self.activations)
        xz, xr, xn = self.split(self.gemm(x, self.W, self.Wb), 3)
        if self.linear_before_reset:
            hz, hr, hn = self.split(self.gemm(h, self.R, self.Rb), 3)
            r = f(op.Add(xr, hr))
            inner = op.Mul(r, hn)
        else:
            hz, hr = self.split(self.gemm(h, self.R[: 2 * H], self.Rb[: 2 * H]), 2)
            r = f(op.Add(xr, hr))
            inner = self.gemm(op.Mul(r, h), self.R[2 * H :], self.Rb[2 * H :])
        z = f(op.Add(xz, hz))
        candidate = g(op.Add(xn, inner))
        return [op.Add(candidate, op.Mul(z, op.Sub(h, candidate)))]

    def rnn(self, x: Value, h: Value) -> list[Value]:
        f = getattr(self.op, self.activations[0])
        return [f(self.op.Add(self.gemm(x, self.W, self.Wb), self.gemm(h, self.R, self.Rb)))]

    def gemm(self, x: Value, weight: Array, bias: Array) -> Value:
        result: Value = self.op.Gemm(x, self.writer.initializer(weight), self.writer.initializer(bias), transB=1)
        return result

    def split(self, value: Value, parts: int) -> list[Value]:
        sizes = self.writer.initializer(np.full(parts, self.units, np.int64))
        return list(self.writer.tape.op_multi_out("Split", [value, sizes], {"axis": 1}, num_outputs=parts))


def _constant(value: Value | None) -> Array:
    assert value is not None
    assert value.const_value is not None
    array: Array = value.const_value.numpy()
    return array
