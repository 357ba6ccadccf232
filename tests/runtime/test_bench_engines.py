"""Engines of hand-made bundles in a bench, held to their golden vectors first."""

import os
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.contract.precision import Tolerance
from rnn_export.runtime import Engine, load
from rnn_export.runtime.bench import allocations, candidates, measure, this_machine
from rnn_export.runtime.replay.golden import Golden

from ..messages import raises  # noqa: TID252
from .graphs import LAST, MODELS
from .native_toys import by_hand, with_native

# Frames of each kind: of one or several ports, in chunks, late, fewer than come in, whole numbers.
STREAMING = ["sum", "chunked", "delayed_chunked", "fewer_delayed", "time_major", "stored", "mixed", "tokens_timed"]


def golden_of(engine: Engine, frames: int = 24) -> Golden:
    """A run, as golden vectors of two rows."""
    spec, random = engine.spec, np.random.default_rng(0)

    def feed(tensor):
        shape = (2, *((frames,) if spec.timed(tensor) else ()), *tensor.frame)
        return random.integers(0, 5, shape).astype(tensor.dtype)

    inputs, stream = {t.name: feed(t) for t in spec.inputs}, engine.stream(batch=2)
    given = stream.run(inputs if len(inputs) > 1 else next(iter(inputs.values())))
    outputs = given if isinstance(given, dict) else {spec.outputs[0].name: given}
    states = {name: value[:, None] for name, value in stream.states.items()}
    return Golden(inputs, outputs, states, np.array([frames]), Tolerance(1e-6, 1e-5))


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A hand-made bundle with golden vectors, by name; `change` makes other ones of them."""
    folder = tmp_path_factory.mktemp("bench")

    def write(name: str, change: Callable[[Golden], Golden] = lambda golden: golden) -> Path:
        path = MODELS[name].write(folder / f"{name}.rnnx")
        golden = change(golden_of(load(path, backend="onnxruntime")))
        return MODELS[name].write(path, **{"golden.npz": golden.to_npz()})

    return write


def test_a_bundle_that_does_not_say_its_weights_has_no_limit(proven):
    bundle = open_bundle(proven("sum"))
    message = "not measured: the bundle does not say how many weights a step reads"
    assert measure._limits(bundle, []) == (None, {}, message)
    assert measure._limits(replace(bundle, weights=0), []) == (None, {}, "not measured: the step has no weights")


@pytest.mark.usefixtures("compiler")
def test_every_call_of_malloc_counts(proven, monkeypatch):
    path = proven("sum")
    found = allocations.count_all(path, max(os.sched_getaffinity(0)), ["onnxruntime"])
    assert set(found) == {"onnxruntime fp32", candidates.BASELINE}
    # The output is a new array at least, and `run` makes a list, arrays and C++ values around them.
    assert found[candidates.BASELINE] > found["onnxruntime fp32"] > 0
    monkeypatch.setattr(allocations, "_CHILD", "raise SystemExit('no luck')")
    with raises("allocations-process-failed", "no luck"):
        allocations.count_all(path, 0, [])


@pytest.mark.usefixtures("compiler")
def test_a_native_step_is_timed_with_the_others_and_allocates_nothing(proven, monkeypatch):
    monkeypatch.setattr(measure, "Sweep", lambda caches: this_machine.Sweep({}))
    path = proven("sum")
    with_native(path, by_hand("sum", MODELS["sum"]), "sum")
    found = measure.bench(path, ["native", "onnxruntime"], steps=50, seconds=1e-3)
    assert [row["name"] for row in found["engines"]] == ["native fp32", "onnxruntime fp32", candidates.BASELINE]
    native = found["engines"][0]
    assert native["error"] == 0
    if Path(sysconfig.get_path("include"), "Python.h").is_file():
        assert (native["allocations"], native["python_blocks_kept"]) == (0, 0)


@pytest.mark.parametrize("name", STREAMING)
def test_every_kind_of_frame_can_be_timed_and_onnxruntimes_own_run_does_what_a_stream_does(proven, name):
    bundle = open_bundle(proven(name))
    golden = Golden.from_arrays(bundle.arrays("golden.npz"), bundle.spec)
    baseline = candidates.OrtBaseline(bundle, candidates.candidates(bundle, ["onnxruntime"])[0], golden)
    assert baseline.verified() == 0
    assert baseline.verified() == 0, "a reset brings it back"
    found, skipped = candidates.runners(bundle, ["onnxruntime"])
    assert ([r.subject.name for r in found], skipped) == (["onnxruntime fp32", candidates.BASELINE], [])
    for one in found:
        one.subject.reset()
        one.subject.run(one.subject.settle + 30)
    spec = MODELS[name].spec
    assert found[0].subject.settle == -(-spec.delay // spec.chunk)
    assert (found[0].subject.out is None) == bool(spec.delay)


def test_a_wrong_engine_is_not_timed(proven):
    def wrong(golden: Golden) -> Golden:
        return replace(golden, outputs={name: a + np.float32(0.5) for name, a in golden.outputs.items()})

    path = proven("sum", wrong)
    with raises("parity-diverges", "onnxruntime fp32", "It was not timed"):
        measure.bench(path, ["onnxruntime"])
    bundle = open_bundle(path)
    golden = Golden.from_arrays(bundle.arrays("golden.npz"), bundle.spec)
    with raises("parity-diverges", "onnxruntime run(dict)", "It was not timed"):
        candidates.OrtBaseline(bundle, candidates.candidates(bundle, ["onnxruntime"])[0], golden).verified()


def test_rows_of_a_bundle_go_to_their_backends(proven):
    bundle = open_bundle(proven("sum"))
    names = ("onnx", "c", "torchscript", "wasm", "jetson-orin-nano", "pt2", "not-known")
    rows = [TargetRow(name, "fp32", None, (), {}) for name in names]
    rows += [TargetRow("c", "int8", None, (), {"name": "sum"})]
    found = candidates.candidates(
        replace(bundle, targets=tuple(rows)), ["native", "onnxruntime", "torchscript", "wasm", "tensorrt"]
    )
    assert [(c.backend, c.target, c.precision) for c in found] == [
        ("native", "c", "fp32"),
        ("native", "c", "int8"),
        ("onnxruntime", "onnx", "fp32"),
        ("torchscript", "torchscript", "fp32"),
        ("wasm", "wasm", "fp32"),
        ("tensorrt", "jetson-orin-nano", "fp32"),
    ]


def test_what_cannot_be_timed_is_said_before_anything_is(proven, tmp_path):
    with raises("bench-backend-unknown", "'abacus'", "tensorrt"):
        measure.bench(proven("sum"), ["abacus"])
    with raises("bundle-missing"):
        measure.bench(tmp_path / "gone.rnnx")
    with raises("bench-nothing-timed", "no target 'torchscript', only onnx"):
        measure.bench(proven("sum"), ["torchscript"])
    whole = replace(MODELS["timed"], spec=replace(MODELS["timed"].spec, sequence_only=True, states=()))
    nodes = [("CumSum", ["x", "1"], ["y"], {})]
    path = replace(whole, step=(), sequence=nodes, constants=LAST).write(tmp_path / "whole.rnnx")
    with raises("no-step-to-time"):
        measure.bench(path)
    with raises("no-such-bundle-file", "'golden.npz'"):
        measure.bench(MODELS["sum"].write(tmp_path / "bare.rnnx"), ["onnxruntime"])


def test_a_bench_without_a_compiler_says_what_is_missing(proven, monkeypatch):
    monkeypatch.setenv("CC", "no-such-cc")
    monkeypatch.setattr(measure, "Sweep", lambda caches: this_machine.Sweep({}))
    monkeypatch.setattr(measure, "open_bundle", lambda path: replace(open_bundle(path), weights=100))
    stages: list[str] = []
    found = measure.bench(proven("sum"), ["onnxruntime", "torchscript"], steps=20, seconds=1e-3, progress=stages.append)
    assert stages == ["open and verify", "read limit", "warm caches", "cold caches", "allocations"]
    assert found["limits"] == []
    assert found["limit_missing"].startswith("not measured: ")
    assert found["allocations_missing"].startswith("not counted: ")
    assert "no-such-cc" in found["limit_missing"]
    ours, plain = found["engines"]
    assert (ours["name"], plain["name"]) == ("onnxruntime fp32", candidates.BASELINE)
    assert ours["times_as_fast"] == pytest.approx(plain["p50"] / ours["p50"])
    assert plain["times_as_fast"] == 1
    assert ours["times_the_limit"] is ours["allocations"] is None
    assert ours["steps"] >= 20
    (skipped,) = found["skipped"]
    assert (skipped["backend"], skipped["precision"]) == ("torchscript", None)
    assert "export it with --target torchscript" in skipped["reason"]
