"""Detects linear recurrences that code computes in passes over the sequence, by their values.

Doubling code (Hillis and Steele, Blelloch) has other operators at each length, so its graph does not tell what it
computes. Its values do: if h[t] = a[t] h[t - 1] + x[t] for tensors h, a and x of the graph, one operator replaces the
passes between them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.compare import BRANCH_TOLERANCE, same
from rnn_export.export.lift.ir.fx_nodes import depends_on, recorded, sources_of
from rnn_export.export.lift.loops.recurrences.linear_recurrences import SCALES, recurrence

# How far values may be from a recurrence, and how much of one must not be its newest term, relative to the largest.
NEAR, SEEN = 1e-5, 1e-2
# Values of one shape that are looked through.
MOST = 512


def find_scans(module: fx.GraphModule, sample: Sequence[Tensor], frames: int) -> bool:
    """Let each linear recurrence over `frames` frames be one operator, in place; True if there was any."""
    values = recorded(module, sample)
    found = False
    for nodes, axis in _by_shape(module.graph, values, frames):
        stacked = torch.stack([values[n].movedim(axis, 0).reshape(frames, -1) for n in nodes])
        for at in reversed(range(len(nodes))):
            pairs = _terms(stacked, at) if _is_used(nodes[at]) else ()
            terms = ((nodes[a], nodes[x], nodes[at]) for a, x in pairs)
            one = next((t for t in terms if all(_is_one(module, values, t, axis, scale) for scale in SCALES)), None)
            if one is None:
                continue
            with module.graph.inserting_before(nodes[at]):
                new = module.graph.call_function(recurrence._opoverload, (*one[:2], axis))
            new.meta = dict(nodes[at].meta)
            nodes[at].replace_all_uses_with(new)
            found = True
    if found:
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.recompile()
    return found


def _is_one(
    module: fx.GraphModule,
    values: Mapping[fx.Node, Any],
    nodes: tuple[fx.Node, fx.Node, fx.Node],
    axis: int,
    scale: float,
) -> bool:
    """True if h is the recurrence of a and `scale` x, for `nodes` a, x and h: no limit lies between them."""
    a, x, h = nodes
    run = fx.Interpreter(module)
    run.env = {**values, x: scale * values[x]}
    inside = sources_of(h, lambda n: [] if n in (a, x) else n.all_input_nodes) & depends_on(module.graph, [a, x])
    for node in module.graph.nodes:
        if node in inside - {a, x}:
            run.env[node] = run.run_node(node)
    return same(run.env[h], recurrence(run.env[a], run.env[x], axis), BRANCH_TOLERANCE)


def _is_used(node: fx.Node) -> bool:
    """True if an output uses `node`."""
    return any(n.op == "output" for n in sources_of(node, lambda n: [*n.users]))


def _by_shape(graph: fx.Graph, values: Mapping[fx.Node, Any], frames: int) -> Iterator[tuple[list[fx.Node], int]]:
    """The values of one shape that have one axis of frames, in order, and that axis."""
    found: dict[tuple[int, ...], list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        value = values.get(node)
        if isinstance(value, Tensor) and value.is_floating_point() and list(value.shape).count(frames) == 1:
            found[tuple(value.shape)].append(node)
    for shape, nodes in found.items():
        if 2 < len(nodes) <= MOST:
            yield nodes, shape.index(frames)


def _terms(stacked: Tensor, at: int) -> Iterator[tuple[int, int]]:
    """Yield the indices before `at` of its factors and newest terms, those next to it first.

    `stacked` has (values, frames, entries).
    """
    h, before = stacked[at], stacked[:at]
    scale = float(h.abs().max())
    if not 0 < scale < torch.inf:
        return
    starts = (before[:, 0] - h[0]).abs().amax(1) <= NEAR * scale
    for x in reversed(starts.nonzero().flatten().tolist()):
        rest = h[1:] - before[x, 1:]
        if float(rest.abs().max()) < SEEN * scale:
            continue
        off = (rest - before[:, 1:] * h[:-1]).abs().flatten(1).amax(1)
        yield from ((a, x) for a in (off <= NEAR * scale).nonzero().flatten().tolist())
