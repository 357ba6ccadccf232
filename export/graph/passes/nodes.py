"""Read the parts of a node that ONNX lets be left out, and write nodes in its place.

Source of the recurrent operators' defaults: the ONNX operator reference for LSTM, GRU and RNN.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from rnn_export.platform.arrays import Array

# The activations of one direction where a recurrent node names none.
DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
RECURRENT = frozenset(DEFAULT_ACTIVATIONS)
# Whether each direction runs backwards.
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """An input, None if it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def input_name(node: ir.Node, index: int) -> str:
    value = node.inputs[index]
    return "" if value is None else str(value.name)


def values(value: ir.Value | None) -> Array:
    assert value is not None
    assert value.const_value is not None
    array: Array = value.const_value.numpy()
    return array


def directions_of(node: ir.Node) -> tuple[bool, ...]:
    """For each direction of a recurrent node, whether it runs backwards."""
    return DIRECTIONS[node.attributes.get_string("direction", "forward")]


def activations_of(node: ir.Node) -> tuple[str, ...]:
    """The activations of all directions of a recurrent node, as given or by default."""
    default = DEFAULT_ACTIVATIONS[node.op_type] * len(directions_of(node))
    return tuple(node.attributes.get_strings("activations", default))


def new_constant(name: str, array: Array) -> ir.Value:
    """A constant that no graph has yet."""
    return ir.Value(name=name, const_value=ir.tensor(array, name=name))


class Replacement(Tape):
    """The nodes that take the place of `node`: `op.Add(a, b)` writes one. Names of constants begin with `name`."""

    def __init__(self, node: ir.Node, name: str) -> None:
        super().__init__()
        self.node, self.name = node, name

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        return lambda *inputs, **attributes: self.op(op_type, inputs, attributes)

    def constant(self, array: Array) -> ir.Value:
        """One for each distinct array: frames share their weights."""
        for known in self.initializers:
            other = values(known)
            if other.dtype == array.dtype and other.shape == array.shape and np.array_equal(other, array):
                return known
        name = f"{self.name}.{len(self.initializers) + 1}"
        return self.initializer(ir.tensor(np.array(array, order="C"), name=name))

    def ints(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))

    def put(self, results: Sequence[ir.Value]) -> None:
        """Let `results` be the outputs of the node, and take it out of its graph."""
        graph = self.node.graph
        assert isinstance(graph, ir.Graph)
        for old, new in zip(self.node.outputs, results, strict=False):
            new.shape, new.type = old.shape, old.type
        for node in self.nodes:
            node.metadata_props.update(self.node.metadata_props)
        graph.insert_before(self.node, self.nodes)
        for weight in self.initializers:
            graph.register_initializer(weight)
        for old, new in zip(self.node.outputs, results, strict=False):
            if old.is_graph_output():
                new.name, old.name = old.name, None
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(self.node, safe=True)
