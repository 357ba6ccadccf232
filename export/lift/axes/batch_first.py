"""The flat model as later stages call it: a batch axis in every tensor, axis 0 in states."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.axes.axis_probe import draw_states
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.numbers.tensor_indices import WHOLE
from rnn_export.export.lift.model.sample_inputs import Noise
from rnn_export.export.lift.trace.torch_rnn_functions import OpaqueFunctions
from rnn_export.export.lift.trace.tracing import DYNAMIC

# Between the seeds of inputs without time.
HELD = 1_000_003


class BatchFirst(nn.Module):
    """The flat model with the batch on axis 0 of every state.

    `runs` tells by length if the model takes it; `tables` are rows of the tables that it makes of the length alone;
    `counts` are (argument, result) of each whole-number state that starts at zero or above.
    """

    def __init__(self, flat: FlatModel, axes: Axes, initial: Mapping[str, Tensor] | None = None) -> None:
        """`initial`: the row that each state starts from, if that is known."""
        super().__init__()
        starts = [(initial or {}).get(leaf.name) for leaf in flat.states]
        self.counts = [
            (len(flat.inputs) + i, len(flat.outputs) + i)
            for i, start in enumerate(starts)
            if start is not None and start.numel() == 1 and start.dtype in WHOLE and int(start) >= 0
        ]
        self.flat, self.axes = flat, axes
        self.runs: dict[int, bool] = {}
        self.tables: tuple[Tensor, ...] = ()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """(inputs..., states of (B, *row)...) -> (outputs..., next states of (B, *row)...)."""
        inputs, outputs, layouts = len(self.flat.inputs), len(self.flat.outputs), self.axes.states
        states = [layout.tensor(s) for s, layout in zip(tensors[inputs:], layouts, strict=False)]
        fed = [x if b is not None else x.squeeze(0) for x, b in zip(tensors, self.axes.input_batch, strict=False)]
        # What is run, and compared with, is torch's own.
        with OpaqueFunctions() if torch.compiler.is_exporting() else contextlib.nullcontext():
            results = self.flat(*fed, *states)
        given = [y if b is not None else y.unsqueeze(0) for y, b in zip(results, self.axes.output_batch, strict=False)]
        after = [layout.rows(s) for s, layout in zip(results[outputs:], layouts, strict=False)]
        return (*given, *after)

    def sample(self, batch: int, frames: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Noise inputs and states (B, *row), of one row if the model takes no more.

        An input without time is the same over any number of frames.
        """
        axes, noise = self.axes, Noise(self.flat, seed)
        ports = zip(self.flat.inputs, axes.input_sizes(batch, frames), axes.input_time, strict=True)
        drawn = [
            (noise if time is not None else Noise(self.flat, seed + HELD * port)).like(leaf.example, sizes)
            for port, (leaf, sizes, time) in enumerate(ports, 1)
        ]
        inputs = [x if b is not None else x.unsqueeze(0) for x, b in zip(drawn, axes.input_batch, strict=True)]
        return (*inputs, *draw_states(self.flat, axes.states, noise, 1 if axes.one_row else batch))

    def dynamic(self, time: bool) -> tuple[Any, ...]:
        """The axes of any size, as torch.export takes them: the batch, unless it is one row, and `time`."""
        axes = self.axes
        rows = [set() if axes.one_row else {b} for b in axes.rows_in]
        times = [{t} if time and t is not None else set() for t in (*axes.time_in, *(None for _ in axes.states))]
        return (tuple(dict.fromkeys(b | t, DYNAMIC) for b, t in zip(rows, times, strict=True)),)
