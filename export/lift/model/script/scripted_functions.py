"""Runs scripted functions that a model calls node by node, like the code of ScriptModules.

Torch's own executor unrolls their loops by eights, and joins what eight iterations compute: no frame is like the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

from rnn_export.export.lift.model.script.script_interpreter import SEVERAL, SINGLE, Block, run

P = ParamSpec("P")
R = TypeVar("R")
# What the interpreter does beside what these have.
INTERPRETED = {"prim::If", "prim::Loop", "prim::Constant", "prim::GetAttr", "prim::SetAttr", "prim::CallMethod",
          "prim::CallFunction", "prim::DictConstruct"}  # fmt: skip


def scripted_functions_followed(call: Callable[P, R]) -> Callable[P, R]:
    """`call`, in which this thread runs scripted functions node by node if all of their nodes are known."""

    @wraps(call)
    def following(*args: P.args, **kwargs: P.kwargs) -> R:
        function: Any = torch.jit.ScriptFunction
        own, thread, codes = function.__call__, threading.get_ident(), dict[int, tuple[Any, Block | None]]()

        def followed(self: Any, *values: Any, **named: Any) -> Any:
            if threading.get_ident() != thread:
                return own(self, *values, **named)
            if id(self) not in codes:
                code = Block(self.graph)
                codes[id(self)] = self, code if all(map(_is_known, _nodes(code))) else None
            if (known := codes[id(self)][1]) is None:
                return own(self, *values, **named)
            return run(known, _bound(self, values, named), str(self.name))

        function.__call__ = followed
        try:
            return call(*args, **kwargs)
        finally:
            function.__call__ = own

    return following


def _bound(function: Any, values: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
    """The arguments of a call in order; raises TypeError if one is missing or unknown."""
    parameters = function.schema.arguments
    given = {**dict(zip((a.name for a in parameters), values, strict=False)), **named}
    if missing := [a.name for a in parameters if a.name not in given and not a.has_default_value()]:
        raise TypeError(f"{function.name}() misses {', '.join(missing)}")
    if len(values) > len(parameters) or set(given) - {a.name for a in parameters}:
        raise TypeError(f"{function.name}() takes {', '.join(a.name for a in parameters)}")
    return [given.get(a.name, a.default_value) for a in parameters]


def _nodes(block: Block) -> Iterator[Any]:
    for node in block.nodes:
        yield node
        for inner in node.blocks:
            yield from _nodes(inner)


def _is_known(node: Any) -> bool:
    return not node.kind.startswith("prim::") or node.kind in SINGLE or node.kind in SEVERAL or node.kind in INTERPRETED
