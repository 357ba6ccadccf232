"""The ONNX Runtime backend: devices, graphs that it cannot use, and buffers of every layout."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from rnn_export.bundle import TargetRow, write_bundle
from rnn_export.errors import BackendUnavailable
from rnn_export.platform.installing import pip_install
from rnn_export.runtime import load
from rnn_export.runtime.backends.onnxruntime import buffers

from ..messages import raises  # noqa: TID252
from .graphs import SUM, TIMED, Model, frames, state

CUDA = "CUDAExecutionProvider" in ort.get_available_providers()


@pytest.mark.skipif(CUDA, reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_is_refused_where_it_is_not(bundle, device):
    with raises(
        "no-backend-runs",
        f"device {device!r} needs CUDAExecutionProvider, but this onnxruntime {ort.__version__} was built with",
        f"{pip_install('gpu')} in place of onnxruntime",
    ):
        load(bundle("sum"), device=device)


@pytest.mark.skipif(not CUDA, reason="needs onnxruntime-gpu")
@pytest.mark.parametrize("name", ["sum", "timed", "chunked"])
def test_cuda_runs_there_or_not_at_all(bundle, name):
    try:
        model = load(bundle(name), device="cuda")
    except BackendUnavailable as error:
        pytest.skip(f"no usable GPU: {error}")
    assert model.device == "cuda:0"
    stream, xs = model.stream(batch=2), frames(2, 6, 3)
    first = stream.run(xs[:, :3])
    stream.restore(stream.snapshot())
    np.testing.assert_array_equal(np.concatenate([first, stream.run(xs[:, 3:])], 1), xs.cumsum(1))
    np.testing.assert_array_equal(stream.states["h"], xs.sum(1))


@pytest.mark.parametrize("name", ["step.onnx", "sequence.onnx"])
def test_a_graph_that_cannot_be_loaded(tmp_path, name, capfd):
    path = TIMED.write(tmp_path / "m.rnnx", **{name: b"no graph"})
    with raises("graph-file-unusable", name, "a field has wire type 6 and number 13, which cannot"):
        load(path, backend="onnxruntime")
    assert capfd.readouterr().err == ""


def test_a_graph_that_is_not_of_the_contract(tmp_path):
    spec, path = TIMED.spec, tmp_path / "m.rnnx"
    rows = [TargetRow("onnx", "fp32", 18, ("step.onnx", "sequence.onnx"), {})]
    for other, values in (
        (replace(spec, states=(state("c", 3),)), ("step.onnx takes ['x', 'h']", "['x', 'c']")),
        (replace(spec, states=()), ("step.onnx takes ['x', 'h']", "['x']")),
        (replace(spec, outputs=(replace(spec.outputs[0], name="z"),)), ("step.onnx gives ['y', 'h.next']", "['z', 'h")),
    ):
        write_bundle(path, spec=other, producer={}, files=TIMED.files(), targets=rows, force=True)
        with raises("onnx-contract-differs", *values):
            load(path)


def test_a_target_without_its_graph(tmp_path):
    rows = [TargetRow("onnx", "fp32", 18, ("weights.bin",), {})]
    write_bundle(tmp_path / "m.rnnx", spec=SUM.spec, producer={}, files={"weights.bin": b""}, targets=rows)
    with raises("onnx-target-file-missing", "weights.bin", "step.onnx"):
        load(tmp_path / "m.rnnx")


def test_the_precision_chooses_the_graph(tmp_path):
    """Two precisions in one bundle; the second one's graph doubles."""
    double = replace(SUM, step=[("Add", ["x", "x"], ["y"], {}), ("Identity", ["h"], ["h.next"], {})])
    files = {"step.onnx": SUM.files()["step.onnx"], "targets/onnx-fp16/step.onnx": double.files()["step.onnx"]}
    rows = [TargetRow("onnx", p, 18, (f,), {}) for p, f in zip(("fp32", "fp16"), files, strict=True)]
    write_bundle(tmp_path / "m.rnnx", spec=SUM.spec, producer={}, files=files, targets=rows)
    x = np.ones(3, np.float32)
    assert load(tmp_path / "m.rnnx").stream().step(x)[0] == 1
    assert load(tmp_path / "m.rnnx", precision="fp16").stream().step(x)[0] == 2
    with raises("target-precision-missing", "'onnx' in fp32, fp16", "int8"):
        load(tmp_path / "m.rnnx", backend="onnxruntime", precision="int8")


def test_a_step_that_fails_leaves_the_states(tmp_path):
    """`h` is Gathered at the frame's own value, after `h.next` has been written."""
    nodes = [
        ("Identity", ["x"], ["h.next"], {}),
        ("Cast", ["x"], ["i"], {"to": 7}),
        ("Gather", ["three", "i"], ["y"], {}),
    ]
    model: Model = replace(SUM, step=nodes, constants={"three": np.arange(3, dtype=np.float32)})
    stream = load(model.write(tmp_path / "m.rnnx")).stream()
    stream.step(np.array([0, 1, 2], np.float32))
    for _ in range(2):
        with raises("onnxruntime-step-refused", "frame"):
            stream.step(np.array([0, 1, 9], np.float32))
        np.testing.assert_array_equal(stream.states["h"], [[0, 1, 2]])


def test_a_round_that_is_interrupted_leaves_every_state(bundle, monkeypatch):
    """Not by an error of the graph, which steps nothing, but in a later piece by whatever comes."""
    monkeypatch.setattr(buffers, "ROWS", 2)
    pool = load(bundle("sum"), backend="onnxruntime").pool()
    ids, x = [pool.open() for _ in range(5)], frames(5, 3)
    pool.step(ids, x)
    turns = []

    def interrupted(turn, inputs):
        step(turn, inputs)
        turns.append(1)
        if len(turns) == 2:
            raise KeyboardInterrupt

    step = buffers._Turn.step
    with monkeypatch.context() as inside:
        inside.setattr(buffers._Turn, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.step(ids, x)
    np.testing.assert_array_equal(pool.step(ids, x), 2 * x)
    np.testing.assert_array_equal([pool.states(i)["h"][0] for i in ids], 2 * x)
    assert pool.frames(ids).tolist() == [2] * 5


def test_rounds_of_every_size_take_no_more_memory_than_the_largest(bundle):
    pool = load(bundle("sum"), backend="onnxruntime").pool(capacity=300)
    ids = [pool.open() for _ in range(300)]
    row = 3 * 4
    before = pool.metrics()["nbytes"]
    for n in range(1, 300):
        pool.step(ids[:n], np.ones((n, 3), np.float32))
    # Two sets of states: those of the whole pieces, and those of the one that is not whole.
    assert pool.metrics()["nbytes"] - before == 2 * (2 * buffers.ROWS + buffers.ROWS) * row
    np.testing.assert_array_equal([pool.states(s)["h"][0, 0] for s in ids], range(299, -1, -1))
