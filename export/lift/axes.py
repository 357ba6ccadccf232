"""Which axis is the batch and which is time: found by running the model at several sizes, never guessed from rank.

Along the batch, rows do not know of each other. Along time, no frame knows of a later one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.layers.opaque import LAYERS
from rnn_export.export.lift.program.signature import FlatModel, Leaf
from rnn_export.export.lift.state_layout import Layout, layouts

TimeAxis = Literal["auto"] | int | None | Mapping[str, int | None]
Assignment = tuple[int | None, ...]
# A longer example is tried in parts.
LONG = 64
# With so many values an example shows its range.
FEW = 8
TRIES = 8
# Lines of an error message.
TRIED = 4


@dataclass(frozen=True)
class Axes:
    """Per tensor, where batch and time stand; None where there is no time.

    `causal` is False where an output depends on later frames than its own.
    """

    input_batch: tuple[int, ...]
    input_time: tuple[int | None, ...]
    states: tuple[Layout, ...]
    output_batch: tuple[int, ...]
    output_time: tuple[int | None, ...]
    causal: bool = True

    @property
    def has_time(self) -> bool:
        return any(axis is not None for axis in self.input_time)


class Noise:
    """Seeded tensors like the examples: floats in their range, ids below the rows of every embedding."""

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        rows = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
        self.rows = min(rows, default=None)

    def like(self, example: Tensor, sizes: Mapping[int, int]) -> Tensor:
        """A tensor like `example`, but with `sizes[axis]` along each given axis."""
        return self.shaped(example, [sizes.get(axis, size) for axis, size in enumerate(example.shape)])

    def shaped(self, example: Tensor, shape: Sequence[int]) -> Tensor:
        """A tensor of the kind of `example` in another shape."""
        if example.is_floating_point():
            return self._floats(example.detach().double().flatten(), shape).to(example)
        if example.dtype == torch.bool:
            return torch.randint(2, shape, generator=self.generator).to(example)
        rows = self.rows or max(int(example.max()) + 1, 1)
        return torch.randint(rows, shape, generator=self.generator).to(example)

    def _floats(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """Values between those of the example; where it says nothing, normal ones of its size and sign."""
        if len(torch.unique(values)) > FEW:
            low, high = (values[torch.randint(len(values), shape, generator=self.generator)] for _ in range(2))
            return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)
        size = float(values.abs().max()) or 1.0
        normal = size * torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return normal.abs() if values.min() >= 0 and values.any() else normal


def find_axes(model: FlatModel, time_axis: TimeAxis) -> Axes:
    """Probe `model`, which must be a copy that may be run at will; raises LiftError where no axis is certain."""
    probe = _Probe(model)
    wanted = _wanted_time(model, time_axis)
    batch = probe.find_batch(wanted)
    return probe.find_time(batch, wanted)


@dataclass(frozen=True)
class _Batch:
    inputs: tuple[int, ...]
    states: tuple[Layout, ...]
    outputs: tuple[int, ...]


class _Probe:
    """Runs the model on noise, with the batch first in every state."""

    def __init__(self, model: FlatModel) -> None:
        self.model, self.noise = model, Noise(model)
        self.inputs, self.states = model.inputs, model.states
        self.failure = ""
        self.whole = False
        if self.attempt([leaf.example for leaf in (*self.inputs, *self.states)]) is None:
            raise LiftError(f"the model fails on its own example inputs: {self.failure}")

    def attempt(self, own: Sequence[Tensor]) -> list[Tensor] | None:
        try:
            with torch.no_grad():
                return list(self.model(*own))
        except Exception as error:  # a size that the model does not take may raise anything
            self.failure = f"{type(error).__name__}: {first_line(error)}"
            return None

    def run(self, states: Sequence[Layout], tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Outputs, and next states (B, *row); None where the model fails, or a state comes back in another shape."""
        inputs, outputs = len(self.inputs), len(self.model.outputs)
        rows = tensors[inputs:]
        given = self.attempt([*tensors[:inputs], *(a.own(s) for a, s in zip(states, rows, strict=True))])
        if given is None:
            return None
        if any(a.own(s).shape != t.shape for a, s, t in zip(states, rows, given[outputs:], strict=True)):
            self.failure = "a state comes back in another shape than it went in"
            return None
        return [*given[:outputs], *(a.rows(t) for a, t in zip(states, given[outputs:], strict=True))]

    def draw(self, batch: int, inputs: Sequence[Mapping[int, int]], states: Sequence[Layout]) -> list[Tensor]:
        drawn = [self.noise.like(leaf.example, s) for leaf, s in zip(self.inputs, inputs, strict=True)]
        return [*drawn, *draw_states(self.model, states, self.noise, batch)]

    # --- batch

    def find_batch(self, time: Assignment | None) -> _Batch:
        tried = []
        for inputs, states in self._batch_candidates(time):
            self.failure = "rows depend on each other, or not every output and state has them"
            outputs = self._batch_of_outputs(inputs, states)
            if outputs is not None:
                return _Batch(inputs, states, outputs)
            line = f"  axes {self._say((*inputs, *(s.axis for s in states)))}: {self.failure}"
            tried += [] if line in tried else [line]
        shapes = ", ".join(f"{leaf.name} {tuple(leaf.example.shape)}" for leaf in (*self.inputs, *self.states))
        raise LiftError(
            f"no batch axis found in {shapes}: every input, output and state needs one, along which the size can "
            "change with the rows independent of each other. Give example inputs with a batch axis, and declare every "
            "state that is passed in, states={argument: output}. Tried:\n" + "\n".join(tried[:TRIED] or ["  no axis"])
        )

    def _batch_candidates(self, time: Assignment | None) -> Iterator[tuple[tuple[int, ...], tuple[Layout, ...]]]:
        taken = time or (None,) * len(self.inputs)
        by_input = [
            [a for a in range(leaf.example.dim()) if a != t] for leaf, t in zip(self.inputs, taken, strict=True)
        ]
        # States of one shape are laid out alike: one choice for all of them keeps the search small.
        declared = {s.name for s in self.model.declared}
        kinds = sorted({(tuple(s.example.shape), s.name in declared) for s in self.states})
        for inputs in sorted(itertools.product(*by_input), key=lambda c: (len(set(c)), sum(c))):
            sizes = {leaf.example.shape[a] for leaf, a in zip(self.inputs, inputs, strict=True)}
            if len(sizes) != 1:
                continue
            (batch,) = sizes
            by_kind = [list(layouts(torch.empty(shape), batch, 0 if known else 4)) for shape, known in kinds]
            choices = itertools.product(*by_kind)
            for choice in sorted(choices, key=lambda c: len({*inputs, *(x.axis for x in c if not x.added)})):
                layout = dict(zip(kinds, choice, strict=True))
                yield inputs, tuple(layout[tuple(s.example.shape), s.name in declared] for s in self.states)

    def _batch_of_outputs(self, inputs: tuple[int, ...], states: tuple[Layout, ...]) -> tuple[int, ...] | None:
        fed = {n: self.draw(n, [{a: n} for a in inputs], states) for n in (2, 3)}
        given = {n: self.run(states, tensors) for n, tensors in fed.items()}
        if given[2] is None or given[3] is None:
            return None
        outputs = [_changed(a, b) for a, b in zip(given[2], given[3], strict=True)][: len(self.model.outputs)]
        if any(len(axis) != 1 for axis in outputs):
            return None
        found = tuple(axis[0] for axis in outputs)
        if any(t.shape[axis] != 3 for t, axis in zip(given[3], found, strict=False)):
            return None
        axes = (*inputs, *(0 for _ in states))
        pairs = list(zip(given[3], (*found, *(0 for _ in states)), strict=True))
        # Where rows write over each other, the last one wins: it is changed too.
        return found if all(self._only_itself(row, inputs, states, fed[3], axes, pairs) for row in (0, 2)) else None

    def _only_itself(
        self,
        row: int,
        inputs: tuple[int, ...],
        states: tuple[Layout, ...],
        fed: Sequence[Tensor],
        axes: Sequence[int],
        given: Sequence[tuple[Tensor, int]],
    ) -> bool:
        """Whether another row `row` of three changes that row of what is given, and no other."""
        others = [r for r in range(3) if r != row]
        # A value that noise seldom moves may need several tries.
        for _ in range(TRIES):
            other = self.draw(3, [{a: 3} for a in inputs], states)
            mixed = [
                t.index_copy(a, torch.tensor([row]), o.narrow(a, row, 1))
                for t, o, a in zip(fed, other, axes, strict=True)
            ]
            after = self.run(states, mixed)
            if after is None:
                return False
            pairs = [(a, b, x) for (a, x), b in zip(given, after, strict=True)]
            if not all(_same(_rows(a, x, others), _rows(b, x, others)) for a, b, x in pairs):
                return False
            if any(not _same(_rows(a, x, [row]), _rows(b, x, [row])) for a, b, x in pairs):
                return True
        return False

    # --- time

    def find_time(self, batch: _Batch, wanted: Assignment | None) -> Axes:
        if wanted is not None and all(axis is None for axis in wanted):
            return self._axes(batch, wanted, (None,) * len(batch.outputs))
        candidates = [wanted] if wanted is not None else list(self._time_candidates(batch))
        causal: list[tuple[Assignment, Assignment]] = []
        blind: list[tuple[Assignment, Assignment]] = []
        last: list[tuple[Assignment, Assignment]] = []
        for candidate in candidates:
            outputs = self._time_of_outputs(batch, candidate)
            if outputs is None:
                continue
            if wanted is None and not any(axis is not None for axis in outputs):
                last.append((candidate, outputs))
            else:
                (causal if self._is_causal(batch, candidate, outputs) else blind).append((candidate, outputs))
        if wanted is not None and not causal and not blind:
            raise LiftError(f"time_axis={self._say(wanted)}: the model cannot run at other lengths. {self.failure}")
        # A frame that knows of earlier ones is one of time; what is merely computed entry by entry may be anything.
        remembering = [c for c in causal if self._remembers(batch, *c)]
        certain = remembering or [*causal, *blind]
        if len(certain) > 1:
            found = " or ".join(f"time_axis={self._say(candidate)}" for candidate, _ in certain)
            raise LiftError(f"more than one axis could be time: {found}. Say which.")
        if not certain and last and any(isinstance(m, LAYERS) for m in self.model.modules()):
            found = " or ".join(f"time_axis={self._say(candidate)}" for candidate, _ in last)
            raise LiftError(
                f"no output has a time axis, but the inputs can be of any length. If an output is meant as of the last "
                f"frame, say which axis is time: {found}. If one call is one frame: time_axis=None."
            )
        return self._axes(batch, *certain[0], certain[0] in causal) if certain else self._axes(batch, *_no_time(batch))

    def _axes(self, batch: _Batch, time: Assignment, outputs: Assignment, causal: bool = True) -> Axes:
        return Axes(batch.inputs, time, batch.states, batch.outputs, outputs, causal)

    def _say(self, time: Assignment) -> str:
        return str({leaf.name: axis for leaf, axis in zip((*self.inputs, *self.states), time, strict=False)})

    def _time_candidates(self, batch: _Batch) -> Iterator[Assignment]:
        by_input = [
            [*(a for a in range(leaf.example.dim()) if a != b), None]
            for leaf, b in zip(self.inputs, batch.inputs, strict=True)
        ]
        for choice in itertools.product(*by_input):
            if any(axis is not None for axis in choice):
                yield choice

    def _sizes(self, batch: _Batch, time: Assignment, frames: int) -> list[dict[int, int]]:
        """Give batch 2 and `frames` times the example's length along time."""
        return [
            {b: 2} if t is None else {b: 2, t: frames * self._length(leaf.example.shape[t])}
            for leaf, b, t in zip(self.inputs, batch.inputs, time, strict=True)
        ]

    def _length(self, size: int) -> int:
        """The length of the example, or where that is long a part of it."""
        part = next(n for n in range(LONG, 0, -1) if size % n == 0)
        return part if size > LONG and part > LONG // 2 and not self.whole else size

    def _time_of_outputs(self, batch: _Batch, time: Assignment) -> Assignment | None:
        found = self._grown_outputs(batch, time)
        if found is None and not self.whole:
            # Too short for the model, it may be.
            self.whole = True
            found = self._grown_outputs(batch, time)
        return found

    def _grown_outputs(self, batch: _Batch, time: Assignment) -> Assignment | None:
        runs = []
        for frames in (1, 2, 3):
            given = self.run(batch.states, self.draw(2, self._sizes(batch, time, frames), batch.states))
            if given is None:
                return None
            runs.append(given)
        changed = [_changed(a, b) for a, b in zip(runs[1], runs[2], strict=True)][: len(batch.outputs)]
        if any(len(axis) > 1 for axis in changed):
            return None
        return tuple(axis[0] if axis else None for axis in changed)

    def _is_causal(self, batch: _Batch, time: Assignment, outputs: Assignment) -> bool:
        """Whether the outputs of the first two thirds are those of a call that ends there."""
        whole = self.draw(2, self._sizes(batch, time, 3), batch.states)
        axes = (*time, *(None for _ in batch.states))
        begin = [
            t if x is None else t.narrow(x, 0, t.shape[x] // 3 * 2).contiguous()
            for t, x in zip(whole, axes, strict=True)
        ]
        long, short = self.run(batch.states, whole), self.run(batch.states, begin)
        if long is None or short is None:
            # Nothing is known: what follows the graph will see.
            return True
        return all(
            x is None or _same(a.narrow(x, 0, b.shape[x]), b) for a, b, x in zip(long, short, outputs, strict=False)
        )

    def _remembers(self, batch: _Batch, time: Assignment, outputs: Assignment) -> bool:
        """Whether another first third changes the outputs after it."""
        sizes = self._sizes(batch, time, 3)
        whole, other = self.draw(2, sizes, batch.states), self.draw(2, sizes, batch.states)
        axes = (*time, *(None for _ in batch.states))
        mixed = [
            a if x is None else _spliced(b, a, x, a.shape[x] // 3) for a, b, x in zip(whole, other, axes, strict=True)
        ]
        before, after = self.run(batch.states, whole), self.run(batch.states, mixed)
        if before is None or after is None:
            return False
        return any(
            x is not None and not _same(*(t.narrow(x, t.shape[x] // 3, t.shape[x] - t.shape[x] // 3) for t in (a, b)))
            for a, b, x in zip(before, after, outputs, strict=False)
        )


def _no_time(batch: _Batch) -> tuple[Assignment, Assignment]:
    return (None,) * len(batch.inputs), (None,) * len(batch.outputs)


def draw_states(model: FlatModel, states: Sequence[Layout], noise: Noise, batch: int) -> list[Tensor]:
    """Noise for the states, (B, *row); buffers near the values that they have, since not every value may be one."""
    drawn = []
    for leaf, layout in zip(model.states, states, strict=True):
        rows = layout.example_rows(leaf.example)[:1].expand(batch, *layout.example_rows(leaf.example).shape[1:])
        fresh = noise.like(rows.contiguous(), {})
        near = leaf.name in model.kept and rows.is_floating_point()
        drawn.append(rows + fresh.abs() if near else fresh)
    return drawn


def _changed(a: Tensor, b: Tensor) -> list[int]:
    if a.dim() != b.dim():
        return [-1, -1]
    return [axis for axis in range(a.dim()) if a.shape[axis] != b.shape[axis]]


def _spliced(head: Tensor, tail: Tensor, axis: int, at: int) -> Tensor:
    """`head` up to `at` along `axis`, then `tail`."""
    return torch.cat([head.narrow(axis, 0, at), tail.narrow(axis, at, tail.shape[axis] - at)], axis)


def _rows(tensor: Tensor, axis: int, rows: Sequence[int]) -> Tensor:
    return tensor.index_select(axis, torch.tensor(rows))


def _same(a: Tensor, b: Tensor) -> bool:
    scale = max(float(t.detach().double().abs().max()) if t.numel() else 0.0 for t in (a, b))
    return torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6 * scale)


def _wanted_time(model: FlatModel, time_axis: TimeAxis) -> Assignment | None:
    """The user's choice by input, with axes counted from 0; None for "auto"."""
    names = [leaf.name for leaf in model.inputs]
    if time_axis == "auto":
        return None
    if isinstance(time_axis, Mapping):
        unknown = sorted(set(time_axis) - set(names))
        if unknown:
            raise LiftError(f"time_axis names {unknown}, but the inputs are {names}.")
        return tuple(_axis(leaf, time_axis.get(leaf.name)) for leaf in model.inputs)
    if time_axis is None or type(time_axis) is int:
        return tuple(_axis(leaf, time_axis) for leaf in model.inputs)
    raise LiftError(f"time_axis={time_axis!r}: it must be 'auto', None, an axis, or an axis for each input by name.")


def _axis(leaf: Leaf, axis: int | None) -> int | None:
    rank = leaf.example.dim()
    if axis is None or -rank <= axis < rank:
        return None if axis is None else axis % rank
    raise LiftError(f"time_axis={axis}: input {leaf.name!r} has only {rank} axes, {tuple(leaf.example.shape)}.")
