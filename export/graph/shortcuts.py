"""Patches of `torch.onnx` that cache work it repeats at each export, which is most of an export's time.

All of them change private parts of torch: where one is not there any more, an export takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from functools import cache
from typing import Any

import torch

from rnn_export.export.graph.decompositions import DECOMPOSITIONS
from rnn_export.export.graph.node_decomposition import decompose_nodes
from rnn_export.export.lift.trace.functionalize import is_functional


@contextmanager
def shortcuts() -> Iterator[None]:
    """Let torch read its translations once, and compute a program anew only if it is changed."""
    with ExitStack() as stack:
        for shortcut in (_translations_read_once, _traced_where_needed, _computed_where_promoted):
            with suppress(ImportError, KeyError, AttributeError):
                stack.enter_context(_instead(*shortcut()))
        yield


@cache
def _once(make: Callable[[Any], Any], given: Any) -> Any:
    return make(given)


@contextmanager
def _instead(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    original = vars(owner)[name]
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _translations_read_once() -> tuple[Any, str, Callable[..., Any]]:
    """Torch reads the sources and parameters of its 500 translations at each export: 0.4 s."""
    from torch.onnx._internal.exporter import _registration

    registry: Any = _registration.ONNXRegistry
    read = registry.from_torchlib

    def of_opset(opset_version: int) -> Any:
        # A copy, since an export adds its own to it.
        table = copy(_once(read, opset_version))
        table.functions = {target: [*found] for target, found in table.functions.items()}
        return table

    return registry, "from_torchlib", staticmethod(of_opset)


def _traced_where_needed() -> tuple[Any, str, Callable[..., Any]]:
    """Torch traces each program anew, to write the operators that it has no translation of by others."""
    from torch.onnx._internal.exporter import _decomp, _fx_passes

    translated, table_of = _decomp.get_onnx_implemented_overloads, _decomp.create_onnx_friendly_decomposition_table

    def decompose(program: torch.export.ExportedProgram, registry: Any) -> torch.export.ExportedProgram:
        table = {**_once(table_of, frozenset(translated(registry))), **DECOMPOSITIONS}
        is_done = is_functional(program) and decompose_nodes(program, table)
        return program if is_done else program.run_decompositions(table)

    return _fx_passes, "decompose_with_registry", decompose


def _computed_where_promoted() -> tuple[Any, str, Callable[..., Any]]:
    """Torch computes each operator anew to see whether its arguments must have another type: a tenth of an export."""
    from torch.onnx._internal.fx.passes import type_promotion

    interpreter: Any = vars(type_promotion)["_TypePromotionInterpreter"]
    rule_of, anew = type_promotion.get_type_promotion_rule, interpreter.run_node

    def run_node(self: Any, node: torch.fx.Node) -> Any:
        if node.op != "call_function" or "val" not in node.meta:
            return anew(self, node)
        before = node.args, node.kwargs
        with self._set_current_node(node):
            if rule := rule_of(node, self.type_promotion_table):
                self._maybe_promote_node(node, rule)
        return node.meta["val"] if before == (node.args, node.kwargs) else anew(self, node)

    return interpreter, "run_node", run_node
