"""A stream's steps and its outputs at the end, against the model on the whole sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnn_export.contract.layout import canonical
from rnn_export.export.lift.model.torch_driver import torch_driver
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.platform.arrays import Array
from rnn_export.runtime.core.ending import Ending
from rnn_export.runtime.replay.closed_loop import ClosedLoop

from ..lifting import lift  # noqa: TID252

ROWS = 2


def assert_whole(
    model: nn.Module,
    *example: Tensor,
    lengths: range | None = None,
    atol: float = 2e-6,
    truth: nn.Module | None = None,
    **options: Any,
) -> StreamingModel:
    """Lift `model` and hold streams of several lengths to it, or to `truth`; gives what was lifted."""
    lifted = lift(model, example, **options)
    assert_lifted_whole(lifted, truth or model, example, lengths=lengths, atol=atol)
    return lifted


def assert_lifted_whole(
    lifted: StreamingModel,
    model: nn.Module,
    example: tuple[Tensor, ...],
    *,
    lengths: range | None = None,
    atol: float = 2e-6,
) -> None:
    """Hold streams of several lengths to the model, from steps and their ends."""
    spec = lifted.spec
    more = spec.delay + 2 * spec.chunk
    taken = 0
    for frames in lengths or [1, 2, 3, *range(more, more + max(spec.chunk, 3))]:
        inputs = _drawn(lifted, example, frames)
        try:
            with torch.no_grad():
                given = model(*inputs)
        except RuntimeError:
            continue  # too few frames for the model
        taken += 1
        wanted = given if isinstance(given, tuple) else (given,)
        for tensor, want, got in zip(spec.outputs, wanted, streamed(lifted, *inputs), strict=False):
            if spec.timed(tensor):
                want = canonical(want.numpy(), tensor)
                assert got.shape == want.shape, (frames, got.shape, want.shape)
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=atol, err_msg=f"{frames} frames")
    assert taken > 2


def streamed(lifted: StreamingModel, *inputs: Tensor) -> list[Array]:
    """Every output of a whole sequence, (rows, frames, ...), from steps and its end."""
    spec = lifted.spec
    named = {t.name: canonical(x.numpy(), t) for t, x in zip(spec.inputs, inputs, strict=True)}
    loop = ClosedLoop(spec, named)
    whole = loop.frames - loop.frames % spec.chunk
    initial = {s.name: lifted.initial[s.name].expand(loop.rows, *s.row).contiguous().numpy() for s in spec.states}
    driver = torch_driver(spec, lifted.step, initial)
    outputs = loop.run(driver, range(0, whole + 1, spec.chunk)).outputs if whole else {}
    rest = loop.cut(whole, loop.frames)
    pending = {t.name: rest[t.name] for t in spec.inputs if spec.timed(t) and whole < loop.frames}
    ending = Ending(spec, loop.rows, pending, {t.name: named[t.name] for t in spec.inputs if not spec.timed(t)})
    closing = torch_driver(spec, lifted.step, ending.states(driver.states()))
    left = ending.left(whole, ending.last_outputs(ending.steps(whole), closing.step))
    return [
        np.concatenate([outputs.get(t.name, value[:, :0]), value], 1)
        for t in spec.outputs
        if (value := left[t.name]) is not None
    ]


def _drawn(lifted: StreamingModel, example: tuple[Tensor, ...], frames: int) -> list[Tensor]:
    drawn = []
    for like, batch, time in zip(example, lifted.axes.input_batch, lifted.axes.input_time, strict=True):
        sizes = [
            lifted.spec.rows or ROWS if a == batch else frames if a == time else n for a, n in enumerate(like.shape)
        ]
        drawn.append(torch.randn(sizes).to(like.dtype) if like.is_floating_point() else torch.randint(9, sizes))
    return drawn
