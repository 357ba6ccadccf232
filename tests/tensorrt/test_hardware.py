"""Engines on the hardware that they are for: built, held to the golden vectors, and driven beside ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rnn_export.bundle import Bundle, open_bundle
from rnn_export.contract.precision import TOLERANCES
from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import BackendUnavailable
from rnn_export.export import export
from rnn_export.runtime import Engine, load
from rnn_export.runtime.backends.tensorrt.library import find_library
from rnn_export.runtime.backends.tensorrt.nvidia import driver, jetson, target_of
from rnn_export.runtime.build.tensorrt.engine_build import build_engine
from rnn_export.runtime.device.cuda import cuda_runtime
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.drift import drift
from rnn_export.runtime.replay.golden import FILE, Golden

from ..messages import raises  # noqa: TID252
from ..models.nets import Tagger  # noqa: TID252

BATCH = (1, 2, 4)
PRECISIONS = ("fp32", "fp16")
DESKTOPS = [(target, precision) for target in ("tensorrt", "tensorrt-rtx") for precision in PRECISIONS]


def need(kind: str, target: str) -> None:
    """Skip, with the reason, where this machine cannot build and run an engine of `target`."""
    row = TARGETS[target]
    try:
        gpu = driver().gpus[0]
        find_library(str(row.library))
        cuda_runtime()
    except BackendUnavailable as error:
        pytest.skip(f"{kind}: {error}")
    if row.compute and gpu.compute not in row.compute:
        pytest.skip(f"{kind}: {target} is for {', '.join(row.compute)}, and {gpu.name} has {gpu.compute}")


def exported(path: Path, target: str, precision: str = "fp32") -> Bundle:
    torch.manual_seed(0)
    batch = None if target == "onnx" else BATCH
    example = (torch.zeros(2, 7, 4),)
    return export(Tagger(nn.LSTM).eval(), example, path, targets=(target,), precision=precision, batch=batch, steps=64)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def check_near(got: np.ndarray, want: np.ndarray, precision: str) -> None:
    """Compare (rows, time, ...) step by step, by the precision's tolerance."""
    found = drift("step", "output", got, want, np.arange(1, want.shape[1] + 1), TOLERANCES[precision])
    assert found.step is None, found


def check_built(path: Path, target: str, precision: str) -> None:
    """Build the engine, which is held to the golden vectors as it is, and hold it to them again as `verify` does."""
    done = build_engine(open_bundle(path), target, precision)
    assert done.report is not None
    assert done.report.ok
    engine, bundle = load(path, backend="tensorrt", precision=precision), open_bundle(path)
    report = replay_golden(engine, Golden.from_arrays(bundle.arrays(FILE), bundle.spec))
    report.raise_for_failure("This engine is wrong.")
    assert (report.backend, report.device, engine.precision) == ("tensorrt", "cuda:0", precision)
    assert engine.batches == (BATCH[0], BATCH[-1])


@pytest.fixture(scope="module", params=DESKTOPS, ids="-".join)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    target, precision = request.param
    need("gpu", target)
    path = tmp_path_factory.mktemp("built") / "m.rnnx"
    exported(path, target, precision)
    check_built(path, target, precision)
    return load(path, backend="tensorrt")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The same model on ONNX Runtime."""
    bundle = exported(tmp_path_factory.mktemp("reference") / "m.rnnx", "onnx")
    return load(bundle.path, backend="onnxruntime", device="cpu")


@pytest.mark.gpu
def test_a_thousand_steps_are_those_of_onnxruntime(built: Engine, reference: Engine) -> None:
    x, stream = noise(1000, 4), built.stream()
    got = np.stack([stream.step(frame) for frame in x])
    check_near(got[None], reference.stream().run(x)[None], built.precision)


@pytest.mark.gpu
def test_a_batch_is_as_many_streams(built: Engine, reference: Engine) -> None:
    x = noise(BATCH[-1], 50, 4)
    check_near(built.stream(batch=BATCH[-1]).run(x), reference.stream(batch=BATCH[-1]).run(x), built.precision)
    with raises("batch-outside-engine", "1 to 4"):
        built.stream(batch=BATCH[-1] + 1)


@pytest.mark.gpu
def test_a_pool_is_as_many_streams(built: Engine, reference: Engine) -> None:
    """Rounds of up to five pieces, and more room half-way."""
    pool, random = built.pool(capacity=100), np.random.default_rng(1)
    ids: list[int] = []
    fed: dict[int, list[np.ndarray]] = {}
    got: dict[int, list[np.ndarray]] = {}
    for opened in (20, 80):
        ids += [pool.open() for _ in range(opened)]
        for _ in range(40):
            chosen = random.permutation(ids)[: random.integers(1, 20)].tolist()
            x = random.standard_normal((len(chosen), 4)).astype(np.float32)
            for stream, frame, y in zip(chosen, x, pool.step(chosen, x), strict=True):
                fed.setdefault(stream, []).append(frame)
                got.setdefault(stream, []).append(y)
    for stream, frames in fed.items():
        want = reference.stream().run(np.stack(frames))
        check_near(np.stack(got[stream])[None], want[None], built.precision)


@pytest.mark.gpu
@pytest.mark.parametrize("frames", [10, 11], ids=["even", "odd"])
def test_a_snapshot_continues_here_and_on_onnxruntime(built: Engine, reference: Engine, frames: int) -> None:
    x, stream, other = noise(30, 4), built.stream(), reference.stream()
    stream.run(x[:frames])
    saved = stream.snapshot()
    want = stream.run(x[frames:])
    stream.restore(saved)
    check_near(stream.run(x[frames:])[None], want[None], built.precision)
    other.restore(saved)
    check_near(other.run(x[frames:])[None], want[None], built.precision)


@pytest.mark.gpu
def test_a_reset_starts_again(built: Engine) -> None:
    x, stream = noise(11, 4), built.stream()
    want = stream.run(x)
    stream.reset()
    assert not any(value.any() for value in stream.states.values())
    check_near(stream.run(x)[None], want[None], built.precision)


@pytest.mark.jetson
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_jetson_builds_and_runs_its_engine(tmp_path: Path, precision: str) -> None:
    board = jetson()
    if board is None:
        pytest.skip("jetson: this is no Jetson")
    target = target_of(board)
    if not TARGETS[target].builds:
        pytest.skip(f"jetson: an engine for {target} is built by hand")
    need("jetson", target)
    exported(tmp_path / "m.rnnx", target, precision)
    check_built(tmp_path / "m.rnnx", target, precision)
