"""The gain of sliding windows over time in C: the same step with all of them moved, in turn on one core."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from instructions import instructions
from stream_figures import WIDTH, WINDOWS, Attention
from torch import Tensor, nn
from turns import in_turn

from rnn_export.contract.spec import StreamSpec, sized
from rnn_export.export.graph.step import step_graph
from rnn_export.export.lift import lift
from rnn_export.export.lift.options import LiftOptions
from rnn_export.export.targets.c.writer import sources
from tests.export.c_sheet import compiled
from tests.native.models import Built, windows

STEPS, ROUNDS = 512, 61
Files = dict[str, bytes]


class Causal(nn.Module):
    """Residual convolutions of 3 frames, (B, channels, T), each with a past of twice its dilation."""

    def __init__(self, channels: int, dilations: Sequence[int], groups: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(channels, channels, 3, dilation=d, groups=groups) for d in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.relu(layer(nn.functional.pad(x, (2 * layer.dilation[0], 0))))
        return x


def causal(channels: int, layers: int, most: int, groups: int = 1) -> Built:
    """Dilations 1, 2, 4 ... `most`, and again."""
    powers = most.bit_length()
    net = Causal(channels, [2 ** (i % powers) for i in range(layers)], groups)
    return net.eval(), (torch.zeros(1, channels, 8),), {}


def figures() -> Iterator[tuple[str, float]]:
    nets = {
        "32 convolutions, 64 channels, dilations to 128": lambda: causal(64, 32, 128),
        "30 convolutions, 64 channels, dilations to 512": lambda: causal(64, 30, 512),
        "20 of a channel each, 64 channels, dilations to 512": lambda: causal(64, 20, 512, 64),
        "10 convolutions, 16 channels, dilations to 512": lambda: causal(16, 10, 512),
    } | {
        f"attention, {window} frames": lambda window=window: (
            Attention(window).eval(),
            (torch.zeros(1, 12, WIDTH),),
            {"time_axis": 1},
        )
        for window in WINDOWS
    }
    for title, build in nets.items():
        torch.manual_seed(0)
        moved, slid, spec = _both_ways(build())
        ours, sizes = {}, {}
        for way, files in (("moved", moved), ("slid", slid)):
            ours[way], sizes[way] = _steps(files, spec)
        taken = in_turn(ours, ROUNDS, 1)
        yield f"{title}: a step, its windows moved, µs", float(np.median(taken["moved"])) / STEPS
        yield f"{title}: a step, µs", float(np.median(taken["slid"])) / STEPS
        yield f"{title}: times as fast", float(np.median(taken["moved"] / taken["slid"]))
        yield f"{title}: memory of a stream, times what it was", sizes["slid"] / sizes["moved"]
    moved, slid, spec = _both_ways(windows())
    for way, files in (("moved", moved), ("slid", slid)):
        counted = instructions(SimpleNamespace(files=files, name="net", spec=spec), "cortex-m4")  # type: ignore[arg-type]
        if counted is not None:
            yield f"convolutions of 8 channels, pasts of 2, 24 and 39 frames: instructions on Cortex-M4, {way}", counted


def _both_ways(built: Built) -> tuple[Files, Files, StreamSpec]:
    model, example, options = built
    lifted = lift(model, example, LiftOptions(**options))
    step, initial = step_graph(lifted), {name: np.asarray(value) for name, value in lifted.initial.items()}
    assert step is not None
    with mock.patch("rnn_export.export.targets.c.operators.sliding_states.LEAST", 2**62):
        moved = sources(step, lifted.spec, initial, "net")
    return moved, sources(step, lifted.spec, initial, "net"), lifted.spec


def _steps(files: Files, spec: StreamSpec):  # type: ignore[no-untyped-def]
    """A call of `STEPS` steps, and the bytes of a state."""
    step, (x, y) = compiled(files, "net", spec), (spec.inputs[0], spec.outputs[0])
    frames, outputs = (np.zeros((STEPS, int(np.prod(sized(t.shape, 1, 1)))), np.float32) for t in (x, y))
    frames[:] = np.random.default_rng(0).standard_normal(frames.shape)
    places = [(ctypes.c_void_p * 1)(array.ctypes.data) for array in (frames, outputs)]

    def call(held=(step, frames, outputs)) -> None:  # type: ignore[no-untyped-def]
        step.call.rnn_rows(step.state.ctypes.data, 0, *places, 1, STEPS)

    return call, len(step.state)
