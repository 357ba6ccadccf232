"""The error of sums, scans and counts against float64 after a million frames, of streams and of the model."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rnn_export.export import export
from rnn_export.runtime import load
from tests.models.scan_nets import MinGRU

FRAMES = 1_000_000
# Frames whose largest error is told.
LAST = 1000


class Norm(nn.Module):
    """Cumulative layer norm: x (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[2] * (torch.arange(x.shape[1]) + 1).view(1, -1, 1)
        mean = x.sum(2, keepdim=True).cumsum(1) / count
        power = x.pow(2).sum(2, keepdim=True).cumsum(1) / count
        return (x - mean) / (power - mean.pow(2) + 1e-5).sqrt()


class Mean(nn.Module):
    """The mean of all frames so far."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1) / (torch.arange(x.shape[1]) + 1).view(1, -1, 1)


class EveryThird(nn.Module):
    """Every third frame alone."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((torch.arange(x.shape[1]) % 3 == 0)[:, None], x, -x)


def drift() -> Iterator[tuple[str, float]]:
    noise = torch.randn(1, FRAMES, 4) + 1
    nets: list[tuple[str, nn.Module, Tensor, str]] = [
        ("cumulative norm of noise about 1", Norm(), noise, "c"),
        ("cumulative mean of 0.1", Mean(), torch.full((1, FRAMES, 4), 0.1), "c"),
        ("minGRU", MinGRU(), noise, "c"),
        ("every third frame", EveryThird(), noise, "onnx"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, module, x, target in nets:
            path = Path(folder) / "it.rnnx"
            options = {"rtol": 1e-3} if name == "minGRU" else {}
            export(module.eval(), (x[:, :12],), path, targets=(target,), time_axis=1, force=True, **options)
            want = _true(module, x)[-LAST:]
            with torch.no_grad():
                own = module(x)[0, -LAST:].numpy()
            yield f"{name}: the model on the whole sequence in float32", _error(own, want)
            got = load(path, backend="native" if target == "c" else "onnxruntime").stream().run(x[0].numpy())
            yield f"{name}: the stream ({target})", _error(got[-LAST:], want)
    yield "cumulative mean of 0.1, summed in one float32", _error(_plain_mean(), np.full(LAST, np.float32(0.1)))


def _true(module: nn.Module, x: Tensor) -> np.ndarray:
    """The output (time, ...) in float64; of a recurrence from frame to frame."""
    doubled = copy.deepcopy(module).double()
    with torch.no_grad():
        if not isinstance(doubled, MinGRU):
            return doubled(x.double())[0].numpy()
        k, candidate = doubled.gate(x.double())[0], doubled.hidden(x.double())[0]
        gate = torch.sigmoid(k).numpy()
        value = gate * torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate)).numpy()
        h, frames = np.zeros(5), np.empty_like(value)
        for t in range(len(value)):
            h = (1 - gate[t]) * h + value[t]
            frames[t] = h
        return doubled.out(torch.from_numpy(frames)).numpy()


def _plain_mean() -> np.ndarray:
    sums = np.cumsum(np.full(FRAMES, 0.1, np.float32), dtype=np.float32)
    return sums[-LAST:] / np.arange(FRAMES - LAST + 1, FRAMES + 1)


def _error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error over the largest magnitude; NaN where it gives none."""
    return float(np.abs(got - want).max() / np.abs(want).max())
