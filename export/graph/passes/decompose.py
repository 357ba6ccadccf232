"""Decompose the recurrent operators of a step graph into Gemm and activations, without a loop."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnx_ir.passes.common import RemoveUnusedNodesPass

from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.nodes import RECURRENT, Replacement, activations_of, directions_of, input_of, values
from rnn_export.platform.arrays import Array


class DecomposeRecurrent(InPlacePass):
    """The same step graph without LSTM, GRU and RNN, or without those that `which` selects.

    Before: the frames of those nodes are a fixed number, their weights constant, their first states wired. After: none
    of those nodes is left. Raises ExportError, with the node's name, if a node cannot be decomposed.
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
            _write(node)
        RemoveUnusedNodesPass()(model)
        return PassResult(model, modified=bool(nodes))

    def ensures(self, model: ir.Model) -> None:
        for node in self.chosen(model):
            raise _error(node, "it is still there, which is a fault of rnn-export", id="recurrent-node-left")


def _error(node: ir.Node, reason: str, *, id: str) -> ExportError:
    return ExportError(f"node {node.name!r} ({node.op_type}) cannot be decomposed: {reason}.", id=id)


def _first_states(node: ir.Node) -> list[ir.Value | None]:
    return [input_of(node, index) for index in ((5, 6) if node.op_type == "LSTM" else (5,))]


def _refuse(node: ir.Node) -> None:
    x, bias = input_of(node, 0), input_of(node, 3)
    if x is None or x.shape is None or not isinstance(x.shape[0], int):
        raise _error(
            node, "its time axis is dynamic: only a step graph can be written out", id="recurrent-dynamic-time"
        )
    if node.attributes.get_int("layout", 0):
        raise _error(node, "it has layout 1", id="recurrent-batch-layout")
    unknown = any(input_of(node, index) is not None for index in (4, 7))
    if unknown or "clip" in node.attributes or node.attributes.get_int("input_forget", 0) != 0:
        raise _error(node, "it uses sequence_lens, peepholes, clip or input_forget", id="recurrent-rare-attributes")
    if any(len(node.attributes.get_floats(name, [])) for name in ("activation_alpha", "activation_beta")):
        raise _error(node, "its activations have an alpha or beta of their own", id="recurrent-activation-parameters")
    weights = [input_of(node, 1), input_of(node, 2), *([bias] if bias is not None else [])]
    if any(weight is None or weight.const_value is None for weight in weights):
        raise _error(node, "its weights are not constant", id="recurrent-computed-weights")
    if None in _first_states(node):
        raise _error(node, "it starts from an implicit zero state", id="recurrent-implicit-state")


def _write(node: ir.Node) -> None:
    """Write one recurrent node out, frame after frame: Y, Y_h and, for an LSTM, Y_c."""
    op = Replacement(node, str(node.name or node.op_type))
    x, w, r, b = (input_of(node, index) for index in range(4))
    W, R = values(w), values(r)
    B = np.zeros((len(W), 2 * W.shape[1]), W.dtype) if b is None else values(b)
    assert x is not None
    assert x.shape is not None
    assert isinstance(x.shape[0], int)
    times, ends = range(x.shape[0]), []
    for direction, backward in enumerate(directions_of(node)):
        index = op.constant(np.array(direction, np.int64))
        states = [op.Gather(value, index, axis=0) for value in _first_states(node)]
        cell = _Cell(op, direction, W[direction], R[direction], B[direction])
        outputs: dict[int, ir.Value] = {}
        for t in reversed(times) if backward else times:
            states = cell.step(op.Gather(x, op.constant(np.array(t, np.int64)), axis=0), *states)
            outputs[t] = op.Unsqueeze(states[0], op.ints(0, 1))
        zero = op.ints(0)
        last = [op.Unsqueeze(state, zero) for state in states]
        ends.append((_joined(op, [outputs[t] for t in times], 0), last))
    y = _joined(op, [frames for frames, _ in ends], 1)
    op.put([y, *(_joined(op, last, 0) for last in zip(*(states for _, states in ends), strict=True))])


def _joined(op: Replacement, values: Sequence[ir.Value], axis: int) -> ir.Value:
    return values[0] if len(values) == 1 else op.Concat(*values, axis=axis)


def lstm_cell(op: Any, gates: Sequence[Any], c: Any, activations: Sequence[str]) -> tuple[Any, Any]:
    """(h, c) after one frame; `gates` are ONNX's input, output, forget and candidate, before their activations.

    `op` writes operators by their name, such as `onnxscript.opset18`; all values are (batch, units).
    """
    f, g, out = (getattr(op, name) for name in activations)
    i, o, forget, candidate = gates
    c = op.Add(op.Mul(f(forget), c), op.Mul(f(i), g(candidate)))
    return op.Mul(f(o), out(c)), c


class _Cell:
    """The equation of one direction: `step(x (B, I), h (B, H)[, c (B, H)])` gives the next states, h first."""

    def __init__(self, op: Replacement, direction: int, W: Array, R: Array, bias: Array) -> None:
        self.op, self.W, self.R, node = op, W, R, op.node
        self.Wb, self.Rb = np.split(bias, 2)
        self.units = R.shape[1]
        names, directions = activations_of(node), len(directions_of(node))
        each = len(names) // directions
        self.activations = names[direction * each : (direction + 1) * each]
        self.linear_before_reset = bool(node.attributes.get_int("linear_before_reset", 0))
        self.step: Callable[..., list[ir.Value]] = getattr(self, node.op_type.lower())

    def lstm(self, x: ir.Value, h: ir.Value, c: ir.Value) -> list[ir.Value]:
        gates = self.op.Add(self.gemm(x, self.W, self.Wb), self.gemm(h, self.R, self.Rb))
        return list(lstm_cell(self.op, self.split(gates, 4), c, self.activations))

    def gru(self, x: ir.Value, h: ir.Value) -> list[ir.Value]:
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

    def rnn(self, x: ir.Value, h: ir.Value) -> list[ir.Value]:
        f = getattr(self.op, self.activations[0])
        return [f(self.op.Add(self.gemm(x, self.W, self.Wb), self.gemm(h, self.R, self.Rb)))]

    def gemm(self, x: ir.Value, weight: Array, bias: Array) -> ir.Value:
        return self.op.Gemm(x, self.op.constant(weight), self.op.constant(bias), transB=1)

    def split(self, value: ir.Value, parts: int) -> list[ir.Value]:
        sizes = self.op.ints(*[self.units] * parts)
        return list(self.op.op_multi_out("Split", [value, sizes], {"axis": 1}, num_outputs=parts))
