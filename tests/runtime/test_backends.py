"""One exported bundle on each backend that has a target of its own."""

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.runtime import load
from rnn_export.runtime.bench.candidates import candidates
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

from ..messages import raises  # noqa: TID252
from ..zoo import store  # noqa: TID252


@dataclass(frozen=True)
class Facts:
    """The packages of a backend; its result without each module; options that it refuses, in which message."""

    packages: tuple[str, ...]
    without: dict[str, str]
    refused: tuple[tuple[dict[str, object], tuple[str, ...]], ...]


BACKENDS = {
    "openvino": Facts(
        ("openvino",), {"openvino": "openvino-missing"}, (({"device": "gpu"}, ("openvino-device-untried", "'gpu'")),)
    ),
    "litert": Facts(
        ("litert_torch", "ai_edge_litert"),
        {"ai_edge_litert.interpreter": "ai-edge-litert-missing", "torch": ""},
        (({"device": "gpu"}, ("litert-device-untried", "'gpu'")),),
    ),
    "executorch": Facts(
        ("executorch",),
        {"executorch": "executorch-missing", "torch": "executorch-missing"},
        (
            ({"device": "gpu"}, ("executorch-device-untried", "'gpu'")),
            ({"threads": 2}, ("executorch-threads-option", "2")),
        ),
    ),
    "torchscript": Facts(
        (),
        {"torch": "torch-missing"},
        (
            ({"device": "tpu"}, ("torchscript-device-unknown", "'tpu'")),
            ({"device": "cpu:1"}, ("torchscript-device-unknown", "'cpu:1'")),
            ({"threads": 2}, ("torchscript-threads-option", "2")),
        ),
    ),
}
WITHOUT = """
import sys
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime import load
path, backend, *modules = sys.argv[1:]
for module in modules:
    sys.modules[module] = None
    try:
        load(path, backend=backend, trust=True)
        print()
    except BackendUnavailable as error:
        print(error.id)
    del sys.modules[module]
"""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    for package in BACKENDS[request.param].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not here: pip install 'rnn-export[dev-full]'")
    return request.param


@pytest.fixture
def path(backend: str) -> Path:
    """Two inputs and outputs, three states, chunks of two frames."""
    return store.bundle(f"several-on-{backend}")


def golden_of(path: Path) -> Golden:
    bundle = open_bundle(path)
    return Golden.from_arrays(bundle.arrays(FILE), bundle.spec)


def test_the_golden_vectors_replay(backend, path):
    engine = load(path, backend=backend)
    assert (engine.backend, engine.device, engine.precision) == (backend, "cpu", "fp32")
    report = replay_golden(engine, golden_of(path))
    assert report.ok
    assert max(drift.relative for drift in report.drifts) < 1e-5
    assert {d.check for d in report.drifts} >= {"step", "chunked", "reset", "snapshot", "batch-invariance", "pool"}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_snapshot_moves_to_and_from_onnx_runtime(backend, path, there, batch):
    golden = golden_of(path)

    def cut(start: int, stop: int) -> dict[str, np.ndarray]:
        return {name: a[:batch, start:stop] if name != "speaker" else a[:batch] for name, a in golden.inputs.items()}

    # An odd number of frames, so that one waits for its chunk.
    one, other = (backend, "onnxruntime") if there else ("onnxruntime", backend)
    a, b = load(path, backend=one).stream(batch=batch), load(path, backend=other).stream(batch=batch)
    start = a.run(cut(0, 13))
    b.restore(a.snapshot())
    rest = b.run(cut(13, 32))
    for name, want in golden.outputs.items():
        got = np.concatenate([start[name], rest[name]], 1)
        np.testing.assert_allclose(got, want[:batch, :32], rtol=1e-5, atol=1e-6)


def test_a_device_without_its_packages(backend, path):
    without = BACKENDS[backend].without
    command = [sys.executable, "-c", WITHOUT, path, backend, *without]
    given = subprocess.run(command, capture_output=True, text=True, check=True)
    assert given.stdout.splitlines() == [*without.values()]


def test_options_that_it_refuses(backend, path):
    for options, message in (
        *BACKENDS[backend].refused,
        ({"precision": "fp16"}, ("target-precision-missing", f"'{backend}' in fp32", "fp16")),
    ):
        with raises(*message):
            load(path, backend=backend, **options)
    threads = any("threads" in options for options, _ in BACKENDS[backend].refused)
    assert threads or load(path, backend=backend, threads=2).stream()


def test_bench_times_it(backend, path):
    assert (backend, "fp32") in [(c.backend, c.precision) for c in candidates(open_bundle(path))]
