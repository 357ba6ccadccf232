"""The lifted model: a pure step, its contract, and the origin of its states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from rnn_export.contract.spec import BATCH, TIME, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import LiftError, TraceFailed
from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.loops.loop_body import RolledLoop
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.sample_inputs import Noise
from rnn_export.export.lift.sized_program import sized_program
from rnn_export.export.lift.streaming import LiftedState

# Rows of what a step is exported with, one count after the other.
ROWS = (3, 7, 11)


@dataclass(frozen=True, eq=False)
class StreamingModel:
    """A model lifted into one pure function with its memory outside.

    Attributes:
        spec: the contract.
        original: a copy of the user's own module, otherwise untouched, called with flat tensors in its own layout.
        axes: the batch and time axes of the tensors of `original`.
        module: (inputs..., states...) -> (outputs..., next states...); states have the batch on axis 0. It runs over a
            sequence that goes on; frames after its end are in `step` alone.
        dynamic_time: True if `module` takes any length; if not, it takes exactly `spec.chunk` frames.
        initial: by state name, the initial value of one row.
        origins: the source of each state.
        notes: facts for the user on how the model was lifted.
        shortest: the fewest frames of a whole sequence at which model and stream agree.
        ending: `step`, if values after the end of a sequence differ from those that a later frame makes.
        before_packing: the same model with every state apart, if states are packed into one.
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
        """The same model with its states apart, as in `original`."""
        return self if self.before_packing is None else replace(self.before_packing, original=self.original)

    @property
    def step(self) -> fx.GraphModule:
        """`module` for `spec.chunk` frames, with values after the end of a sequence."""
        return self.ending or self.module

    @property
    def has_loop(self) -> bool:
        """True if `module` has a rolled loop or a projected LSTM, which no graph operator is."""
        projected = torch.ops.rnn_export.lstm_projected.default
        loops = any(isinstance(m, RolledLoop) for m in self.module.modules())
        return loops or any(node.target is projected for node in self.module.graph.nodes)

    def program(self, frames: int | None) -> torch.export.ExportedProgram:
        """`module` for any length, or `step` for `frames` frames, for any batch or `spec.rows` rows."""
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
        """`program` from an example of `rows` rows and `some` frames."""
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
