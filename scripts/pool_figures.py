"""The figures of many streams: a pool against single steps, a long ragged run, and live streams held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from native_speed import CELLS, Net, added
from torch import nn
from turns import in_turn
from window_figures import causal

from rnn_export.bundle import Bundle, open_bundle
from rnn_export.export import export
from rnn_export.export.triton.repository import write_repository
from rnn_export.platform.arrays import Array
from rnn_export.runtime import Engine, load
from rnn_export.runtime.backends.native.session import NativeStateStore
from rnn_export.runtime.backends.onnxruntime.backend import OrtSession
from rnn_export.runtime.backends.onnxruntime.buffers import OrtStateStore
from tests.triton.server import Server

Figures = Iterator[tuple[str, float]]
STREAMS, OPEN = 256, 4096
INPUTS, HIDDEN = 64, 128
ROUNDS, NUMBER = 41, 20
SOAK_STREAMS, SOAK_SECONDS = 10_000, 60.0
SESSIONS = 32
HERE = Path(__file__).parent


def pool() -> Figures:
    """LSTM and GRU 64 -> 128, 256 streams: the calls take turns."""
    for name, cell in CELLS.items():
        with tempfile.TemporaryDirectory() as folder:
            bundle = _bundle(cell, Path(folder) / "net.rnnx")
            title = f"{name} {INPUTS} -> {HIDDEN}"
            frames = np.random.default_rng(0).standard_normal((STREAMS, INPUTS)).astype(np.float32)
            plain, native = load(bundle.path, "onnxruntime"), load(bundle.path, "native", "fp32")
            narrow, clock = load(bundle.path, "native", "int8", trust=True), Parts(load(bundle.path, "onnxruntime"))
            calls = {
                "bare": bare(plain, frames),
                "onnxruntime": same(plain, frames),
                "ragged": ragged(plain, frames),
                "native": same(native, frames),
                "native ragged": ragged(native, frames),
                "int8": same(narrow, frames),
                "parts": partial(clock.round, frames),
                "onnxruntime singly": singly(plain, frames),
                "native singly": singly(native, frames),
            }
            us = {key: float(np.median(taken)) for key, taken in in_turn(calls, ROUNDS, NUMBER).items()}
        each = {key: STREAMS / value * 1e3 for key, value in us.items()}
        yield f"{title}: onnxruntime, one bare run of {STREAMS} rows, k stream·steps/s", each["bare"]
        yield f"{title}: onnxruntime pool, k stream·steps/s", each["onnxruntime"]
        yield f"{title}: onnxruntime pool, of the bare run", us["bare"] / us["onnxruntime"]
        yield f"{title}: onnxruntime pool, rows of {OPEN} open streams, of the bare run", us["bare"] / us["ragged"]
        yield f"{title}: onnxruntime pool, gather and scatter, of the round", clock.share()
        yield f"{title}: onnxruntime pool, times as fast as single steps", us["onnxruntime singly"] / us["onnxruntime"]
        yield f"{title}: native pool, k stream·steps/s", each["native"]
        yield f"{title}: native pool, rows of {OPEN} open streams, k stream·steps/s", each["native ragged"]
        yield f"{title}: native pool, times as fast as single steps", us["native singly"] / us["native"]
        yield f"{title}: native pool in int8, k stream·steps/s", each["int8"]
        yield f"{title}: native pool in int8, times as fast as the onnxruntime pool", us["onnxruntime"] / us["int8"]
    yield from _windows()


def _windows() -> Figures:
    """Streams with long windows: a round looks for NaN in what enters them, and after states were written in all."""
    title = "20 convolutions of a channel each, 64 channels, dilations to 512: native pool"
    with tempfile.TemporaryDirectory() as folder:
        net, example, options = causal(64, 20, 512, 64)
        export(net, example, Path(folder) / "net.rnnx", steps=8, targets=("onnx", "c"), **options)
        pool = load(Path(folder) / "net.rnnx", "native").pool(STREAMS)
    ids, store = np.array([pool.open() for _ in range(STREAMS)]), cast(NativeStateStore, pool._store)
    frames = np.random.default_rng(0).standard_normal((STREAMS, 64)).astype(np.float32)

    def all_searched() -> None:
        store.suspect[:] = store.suspicious = True
        pool.step(ids, frames)

    calls: dict[str, Callable[[], Any]] = {"all": all_searched, "entering": lambda: pool.step(ids, frames)}
    us = {key: float(np.median(taken)) for key, taken in in_turn(calls, ROUNDS, 1).items()}
    yield f"{title}, k stream·steps/s", STREAMS / us["entering"] * 1e3
    yield f"{title}, times as fast as where all of the windows is searched for NaN", us["all"] / us["entering"]


def _bundle(cell: type[nn.RNNBase], path: Path) -> Bundle:
    torch.manual_seed(0)
    export(Net(cell, INPUTS, HIDDEN).eval(), (torch.randn(5, 2, INPUTS),), path, steps=32, targets=("onnx", "c"))
    added(path, "int8")
    return open_bundle(path)


def bare(engine: Engine, frames: Array) -> Callable[[], Any]:
    """The graph on rows that are there already."""
    graph = cast(OrtSession, engine._session).graphs.step
    inputs = {v.name: np.zeros((len(frames), HIDDEN), np.float32) for v in graph.get_inputs()}
    inputs[engine.spec.inputs[0].name] = frames[None]
    return lambda: graph.run(None, inputs)


def same(engine: Engine, frames: Array) -> Callable[[], Any]:
    """The same streams at each round, and no others open."""
    pool, out = engine.pool(len(frames)), np.zeros((len(frames), 1), np.float32)
    ids = np.array([pool.open() for _ in frames])
    return lambda: pool.step(ids, frames, out=out)


def ragged(engine: Engine, frames: Array) -> Callable[[], Any]:
    """Other streams at each round, in any order."""
    pool, out, rng = engine.pool(OPEN), np.zeros((len(frames), 1), np.float32), np.random.default_rng(0)
    ids = np.array([pool.open() for _ in range(OPEN)])
    rounds = [rng.permutation(ids)[: len(frames)] for _ in range(64)]
    turn = 0

    def step() -> None:
        nonlocal turn
        turn = (turn + 1) % len(rounds)
        pool.step(rounds[turn], frames, out=out)

    return step


def singly(engine: Engine, frames: Array) -> Callable[[], Any]:
    """A Stream of its own for each."""
    streams, out = [engine.stream() for _ in frames], np.zeros(1, np.float32)

    def step() -> None:
        for stream, frame in zip(streams, frames, strict=True):
            stream.step(frame, out=out)

    return step


class Parts:
    """A pool of which gather and scatter are timed, amid its rounds."""

    def __init__(self, engine: Engine) -> None:
        self.pool, self.moving, self.whole, self.turn = engine.pool(OPEN), 0.0, 0.0, 0
        self.ids = np.random.default_rng(0).permutation([self.pool.open() for _ in range(OPEN)]).reshape(-1, STREAMS)
        store = cast(OrtStateStore, self.pool._store)
        store._begin = self._timed(store._begin)  # type: ignore[method-assign]
        store._flush = self._timed(store._flush)  # type: ignore[method-assign]

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> None:
            begin = time.perf_counter()
            call(*arguments)
            self.moving += time.perf_counter() - begin

        return timed

    def round(self, frames: Array) -> None:
        self.turn += 1
        begin = time.perf_counter()
        self.pool.step(self.ids[self.turn % len(self.ids)], frames)
        self.whole += time.perf_counter() - begin

    def share(self) -> float:
        return self.moving / self.whole


# --- a long run


def soak() -> Figures:
    """10,000 streams, any of them stepped, reset, closed and opened; each output is compared with a stream's alone."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(nn.LSTM, Path(folder) / "net.rnnx")
        for backend in ("native", "onnxruntime"):
            engine = load(bundle.path, backend, "fp32")
            run = Soak(engine)
            run.go(SOAK_SECONDS)
            yield f"{backend}: rounds", run.rounds
            yield f"{backend}: million stream·steps", run.steps / 1e6
            yield f"{backend}: streams opened", run.opened
            yield f"{backend}: largest error against single streams", run.error()
            idle = engine.pool(SOAK_STREAMS)
            for _ in range(SOAK_STREAMS):
                idle.open()
            states = sum(int(np.prod(s.row)) * np.dtype(s.dtype).itemsize for s in engine.spec.states)
            yield (
                f"{backend}: bytes of an idle stream over those of its states",
                (idle.metrics()["nbytes"] / SOAK_STREAMS - states),
            )


class Soak:
    """A pool in ragged rounds. The k-th frame of stream i since it was begun is ring[(begin[i] + k) % len(ring)]."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.pool = engine, engine.pool(SOAK_STREAMS)
        self.rng = np.random.default_rng(0)
        self.ring = self.rng.standard_normal((4096, INPUTS)).astype(np.float32)
        self.ids = np.array([self.pool.open() for _ in range(SOAK_STREAMS)])
        self.begin = self.rng.integers(len(self.ring), size=SOAK_STREAMS)
        self.count = np.zeros(SOAK_STREAMS, np.int64)
        self.given = np.zeros((SOAK_STREAMS, 512), np.float32)
        self.over: list[tuple[int, Array]] = []
        self.rounds, self.steps, self.opened = 0, 0, SOAK_STREAMS

    def go(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            rows = self.rng.permutation(SOAK_STREAMS)[: self.rng.integers(1, 2000)]
            k = self.count[rows]
            if k.max() == self.given.shape[1]:
                self.given = np.concatenate([self.given, np.zeros_like(self.given)], 1)
            x = self.ring[(self.begin[rows] + k) % len(self.ring)]
            self.given[rows, k] = self.pool.step(self.ids[rows], x)[:, 0]
            self.count[rows] += 1
            self.rounds, self.steps = self.rounds + 1, self.steps + len(rows)
            some = self.rng.permutation(SOAK_STREAMS)[:4]
            self._finish(some)
            self.pool.reset(self.ids[some[:2]])
            self.pool.close(self.ids[some[2:]])
            self.ids[some[2:]] = [self.pool.open() for _ in some[2:]]
            self.opened += 2

    def _finish(self, streams: Array) -> None:
        for i in streams:
            self.over.append((self.begin[i], self.given[i, : self.count[i]].copy()))
        self.begin[streams] = self.rng.integers(len(self.ring), size=len(streams))
        self.count[streams] = 0

    def error(self) -> float:
        """The largest difference from what a stream of its own gives."""
        self._finish(np.arange(SOAK_STREAMS))
        stream, worst = self.engine.stream(), 0.0
        for begin, given in self.over:
            if len(given):
                stream.reset()
                frames = self.ring[(begin + np.arange(len(given))) % len(self.ring)]
                worst = max(worst, float(np.abs(stream.run(frames)[:, 0] - given).max()))
        return worst


# --- a server lost


def failover() -> Figures:
    """32 sessions on two Triton servers on the loopback, of which one is killed; each is held to a stream here."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bundle = _bundle(nn.LSTM, Path(folder) / "net.rnnx")
        write_repository(bundle.path, Path(folder) / "repository", runtime_backend="onnxruntime")
        servers = [stack.enter_context(Server(Path(folder) / "repository")) for _ in range(2)]
        hosts = ",".join(server.grpc for server in servers)
        engine = load(f"grpc://{hosts}/net?deadline_ms=5000")
        local = load(bundle.path, "onnxruntime")
        frames = np.random.default_rng(0).standard_normal((SESSIONS, 200, INPUTS)).astype(np.float32)

        def session(number: int) -> float:
            stream, given = engine.stream(), []
            for at, frame in enumerate(frames[number]):
                if number == 0 and at == len(frames[number]) // 2:
                    servers[0].kill()
                given.append(stream.step(frame))
            return float(np.abs(local.stream().run(frames[number]) - np.stack(given)).max())

        with ThreadPoolExecutor(SESSIONS) as threads:
            errors = list(threads.map(session, range(SESSIONS)))
        counts = engine.metrics()
    yield "sessions", SESSIONS
    yield "moved to the other server", counts["moves"]
    yield "lost frames", counts["failures"]
    yield "wrong sessions, above 2e-6", sum(error > 2e-6 for error in errors)
    yield "largest error", max(errors)
    yield "worst gap, ms", counts["gap_s"] * 1e3


# --- live streams


def held() -> Figures:
    """Silero VAD, by `rnn-export loadtest` in a process of its own."""
    import model as silero

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vad.rnnx"
        net, example, options = silero.factory()
        export(net, example, path, steps=32, targets=("onnx", "c"), **options)
        added(path, "int8")
        for backend, precision in (("onnxruntime", "fp32"), ("native", "fp32"), ("native", "int8")):
            command = [sys.executable, "-m", "rnn_export", "loadtest", str(path), "--json", "--backend", backend]
            command += ["--precision", precision, "--data", str(HERE / "silero_vad" / "speech.wav")]
            command += ["--core", str(max(os.sched_getaffinity(0)))]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            point = next(p for p in result["points"] if p["streams"] == result["held"])
            yield (
                f"Silero VAD, {backend} {precision}: live streams of {result['frames_per_second']:.4g} frames/s",
                result["held"],
            )
            yield f"Silero VAD, {backend} {precision}: p99 of a frame then, ms", point["p99"]
