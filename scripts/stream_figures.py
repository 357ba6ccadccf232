"""Step costs of nets with transforms and attention over time, on ONNX Runtime and in C, in turn on one core."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from turns import in_turn

HERE = Path(__file__).parent
sys.path += [str(HERE / "pipelines"), str(HERE.parent / "examples" / "denoiser")]

import denoiser as spectral  # noqa: E402
from transformer import Layer  # noqa: E402

from rnn_export.errors import LiftError  # noqa: E402
from rnn_export.export import export  # noqa: E402
from rnn_export.runtime import Stream, load  # noqa: E402

BACKENDS = {"onnxruntime": "ONNX Runtime", "native": "C"}
WINDOWS = (64, 256, 1024, 4096)
WIDTH, HEADS, MANY = 64, 4, 100_000
TARGETS = ("onnx", "c")
Figures = Iterator[tuple[str, float]]


def denoiser() -> Figures:
    """16 kHz, windows of 32 ms every 8 ms, a GRU of 64 units over 257 frequencies; a step is a hop."""
    net, example, options = spectral.factory()
    with tempfile.TemporaryDirectory() as folder:
        path = export(net, example, Path(folder) / "denoiser.rnnx", targets=TARGETS, steps=32, **options).path
        frame = np.random.default_rng(0).standard_normal(spectral.HOP).astype(np.float32)
        for backend, median in _medians(_streams(path), frame).items():
            yield f"a hop of 8 ms on {BACKENDS[backend]}, µs", median
            yield f"times real time on {BACKENDS[backend]}", 1e6 * spectral.HOP / spectral.SAMPLE_RATE / median


class Attention(nn.Module):
    """One layer with rotary embeddings over the last `window` frames, (B, T, C)."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window, self.layer = window, Layer(WIDTH, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1])
        separate = positions[:, None] - positions[None]
        return self.layer(x, positions, (separate >= 0) & (separate < self.window))


def attention() -> Figures:
    """A layer of 64 channels and 4 heads; how long export takes, what a step costs, and whether it stays so."""
    frame = np.random.default_rng(0).standard_normal(WIDTH).astype(np.float32)
    for window in WINDOWS:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            path, begin = Path(folder) / "attention.rnnx", time.process_time()
            example = (torch.zeros(1, 12, WIDTH),)
            try:
                export(Attention(window).eval(), example, path, targets=TARGETS, steps=32, time_axis=1)
            except LiftError as error:
                print(f"  {window} frames: {error}", file=sys.stderr)
                continue
            yield f"{window} frames: lift, export and verify, s of one core", time.process_time() - begin
            streams = _streams(path)
            for backend, median in _medians(streams, frame).items():
                yield f"{window} frames: a step on {BACKENDS[backend]}, µs", median
            yield (
                f"{window} frames: last tenth of {MANY:,} steps over the first, C",
                _last_over_first(streams["native"]),
            )


def _streams(path: Path) -> dict[str, Stream]:
    return {backend: load(path, backend).stream() for backend in BACKENDS}


def _medians(streams: dict[str, Stream], frame: np.ndarray) -> dict[str, float]:
    calls = {backend: lambda stream=stream: stream.step(frame) for backend, stream in streams.items()}
    return {backend: float(np.median(times)) for backend, times in in_turn(calls, 501, 3).items()}


def _last_over_first(stream: Stream) -> float:
    """The median time of a step late in a long stream, of that from its start on."""
    frames = np.random.default_rng(0).standard_normal((1000, WIDTH)).astype(np.float32)
    stream.reset()
    times = np.empty(MANY)
    for number in range(MANY):
        begin = time.perf_counter()
        stream.step(frames[number % len(frames)])
        times[number] = time.perf_counter() - begin
    return float(np.median(times[-MANY // 10 :]) / np.median(times[: MANY // 10]))
