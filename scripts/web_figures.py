"""The figures of the target wasm: a step in Node, in Chromium, in an AudioWorklet and on wasmtime, against C here."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import model as silero
import numpy as np
import torch
from native_speed import SPEECH
from torch import nn
from turns import in_turn

from rnn_export.bundle import open_bundle
from rnn_export.export import export
from rnn_export.runtime import load
from rnn_export.runtime.serve.web import PackageServer, read_package
from tests.web.chromium import Chromium, find_chromium
from tests.web.node import node

Figures = Iterator[tuple[str, float]]
# µs of stream.step(x, out). Of many short rounds the fastest counts, here and from Python: programs that run one after
# the other cannot take turns, and a round that others cut into says nothing.
TIMED = """
const stream = model.stream(), x = Float32Array.from(frame), out = new Float32Array(model.contract.outputs[0].size);
const taken = [];
for (let round = 0; round < 101; round++) {
  const begin = performance.now();
  for (let i = 0; i < count; i++) stream.step(x, out);
  taken.push((1000 * (performance.now() - begin)) / count);
}
return Math.min(...taken);
"""
# µs of a step of the audio thread, messages and rendering and all: sound is rendered as fast as it can be.
RENDERED = """
const model = await (await import("/index.js")).load(), { sample_rate, audio } = model.contract, steps = 100;
const taken = [];
for (let round = 0; round < 15; round++) {
  const context = new OfflineAudioContext(1, audio.samples * steps, sample_rate);
  const node = await model.audioNode(context), source = new ConstantSourceNode(context, { offset: 0.01 });
  source.connect(node).connect(context.destination);
  source.start();
  const begin = performance.now();
  await context.startRendering();
  taken.push((1000 * (performance.now() - begin)) / steps);
}
return Math.min(...taken);
"""


class Net(nn.Module):
    """Two layers and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(40, 64, 2), nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.rnn(x)[0])
        return y


def web() -> Figures:
    """LSTM 40 -> 64, 2 layers, and Silero VAD."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.rnnx"
        export(Net().eval(), (torch.randn(5, 2, 40),), path, steps=64, targets=("onnx", "c", "wasm"))
        yield from _measured("LSTM 40 -> 64, 2 layers", path, 100)
        vad = Path(folder) / "vad.rnnx"
        net, example, options = silero.factory()
        export(net, example, vad, targets=("onnx", "c", "wasm"), data=SPEECH, **options)
        yield from _measured("Silero VAD", vad, 20)


def _measured(title: str, path: Path, count: int) -> Figures:
    bundle = open_bundle(path)
    (tensor,) = bundle.spec.inputs
    frame = np.random.default_rng(0).standard_normal(tensor.frame).astype(np.float32) / 10
    streams = {backend: load(path, backend).stream() for backend in ("native", "wasm")}
    out = np.zeros(bundle.spec.outputs[0].frame, np.float32)
    calls: dict[str, Callable[[], Any]] = {
        name: (lambda stream=stream: stream.step(frame, out=out)) for name, stream in streams.items()
    }
    taken = {name: float(times.min()) for name, times in in_turn(calls, 301, count).items()}
    yield f"{title}: native from Python, µs", taken["native"]
    yield f"{title}: wasmtime from Python, µs", taken["wasm"]
    package = path / "targets" / "wasm-fp32"
    for simd, kind in ((True, "vectors"), (False, "scalar")):
        opened = f"const model = await load(undefined, {{ simd: {json.dumps(simd)} }}), {{ frame, count }} = given;"
        found = node(package, opened + TIMED, {"frame": frame.reshape(-1).tolist(), "count": count})
        yield f"{title}: Node, {kind}, µs", found
        yield f"{title}: Node, {kind}, against native", found / taken["native"]
    program = find_chromium()
    if program is not None:
        with PackageServer(read_package(bundle)) as server, Chromium(program) as page:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            page.open(server.url)
            # Its clock has steps of 100 µs.
            begin = f"const frame = {frame.reshape(-1).tolist()}, count = {10 * count};"
            found = page.run(f'{begin} const model = await (await import("/index.js")).load();{TIMED}')
            yield f"{title}: Chromium, µs", found
            yield f"{title}: Chromium, against native", found / taken["native"]
            if bundle.spec.sample_rate is not None:
                yield f"{title}: AudioWorklet of Chromium, rendering and messages included, µs", page.run(RENDERED)
            server.shutdown()
    sizes = {file.name: file.stat().st_size for file in package.iterdir()}
    yield f"{title}: module with vectors, kB", sizes["model.wasm"] / 1e3
    yield f"{title}: of it weights, kB", 4 * (bundle.weights or 0) / 1e3
    yield f"{title}: what a program fetches beside it, kB", _scripts(sizes) / 1e3


def _scripts(sizes: dict[str, int]) -> int:
    fetched = {name for name in sizes if name.endswith(".js")} - {"page.js", "plot.js"} | {"model.json"}
    return sum(sizes[name] for name in fetched)
