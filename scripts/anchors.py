"""Nets with figures that others publish, stepped in C on this machine; docs/benchmarks.md quotes those."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from native_speed import added, steps_in_c
from torch import nn
from turns import in_turn

from rnn_export.bundle import open_bundle
from rnn_export.export import export

# Vollo's benchmark of LSTM stacks: units, layers; a head of 32, and as many inputs as units (not said there).
STACKS = ((128, 2), (256, 3), (480, 3), (320, 6), (960, 3))
# LPCNet's larger GRU (Valin and Skoglund 2019), a step for each sample; dense here, of three embeddings and a frame.
LPCNET, LPCNET_INPUTS, SAMPLES = 384, 512, 16_000
# MLPerf Tiny's streaming wake word: blocks of a depthwise and a pointwise convolution, over 40 bands, for 3 classes.
WAKE_WORD, BANDS = ((128, 3), (64, 5), (64, 10), (32, 15)), 40
ROUNDS, FRAMES = 21, 64


class Stack(nn.Module):
    """Recurrent layers and a head."""

    def __init__(self, cell: Callable[..., nn.Module], inputs: int, hidden: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.rnn, self.head = cell(inputs, hidden, layers, batch_first=True), nn.Linear(hidden, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.rnn(x)[0])
        return y


class WakeWord(nn.Module):
    """Padded on the left, so that a step is a frame of 40 bands."""

    def __init__(self) -> None:
        super().__init__()
        blocks, inputs = [], BANDS
        for outputs, size in WAKE_WORD:
            deep = nn.Conv1d(inputs, inputs, size, groups=inputs, bias=False)
            wide = nn.Conv1d(inputs, outputs, 1, bias=False)
            blocks += [nn.ConstantPad1d((size - 1, 0), 0.0), deep, wide, nn.BatchNorm1d(outputs), nn.ReLU()]
            inputs = outputs
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inputs, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.blocks(x.mT).mT)
        return y


def anchors() -> Iterator[tuple[str, float]]:
    """A step in C, µs, of fp32 and int8, and how many times real time LPCNet's is."""
    for hidden, layers in STACKS:
        for precision, taken in _steps(Stack(nn.LSTM, hidden, hidden, layers, 32), hidden).items():
            yield f"LSTM {hidden} x {layers}, head of 32: {precision}, µs", taken
    for precision, taken in _steps(Stack(nn.GRU, LPCNET_INPUTS, LPCNET, 1, 16), LPCNET_INPUTS).items():
        yield f"GRU {LPCNET_INPUTS} -> {LPCNET}, as LPCNet's, dense: {precision}, µs", taken
        yield f"the same at 16 kHz, times real time: {precision}", 1e6 / SAMPLES / taken
    for precision, taken in _steps(WakeWord(), BANDS).items():
        yield f"MLPerf Tiny's streaming wake word, a frame: {precision}, µs", taken


def _steps(net: nn.Module, inputs: int) -> dict[str, float]:
    """µs of a step by precision."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.rnnx"
        export(net.eval(), (torch.randn(2, 40, inputs),), path, steps=32, targets=("onnx", "c"))
        added(path, "int8")
        x = np.random.default_rng(0).standard_normal((1, FRAMES, inputs)).astype(np.float32)
        y = np.zeros((1, FRAMES, *open_bundle(path).spec.outputs[0].frame), np.float32)
        calls = {precision: steps_in_c(path, precision, x, y) for precision in ("fp32", "int8")}
        taken = in_turn(calls, ROUNDS, 1)
        return {precision: float(np.median(times)) / FRAMES for precision, times in taken.items()}
