"""Recurrent operators of a step graph written out as Gemm and activations, with no loop and no recurrent op left.

Source of the equations: the ONNX operator reference for LSTM, GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import tape

from rnn_export.errors import ExportError
from rnn_export.runtime.backends import Array

Value = ir.Value
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def decompose(graph: bytes) -> bytes:
    """The same step graph without LSTM, GRU and RNN; their time axis must be static, their direction forward.

    Raises ExportError, with the node's name, where a node cannot be written out.
    """
    model = ir.serde.deserialize_model(onnx.load_from_string(graph))
    for node in [n for n in model.graph if n.op_type in DEFAULTS]:
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
    ir.passes.common.RemoveUnusedNodesPass()(model)
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
        if node.attributes.get_string("direction", "forward") != "forward" or _flag(node, "layout"):
            raise self.error("it is not a forward node with layout 0")
        extra = [i for i in (4, 7) if i < len(node.inputs) and node.inputs[i] is not None]
        if extra or "clip" in node.attributes or _flag(node, "input_forget"):
            raise self.error("it uses sequence_lens, peepholes, clip or input_forget")
        self.x, self.steps = x, x.shape[0]
        self.W, self.R = self.constant(w), self.constant(r)
        self.hidden = self.R.shape[1]
        bias = np.zeros(2 * self.W.shape[0], self.W.dtype) if b is None else self.constant(b)
        self.Wb, self.Rb = np.split(bias, 2)
        names = node.attributes.get_strings("activations", DEFAULTS[node.op_type])
        self.activations = [self.activation(name) for name in names]
        self.count = 0

    def error(self, reason: str) -> ExportError:
        return ExportError(f"node {self.node.name!r} ({self.node.op_type}) cannot be decomposed: {reason}.")

    def activation(self, name: str) -> Callable[[Value], Value]:
        return lambda value: self.tape.op(name, [value])

    def constant(self, value: Value | None) -> Array:
        if value is None or value.const_value is None:
            raise self.error("its weights are not constant")
        array: Array = value.const_value.numpy()[0]
        return array

    def write(self) -> list[Value]:
        """The values of Y, Y_h and, for an LSTM, Y_c."""
        steps: dict[str, Callable[..., list[Value]]] = {"LSTM": self.lstm, "GRU": self.gru, "RNN": self.rnn}
        step = steps[self.node.op_type]
        first = (5, 6) if self.node.op_type == "LSTM" else (5,)
        zero_axis = self.initializer(np.array([0], np.int64))
        states = []
        for i in first:
            given = self.node.inputs[i] if i < len(self.node.inputs) else None
            if given is None:
                raise self.error("it starts from an implicit zero state")
            states.append(self.tape.op("Squeeze", [given, zero_axis]))
        frames = []
        for t in range(self.steps):
            frame = (
                self.tape.op("Squeeze", [self.x, zero_axis])
                if self.steps == 1
                else self.tape.op("Gather", [self.x, self.initializer(np.array(t, np.int64))], {"axis": 0})
            )
            states = step(frame, *states)
            frames.append(self.tape.op("Unsqueeze", [states[0], self.initializer(np.array([0, 1], np.int64))]))
        y = frames[0] if self.steps == 1 else self.tape.op("Concat", frames, {"axis": 0})
        return [y, *(self.tape.op("Unsqueeze", [s, zero_axis]) for s in states)]

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
