"""The figures of docs/benchmarks.md, on one pinned core: parity over 1,000 steps, cost of a step, start-up times."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "silero_vad"), str(HERE.parent)]

import anchors  # noqa: E402
import drift  # noqa: E402
import export_times  # noqa: E402
import fourier_figures  # noqa: E402
import lifting  # noqa: E402
import model as silero  # noqa: E402
import native_sizes  # noqa: E402
import native_speed  # noqa: E402
import pool_figures  # noqa: E402
import runtimes  # noqa: E402
import small_nets  # noqa: E402
import stream_figures  # noqa: E402
import tensorrt_figures  # noqa: E402
import thread_figures  # noqa: E402
import web_figures  # noqa: E402
import window_figures  # noqa: E402
from native_speed import Net  # noqa: E402
from turns import in_turn  # noqa: E402

from rnn_export.export import export  # noqa: E402
from rnn_export.models import CustomGRU, CustomLSTM, SimpleRNN  # noqa: E402
from rnn_export.platform.threads import one_thread  # noqa: E402
from rnn_export.runtime import load  # noqa: E402
from tests.models import equations  # noqa: E402

STEPS = 1000


@one_thread
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on stdout")
    parser.add_argument("--only", action="append", metavar="PART", help=f"only these parts: {', '.join(PARTS)}")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core to run on")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    torch.manual_seed(0)
    figures: dict[str, dict[str, Any]] = {}
    for part in arguments.only or PARTS:
        title, measure = PARTS[part]
        figures[title] = {}
        print(title, file=sys.stderr)
        for name, value in measure():
            figures[title][name] = value
            print(f"  {name:66} {value:.3g}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(figures))


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error over the largest magnitude."""
    return float(np.abs(got - want).max() / np.abs(want).max())


# --- parity


def parity() -> Iterator[tuple[str, float]]:
    x = torch.randn(STEPS, 2, 16)
    cells: list[tuple[str, nn.Module, Callable[..., Any], int]] = [
        ("SimpleRNN", SimpleRNN(16, 32, 8), equations.simple_rnn, 0),
        ("CustomGRU, 2 layers", CustomGRU(16, 32, 2), equations.gru, 1),
        ("CustomLSTM, 2 layers", CustomLSTM(16, 32, 2), equations.lstm, 2),
    ]
    for name, module, equation, states in cells:
        shape = (2, 32) if states == 0 else (2, 2, 32)
        zeros = tuple(np.zeros(shape) for _ in range(max(states, 1)))
        want, _ = equation(equations.arrays(module), x.double().numpy(), zeros)
        with torch.no_grad():
            got = module(x, torch.zeros(2, 32))[0] if states == 0 else module(x)[0]
        yield f"{name} against its equation in float64", relative(got.numpy(), want)
        yield from exported(name, module, x, want)
    rnn, head = nn.RNN(16, 32), nn.Linear(32, 8)
    with torch.no_grad():
        want = head(rnn(x)[0]).numpy()
        got = SimpleRNN.from_torch(rnn, head)(x, torch.zeros(2, 32))[0].numpy()
    yield "SimpleRNN.from_torch against nn.RNN and nn.Linear", relative(got, want)
    for layer, twin in ((nn.GRU(16, 32, 2), CustomGRU), (nn.LSTM(16, 32, 2), CustomLSTM)):
        with torch.no_grad():
            want = layer(x)[0].numpy()
            got = twin.from_torch(layer)(x)[0].numpy()
        yield f"{twin.__name__}.from_torch against nn.{type(layer).__name__}", relative(got, want)
        yield from exported(f"nn.{type(layer).__name__}, 2 layers", layer, x, want)
    yield from silero_parity()


def exported(name: str, module: nn.Module, x: torch.Tensor, want: np.ndarray) -> Iterator[tuple[str, float]]:
    """ONNX step by step, whole, and in random pieces against `want` (time, batch, ...)."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(module.eval(), (x[:5],), Path(folder) / "m.rnnx", steps=64)
        stream = load(bundle.path).stream(batch=2)
        frames = x.numpy()
        yield f"{name}: ONNX step", relative(np.stack([stream.step(frame) for frame in frames]), want)
        stream.reset()
        rows = frames.swapaxes(0, 1)
        yield f"{name}: ONNX sequence", relative(stream.run(rows).swapaxes(0, 1), want)
        stream.reset()
        cuts = np.sort(np.random.default_rng(0).choice(STEPS, 40, replace=False))
        pieces = [stream.run(piece) for piece in np.split(rows, cuts, 1)]
        yield f"{name}: ONNX in random pieces", relative(np.concatenate(pieces, 1).swapaxes(0, 1), want)


@torch.no_grad()
def silero_parity() -> Iterator[tuple[str, float]]:
    from rnn_export.runtime.recording import read

    net, example, options = silero.factory()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        bundle = export(net, example, Path(folder) / "vad.rnnx", **options)
        took = time.perf_counter() - begin
        clip = read(HERE / "silero_vad" / "speech.wav", bundle.spec)["samples"][0]
        stream = load(bundle.path).stream()
        frames = np.concatenate([clip] * (STEPS // len(clip) + 1))[:STEPS]
        got = np.stack([stream.step(frame) for frame in frames])
        states: tuple[torch.Tensor, ...] = tuple(torch.zeros(1, n) for n in (64, 128, 128))
        want = []
        for frame in torch.from_numpy(frames):
            p, *states = net(frame[None], *states)
            want.append(p[0].numpy())
        yield "Silero VAD on speech: ONNX step, probability", relative(got, np.stack(want))
        for name, value in zip(("context", "h", "c"), states, strict=True):
            yield f"Silero VAD on speech: state {name} at the end", relative(stream.states[name], value.numpy())
        yield "Silero VAD: lift, export and verify, s", took


# --- cost


def step_cost() -> Iterator[tuple[str, float]]:
    for inputs, hidden in ((8, 16), (64, 128), (256, 512)):
        name, costs = f"LSTM {inputs} -> {hidden}", lstm_cost(inputs, hidden)
        yield f"{name}: hand-written io_binding ping-pong", float(np.median(costs["by hand"]))
        yield f"{name}: Stream.step, input checked", float(np.median(costs["Stream.step"]))
        yield f"{name}: the difference, pair by pair", float(np.median(costs["Stream.step"] - costs["by hand"]))
    net, example, options = silero.factory()
    with tempfile.TemporaryDirectory() as folder:
        stream = load(export(net, example, Path(folder) / "vad.rnnx", steps=32, **options).path).stream()
        frame = np.zeros(512, np.float32)
        costs = in_turn({"step": lambda: stream.step(frame)})
        yield "Silero VAD: Stream.step of 32 ms", float(np.median(costs["step"]))


def lstm_cost(inputs: int, hidden: int) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(
            Net(nn.LSTM, inputs, hidden).eval(), (torch.randn(5, 2, inputs),), Path(folder) / "m.rnnx", steps=32
        )
        stream, by_hand = (
            load(bundle.path, "onnxruntime").stream(),
            hand_written(bundle.read("step.onnx"), inputs, hidden),
        )
    frame = np.random.default_rng(0).standard_normal(inputs).astype(np.float32)
    np.testing.assert_allclose(stream.step(frame), by_hand(frame), atol=1e-6)
    return in_turn({"Stream.step": lambda: stream.step(frame), "by hand": lambda: by_hand(frame)})


def hand_written(graph: bytes, inputs: int, hidden: int) -> Callable[[np.ndarray], np.ndarray]:
    """Hand-written code for this graph alone: two bindings made once, states swapped, nothing checked."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    value = ort.OrtValue.ortvalue_from_numpy
    x, y = np.zeros((1, 1, inputs), np.float32), np.zeros((1, 1, 1), np.float32)
    names = ("rnn.l0.h", "rnn.l0.c")
    sets = [{name: value(np.zeros((1, hidden), np.float32)) for name in names} for _ in range(2)]
    bindings = []
    for now in range(2):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", value(x))
        binding.bind_ortvalue_output("output", value(y))
        for name in names:
            binding.bind_ortvalue_input(name, sets[now][name])
            binding.bind_ortvalue_output(f"{name}.next", sets[1 - now][name])
        bindings.append(binding)
    now = 0

    def step(frame: np.ndarray) -> np.ndarray:
        nonlocal now
        x[0, 0] = frame
        session.run_with_iobinding(bindings[now])
        now ^= 1
        return y[0, 0].copy()

    return step


# --- start-up


def start_up() -> Iterator[tuple[str, float]]:
    command = str(Path(sys.executable).with_name("rnn-export"))
    yield "rnn-export --help", process([command, "--help"])
    yield "rnn-export export --help", process([command, "export", "--help"])
    alone = process([sys.executable, "-c", "import numpy"])
    both = process([sys.executable, "-c", "import numpy, rnn_export.runtime"])
    yield "import rnn_export.runtime, over numpy's", both - alone


def process(command: list[str], runs: int = 11) -> float:
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


PARTS: dict[str, tuple[str, Callable[[], Iterator[tuple[str, float]]]]] = {
    "parity": ("Parity, fp32, 1,000 steps closed loop, relative to scale", parity),
    "cases": ("Every case of the parity table, fp32, 1,000 frames, worst error relative to scale", lifting.cases),
    "third": ("Nets of third parties, 1,000 frames, worst error relative to scale", lifting.third_party),
    "random": ("200 random architectures", lifting.random_architectures),
    "long": ("A million steps, worst error relative to scale against float64", lifting.million_steps),
    "drift": ("Sums, scans and counts after a million frames, relative to scale against float64", drift.drift),
    "time": ("An export with its verification, s of one core", export_times.export_times),
    "rtx": (
        "TensorRT-RTX, every streaming case: parse and build, engine, executor over 200 steps",
        tensorrt_figures.rtx,
    ),
    "half": (
        "Silero VAD over 30 s of speech in half the bits, against fp32 (numeric, not run on hardware)",
        tensorrt_figures.half,
    ),
    "c": ("The C target, one core: from Python, and from C", native_speed.speed),
    "small": ("Small nets in C, one core; against RTNeural where $RTNEURAL is its checkout", small_nets.small),
    "anchors": ("Nets that others publish figures of, a step in C, one core", anchors.anchors),
    "fourier": ("Real transforms in C, one core", fourier_figures.fourier),
    "denoiser": ("A spectral denoiser from samples to samples, a step, one core", stream_figures.denoiser),
    "attention": ("Attention over the last W frames, a step, one core", stream_figures.attention),
    "windows": (
        "Windows over time that slide in C against windows moved at each step, one core",
        window_figures.figures,
    ),
    "threads": ("Two threads on the backend native against one, a step from Python", thread_figures.threads),
    "vad": ("Silero VAD in C", native_speed.vad),
    "size": ("The C target in bytes, Cortex-M as QEMU measures it", native_sizes.sizes),
    "wasm": ("The target wasm, one core: a step in Node, Chromium and wasmtime", web_figures.web),
    "truth": ("Nets of third parties against float64, 1,000 frames, relative to scale", native_speed.truth),
    "pool": ("A pool of 256 streams, one core", pool_figures.pool),
    "soak": ("10,000 open streams, ragged rounds for 60 s", pool_figures.soak),
    "held": ("Live streams on one core, p99 below a frame's time", pool_figures.held),
    "failover": ("32 sessions on two Triton servers, one killed", pool_figures.failover),
    "step": ("Cost of a step on ONNX Runtime, µs, median", step_cost),
    "runtimes": ("Other runtimes: every case of the parity table, golden vectors, relative to scale", runtimes.parity),
    "runtime-step": ("A step on every runtime, from Python, µs, median", runtimes.cost),
    "start": ("Start-up, s, median", start_up),
}

if __name__ == "__main__":
    main()
