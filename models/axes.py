"""Which axis is the batch and which is time: found by running the model at several sizes, never guessed from rank.

Along the batch, rows do not know of each other. Along time, no frame knows of a later one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError
from rnn_export.models.layers import LAYERS
from rnn_export.models.signature import FlatModel, Leaf, first_line

TimeAxis = str | int | None | Mapping[str, int | None]
Assignment = tuple[int | None, ...]
# Lines of an error message.
TRIED = 4


@dataclass(frozen=True)
class Axes:
    """Per tensor, where batch and time stand; None where there is no time."""

    input_batch: tuple[int, ...]
    input_time: tuple[int | None, ...]
    state_batch: tuple[int, ...]
    output_batch: tuple[int, ...]
    output_time: tuple[int | None, ...]

    @property
    def has_time(self) -> bool:
        return any(axis is not None for axis in self.input_time)


class Noise:
    """Seeded tensors like the examples: normal floats, ids below the rows of every embedding."""

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        rows = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
        self.rows = min(rows, default=None)

    def like(self, example: Tensor, sizes: Mapping[int, int]) -> Tensor:
        """A tensor like `example`, but with `sizes[axis]` along each given axis."""
        shape = [sizes.get(axis, size) for axis, size in enumerate(example.shape)]
        if example.is_floating_point():
            return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(example)
        if example.dtype == torch.bool:
            return torch.randint(2, shape, generator=self.generator).to(example)
        rows = self.rows or max(int(example.max()) + 1, 1)
        return torch.randint(rows, shape, generator=self.generator).to(example)


def find_axes(model: FlatModel, time_axis: TimeAxis) -> Axes:
    """Probe `model`, which must be a copy that may be run at will; raises LiftError where no axis is certain."""
    probe = _Probe(model)
    wanted = _wanted_time(model, time_axis)
    batch = probe.find_batch(wanted)
    return probe.find_time(batch, wanted)


@dataclass(frozen=True)
class _Batch:
    inputs: tuple[int, ...]
    states: tuple[int, ...]
    outputs: tuple[int, ...]


class _Probe:
    def __init__(self, model: FlatModel) -> None:
        self.model, self.noise = model, Noise(model)
        self.inputs, self.states = model.inputs, model.states
        self.failure = ""
        if self.run([leaf.example for leaf in (*self.inputs, *self.states)]) is None:
            raise LiftError(f"the model fails on its own example inputs: {self.failure}")

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        try:
            with torch.no_grad():
                return list(self.model(*tensors))
        except Exception as error:  # a size that the model does not take may raise anything
            self.failure = f"{type(error).__name__}: {first_line(error)}"
            return None

    def draw(self, sizes: Sequence[Mapping[int, int]]) -> list[Tensor]:
        leaves = (*self.inputs, *self.states)
        return [self.noise.like(leaf.example, s) for leaf, s in zip(leaves, sizes, strict=True)]

    # --- batch

    def find_batch(self, time: Assignment | None) -> _Batch:
        tried = []
        for inputs, states in self._batch_candidates(time):
            self.failure = "rows depend on each other, or not every output and state has them"
            outputs = self._batch_of_outputs(inputs, states)
            if outputs is not None:
                return _Batch(inputs, states, outputs)
            tried.append(f"  axes {self._say((*inputs, *states))}: {self.failure}")
        shapes = ", ".join(f"{leaf.name} {tuple(leaf.example.shape)}" for leaf in (*self.inputs, *self.states))
        raise LiftError(
            f"no batch axis found in {shapes}: every input, output and state needs one, along which the size can "
            "change with the rows independent of each other. Give example inputs with a batch axis, and declare every "
            "state that is passed in, states={argument: output}. Tried:\n" + "\n".join(tried[:TRIED] or ["  no axis"])
        )

    def _batch_candidates(self, time: Assignment | None) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        taken = time or (None,) * len(self.inputs)
        by_input = [
            [a for a in range(leaf.example.dim()) if a != t] for leaf, t in zip(self.inputs, taken, strict=True)
        ]
        # States of one shape are laid out alike: one choice for all of them keeps the search small.
        shapes = sorted({tuple(s.example.shape) for s in self.states})
        choices = itertools.product(*by_input, *(range(len(shape)) for shape in shapes))
        for choice in sorted(choices, key=lambda c: (len(set(c)), sum(c))):
            inputs, by_shape = choice[: len(self.inputs)], choice[len(self.inputs) :]
            axis = dict(zip(shapes, by_shape, strict=True))
            yield inputs, tuple(axis[tuple(s.example.shape)] for s in self.states)

    def _batch_of_outputs(self, inputs: tuple[int, ...], states: tuple[int, ...]) -> tuple[int, ...] | None:
        axes = (*inputs, *states)
        fed = {n: self.draw([{a: n} for a in axes]) for n in (2, 3)}
        given = {n: self.run(tensors) for n, tensors in fed.items()}
        if given[2] is None or given[3] is None or not self._states_kept(fed[3], given[3]):
            return None
        outputs = [_changed(a, b) for a, b in zip(given[2], given[3], strict=True)][: len(self.model.outputs)]
        if any(len(axis) != 1 for axis in outputs):
            return None
        found = tuple(axis[0] for axis in outputs)
        other = self.draw([{a: 3} for a in axes])
        mixed = [_spliced(t, o, a, 1) for t, o, a in zip(other, fed[3], axes, strict=True)]
        after = self.run(mixed)
        if after is None:
            return None
        pairs = list(zip(given[3], after, (*found, *states), strict=True))
        independent = all(_same(a.narrow(x, 1, 2), b.narrow(x, 1, 2)) for a, b, x in pairs)
        moved = any(not _same(a.narrow(x, 0, 1), b.narrow(x, 0, 1)) for a, b, x in pairs)
        return found if independent and moved else None

    def _states_kept(self, fed: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
        before, after = fed[len(self.inputs) :], given[len(self.model.outputs) :]
        return all(a.shape == b.shape for a, b in zip(before, after, strict=True))

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
        if not causal and blind:
            raise LiftError(
                f"along {self._say(blind[0][0])} an output depends on later frames (a bidirectional layer, a "
                "look-ahead convolution, attention or statistics over the whole sequence), so it cannot stream."
            )
        if len(causal) > 1:
            found = " or ".join(f"time_axis={self._say(candidate)}" for candidate, _ in causal)
            raise LiftError(f"more than one axis could be time: {found}. Say which.")
        if not causal and last and any(isinstance(m, LAYERS) for m in self.model.modules()):
            found = " or ".join(f"time_axis={self._say(candidate)}" for candidate, _ in last)
            raise LiftError(
                f"no output has a time axis, but the inputs can be of any length. If an output is meant as of the last "
                f"frame, say which axis is time: {found}. If one call is one frame: time_axis=None."
            )
        return self._axes(batch, *causal[0]) if causal else self._axes(batch, *_no_time(batch))

    def _axes(self, batch: _Batch, time: Assignment, outputs: Assignment) -> Axes:
        return Axes(batch.inputs, time, batch.states, batch.outputs, outputs)

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
        sizes: list[dict[int, int]] = []
        for leaf, b, t in zip(self.inputs, batch.inputs, time, strict=True):
            sizes.append({b: 2} if t is None else {b: 2, t: frames * leaf.example.shape[t]})
        return [*sizes, *({b: 2} for b in batch.states)]

    def _time_of_outputs(self, batch: _Batch, time: Assignment) -> Assignment | None:
        runs = []
        for frames in (1, 2, 3):
            fed = self.draw(self._sizes(batch, time, frames))
            given = self.run(fed)
            if given is None or not self._states_kept(fed, given):
                return None
            runs.append(given)
        changed = [_changed(a, b) for a, b in zip(runs[1], runs[2], strict=True)][: len(batch.outputs)]
        if any(len(axis) > 1 for axis in changed):
            return None
        return tuple(axis[0] if axis else None for axis in changed)

    def _is_causal(self, batch: _Batch, time: Assignment, outputs: Assignment) -> bool:
        """Whether the first third of the output stays when the rest of the input changes."""
        sizes = self._sizes(batch, time, 3)
        fed, other = self.draw(sizes), self.draw(sizes)
        axes = (*time, *(None for _ in batch.states))
        mixed = [
            t if x is None else _spliced(t, o, x, t.shape[x] // 3) for t, o, x in zip(fed, other, axes, strict=True)
        ]
        before, after = self.run(fed), self.run(mixed)
        if before is None or after is None:
            return False
        return all(
            x is None or _same(a.narrow(x, 0, a.shape[x] // 3), b.narrow(x, 0, a.shape[x] // 3))
            for a, b, x in zip(before, after, outputs, strict=False)
        )


def _no_time(batch: _Batch) -> tuple[Assignment, Assignment]:
    return (None,) * len(batch.inputs), (None,) * len(batch.outputs)


def _changed(a: Tensor, b: Tensor) -> list[int]:
    if a.dim() != b.dim():
        return [-1, -1]
    return [axis for axis in range(a.dim()) if a.shape[axis] != b.shape[axis]]


def _spliced(head: Tensor, tail: Tensor, axis: int, at: int) -> Tensor:
    """`head` up to `at` along `axis`, then `tail`."""
    return torch.cat([head.narrow(axis, 0, at), tail.narrow(axis, at, tail.shape[axis] - at)], axis)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6)


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
