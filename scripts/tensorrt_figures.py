"""The figures of TensorRT without a GPU: TensorRT-RTX's builds, and the error of 16 bits in Silero VAD."""

from __future__ import annotations

import importlib.util
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import model as silero
import numpy as np
from segments import speech_segments

from rnn_export.bundle.draft import Draft
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import TARGETS
from rnn_export.export.graph.passes.mixed_precision import ToMixedPrecision
from rnn_export.export.graph.passes.pipeline import rewrite
from rnn_export.export.graph.step import step_graph
from rnn_export.export.lift.options import LiftOptions
from rnn_export.export.lift.stages import lift
from rnn_export.export.targets.tensorrt.writer import emulated_session, lower_for_tensorrt
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.onnxruntime.backend import graph_session
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.recording import read
from tests.parity.cases import Case

Figures = Iterator[tuple[str, float]]
SECONDS = 30
SPEECH = Path(silero.__file__).with_name("speech.wav")
TARGET = TARGETS["tensorrt-rtx"]
# Precision, sums, opset; ONNX has no convolution in bf16 before opset 22.
WAYS = (("fp16", "fp32", 18), ("fp16", "fp16", 18), ("bf16", "fp32", 18), ("bf16", "fp32", 22))


def rtx() -> Figures:
    """Seconds to parse and build a portable engine for batches of 1 to 4, its size, and what was understood."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        print("  not measured: tensorrt_rtx is not here, pip install 'rnn-export[rtx]'", file=sys.stderr)
        return
    # Only here: it loads the library.
    from tests.tensorrt import builds
    from tests.tensorrt.network import Refused

    streaming = [case for case in builds.ALL if not case.build()[2].get("sequence_only")]
    # The first build loads what all share.
    builds.measured(streaming[0])
    table: dict[str, builds.Figures] = {}
    built = dict.fromkeys(("fp32", "fp16"), 0)
    for case in streaming:
        try:
            found = table[case.name] = builds.measured(case)
        except Refused as reason:
            print(f"  {case.name}: {reason}", file=sys.stderr)
            for precision in built:
                built[precision] += _is_built(case, precision)
            continue
        built = {precision: count + 1 for precision, count in built.items()}
        yield f"{case.name}: fp32, s", found.fp32_seconds
        yield f"{case.name}: fp32, kB", found.fp32_bytes / 1e3
        yield f"{case.name}: fp16, s", found.fp16_seconds
        yield f"{case.name}: fp16, kB", found.fp16_bytes / 1e3
        yield f"{case.name}: executor against ONNX Runtime, fp32", found.executor_error
    yield "streaming cases", len(streaming)
    yield from ((f"built in {precision}", count) for precision, count in built.items())
    yield "executed", len(table)
    worst = max(table, key=lambda name: table[name].executor_error)
    yield f"largest error of the executor: {worst}", table[worst].executor_error
    for precision in built:
        seconds = {name: getattr(found, f"{precision}_seconds") for name, found in table.items()}
        slowest = max(seconds, key=seconds.__getitem__)
        yield f"{precision}: median, s", statistics.median(seconds.values())
        yield f"{precision}: slowest, s: {slowest}", seconds[slowest]
        sizes = {name: getattr(found, f"{precision}_bytes") / 1e3 for name, found in table.items()}
        largest = max(sizes, key=sizes.__getitem__)
        yield f"{precision}: median, kB", statistics.median(sizes.values())
        yield f"{precision}: largest, kB: {largest}", sizes[largest]


def _is_built(case: Case, precision: str) -> bool:
    from tests.tensorrt import builds
    from tests.tensorrt.network import Refused

    try:
        builds.build(builds.parse(rewrite(builds.stream_of(case).graph, ToMixedPrecision(precision))))
    except Refused:
        return False
    return True


def half() -> Figures:
    """The graphs that TensorRT-RTX gets, in a closed loop, against ONNX Runtime in fp32."""
    net, example, options = silero.factory()
    model = lift(net, example, LiftOptions(**options))
    step = step_graph(model)
    assert step is not None
    draft = Draft(model.spec, {}, (), {name: np.asarray(value) for name, value in model.initial.items()})
    clip = read(SPEECH, model.spec)["samples"][0]
    count = round(SECONDS * silero.SAMPLE_RATE / silero.CHUNK)
    frames = np.resize(clip, (count, silero.CHUNK))
    want = _probabilities(Engine(draft, "onnxruntime", graph_session(model.spec, {"step.onnx": step})), frames)
    length = len(clip) * silero.CHUNK / silero.SAMPLE_RATE
    yield f"segments in fp32, speech.wav, {length:.1f} s, repeated to {SECONDS} s", len(_segments(want))
    for precision, sums, opset in WAYS:
        name = f"{precision}, opset {opset}, sums in {sums}"
        graph = lower_for_tensorrt(step, TARGET, TargetOptions(precision, opset=opset))
        got = _probabilities(Engine(draft, "numeric", emulated_session(model.spec, graph, sums)), frames)
        yield f"{name}: error of the probability", float(np.abs(got - want).max())
        yield f"{name}: segments", len(_segments(got))
        yield f"{name}: the same segments", float(_segments(got) == _segments(want))


def _probabilities(engine: Engine, frames: Array) -> Array:
    stream = engine.stream()
    return np.array([float(stream.step(frame).item()) for frame in frames])


def _segments(probability: Array) -> list[tuple[float, float]]:
    return speech_segments(probability, silero.CHUNK / silero.SAMPLE_RATE)
