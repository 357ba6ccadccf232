"""Runs a model on noise of other sizes to test its axes, with states in its own layout."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnn_export.errors import first_line
from rnn_export.export.lift.ir.source_location import line_of
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.sample_inputs import Noise
from rnn_export.export.lift.trace.tracing import quiet


@dataclass(frozen=True)
class RowLayout:
    """A model's layout of a state of rows (B, *row): along `axis`, B * inner long if each stream has several rows.

    Rows of a tensor without a batch axis have `added` axes before its own, the batch and ones behind it; `alone` is for
    a model of one stream.
    """

    axis: int
    inner: int = 1
    added: int = 0
    alone: bool = False

    @staticmethod
    def of_one(example: Tensor) -> RowLayout:
        """The layout for one stream."""
        axis = axis_of_one(example.shape, None)
        return RowLayout(0, alone=True) if axis is None else RowLayout(axis)

    def rows(self, tensor: Tensor) -> Tensor:
        """(B, *row) from the model's own tensor."""
        if self.alone:
            return tensor.unsqueeze(0)
        if self.added:
            return tensor.reshape(tensor.shape[0], *tensor.shape[self.added :])
        moved = tensor.movedim(self.axis, 0)
        return moved if self.inner == 1 else moved.reshape(moved.shape[0] // self.inner, self.inner, *moved.shape[1:])

    def tensor(self, rows: Tensor) -> Tensor:
        """The model's own tensor from (B, *row)."""
        if self.alone:
            return rows.squeeze(0)
        if self.added:
            return rows.reshape(rows.shape[0], *(1,) * (self.added - 1), *rows.shape[1:])
        merged = rows if self.inner == 1 else rows.flatten(0, 1)
        return merged.movedim(0, self.axis)

    def example_rows(self, example: Tensor) -> Tensor:
        """(B, *row) from an example value, which has no batch axis if `added`."""
        return example[None] if self.added else self.rows(example)


def axis_of_one(shape: Sequence[int], time: int | None) -> int | None:
    """The batch axis of size one of one stream's tensor, or None: first, or second of three; never `time`."""
    places = [a for a, size in enumerate(shape[:2]) if size == 1 and a != time and (a == 0 or len(shape) > 2)]
    return places[0] if places else None


def layouts(example: Tensor, batch: int, added: int = 4) -> Iterator[RowLayout]:
    """The layouts in which `example` can hold the state of `batch` streams, plain ones first."""
    sizes = list(enumerate(example.shape))
    yield from (RowLayout(axis) for axis, size in sizes if size == batch)
    yield from (RowLayout(0, added=count) for count in range(1, added + 1))
    yield from (RowLayout(axis, size // batch) for axis, size in sizes if size > batch and size % batch == 0)


# For each input, or each output, an axis; None for no axis.
Assignment = tuple[int | None, ...]


def sizes_of(batch: Assignment, time: Assignment, rows: int, frames: Sequence[int]) -> list[dict[int, int]]:
    """The sizes of each input along its batch and time axes, if any; `frames` is by input."""
    axes = zip(batch, time, frames, strict=True)
    return [{a: n for a, n in ((b, rows), (t, count)) if a is not None} for b, t, count in axes]


class AxisProbe:
    """Runs a copy of `model`.

    `failure` is why the last run failed, `place` where.
    """

    def __init__(self, model: FlatModel) -> None:
        # What another batch leaves in it is nothing for whoever lifts it.
        self.model, self.noise = copy.deepcopy(model), Noise(model)
        self.inputs, self.states = model.inputs, model.states
        self.failure = self.place = ""

    def draw(self, batch: int, sizes: Sequence[Mapping[int, int]], states: Sequence[RowLayout]) -> list[Tensor]:
        """Noise for the inputs, with `sizes` along some axes, and for the states (B, *row)."""
        drawn = [self.noise.like(leaf.example, s) for leaf, s in zip(self.inputs, sizes, strict=True)]
        return [*drawn, *draw_states(self.model, states, self.noise, batch)]

    def takes(self, sizes: Sequence[Mapping[int, int]]) -> bool:
        """True if the model runs on inputs with `sizes` along some axes, at the example's batch."""
        drawn = [self.noise.like(leaf.example, s) for leaf, s in zip(self.inputs, sizes, strict=True)]
        return self._call([*drawn, *(leaf.example for leaf in self.states)]) is not None

    def run(self, states: Sequence[RowLayout], tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Outputs and next states (B, *row); None if the model fails or a state changes its shape."""
        inputs, outputs = len(self.inputs), len(self.model.outputs)
        fed = [layout.tensor(rows) for layout, rows in zip(states, tensors[inputs:], strict=True)]
        results = self._call([*tensors[:inputs], *fed])
        if results is None:
            return None
        if any(a.shape != b.shape for a, b in zip(fed, results[outputs:], strict=True)):
            self.failure, self.place = "a state comes back in another shape than it went in", ""
            return None
        return [*results[:outputs], *(a.rows(t) for a, t in zip(states, results[outputs:], strict=True))]

    def _call(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        try:
            with torch.no_grad(), quiet():
                return list(self.model(*tensors))
        except Exception as error:  # a size that the model does not take may raise anything
            self.failure, self.place = f"{type(error).__name__}: {first_line(error)}", line_of(error)
            return None

    def by_name(self, axes: Assignment) -> dict[str, int | None]:
        """`axes` by the names of the inputs and states."""
        leaves = (*self.inputs, *self.states)
        return {leaf.name: axis for leaf, axis in zip(leaves, axes, strict=False)}


def changed_axes(a: Tensor, b: Tensor) -> list[int]:
    """The axes whose sizes differ; [-1, -1] if the ranks differ."""
    if a.dim() != b.dim():
        return [-1, -1]
    return [axis for axis in range(a.dim()) if a.shape[axis] != b.shape[axis]]


def draw_states(model: FlatModel, states: Sequence[RowLayout], noise: Noise, batch: int) -> list[Tensor]:
    """States (B, *row) of values between those that calls of the model left in them."""
    drawn = []
    for leaf, layout in zip(model.states, states, strict=True):
        seen = torch.cat([layout.example_rows(value) for value in model.seen[leaf.name]])
        drawn.append(noise.between(seen, batch))
    return drawn
