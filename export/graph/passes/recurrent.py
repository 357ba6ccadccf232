"""ONNX's recurrent operators: their directions and default activations, and the equation of an LSTM cell.

Source: the ONNX operator reference for LSTM, GRU and RNN.
"""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

# The activations of one direction where a node names none.
DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
RECURRENT = frozenset(DEFAULT_ACTIVATIONS)
# Whether each direction runs backwards.
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def directions_of(node: ir.Node) -> tuple[bool, ...]:
    """For each direction of a recurrent node, whether it runs backwards."""
    return DIRECTIONS[node.attributes.get_string("direction", "forward")]


def activations_of(node: ir.Node) -> tuple[str, ...]:
    """The activations of all directions of a recurrent node, as given or by default."""
    default = DEFAULT_ACTIVATIONS[node.op_type] * len(directions_of(node))
    return tuple(node.attributes.get_strings("activations", default))


def lstm_cell(op: Any, gates: Sequence[Any], c: Any, activations: Sequence[str]) -> tuple[Any, Any]:
    """(h, c) after one frame; `gates` are ONNX's input, output, forget and candidate, before their activations.

    `op` writes operators by their name, such as `onnxscript.opset18`; all values are (batch, units).
    """
    f, g, out = (getattr(op, name) for name in activations)
    i, o, forget, candidate = gates
    c = op.Add(op.Mul(f(forget), c), op.Mul(f(i), g(candidate)))
    return op.Mul(f(o), out(c)), c
