"""The figures of lifting: the parity table, random architectures, a million steps, and the time it takes."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rnn_export.export import export
from rnn_export.runtime import load
from tests.parity.cases import CASES
from tests.parity.fixtures import FIXTURES
from tests.parity.test_parity import Exported, by_run, by_step, exported_case
from tests.properties.survey import survey

Figures = Iterator[tuple[str, float]]
FRAMES = 1008  # whole chunks of 2, 3 and 4
LENGTH = 1000
LONG = 1_000_000
BLOCK = 10_000


def cases() -> Figures:
    """The worst of outputs and last states, stepped frame by frame and run at once; on ONNX Runtime, and in C."""
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            it = exported_case(case, Path(folder))
            yield case.name, _worst(it)
            yield f"{case.name}, C", _worst(it.natively())


def _worst(it: Exported) -> float:
    inputs = it.draw(FRAMES)
    wanted = it.truth(inputs)
    given = [way(it, it.named(inputs)) for way in (by_step, by_run)]
    return max(
        _relative(got[n], want[n]) for both in given for got, want in zip(both, wanted, strict=True) for n in want
    )


def third_party() -> Figures:
    """Nets that others trained, on their own inputs over and over, against the module as it is."""
    for fixture in FIXTURES:
        model, inputs = fixture.load(), fixture.reference().inputs
        x = np.resize(inputs, (LENGTH, *inputs.shape[1:]))
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            targets = ("onnx", "c")
            export(model, fixture.example, Path(folder) / "m.rnnx", steps=64, targets=targets, **fixture.options)
            wanted = [y[0].numpy() for y in fixture.drive(model, torch.from_numpy(x)[None])]
            for backend, title in (("onnxruntime", fixture.name), ("native", f"{fixture.name}, C")):
                given = load(Path(folder) / "m.rnnx", backend).stream().run(x)
                outputs = list(given.values()) if isinstance(given, dict) else [given]
                yield title, max(_relative(a, b) for a, b in zip(outputs, wanted, strict=True))


def _relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got.astype(np.float64) - want).max() / max(np.abs(want).max(), 1e-30))


def random_architectures() -> Figures:
    """The number of exported ones, and the reasons of refusals."""
    figures = survey(200)
    for name, value in figures.items():
        if isinstance(value, list) and name != "slowest":
            yield name, float(len(value))
            for row in value:
                print(f"{row['architecture']}\n{row['message']}", file=sys.stderr)
        elif name == "reasons":
            yield from ((f"refused: {reason}", share) for reason, share in value.items())
        elif isinstance(value, dict):
            yield from ((f"exact with {of}", float(count)) for of, count in value.items())
        elif not isinstance(value, list):
            yield name, float(value)


def million_steps() -> Figures:
    """One stream, its state never reset, against the same layer in float64."""
    for layer in (nn.LSTM(16, 32), nn.GRU(16, 32)):
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            torch.manual_seed(0)
            stream = load(
                export(layer.eval(), (torch.zeros(5, 1, 16),), Path(folder) / "m.rnnx", steps=32).path
            ).stream()
            exact = type(layer)(16, 32).double()
            exact.load_state_dict(layer.state_dict())
            error, scale, state = 0.0, 0.0, None
            for _ in range(0, LONG, BLOCK):
                x = torch.randn(BLOCK, 1, 16)
                want, state = exact(x.double(), state)
                got = stream.run(x[:, 0].numpy())
                error = max(error, float(np.abs(got - want[:, 0].numpy()).max()))
                scale = max(scale, float(want.abs().max()))
            yield f"nn.{type(layer).__name__} 16 -> 32", error / scale
