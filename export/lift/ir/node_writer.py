"""Writes new nodes for another one, with its source location and torch.export's values."""

from __future__ import annotations

from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher

from rnn_export.export.lift.ir.fx_nodes import meta_of, placeholders
from rnn_export.export.lift.ir.normal_form import normalise


class NodeWriter:
    """Writes the nodes that replace one, at the graph's insertion point and with its source location."""

    def __init__(self, module: fx.GraphModule, prefix: str) -> None:
        """`prefix` begins the names of the constants."""
        self.module, self.graph, self.prefix = module, module.graph, prefix
        self.at: fx.Node | None = None
        self._constants = 0

    @cached_property
    def _mode(self) -> Any:
        return next(n.meta["val"].fake_mode for n in placeholders(self.graph))

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A node for `target` of nodes and numbers, in normal form."""
        assert self.at is not None
        node = self.graph.call_function(target, args, kwargs)
        node.meta = meta_of(self.at)
        values = fx.node.map_arg((args, kwargs), lambda n: self.value_of(n))
        with self._mode, enable_python_dispatcher(), torch.no_grad():
            node.meta["val"] = target(*values[0], **values[1])
        normalise(node)
        return node

    def constant(self, value: Tensor) -> fx.Node:
        """A constant tensor as a node."""
        assert self.at is not None
        while hasattr(self.module, name := f"{self.prefix}_{self._constants}"):
            self._constants += 1
        self.module.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
        node = self.graph.get_attr(name)
        node.meta = {**self.at.meta, "val": self._mode.from_tensor(getattr(self.module, name), static_shapes=True)}
        return node

    def value_of(self, node: fx.Node) -> Any:
        """The fake value of a node, of its shape and type."""
        if "val" not in node.meta and node.op == "get_attr":
            held = attrgetter(str(node.target))(self.module).detach()
            node.meta["val"] = self._mode.from_tensor(held, static_shapes=True)
        return node.meta["val"]
