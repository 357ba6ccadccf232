"""Refuses a state that moves once per call, not per frame: no stream has it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnn_export.errors import StateMovesByCall
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.ir.compare import CLOSED_LOOP
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.torch_driver import inputs_of, torch_driver
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.platform.arrays import Array
from rnn_export.runtime.replay.closed_loop import ClosedLoop


def refuse_memory_by_call(lifted: StreamingModel, flat: FlatModel) -> None:
    """Raise StateMovesByCall if a state moves once per call: results would depend on the cuts of the input."""
    spec, own = lifted.spec, [leaf.name for leaf in flat.states]
    frames, rows = spec.chunk * max(1, spec.settling_steps), spec.rows or 2
    drawn = BatchFirst(flat, lifted.axes).sample(2, 2 * frames, 3)
    loop = ClosedLoop(spec, inputs_of(spec, drawn))

    def after(states: Mapping[str, Array], *edges: int) -> Mapping[str, Array]:
        driver = torch_driver(spec, lifted.module, states)
        loop.run(driver, edges)
        return driver.states()

    states: Mapping[str, Array] = {
        **{s.name: lifted.initial[s.name].expand(rows, *s.row).contiguous().numpy() for s in spec.states},
        **{name: value.numpy() for name, value in zip(own, drawn[len(spec.inputs) :], strict=True)},
    }
    if spec.has_delay:
        states = after(after(states, 0, frames), 0, frames)
    once, twice = after(states, 0, 2 * frames), after(states, 0, frames, 2 * frames)
    for name in own:
        if not np.allclose(once[name], twice[name], CLOSED_LOOP.rtol, CLOSED_LOOP.atol):
            raise moves_by_call(name, len(spec.states) > len(own))


def moves_by_call(name: str, has_others: bool) -> StateMovesByCall:
    return StateMovesByCall(
        f"state {name!r} moves once per call, however many frames the call has, so it is another one where the "
        "sequence is cut otherwise. Let every frame move it, or take it out where nothing reads it.",
        has_others,
        id="state-moves-by-call",
    )
