"""Every net of the tests that is exported, once, by name: the parity table, the nets of others, those compiled as C."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..native.models import MODELS, headed  # noqa: TID252
from ..parity.cases import CASES  # noqa: TID252
from ..parity.fixtures import FIXTURES  # noqa: TID252

Built = tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]


@dataclass(frozen=True)
class Net:
    """How it is made, and the targets that it is exported to in fp32; in fewer bits it is C alone."""

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


NETS: Mapping[str, Net] = {
    **{case.name: Net(case.build, ("onnx", "torchscript", "c")) for case in CASES},
    **{f.name: Net(lambda f=f: (f.load(), f.example, f.options)) for f in FIXTURES},  # type: ignore[misc]
    **{f"{name}-in-c": Net(make) for name, make in MODELS.items()},
    "lstm-of-40": Net(lambda: headed(nn.LSTM, 33, 40, 5)),
    "gru-of-40": Net(lambda: headed(nn.GRU, 33, 40, 70)),
    "denoised-sound": Net(denoised_sound, ("c",)),
    "two-layers": Net(two_layers),
    "two-layers-on-onnx": Net(two_layers, ("onnx",)),
    "two-layers-of-pages": Net(two_layers, ("torchscript", "pt2", "tensorrt")),
}
