"""Symbolic sizes in a folded graph, for any batch and any length: the passes of flat graphs read them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence, Set
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from rnn_export.export.lift.loops.loop_body import RolledLoop
from rnn_export.export.lift.loops.value_references import value_at
from rnn_export.export.lift.trace.patches import patched


def know_sizes(module: fx.GraphModule, args: Sequence[Tensor], dynamic: Sequence[Set[int]]) -> bool:
    """Record a fake value in each node, with symbolic sizes along the `dynamic` axes of `args`.

    Return False, and record nothing, if an operator fails or makes one of them a number.
    """
    sizes = ShapeEnv(duck_shape=True)
    mode = FakeTensorMode(shape_env=sizes, allow_non_fake_inputs=True)
    given = []
    for value, axes in zip(args, dynamic, strict=True):
        kinds = [DimDynamic.DUCK if axis in axes else DimDynamic.STATIC for axis in range(value.dim())]
        context: Any = StatelessSymbolicContext(kinds)
        given.append(mode.from_tensor(value, symbolic_context=context))
    run = _Run(module, mode)
    try:
        with torch.no_grad(), patched(), mode, enable_python_dispatcher():
            run.run(*given)
    except Exception:  # torch's own operators raise many kinds, where they take no such sizes
        return False
    sizes_given: list[Any] = [value.shape[axis] for value, axes in zip(given, dynamic, strict=True) for axis in axes]
    if any(isinstance(size, int) or size.node.expr.is_number for size in sizes_given):
        return False
    for node, value in run.found.items():
        node.meta = {**node.meta, "val": value}
    return True


class _Run(fx.Interpreter):
    """Stores the value of each node in `found`."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module)
        self.mode = mode
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.found[n] = super().run_node(n)
        return self.found[n]

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = self.fetch_attr(target)
        return self.mode.from_tensor(value.detach(), static_shapes=True) if isinstance(value, Tensor) else value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        called = self.fetch_attr(target)
        return (
            _of_loop(called, args, self.mode)
            if isinstance(called, RolledLoop)
            else super().call_module(target, args, kwargs)
        )


def _of_loop(loop: RolledLoop, args: Sequence[Any], mode: FakeTensorMode) -> tuple[Any, ...]:
    """The result of `loop(*args)`, its sequences being as long as the first."""
    invariants, sequences, memory = loop.parts_of(args)
    frames = [value_at(x, path) for x, path in zip(sequences, loop.scans, strict=True)]
    results = _Run(loop.body, mode).run(*invariants, *frames, *memory)
    memory, values = results[: loop.memories], results[loop.memories :]
    count = sequences[0].shape[loop.scans[0][0].axis]
    joined = [_joined(join, value, count) for join, value in zip(loop.joins, values, strict=False)]
    return (*joined, *values[len(joined) :], *memory)


def _joined(join: Any, value: Tensor, count: Any) -> Tensor:
    sizes = list(value.shape)
    if join.join is torch.stack:
        sizes.insert(join.dim % (len(sizes) + 1), count)
    else:
        sizes[join.dim] *= count
    return value.new_empty(sizes)


def by_steps(graph: fx.Graph, length: fx.Node, numbers: Sequence[int], short: int) -> Any:
    """The number that is `numbers` from a length of `short` on, and goes on so, at the insertion point of a graph."""
    period = len(numbers) - 1
    if all(after - before == 1 for before, after in itertools.pairwise(numbers)):
        return graph.call_function(operator.add, (length, numbers[0] - short)) if numbers[0] != short else length
    total: Any = numbers[0]
    for step, (before, after) in enumerate(itertools.pairwise(numbers), 1):
        if before != after:
            # More from `step` frames on, and then every `period`.
            periods = graph.call_function(operator.add, (length, period - step - short))
            periods = graph.call_function(operator.floordiv, (periods, period))
            total = graph.call_function(
                operator.add, (graph.call_function(operator.mul, (periods, after - before)), total)
            )
    return total
