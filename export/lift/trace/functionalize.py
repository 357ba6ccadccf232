"""Makes an exported program functional: no operator works in place, and none is decomposed.

Torch does it by tracing the program anew, which takes longer than the export did. Most programs do not need that, or
only for operators that may return their argument, which are rewritten here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, aten
from rnn_export.export.lift.ir.normal_form import Call, normalise
from rnn_export.export.lift.trace.aliases import is_new, is_plain
from rnn_export.export.lift.trace.slice_assignment import written_over
from rnn_export.export.lift.trace.tracing import lift_error, quiet

Program = torch.export.ExportedProgram


def functional(program: Program) -> Program:
    """`program` without in-place operators, not decomposed; raises LiftError as `export_program` does."""
    if in_new_values(program.graph):
        return program
    for node in program.graph.nodes:
        # What was contiguous may have been written as what it was made of.
        if node.target is aten.view.default:
            normalise(node)
    try:
        with quiet():
            anew: Program = program.run_decompositions({})
    except Exception as error:  # torch's own operators may fail in here
        raise lift_error(error) from error
    return anew


def is_functional(program: Program) -> bool:
    """True if no operator works in place, or may return its argument."""
    return all(n.op != "call_function" or is_plain(n.target) for n in program.graph.nodes)


def in_new_values(graph: fx.Graph) -> bool:
    """Rewrite the in-place operators of a graph if possible; return True if none is left."""
    return all(n.op != "call_function" or is_plain(n.target) or normalise(n) or _is_written(n) for n in graph.nodes)


def _is_written(node: fx.Node) -> bool:
    """Rewrite a node that works in place; return True if it can be."""
    call = written_over(node) if node.target is aten.copy_.default else _not_in_place(node)
    if call is None:
        return False
    node.target, node.args, node.kwargs = call
    return True


def _not_in_place(node: fx.Node) -> Call:
    """An elementwise write to a value that nothing else sees, as its out-of-place operator."""
    target, value = node.target, next(iter(node.args), None)
    if not isinstance(target, torch._ops.OpOverload) or not isinstance(value, fx.Node):
        return None
    _, _, name = target._schema.name.partition("::")
    anew = getattr(getattr(aten, name.removesuffix("_"), None), target._overloadname, None)
    if not name.endswith("_") or anew is None or torch.Tag.pointwise not in anew.tags:
        return None
    taken = [n.meta.get("val") for n in node.all_input_nodes]
    if not all(isinstance(v, torch.Tensor) for v in taken) or not _is_unseen(value):
        return None
    # In place a comparison, or a product with a wider type, has the type of what it is written over.
    of_type: Any = fx.node.map_arg((node.args, node.kwargs), lambda n: _empty(n.meta["val"]))
    made = anew(*of_type[0], **of_type[1])
    return (anew, node.args, dict(node.kwargs)) if made.dtype == value.meta["val"].dtype else None


def _empty(value: torch.Tensor) -> torch.Tensor:
    return torch.empty([0] * value.dim(), dtype=value.dtype, device="meta")


def _is_unseen(value: fx.Node) -> bool:
    """True if a value is new, or a part of a new one, and one operator alone takes it."""
    while _readers(value) == 1 and not is_new(value) and value.args and isinstance(value.args[0], fx.Node):
        value = value.args[0]
    return _readers(value) == 1 and is_new(value)


def _readers(value: fx.Node) -> int:
    return sum(user.target not in SHAPE_ONLY for user in value.users)
