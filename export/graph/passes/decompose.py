"""Recurrent operators of a step graph written out as Gemm and activations, with no loop and no recurrent op left.

Source of the equations: the ONNX operator reference for LSTM, GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import tape
from onnx_ir.passes import common

from rnn_export.arrays import Array
from rnn_export.errors import ExportError

Value = ir.Value
# Whether each direction runs backwards.
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def decompose(graph: bytes, which: Callable[[ir.Node], bool] = lambda node: True) -> bytes:
    """The same step graph without LSTM, GRU and RNN, or without those that `which` says; sequences must be static.

    Raises ExportError, with the node's name, where a node cannot be written out.
    """
    model = ir.serde.deserialize_model(onnx.load_from_string(graph))
    for node in [n for n in model.graph if n.op_type in DEFAULTS and which(n)]:
        writer = _Writer(node)
        outputs = writer.write()
        for old, new in zip(node.outputs, outputs, strict=False):
            new.shape, new.type = old.shape, old.type
        model.graph.insert_before(node, writer.tape.nodes)
        for initializer in writer.tape.initializers:
            model.graph.register_initializer(initializer)
        for old, new in zip(node.outputs, outputs, strict=False):
            if old.is_graph_output():
                new.name, old.name = old.name, None
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
    common.RemoveUnusedNodesPass()(model)
    return bytes(ir.serde.serialize_model(model).SerializeToString())


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and node.attributes[name].as_int() != 0


class _Writer:
    """Writes one recurrent node out, step after step."""

    def __init__(self, node: ir.Node) -> None:
        self.node, self.tape = node, tape.Tape()
        x, w, r, b = (node.inputs[i] if i < len(node.inputs) else None for i in range(4))
        if x is None or x.shape is None or not isinstance(x.shape[0], int):
            raise self.error("its time axis is dynamic: only a step graph can be written out")
        self.directions = DIRECTIONS[node.attributes.get_string("direction", "forward")]
        if _flag(node, "layout"):
            raise self.error("it has layout 1")
        extra = [i for i in (4, 7) if i < len(node.inputs) and node.inputs[i] is not None]
        if extra or "clip" in node.attributes or _flag(node, "input_forget"):
            raise self.error("it uses sequence_lens, peepholes, clip or input_forget")
        if any(len(node.attributes.get_floats(name, [])) for name in ("activation_alpha", "activation_beta")):
            raise self.error("its activations have an alpha or beta of their own")
        self.x, self.steps = x, x.shape[0]
        self.weights = [self.constant(value) for value in (w, r)]
        self.hidden = self.weights[1].shape[2]
        count, rows = self.weights[0].shape[:2]
        self.bias = np.zeros((count, 2 * rows), self.weights[0].dtype) if b is None else self.constant(b)
        self.names = list(node.attributes.get_strings("activations", DEFAULTS[node.op_type] * count))
        self.count = 0

    def turn_to(self, direction: int) -> None:
        """Take the weights and activations of one direction."""
        self.W, self.R = (w[direction] for w in self.weights)
        self.Wb, self.Rb = np.split(self.bias[direction], 2)
        each = len(self.names) // len(self.directions)
        self.activations = [self.activation(name) for name in self.names[direction * each : (direction + 1) * each]]

    def error(self, reason: str) -> ExportError:
        return ExportError(f"node {self.node.name!r} ({self.node.op_type}) cannot be decomposed: {reason}.")

    def activation(self, name: str) -> Callable[[Value], Value]:
        return lambda value: self.tape.op(name, [value])

    def constant(self, value: Value | None) -> Array:
        if value is None or value.const_value is None:
            raise self.error("its weights are not constant")
        array: Array = value.const_value.numpy()
        return array

    def write(self) -> list[Value]:
        """The values of Y, Y_h and, for an LSTM, Y_c."""
        steps: dict[str, Callable[..., list[Value]]] = {"LSTM": self.lstm, "GRU": self.gru, "RNN": self.rnn}
        step = steps[self.node.op_type]
        first = (5, 6) if self.node.op_type == "LSTM" else (5,)
        given = [self.node.inputs[i] if i < len(self.node.inputs) else None for i in first]
        if any(value is None for value in given):
            raise self.error("it starts from an implicit zero state")
        by_direction = []
        for direction, backward in enumerate(self.directions):
            self.turn_to(direction)
            index = self.initializer(np.array(direction, np.int64))
            states = [self.tape.op("Gather", [value, index], {"axis": 0}) for value in given]
            by_direction.append(self.run(step, states, backward))
        y = self.joined([frames for frames, _ in by_direction], 1)
        return [y, *(self.joined(list(ends), 0) for ends in zip(*(s for _, s in by_direction), strict=True))]

    def run(self, step: Callable[..., list[Value]], states: list[Value], backward: bool) -> tuple[Value, list[Value]]:
        """One direction: Y (T, 1, B, H), and the last states (1, B, H)."""
        frames: dict[int, Value] = {}
        for t in reversed(range(self.steps)) if backward else range(self.steps):
            frame = self.tape.op("Gather", [self.x, self.initializer(np.array(t, np.int64))], {"axis": 0})
            states = step(frame, *states)
            frames[t] = self.tape.op("Unsqueeze", [states[0], self.initializer(np.array([0, 1], np.int64))])
        zero = self.initializer(np.array([0], np.int64))
        ends = [self.tape.op("Unsqueeze", [s, zero]) for s in states]
        return self.joined([frames[t] for t in range(self.steps)], 0), ends

    def joined(self, values: list[Value], axis: int) -> Value:
        return values[0] if len(values) == 1 else self.tape.op("Concat", values, {"axis": axis})

    def lstm(self, x: Value, h: Value, c: Value) -> list[Value]:
        f, g, out = self.activations
        i, o, forget, candidate = self.split(
            self.tape.op("Add", [self.gemm(x, self.W, self.Wb), self.gemm(h, self.R, self.Rb)]), 4
        )
        kept = self.tape.op("Mul", [f(forget), c])
        c = self.tape.op("Add", [kept, self.tape.op("Mul", [f(i), g(candidate)])])
        return [self.tape.op("Mul", [f(o), out(c)]), c]

    def gru(self, x: Value, h: Value) -> list[Value]:
        f, g = self.activations
        H = self.hidden
        xz, xr, xn = self.split(self.gemm(x, self.W, self.Wb), 3)
        if _flag(self.node, "linear_before_reset"):
            hz, hr, hn = self.split(self.gemm(h, self.R, self.Rb), 3)
            r = f(self.tape.op("Add", [xr, hr]))
            inner = self.tape.op("Mul", [r, hn])
        else:
            hz, hr = self.split(self.gemm(h, self.R[: 2 * H], self.Rb[: 2 * H]), 2)
            r = f(self.tape.op("Add", [xr, hr]))
            inner = self.gemm(self.tape.op("Mul", [r, h]), self.R[2 * H :], self.Rb[2 * H :])
        z = f(self.tape.op("Add", [xz, hz]))
        candidate = g(self.tape.op("Add", [xn, inner]))
        moved = self.tape.op("Mul", [z, self.tape.op("Sub", [h, candidate])])
        return [self.tape.op("Add", [candidate, moved])]

    def rnn(self, x: Value, h: Value) -> list[Value]:
        (f,) = self.activations
        return [f(self.tape.op("Add", [self.gemm(x, self.W, self.Wb), self.gemm(h, self.R, self.Rb)]))]

    def gemm(self, x: Value, weight: Array, bias: Array) -> Value:
        return self.tape.op("Gemm", [x, self.initializer(weight), self.initializer(bias)], {"transB": 1})

    def split(self, value: Value, parts: int) -> list[Value]:
        sizes = self.initializer(np.full(parts, self.hidden, np.int64))
        return list(self.tape.op_multi_out("Split", [value, sizes], {"axis": 1}, num_outputs=parts))

    def initializer(self, array: Array) -> Value:
        # One initializer for each distinct array of the node: steps share their weights.
        for known in self.tape.initializers:
            assert known.const_value is not None
            other = known.const_value.numpy()
            if other.dtype == array.dtype and other.shape == array.shape and np.array_equal(other, array):
                return known
        self.count += 1
        name = f"{self.node.name or self.node.op_type}.{self.count}"
        return self.tape.initializer(ir.tensor(np.array(array, order="C"), name=name))
