"""The figures of other runtimes: cases of the parity table that they take, how far off, and what a step costs there."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import model as silero
import torch
from torch import nn

from rnn_export.bundle import Bundle, TargetRow, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.errors import RnnExportError
from rnn_export.export import export
from rnn_export.export.add_target import add_target
from rnn_export.export.lift.api import lift
from rnn_export.export.targets.registry import find_writer
from rnn_export.runtime.bench.measure import bench
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden
from rnn_export.target_options import TargetOptions
from rnn_export.targets import TARGETS
from tests.parity.cases import CASES, Case
from tests.zoo import store

RUNTIMES = ("openvino", "litert", "executorch", "executorch-portable")
BACKENDS = ("onnxruntime", "native", "openvino", "litert", "executorch")
Figures = Iterator[tuple[str, float]]


def parity() -> Figures:
    """By runtime and precision: the largest relative error of each case; what is refused goes to stderr."""
    for target in RUNTIMES:
        for precision in TARGETS[target].precisions:
            taken, largest = 0, 0.0
            for case in CASES:
                bundle = open_bundle(store.bundle(case.name))
                try:
                    engine = Engine.of(written(case, bundle, target, precision), TARGETS[target].backend)
                    report = replay_golden(engine, Golden.from_arrays(bundle.arrays(FILE), bundle.spec))
                except RnnExportError as error:
                    print(f"  {target} {precision} refuses {case.name}: {error}", file=sys.stderr)
                    continue
                taken, worst = taken + 1, max(drift.relative for drift in report.drifts)
                largest = max(largest, worst)
                yield f"{target} {precision}, {case.name}: relative error", worst
            yield f"{target} {precision}: cases of {len(CASES)} that it takes", taken
            yield f"{target} {precision}: largest relative error", largest


def written(case: Case, bundle: Bundle, target: str, precision: str) -> Draft:
    """The target of a case, from the step of its bundle or, where that does not give it, from the model."""
    row, options = TARGETS[target], TargetOptions(precision)
    if not row.from_torch:
        return add_target(bundle, target, options)
    model, example, how = case.build()
    files = find_writer(target).write(lift(model, example, **how), row, options)
    return Draft(bundle.spec, files, (TargetRow(target, precision, None, tuple(files), {}),), bundle.initial_states())


def cost() -> Figures:
    """Of one step, in µs, every runtime in turn on one core; the median."""
    for name, net, example, options in nets():
        with tempfile.TemporaryDirectory() as folder:
            targets = ("onnx", "c", *RUNTIMES)
            path = export(net, example, Path(folder) / "net.rnnx", **{**options, "targets": targets, "steps": 64}).path
            for engine in bench(path, BACKENDS, trust=True)["engines"]:
                yield f"{name}: {engine['name']}, step, µs", engine["p50"]


def nets() -> Iterator[tuple[str, nn.Module, tuple[torch.Tensor, ...], dict]]:
    """The nets that are timed."""
    for inputs, hidden in ((8, 16), (64, 128)):
        yield f"LSTM {inputs}→{hidden}", nn.LSTM(inputs, hidden).eval(), (torch.zeros(1, 1, inputs),), {}
    yield "Silero VAD", *silero.factory()
