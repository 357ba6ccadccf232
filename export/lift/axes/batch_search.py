"""Finds axes that may be the batch: of any size, with rows that do not depend on each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnn_export.errors import NoBatchAxis
from rnn_export.export.lift.axes.axis_probe import (
    Assignment,
    AxisProbe,
    RowLayout,
    changed_axes,
    draw_states,
    layouts,
)
from rnn_export.export.lift.ir.compare import INDEPENDENCE, same
from rnn_export.export.lift.model.numbers.tensor_indices import WHOLE

# Rows are exchanged so often before a value is said not to depend on them.
TRIES = 8
# Lines of an error message.
TRIED = 4
DEPEND = "rows depend on each other, or not every output and state has them"
MOVED = "after a call with another batch the same values give something else, so it keeps something of that batch"


ALONE = "a batch of one gives something else than its row in a larger batch (a branch on its size, a squeeze of it)"


@dataclass(frozen=True)
class BatchAxes:
    """The batch axes of the inputs, states and outputs."""

    inputs: tuple[int, ...]
    states: tuple[RowLayout, ...]
    outputs: tuple[int, ...]


def batch_candidates(probe: AxisProbe, time: Assignment | None) -> Iterator[BatchAxes]:
    """Axes that no run of the model rules out as batch; `time` are the known time axes.

    Axes come first if exchanging a row was seen to change that row of the results alone. If noise changes nothing, the
    graph decides. Raises NoBatchAxis with the axes tried if there is no candidate.
    """
    tried: list[str] = []
    free: list[tuple[int, ...]] = []
    unmoved: list[BatchAxes] = []
    found, alone = 0, False
    for inputs, states in _candidates(probe, time):
        probe.failure = DEPEND
        batch, moved = _tried(probe, inputs, states)
        # Any size is so many rows of one stream.
        free += [inputs] if probe.failure == DEPEND and all(layout.inner == 1 for layout in states) else []
        alone = alone or probe.failure == ALONE
        if batch is None:
            line = f"  axes {probe.by_name((*inputs, *(s.axis for s in states)))}: {probe.failure}"
            tried += [] if line in tried else [line]
        elif moved:
            found += 1
            yield batch
        else:
            unmoved.append(batch)
    yield from unmoved
    if found or unmoved:
        return
    shapes = ", ".join(f"{leaf.name} {tuple(leaf.example.shape)}" for leaf in (*probe.inputs, *probe.states))
    one = " If one stream at a time is meant, give an example of one row." if alone else ""
    raise NoBatchAxis(
        f"no batch axis found in {shapes}: every input, output and state needs one, along which the size can "
        "change with the rows independent of each other. Give example inputs with a batch axis, and declare every "
        f"state that is passed in, states={{argument: output}} (--state ARGUMENT=OUTPUT).{one}\nTried:\n"
        + "\n".join(tried[:TRIED] or ["  no axis"]),
        free,
        alone,
        id="no-batch-axis",
    )


def _candidates(probe: AxisProbe, time: Assignment | None) -> Iterator[tuple[tuple[int, ...], tuple[RowLayout, ...]]]:
    taken = time or (None,) * len(probe.inputs)
    by_input = [[a for a in range(leaf.example.dim()) if a != t] for leaf, t in zip(probe.inputs, taken, strict=True)]
    # States of one shape are laid out alike: one choice for all of them keeps the search small.
    declared = {s.name for s in probe.model.declared}
    kinds = sorted({(tuple(s.example.shape), s.name in declared) for s in probe.states})
    for inputs in sorted(itertools.product(*by_input), key=lambda c: (len(set(c)), sum(c))):
        sizes = {leaf.example.shape[a] for leaf, a in zip(probe.inputs, inputs, strict=True)}
        if len(sizes) != 1:
            continue
        (batch,) = sizes
        by_kind = [list(layouts(torch.empty(shape), batch, 0 if known else 4)) for shape, known in kinds]
        choices = itertools.product(*by_kind)
        for choice in sorted(choices, key=lambda c: len({*inputs, *(x.axis for x in c if not x.added)})):
            layout = dict(zip(kinds, choice, strict=True))
            yield inputs, tuple(layout[tuple(s.example.shape), s.name in declared] for s in probe.states)


def _tried(probe: AxisProbe, inputs: tuple[int, ...], states: tuple[RowLayout, ...]) -> tuple[BatchAxes | None, bool]:
    """The candidate with output axes, or None if it is no batch; and True if noise changed the rows."""
    two, three = (probe.draw(n, [{a: n} for a in inputs], states) for n in (2, 3))
    few, many = probe.run(states, two), probe.run(states, three)
    if few is None or many is None:
        return None, False
    grown = [changed_axes(a, b) for a, b in zip(few, many, strict=True)][: len(probe.model.outputs)]
    if any(len(axes) != 1 for axes in grown):
        return None, False
    outputs = tuple(axis for (axis,) in grown)
    if any(t.shape[axis] != 3 for t, axis in zip(many, outputs, strict=False)):
        return None, False
    found = BatchAxes(inputs, states, outputs)
    # Where rows write over each other, the last one wins: it is changed too.
    moved = [_moves_alone(probe, found, row, three, many) for row in (0, 2)]
    if None not in moved and not _numbers_move_others(probe, found, three, many):
        if _is_another_alone(probe, found, three, many):
            probe.failure = ALONE
            return None, False
        return found, all(moved)
    again = probe.run(states, three)
    if again is not None and not all(same(a, b, INDEPENDENCE) for a, b in zip(again, many, strict=True)):
        probe.failure = MOVED
    return None, False


def _numbers_move_others(probe: AxisProbe, batch: BatchAxes, fed: Sequence[Tensor], results: Sequence[Tensor]) -> bool:
    """True if whole-number states of the first row, such as a frame counter, change other rows."""
    inputs = len(batch.inputs)
    numbers = [i for i, leaf in enumerate(probe.states) if leaf.example.numel() == 1 and leaf.example.dtype in WHOLE]
    for _ in range(TRIES if numbers else 0):
        drawn = draw_states(probe.model, batch.states, probe.noise, 3)
        mixed = list(fed)
        for i in numbers:
            mixed[inputs + i] = torch.cat([drawn[i][:1], fed[inputs + i][1:]])
        after = probe.run(batch.states, mixed)
        axes = (*batch.outputs, *(0 for _ in batch.states))
        if after is None or not all(
            same(a.narrow(x, 1, 2), b.narrow(x, 1, 2), INDEPENDENCE)
            for a, b, x in zip(results, after, axes, strict=True)
        ):
            return True
    return False


def _is_another_alone(probe: AxisProbe, batch: BatchAxes, fed: Sequence[Tensor], results: Sequence[Tensor]) -> bool:
    """True if the first row of the three that are `fed` differs alone, but not beside another one.

    Axes of 1 that are squeezed away count if the example is of one row, which shows the intent.
    """
    rows = (0,) * len(batch.states)
    into, out = (*batch.inputs, *rows), (*batch.outputs, *rows)
    alone, two = (probe.run(batch.states, [x.narrow(a, 0, n) for x, a in zip(fed, into, strict=True)]) for n in (1, 2))
    if alone is None or two is None:
        return False
    first = [t.narrow(a, 0, 1) for t, a in zip(results, out, strict=True)]
    if not all(same(t.narrow(a, 0, 1), b, INDEPENDENCE) for t, a, b in zip(two, out, first, strict=True)):
        return False
    is_one = all(leaf.example.shape[a] == 1 for leaf, a in zip(probe.inputs, batch.inputs, strict=True))
    if is_one and any(a.dim() != b.dim() for a, b in zip(alone, first, strict=True)):
        return True
    pairs = zip(alone, first, strict=True)
    return not all(a.numel() == b.numel() and same(a.reshape(b.shape), b, INDEPENDENCE) for a, b in pairs)


def _moves_alone(
    probe: AxisProbe, batch: BatchAxes, row: int, fed: Sequence[Tensor], results: Sequence[Tensor]
) -> bool | None:
    """True if exchanging row `row` of the three that are `fed` changes that row of `results`; None if others too."""
    rows = (0,) * len(batch.states)
    one, others = torch.tensor([row]), torch.tensor([r for r in range(3) if r != row])
    # A value that noise seldom moves may need several tries.
    for _ in range(TRIES):
        drawn = probe.draw(3, [{a: 3} for a in batch.inputs], batch.states)
        mixed = [
            old.index_copy(axis, one, new.narrow(axis, row, 1))
            for old, new, axis in zip(fed, drawn, (*batch.inputs, *rows), strict=True)
        ]
        after = probe.run(batch.states, mixed)
        if after is None:
            return None
        pairs = list(zip(results, after, (*batch.outputs, *rows), strict=True))
        if not all(same(a.index_select(x, others), b.index_select(x, others), INDEPENDENCE) for a, b, x in pairs):
            return None
        if not all(same(a.index_select(x, one), b.index_select(x, one), INDEPENDENCE) for a, b, x in pairs):
            return True
    return False
