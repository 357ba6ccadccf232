"""TensorRT-RTX's network of every streaming case is executed and its engines built, without a GPU.

Nothing here runs an engine: that takes a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

if importlib.util.find_spec("tensorrt_rtx") is None and not os.environ.get("CI"):
    pytest.skip("rtx: tensorrt_rtx is not here: pip install 'rnn-export[rtx]'", allow_module_level=True)

from rnn_export.contract.precision import TOLERANCES
from rnn_export.runtime.replay.drift import drift

from ..export.rewriting import typed  # noqa: TID252
from . import builds
from .builds import ALL, BATCH, by_module, by_onnxruntime, by_tensorrt, error_of, stream_of
from .network import Kind, parse

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

FP32 = 2e-6
SEQUENCE_ONLY = [case.name for case in ALL if case.build()[2].get("sequence_only")]
STREAMING = [case for case in ALL if case.name not in SEQUENCE_ONLY]
every_case = pytest.mark.parametrize("case", STREAMING, ids=lambda case: case.name)


def named(name):
    return next(case for case in STREAMING if case.name == name)


def worst(got, want):
    assert got.keys() == want.keys()
    return max((error_of(got[name], want[name]), name) for name in want)


def test_every_case_is_a_stream():
    """A case of whole sequences has no step to build: it must be named here."""
    assert SEQUENCE_ONLY == []
    assert len(STREAMING) == len(ALL) > 90


@every_case
def test_the_network_computes_what_onnxruntime_does(case):
    """60 steps, each side fed its own states; the tolerance of a case is 2e-6 unless its table says otherwise."""
    stream = stream_of(case)
    feeds = stream.feeds(steps=60)
    got, want = (stream.closed_loop(run(stream.graph), feeds) for run in (by_tensorrt, by_onnxruntime))
    error, name = worst(got, want)
    assert error <= max(FP32, case.tolerance), name


@pytest.mark.parametrize("case", [c for c in STREAMING if c.tolerance > FP32], ids=lambda case: case.name)
def test_where_onnxruntime_rounds_more_the_network_is_held_to_float64(case):
    stream = stream_of(case)
    feeds = stream.feeds()
    error, name = worst(
        stream.closed_loop(by_tensorrt(stream.graph), feeds), stream.closed_loop(by_module(stream), feeds)
    )
    assert error <= FP32, name


@every_case
@pytest.mark.parametrize("rows", [BATCH[0], BATCH[-1]])
def test_the_ends_of_the_profile_compute_too(case, rows):
    stream = stream_of(case)
    feeds = stream.feeds(steps=6, rows=rows)
    got, want = (stream.closed_loop(run(stream.graph), feeds) for run in (by_tensorrt, by_onnxruntime))
    for name, value in want.items():
        assert got[name].shape == value.shape
        scale = max(np.abs(value).max(), 1e-3)
        assert np.abs(got[name].astype(np.float64) - value).max() <= case.tolerance * scale, name


@every_case
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built(case, precision):
    """In the precision that was asked for: every product is one of its numbers."""
    parsed = parse(typed(stream_of(case).graph, precision))
    dtypes = {
        layer.get_output(0).dtype for layer in parsed.layers if layer.type in (Kind.MATRIX_MULTIPLY, Kind.CONVOLUTION)
    }
    assert {str(dtype) for dtype in dtypes} <= {{"fp32": "DataType.FLOAT", "fp16": "DataType.HALF"}[precision]}
    assert builds.build(parsed).nbytes > 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_holds_its_weights_in_the_precision(precision):
    """Byte for byte, and not in the other one as well; those of convolutions are in an order of its own."""
    graph = stream_of(named("silero-vad")).graph
    plan = bytes(builds.build(parse(typed(graph, precision))))
    weights = [numpy_helper.to_array(value) for value in onnx.load_from_string(graph).graph.initializer]
    matrices = [w for w in weights if w.ndim == 2 and w.dtype == np.float32]
    assert len(matrices) == 2
    for w in matrices:
        held = {
            name for name, dtype in (("fp32", np.float32), ("fp16", np.float16)) if w.astype(dtype).tobytes() in plan
        }
        assert held == {precision}


@pytest.mark.parametrize("accumulate", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["nn.LSTM-2-batch-first", "causal-dilated-residual", "silero-vad"])
def test_fp16_stays_near_fp32(name, accumulate, record_property):
    stream = stream_of(named(name))
    feeds = stream.feeds()
    want = stream.closed_loop(by_onnxruntime(stream.graph), feeds)
    got = stream.closed_loop(by_tensorrt(typed(stream.graph, "fp16"), accumulate), feeds)
    steps = np.arange(1, len(feeds) + 1)
    drifts = [drift(f"fp16, {accumulate} sums", n, got[n], want[n], steps, TOLERANCES["fp16"]) for n in want]
    for one in drifts:
        record_property(f"{one.tensor}: largest error relative to its scale", one.relative)
        assert one.step is None, f"{one.tensor} has drifted by {one.relative:.2g} at step {one.step}"
    # fp32 would be nearer than this.
    assert max(one.relative for one in drifts) > 1e-5


def test_the_sums_of_fp16_differ():
    stream = stream_of(named("silero-vad"))
    feeds = stream.feeds(steps=20)
    graph = typed(stream.graph, "fp16")
    one, other = (stream.closed_loop(by_tensorrt(graph, accumulate), feeds) for accumulate in ("fp32", "fp16"))
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_a_case_is_measured():
    figures = builds.measured(named("nn.GRU-1"))
    assert 0 < figures.executor_error <= FP32
    assert figures.fp32_bytes > 0 < figures.fp16_bytes
    assert figures.fp32_seconds > 0 < figures.fp16_seconds


@pytest.mark.parametrize(("ci", "code", "said"), [("", 5, "rtx: tensorrt_rtx is not here"), ("1", 2, "tensorrt_rtx")])
def test_without_the_library_it_skips_and_in_ci_it_fails(ci, code, said):
    """In a process that has none."""
    program = (
        "import sys, importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *rest: None if name == 'tensorrt_rtx' else find(name, *rest);"
        "sys.modules['tensorrt_rtx'] = None;"
        f"import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {__file__!r}]))"
    )
    environment = {**os.environ, "CI": ci, "RNN_EXPORT_NO_SKIPS": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code, done.stdout
    assert said in done.stdout
