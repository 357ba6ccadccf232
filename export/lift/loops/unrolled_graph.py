"""A graph with an unrolled Python loop, as the list of nodes among which copies of its body are searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rnn_export.export.lift.ir.compare import same
from rnn_export.export.lift.ir.fx_nodes import depends_on, placeholders, recorded
from rnn_export.export.lift.loops.iteration_counters import counting_tokens
from rnn_export.export.lift.loops.store_forwarding import read_written_frames
from rnn_export.export.lift.loops.value_references import Ref, only_takes, resolve, value_at

# Copies that must be seen in the shorter graph.
COPIES = 4
# What a number beside a float32 may be.
PLAIN = (torch.int64, torch.int32, torch.float32)


class Unrolled:
    """A graph and its tokens, the nodes that do more than take a part, in order.

    `index` has the position of each token, `forms` a number that copies of it share, and `values` the value of every
    node on the sample. A node computed from constants alone is a token only `with_constants`; `sort_by_frame` sorts the
    tokens by the newest frame that they depend on. A loop may begin with iterations of another kind only
    `with_first_iterations`. `tried` counts the bodies that were tried.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        sample: Sequence[Tensor],
        with_constants: bool,
        sort_by_frame: bool,
        with_first_iterations: bool = False,
    ) -> None:
        self.with_first_iterations, self.tried = with_first_iterations, 0
        read_written_frames(module.graph)
        self.module, self.graph = module, module.graph
        self.values = recorded(module, sample)
        self._moving = moving = depends_on(self.graph, placeholders(self.graph))
        computing = [node for node in self.graph.nodes if node.op == "call_function" and not only_takes(node)]
        self.tokens = [n for n in computing if n in moving or (with_constants and self._is_computed(n))]
        if sort_by_frame:
            newest = _newest_frames(self.graph, moving)
            self.tokens.sort(key=lambda node: newest[node])
        self.index = {node: i for i, node in enumerate(self.tokens)}
        numbers: dict[tuple[Any, ...], int] = {}
        counting = counting_tokens(self.tokens)
        self.forms = [numbers.setdefault(_form(node, node in counting), len(numbers)) for node in self.tokens]

    @cached_property
    def arguments(self) -> Mapping[fx.Node, Sequence[Any]]:
        """The arguments of each token in order: nodes as references, others as is."""
        leaves = {n: pytree.tree_leaves((n.args, n.kwargs), is_leaf=lambda x: x is None) for n in self.tokens}
        return {n: [resolve(x) if isinstance(x, fx.Node) else x for x in taken] for n, taken in leaves.items()}

    @cached_property
    def users(self) -> Mapping[fx.Node, Sequence[fx.Node]]:
        """The users of each token or of a part."""
        return {node: tuple(_users(node)) for node in self.tokens}

    @cached_property
    def numbered(self) -> str:
        """The operator and first values of a number that changes each time its source line runs; or nothing."""
        found: dict[tuple[Any, ...], list[list[Any]]] = {}
        for node in self.tokens:
            taken = [x for x in self.arguments[node] if type(x) in (int, float)]
            found.setdefault((node.target, node.meta.get("stack_trace"), len(taken)), []).append(taken)
        for (target, *_), calls in found.items():
            for numbers in zip(*calls, strict=True):
                if len(numbers) >= COPIES - 1 and len(set(numbers)) == len(numbers):
                    return f"{target}: {', '.join(f'{n:.4g}' for n in numbers[:3])}, ..."
        return ""

    def _is_computed(self, node: fx.Node) -> bool:
        """True if a constant is made of others."""
        made = isinstance(self.values[node], Tensor | tuple | list)
        return made and any(isinstance(self.values[n], Tensor) for n in node.all_input_nodes)

    def numbers(self, refs: Sequence[Ref]) -> list[int | float] | None:
        """The numbers in scalar tensors computed from weights and sizes alone; None for anything else."""
        if any(ref.base in self._moving for ref in refs):
            return None
        values = [value_at(self.values[ref.base], ref.path) for ref in refs]
        plain = all(isinstance(v, Tensor) and v.dim() == 0 and v.dtype in PLAIN for v in values)
        return [v.item() for v in values] if plain else None

    def same_value(self, a: fx.Node, b: fx.Node) -> bool:
        """True if two nodes are one, or constants that are no tokens with the same value."""
        if a is b:
            return True
        if a in self.index or b in self.index or a.op == "placeholder" or b.op == "placeholder":
            return False
        x, y = self.values[a], self.values[b]
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x.dtype == y.dtype and same(x, y)
        return type(x) is type(y) and bool(x == y)


def _users(node: fx.Node) -> Iterator[fx.Node]:
    for user in node.users:
        if only_takes(user):
            yield from _users(user)
        else:
            yield user


def _newest_frames(graph: fx.Graph, moving: set[fx.Node]) -> dict[fx.Node, int]:
    """The newest frame that each node depends on; an operator on each frame behind a loop joins its copy."""
    newest: dict[fx.Node, int] = {}
    for node in graph.nodes:
        refs = [resolve(n) for n in node.all_input_nodes]
        newest[node] = max([-1, *map(_frame_of, refs), *(newest.get(ref.base, -1) for ref in refs)])
    for node in reversed(graph.nodes):
        if node not in moving:
            # A constant belongs where it is used first.
            newest[node] = min((newest[user] for user in node.users), default=-1)
    return newest


def _frame_of(ref: Ref) -> int:
    """The frame that a reference takes, of an axis long enough to be one of frames; else -1."""
    value = ref.base.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else ()
    for kind, axis, entry in ref.path[:1]:
        if kind != "item" and len(shape) > axis and shape[axis] > COPIES:
            return entry
    return -1


def _form(node: fx.Node, counts: bool) -> tuple[Any, ...]:
    leaves, tree = pytree.tree_flatten((node.args, node.kwargs))
    return node.target, str(tree), tuple("" if counts or isinstance(x, fx.Node) else repr(x) for x in leaves)
