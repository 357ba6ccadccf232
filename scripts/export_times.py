"""The times of exports: CPU seconds on one thread, with those of its C compiler, over ranges of sizes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNS = 3
LAYERS, UNITS = (8, 16, 32, 64), (256, 512, 1024)


def export_times() -> Iterator[tuple[str, float]]:
    """For each net, the first export of a process and a second one: medians of three processes."""
    for name in _nets():
        first, again = zip(*(_in_a_process(name) for _ in range(RUNS)), strict=True)
        yield f"{name}: the first of a process", statistics.median(first)
        yield f"{name}: another", statistics.median(again)


def _in_a_process(name: str) -> tuple[float, float]:
    there = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run([sys.executable, __file__, name], env=there, check=True, capture_output=True, text=True)
    first, again = json.loads(done.stdout)
    return float(first), float(again)


def _nets() -> Mapping[str, Callable[[], tuple[Any, ...]]]:
    """(model, example, targets, further arguments) by name."""
    sys.path[:0] = [str(HERE), str(HERE / "silero_vad")]
    import model as silero
    import torch
    from torch import nn

    class Causal(nn.Sequential):
        """(B, C, T): convolutions with everything behind them."""

        def __init__(self, layers: int) -> None:
            widths = (2 ** (i % 8) for i in range(layers))
            parts = ((nn.ConstantPad1d((2 * d, 0), 0.0), nn.Conv1d(32, 32, 3, dilation=d), nn.ReLU()) for d in widths)
            super().__init__(*(module for part in parts for module in part))

    def lstm(inputs: int, hidden: int, layers: int, targets: tuple[str, ...]) -> tuple[Any, ...]:
        return nn.LSTM(inputs, hidden, layers, batch_first=True).eval(), (torch.zeros(1, 5, inputs),), targets, {}

    def silero_vad() -> tuple[Any, ...]:
        model, example, options = silero.factory()
        return model, example, ("onnx",), options

    def causal(layers: int) -> tuple[Any, ...]:
        return Causal(layers).eval(), (torch.randn(1, 32, 40),), ("onnx", "c"), {}

    return {
        "Silero VAD": silero_vad,
        "nn.LSTM(64, 128) to onnx, c, torchscript": lambda: lstm(64, 128, 1, ("onnx", "c", "torchscript")),
        **{f"causal convolutions, {n} layers, with C": lambda n=n: causal(n) for n in LAYERS},
        **{f"nn.LSTM({n}, {n}, 2), with C": lambda n=n: lstm(n, n, 2, ("onnx", "c")) for n in UNITS},
    }


def _measure(name: str) -> None:
    import torch

    from rnn_export.export import export

    torch.manual_seed(0)
    model, example, targets, options = _nets()[name]()
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(2):
            before = os.times()
            export(model, example, Path(folder) / f"{i}.rnnx", targets=targets, **options)
            taken.append(sum(os.times()[:4]) - sum(before[:4]))
    print(json.dumps(taken))


if __name__ == "__main__":
    _measure(sys.argv[1])
