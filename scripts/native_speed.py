"""The figures of the C target: its speed from Python and from C, and the cost and error of fewer bits."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import model as silero
import numpy as np
import torch
from segments import speech_segments
from torch import nn
from turns import in_turn

from rnn_export.bundle import Bundle, extend_bundle, open_bundle
from rnn_export.contract.target_options import TargetOptions
from rnn_export.export import export
from rnn_export.export.add_target import add_target
from rnn_export.platform.arrays import Array
from rnn_export.runtime import load
from rnn_export.runtime.backends.native.session import NativeBuffers
from rnn_export.runtime.bench.candidates import OrtBaseline, candidates
from rnn_export.runtime.bench.limit import Limit, Reader
from rnn_export.runtime.recording import read
from rnn_export.runtime.replay.golden import FILE, Golden
from tests.parity.fixtures import FIXTURES

Figures = Iterator[tuple[str, float]]
SIZES = ((8, 16), (32, 64), (64, 128), (256, 512))
CELLS: dict[str, type[nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU}
NARROW = ("bf16", "int8")
ROUNDS, FRAMES = 61, 1024
SECONDS, SPEECH = 30, Path(silero.__file__).with_name("speech.wav")


class Net(nn.Module):
    """One layer and a linear head."""

    def __init__(self, cell: type[nn.RNNBase], inputs: int, hidden: int) -> None:
        super().__init__()
        self.rnn, self.head = cell(inputs, hidden), nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.rnn(x)[0])
        return y


def speed() -> Figures:
    """From Python against `session.run(None, {...})`, and from C against the limit; the calls take turns."""
    reader = Reader()
    for name, cell in CELLS.items():
        for inputs, hidden in SIZES:
            title = f"{name} {inputs} -> {hidden}"
            with tempfile.TemporaryDirectory() as folder:
                bundle = exported(Net(cell, inputs, hidden), inputs, folder, NARROW if hidden >= 128 else ())
                yield from _from_python(title, bundle, inputs)
                yield from _from_c(title, bundle, inputs, reader)


def exported(net: nn.Module, inputs: int, folder: str, narrow: tuple[str, ...]) -> Bundle:
    """ONNX and C, in fp32 and in the precisions `narrow`."""
    path = Path(folder) / "net.rnnx"
    export(net.eval(), (torch.randn(5, 2, inputs),), path, steps=32, targets=("onnx", "c"))
    for precision in narrow:
        added(path, precision)
    return open_bundle(path)


def added(path: Path, precision: str, calibration: Any = None) -> None:
    """C in `precision`, in place of what the bundle has."""
    bundle = open_bundle(path)
    draft = add_target(bundle, "c", TargetOptions(precision, name="net", calibration=calibration))
    extend_bundle(bundle, draft.targets[0], draft.files)


def _from_python(title: str, bundle: Bundle, inputs: int) -> Figures:
    frame = np.random.default_rng(0).standard_normal(inputs).astype(np.float32)
    stream, out = load(bundle.path, "native", "fp32").stream(), np.zeros(1, np.float32)
    taken = _medians(
        {
            "run(dict)": _by_dict(bundle),
            "out": lambda: stream.step(frame, out=out),
            "new": lambda: stream.step(frame),
        }
    )
    yield f"{title}: onnxruntime run(dict), µs", taken["run(dict)"]
    yield f"{title}: native step(x, out=y), µs", taken["out"]
    yield f"{title}: times faster, out=y", taken["run(dict)"] / taken["out"]
    yield f"{title}: times faster, a new array", taken["run(dict)"] / taken["new"]


def _by_dict(bundle: Bundle) -> Callable[[], Any]:
    (onnx,) = candidates(bundle, ["onnxruntime"])
    plain = OrtBaseline(bundle, onnx, Golden.from_arrays(bundle.arrays(FILE), bundle.spec))
    return lambda: plain.step(plain.frames[0])


def steps_in_c(path: Path, precision: str, frames: Array, outputs: Array) -> Callable[[], Any]:
    """A call of the library that steps through all frames (1, steps, ...), so that of Python nothing is left."""
    memory = cast(NativeBuffers, load(path, "native", precision, trust=True)._session.stream_buffers(1))
    call = memory.call_of([frames], [outputs], frames.shape[1])

    def steps() -> NativeBuffers:
        call()
        return memory  # which owns what the call has the addresses of

    return steps


def _from_c(title: str, bundle: Bundle, inputs: int, reader: Reader) -> Figures:
    frames = np.random.default_rng(0).standard_normal((1, FRAMES, inputs)).astype(np.float32)
    outputs = np.zeros((1, FRAMES, 1), np.float32)
    precisions = [row.precision for row in bundle.targets if row.target == "c"]
    calls = {p: steps_in_c(bundle.path, p, frames, outputs) for p in precisions}
    limit = Limit(reader, 4 * (bundle.weights or 0))
    taken = _medians({**calls, "limit": limit.block}, number=1)
    bound = float(np.median(np.concatenate(limit.taken[1:]))) / 1e3
    fp32 = taken["fp32"] / FRAMES
    yield f"{title}: a step in C, µs", fp32
    yield f"{title}: limit, µs", bound
    yield f"{title}: times the limit", fp32 / bound
    yield from ((f"{title}: {p} against fp32", taken[p] / taken["fp32"]) for p in precisions if p != "fp32")


def _medians(calls: dict[str, Callable[[], Any]], number: int = 200) -> dict[str, float]:
    """The median µs of each call."""
    return {name: float(np.median(taken)) for name, taken in in_turn(calls, ROUNDS, number).items()}


def vad() -> Figures:
    """Silero VAD: a step against ONNX Runtime, and what fewer bits do to 30 s of speech."""
    net, example, options = silero.factory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vad.rnnx"
        export(net, example, path, targets=("onnx", "c"), data=SPEECH, **options)
        bundle = open_bundle(path)
        recording = read(SPEECH, bundle.spec)
        clip = recording["samples"][0]
        frames = np.resize(clip, (round(SECONDS * silero.SAMPLE_RATE / silero.CHUNK), silero.CHUNK))
        streams = {name: load(path, name).stream() for name in ("onnxruntime", "native")}
        out = np.zeros(1, np.float32)
        calls: dict[str, Callable[[], Any]] = {
            name: (lambda s=s: s.step(frames[20], out=out)) for name, s in streams.items()
        }
        taken = _medians(calls, number=20)
        yield "onnxruntime, Stream.step, µs", taken["onnxruntime"]
        yield "native, Stream.step, µs", taken["native"]
        yield "times faster", taken["onnxruntime"] / taken["native"]
        wanted = _probabilities(path, "onnxruntime", None, frames)
        exact = _probabilities(path, "native", "fp32", frames)
        yield "difference of the probability, fp32", float(np.abs(exact - wanted).max())
        yield f"segments in fp32, {SECONDS} s of speech", len(_segments(wanted))
        for title, precision, calibration in (
            ("bf16", "bf16", None),
            ("int8, scales at run time", "int8", None),
            ("int8, calibrated", "int8", recording),
        ):
            added(path, precision, calibration)
            got = _probabilities(path, "native", precision, frames)
            yield f"{title}: error of the probability", float(np.abs(got - wanted).max())
            yield f"{title}: segments", len(_segments(got))
            yield f"{title}: largest shift of an edge, ms", _shift(_segments(got), _segments(wanted))
            stream = load(path, "native", precision, trust=True).stream()
            fewer = _medians({"fp32": calls["native"], "less": lambda s=stream: s.step(frames[20], out=out)}, number=20)
            yield f"{title}: against fp32", fewer["less"] / fewer["fp32"]


def _probabilities(path: Path, backend: str, precision: str | None, frames: Array) -> Array:
    given: Array = load(path, backend, precision, trust=True).stream().run(frames)
    return given.reshape(-1)


def _segments(probability: Array) -> list[tuple[float, float]]:
    return speech_segments(probability, silero.CHUNK / silero.SAMPLE_RATE)


def _shift(got: list[tuple[float, float]], wanted: list[tuple[float, float]]) -> float:
    if len(got) != len(wanted):
        return float("nan")
    return 1e3 * max(
        abs(a - b) for one, other in zip(got, wanted, strict=True) for a, b in zip(one, other, strict=True)
    )


def truth() -> Figures:
    """Nets of third parties over 1,000 frames: PyTorch's own fp32 and the C, each against the same net in float64."""
    for fixture in FIXTURES:
        net, inputs = fixture.load(), fixture.reference().inputs
        x = np.resize(inputs, (1000, *inputs.shape[1:]))
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = Path(folder) / "net.rnnx"
            export(net, fixture.example, path, steps=64, targets=("onnx", "c"), **fixture.options)
            given = load(path, "native").stream().run(x)
            native = list(given.values()) if isinstance(given, dict) else [given]
            eager = [y[0].numpy() for y in fixture.drive(net, torch.from_numpy(x)[None])]
            exact = [y[0].numpy() for y in _in_float64(fixture, net, x)]
        yield f"{fixture.name}: PyTorch", _worst(eager, exact)
        yield f"{fixture.name}: C", _worst(native, exact)
        yield f"{fixture.name}: C against PyTorch", _worst(native, eager)


def _in_float64(fixture: Any, net: nn.Module, x: Array) -> list[torch.Tensor]:
    usual = torch.get_default_dtype()
    # Some nets make their first states themselves.
    torch.set_default_dtype(torch.float64)
    try:
        return list(fixture.drive(copy.deepcopy(net).double(), torch.from_numpy(x)[None].double()))
    finally:
        torch.set_default_dtype(usual)


def _worst(got: list[Array], want: list[Array]) -> float:
    pairs = zip(got, want, strict=True)
    return max(float(np.abs(a.astype(np.float64) - b).max() / np.abs(b).max()) for a, b in pairs)
