"""What a model is once it is lifted: a pure step, its contract, and where all of it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from rnn_export.errors import LiftError, TraceFailed
from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.loops.loop_body import RolledLoop
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.sample_inputs import Noise
from rnn_export.export.lift.sized_program import sized_program
from rnn_export.export.lift.streaming import LiftedState
from rnn_export.spec import BATCH, TIME, StateSpec, StreamSpec, TensorSpec, sized

# Rows of what a step is exported with, one count after the other.
ROWS = (3, 7, 11)


@dataclass(frozen=True, eq=False)
class StreamingModel:
    """A model lifted into one pure function with its memory outside.

    Attributes:
        spec: the contract.
        original: a copy of the user's own module, otherwise untouched, called with flat tensors in its own layout.
        axes: where batch and time stand in the tensors of `original`.
        module: (inputs..., states...) -> (outputs..., next states...); states have the batch on axis 0. Over a sequence
            that goes on: what stands after its end is in `step` alone.
        dynamic_time: whether `module` takes any length; if not, it takes exactly `spec.chunk` frames.
        initial: by state name, the value that one row starts from.
        origins: where each state was found.
        notes: what a user should know of how the model was lifted.
        shortest: the fewest frames of a whole sequence of which the model gives what a stream does.
        ending: `step`, where what stands after the end of a sequence is not what any later frame makes of it.
        before_packing: where states are packed into one, the same with each of them apart.
    """

    spec: StreamSpec
    original: FlatModel
    axes: Axes
    module: fx.GraphModule
    dynamic_time: bool
    initial: Mapping[str, Tensor]
    origins: tuple[LiftedState, ...] = ()
    notes: tuple[str, ...] = ()
    ending: fx.GraphModule | None = None
    shortest: int = 1
    before_packing: StreamingModel | None = None

    def __repr__(self) -> str:
        return f"<StreamingModel {self.spec.ports}; {self.spec.summary}>"

    def _repr_html_(self) -> str:
        return self.spec._repr_html_()

    @property
    def unpacked(self) -> StreamingModel:
        """The same with every state apart, as `original` has its own."""
        return self if self.before_packing is None else replace(self.before_packing, original=self.original)

    @property
    def step(self) -> fx.GraphModule:
        """`module` for `spec.chunk` frames, with what stands after the end of a sequence."""
        return self.ending or self.module

    @property
    def has_loop(self) -> bool:
        """Whether `module` drives something frame after frame that no operator of a graph does."""
        projected = torch.ops.rnn_export.lstm_projected.default
        loops = any(isinstance(m, RolledLoop) for m in self.module.modules())
        return loops or any(node.target is projected for node in self.module.graph.nodes)

    def program(self, frames: int | None) -> torch.export.ExportedProgram:
        """`module` for any batch, or for `spec.rows`, and for `frames` frames, or any number where that is None."""
        some = 5 * math.lcm(self.spec.chunk, self.spec.largest_every) if frames is None else frames
        refused: LiftError | None = None
        for rows in (self.spec.rows,) if self.spec.rows else ROWS:
            try:
                return self._program(rows, some, frames)
            except TraceFailed as error:
                # So many rows may be another size of the model, by which torch then goes.
                refused = refused or error
        assert refused is not None
        raise refused

    def _program(self, rows: int, some: int, frames: int | None) -> torch.export.ExportedProgram:
        """`program` by an example of so many rows, and of `some` frames."""
        dynamic = {*([TIME] if frames is None else []), *([] if self.spec.rows else [BATCH])}
        noise, examples = Noise(self.original), {leaf.name: leaf.example for leaf in self.original.inputs}
        tensors, axes = [], []
        ports: list[TensorSpec | StateSpec] = [*self.spec.inputs, *self.spec.states]
        for tensor in ports:
            like = examples.get(tensor.name, torch.zeros(1, dtype=getattr(torch, tensor.dtype)))
            tensors.append(noise.shaped(like, sized(tensor.shape, rows, some)))
            rate = tensor.rate.numerator if isinstance(tensor, TensorSpec) else 1
            named = (
                (a, TIME if d not in (BATCH, TIME) else d) for a, d in enumerate(tensor.shape) if isinstance(d, str)
            )
            axes.append({a: rate if d == TIME else 1 for a, d in named if d in dynamic})
        return sized_program(self.module if frames is None else self.step, tensors, axes)
