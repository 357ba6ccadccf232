"""Every net of the tests that is exported, once, by name: the parity table, the nets of others, those compiled as C."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.nets import Several  # noqa: TID252
from ..native.models import MODELS, headed  # noqa: TID252
from ..parity.cases import CASES  # noqa: TID252
from ..parity.fixtures import FIXTURES  # noqa: TID252

Built = tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]


@dataclass(frozen=True)
class Net:
    """The factory of a net and its targets in fp32; lower precisions are exported to C alone."""

    build: Callable[[], Built]
    targets: tuple[str, ...] = ("onnx", "c")


def two_layers() -> Built:
    torch.manual_seed(0)
    names = {"input_names": ["x"], "output_names": ["y"]}
    return nn.LSTM(8, 16, 2).eval(), (torch.zeros(1, 1, 8),), names


def denoised_sound() -> Built:
    """A look-ahead over samples, whose ends are mirrored: sound in, as much sound out."""
    model, example, options = next(case for case in CASES if case.name == "spectral-mask").build()
    return model, example, {**options, "sample_rate": 16000}


class ManyCells(nn.Module):
    """Cells and products whose outputs are computed in blocks: of 16 units, of 64 outputs, with a rest and without."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.gru = nn.LSTM(24, 48, batch_first=True), nn.GRU(48, 80, batch_first=True)
        self.tiles, self.plain = nn.LSTM(80, 40, batch_first=True), nn.RNN(40, 128, batch_first=True)
        self.head = nn.Linear(128, 100)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.blocks, self.gru, self.tiles, self.plain):
            x, _ = layer(x)
        y: Tensor = self.head(x)
        return y


def many_cells() -> Built:
    torch.manual_seed(0)
    return ManyCells().eval(), (torch.zeros(1, 6, 24),), {"chunk": 3}


class Vocoder(nn.Module):
    """A spectrum, and four samples for each of its frames; the spectrum looks ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.around, self.gru = nn.Conv1d(3, 2, 3, padding=1), nn.GRU(3, 5, batch_first=True)

    def forward(self, samples: Tensor, spectrum: Tensor) -> Tensor:
        extra = self.around(spectrum.mT).repeat_interleave(4, 2)
        y: Tensor = self.gru(torch.cat([samples, extra], 1).mT)[0]
        return y


def two_rates() -> Built:
    torch.manual_seed(0)
    return Vocoder().eval(), (torch.randn(2, 1, 28), torch.randn(2, 7, 3)), {"chunk": 2}


def several() -> Built:
    torch.manual_seed(0)
    example = (torch.zeros(2, 7, 4), torch.zeros(2, 7, 3), torch.zeros(2, 2))
    return Several().eval(), example, {"chunk": 2}


class BelowThePeak(nn.Module):
    """Each frame's distance below the largest so far: a state that starts from -inf."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.cummax(1).values


NETS: Mapping[str, Net] = {
    **{case.name: Net(case.build, ("onnx", "torchscript", "c")) for case in CASES},
    **{f.name: Net(lambda f=f: (f.load(), f.example, f.options)) for f in FIXTURES},  # type: ignore[misc]
    **{f"{name}-in-c": Net(make) for name, make in MODELS.items()},
    "lstm-of-40": Net(lambda: headed(nn.LSTM, 33, 40, 5)),
    "gru-of-40": Net(lambda: headed(nn.GRU, 33, 40, 70)),
    "denoised-sound": Net(denoised_sound, ("c",)),
    "many-cells": Net(many_cells, ("onnx",)),
    "two-rates": Net(two_rates),
    **{
        f"several-on-{name}": Net(several, ("onnx", name))
        for name in ("torchscript", "openvino", "litert", "executorch")
    },
    "below-the-peak": Net(lambda: (BelowThePeak().eval(), (torch.zeros(1, 6, 3),), {})),
    "two-layers": Net(two_layers),
    "two-layers-on-onnx": Net(two_layers, ("onnx",)),
    "two-layers-of-pages": Net(two_layers, ("torchscript", "pt2", "tensorrt")),
}
