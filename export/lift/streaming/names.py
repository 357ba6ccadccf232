"""What a lifted state is called: by module path, `rnn.l0.h`, `conv.frames`; a second call of it is `rnn.call1.l0.h`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx, nn

from rnn_export.export.lift.layers.bare_layers import LayerModel
from rnn_export.export.lift.layers.lifted_layers import Stack
from rnn_export.export.lift.program.fx import path_of, paths_of

# The state operands of each recurrent op: position among the arguments, letter, position among the results.
OPS: dict[Any, tuple[tuple[int, str, int], ...]] = {
    torch.ops.rnn_export.lstm.default: ((4, "h", 1), (5, "c", 2)),
    torch.ops.rnn_export.lstm_projected.default: ((5, "h", 1), (6, "c", 2)),
    torch.ops.rnn_export.gru.default: ((4, "h", 1),),
    torch.ops.rnn_export.rnn.default: ((4, "h", 1),),
}


class Names:
    """Gives every state a name that no other has."""

    def __init__(self, model: nn.Module) -> None:
        modules = model.named_modules(remove_duplicate=False)
        self.stacks = {path: module for path, module in modules if isinstance(module, Stack)}
        # A bare layer's states are named as if it were the model.
        self.nameless = ("", "layer") if isinstance(model, LayerModel) else ("",)
        self.seen = Counter[str]()
        self.given = set[str]()

    def layer(self, node: fx.Node) -> str:
        """The path of the layer that a recurrent op is, and its place in the stack."""
        path = next((p for p in reversed(paths_of(node)) if p in self.stacks), None)
        if path is None:
            return self.unused(path_of(node))
        call, layer = divmod(self.seen[path], len(self.stacks[path].layers))
        self.seen[path] += 1
        called = [f"call{call}"] if call else []
        return ".".join([*([] if path in self.nameless else [path]), *called, f"l{layer}"])

    def kept(self, node: fx.Node, what: str) -> str:
        """The name of something, `what`, that is kept for `node`."""
        return self.unused(".".join([*filter(None, [path_of(node)]), what]))

    def unused(self, name: str) -> str:
        """`name`, or where it is taken `name` with a call in it."""
        path, _, last = name.rpartition(".")
        call, found = 0, name
        while found in self.given:
            call += 1
            found = ".".join([*filter(None, [path]), f"call{call}", last])
        self.given.add(found)
        return found
