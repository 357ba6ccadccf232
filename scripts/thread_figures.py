"""The figures of threads: steps of LSTM stacks on the backend native by a team of threads, against one thread."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from anchors import Stack
from torch import nn

from rnn_export.export import export
from rnn_export.runtime import load

# Before anybody stays on one of them.
CORES = os.sched_getaffinity(0)
# Layers, inputs, units; the first is below what is shared.
STACKS = ((1, 64, 128), (1, 128, 256), (2, 256, 256), (3, 256, 256), (3, 480, 480), (6, 320, 320))
THREADS, OUTPUTS = 2, 32
# Each turn begins with steps that nobody times, µs of them: a thread that slept in the other's turn wakes up.
WAKING_US, TURNS, STEPS = 500, 101, 40


def threads() -> Iterator[tuple[str, float]]:
    """Both take turns in one process, over the same frames, whose results are the same bits."""
    if len(CORES) < THREADS:
        raise SystemExit(f"this process may use {len(CORES)} core: two threads need two.")
    with _on_all_cores(), tempfile.TemporaryDirectory() as folder:
        for layers, inputs, hidden in STACKS:
            path = Path(folder) / f"net{layers}_{hidden}.rnnx"
            net = Stack(nn.LSTM, inputs, hidden, layers, OUTPUTS).eval()
            export(net, (torch.randn(1, 5, inputs),), path, steps=16, targets=("onnx", "c"))
            yield from _measured(f"LSTM {layers} x {inputs} -> {hidden}", path, inputs)


def _measured(name: str, path: Path, inputs: int) -> Iterator[tuple[str, float]]:
    one, more = (load(path, "native", threads=n).stream() for n in (1, THREADS))
    frame, outs = (
        np.random.default_rng(0).standard_normal(inputs).astype(np.float32),
        np.zeros((2, OUTPUTS), np.float32),
    )
    for _ in range(100):
        if not np.array_equal(one.step(frame, outs[0]), more.step(frame, outs[1])):
            raise SystemExit(f"{name}: {THREADS} threads give other bits than one")
    calls = {"one": lambda: one.step(frame, outs[0]), "more": lambda: more.step(frame, outs[1])}
    waking = int(WAKING_US / np.median(_timed(calls["one"], 0))) + 1
    turns = [{n: _timed(call, waking) for n, call in calls.items()} for _ in range(TURNS)]
    steps = {n: np.concatenate([turn[n] for turn in turns]) for n in calls}
    for what, of in (("fastest", np.min), ("median", np.median)):
        alone, shared = float(of(steps["one"])), float(of(steps["more"]))
        yield f"{name}: the {what} step, one thread, µs", alone
        yield f"{name}: the {what} step, {THREADS} threads, µs", shared
        yield f"{name}: the {what} step, times as fast", alone / shared


def _timed(call: Callable[[], object], waking: int) -> np.ndarray:
    """µs of each of some steps, behind some that are not timed."""
    for _ in range(waking):
        call()
    marks = []
    for _ in range(STEPS):
        marks.append(time.perf_counter())
        call()
    return np.diff([*marks, time.perf_counter()]) * 1e6


@contextmanager
def _on_all_cores() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
