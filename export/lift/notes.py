"""Notes for the user of a lifted model: the origin of its states and the meaning of its contract."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from rnn_export.contract.spec import StreamSpec
from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.layers.lifted_layers import Stack
from rnn_export.export.lift.model.call.length_arguments import WithLengths
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.states.module_state import kind_of


def origin_of(flat: FlatModel, name: str) -> tuple[str, str]:
    """The kind of a state and the reason why it is one."""
    path = flat.module_state_at(name)
    if path is None:
        return _ARGUMENT
    if name in flat.held:
        return "argument", "a number in an argument that comes back, as declared"
    kind = kind_of(path, flat.model)
    return kind, f"{'a buffer' if kind == 'buffer' else 'an attribute'} that a call of the model changes"


_ARGUMENT = ("argument", "an argument that comes back, as declared")
WHOLE = "this bundle cannot stream: it takes whole sequences only (sequence_only)"


def notes_of(spec: StreamSpec, flat: FlatModel, axes: Axes, shortest: int) -> Iterator[str]:
    """Notes for the user on a contract, and on a graph that is a stream's from `shortest` frames on."""
    if shortest > 1:
        yield (
            f"over fewer than {shortest} frames the code goes another way (a branch on the length, or a length with a "
            "floor): a stream goes the way of more of them"
        )
    layers = "" if spec.states else ", ".join(_called_layers(flat))
    if layers and axes.has_time:
        yield f"{layers}: starts anew at each frame, since it goes over another axis than time, and keeps no state"
    elif layers:
        yield f"{layers}: starts anew at each call, since the model takes one frame per call and keeps no state"
    elif not spec.states:
        yield "this model has no state: each frame is computed from itself alone"
    if axes.of_last:
        names = ", ".join(map(repr, flat.outputs))
        yield (
            f"{names}: the answer at each frame, as no output has a time axis; for one window per call say "
            "time_axis=None (--time-axis none)"
        )
    if spec.has_delay:
        yield spec.delay_note
    if spec.tail:
        yield f"the end of a sequence gives up to {spec.tail} frames more of an output: finish() has them"
    yield from shared_notes(spec, flat, axes)


def _called_layers(flat: FlatModel) -> list[str]:
    """The recurrent layers that a call of the model calls."""
    model, called = copy.deepcopy(flat), list[str]()
    for path, module in model.model.named_modules():
        if isinstance(module, Stack):
            module.register_forward_pre_hook(lambda *_, path=path: called.append(path))
    with torch.no_grad():
        model(*(leaf.example.clone() for leaf in (*flat.inputs, *flat.states)))
    return list(dict.fromkeys(called))


def shared_notes(spec: StreamSpec, flat: FlatModel, axes: Axes) -> Iterator[str]:
    """Notes of whole sequences too."""
    if isinstance(flat.model, WithLengths):
        names = ", ".join(map(repr, flat.model.lengths))
        keep = "states={NAME: None} (--state NAME=none)"
        yield f"{names}: lengths, which no stream has, so every row has all frames; {keep} keeps one"
    for name, kind in flat.left_out.items():
        yield f"{name!r}, a {kind} that a later call may take, is not among the outputs: a stream has its own states"
    if write_only := ", ".join(repr(str(group[0])) for group in flat.write_only):
        yield f"{write_only}: changed by calls, and read by nothing, so no state"
    if spec.max_context:
        yield spec.context_note
    yield from (assumption.note for assumption in spec.assumptions)
    for at in sorted(flat.decisions.chosen):
        yield f"{at}: each way of what is decided there is computed at each step, and its value chooses"
    if why := axes.one_row:
        yield f"rows: 1, one stream at a time, since {why}; rows of a batch or pool are stepped one by one"
