"""Models that take one stream at a time: the test for them, and the reason in words."""

from __future__ import annotations

import copy

import torch

from rnn_export.errors import FrozenAxis
from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.loops.folding.trace_lengths import many_frames, shortest_length
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.trace.tracing import place_of_number


def why_one(flat: FlatModel, axes: Axes, error: FrozenAxis) -> str:
    """The place where the code of `flat` makes a number of its batch size, from `error`."""
    model = BatchFirst(flat, axes)
    place = place_of_number(model, model.sample(3, shortest_length(model)), error.port, error.axis)
    return f"the code makes a number of the size of the batch{f' at {place}' if place else ''}"


def takes_one(flat: FlatModel, axes: Axes) -> bool:
    """True if the model runs on one row and its module state has one row."""
    kept_rows = [
        axes.states[i].example_rows(leaf.example)
        for i, leaf in enumerate(flat.states)
        if flat.module_state_at(leaf.name)
    ]
    model = BatchFirst(copy.deepcopy(flat), axes)
    try:
        with torch.no_grad():
            model(*model.sample(1, many_frames(model) if axes.has_time else 1))
    except Exception:  # a size that the model does not take may raise anything
        return False
    return all(len(rows) == 1 for rows in kept_rows)
