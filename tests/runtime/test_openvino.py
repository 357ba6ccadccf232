"""OpenVINO: the target and the backend. The common suite here covers its streams and pools."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.bundle.code import code_of
from rnn_export.bundle.writing import extend_bundle
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ExportError
from rnn_export.export import export
from rnn_export.export.targets.openvino.ir_conversion import convert, serialised
from rnn_export.platform import isolated_process
from rnn_export.platform.arrays import pack_arrays
from rnn_export.runtime import load
from rnn_export.runtime.backends.openvino.graph import read_graph
from rnn_export.runtime.bench.candidates import candidates
from rnn_export.runtime.replay.checks import replay_golden

from ..messages import raises  # noqa: TID252
from ..models.nets import Several  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .graphs import STORED, SUM, TOKENS, H, Model, X, Y, frames, previous, spec, state
from .openvino_toys import FOLDER, converted, with_openvino
from .test_backends import block_of, exported, golden_of, invoke


@pytest.fixture(scope="module")
def both() -> Path:
    return store.bundle("several-on-openvino")


# --- the backend


def test_auto_takes_it_where_onnxruntime_is_not(both):
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from rnn_export.runtime import load\n"
        "print(load(sys.argv[1]).backend)\n"
    )
    given = subprocess.run([sys.executable, "-c", code, both], capture_output=True, text=True, check=True)
    assert (load(both).backend, given.stdout) == ("onnxruntime", "openvino\n")


def test_it_computes_in_fp32_and_less_by_itself(both):
    engine = load(both, backend="openvino")
    usual = engine.by_default()
    if usual is None:
        pytest.skip("on this CPU OpenVINO computes in fp32 by itself")
    exact, less = (replay_golden(e, golden_of(both)) for e in (engine, usual))
    worst = [max(d.relative for d in report.drifts) for report in (exact, less)]
    assert worst[0] < 1e-5 < 1e-4 < worst[1]
    assert load(both, backend="onnxruntime").by_default() is None


def test_a_pool_s_stream_goes_on_alone(openvino_engine):
    """From the IR without states to that with them inside, by a snapshot; more streams than are stepped at once."""
    engine, xs = openvino_engine("sum"), frames(5, 35, 3)
    pool = engine.pool()
    ids = [pool.open() for _ in range(35)]
    for x in xs:
        y = pool.step(ids, x)
    np.testing.assert_allclose(y, xs.sum(0), rtol=1e-6)
    alone = engine.stream()
    alone.restore(pool.snapshot(ids[33]))
    np.testing.assert_allclose(alone.step(np.ones(3, np.float32)), xs[:, 33].sum(0) + 1, rtol=1e-6)


def test_openvino_s_own_reset_is_the_stored_initial_state():
    """So that a program of OpenVINO's alone has nothing to set."""
    import openvino as ov

    files = converted(STORED)
    weights = ov.Tensor(np.frombuffer(files[f"{FOLDER}/step.bin"], np.uint8))
    request = ov.compile_model(ov.Core().read_model(files[f"{FOLDER}/step.xml"], weights), "CPU").create_infer_request()
    x = np.ones((1, 3), np.float32)
    given = []
    for _ in range(2):
        given += [request.infer({"x": x})["y"].copy(), request.infer({"x": x})["y"].copy()]
        request.reset_state()
    np.testing.assert_array_equal(np.concatenate(given), [[2, 3, 4], [3, 4, 5]] * 2)


def test_both_graphs_share_their_weights(both):
    assert {name.rpartition("/")[2] for name in open_bundle(both).target("openvino", "fp32").files} == {
        "step.xml", "rows.xml", "step.bin",
    }  # fmt: skip
    floats = sum(p.numel() for p in Several().parameters())
    assert 4 * floats < (both / FOLDER / "step.bin").stat().st_size < 4 * floats + 4096


def test_one_row_at_a_time(tmp_path):
    one = Model(StreamSpec((X,), (Y,), (H,), rows=1, digest=SUM.spec.digest), SUM.step)
    path = with_openvino(tmp_path / "one.rnnx", one)
    assert [p.name for p in sorted((path / FOLDER).iterdir())] == ["step.bin", "step.xml"]
    engine, xs = load(path, backend="openvino"), frames(3, 4, 3)
    stream = engine.stream(batch=4)
    np.testing.assert_allclose([stream.step(x) for x in xs][-1], xs.sum(0), rtol=1e-6)


def test_an_id_beyond_the_table(openvino_engine):
    stream = openvino_engine("tokens").stream()
    stream.step(3)
    with raises("openvino-index-beyond-table", "'id'", "7", "-5,4"):
        stream.step(7)
    np.testing.assert_array_equal(stream.states["h"], [[6, 7]])


# --- IR of others


def changed(model: Model, old: str, new: str) -> dict[str, bytes]:
    text = converted(model)[f"{FOLDER}/step.xml"].decode()
    assert old in text
    return {"step": text.replace(old, new, 1).encode()}


OTHER = Model(spec("other", [X], [Y], [H]), SUM.step)
CONST, DIFFERS = 'offset="0" size="40"', "openvino-contract-differs"
ADD = 'type="Add" version="opset1"'
# The files, and what is said of them; or an id and its values.
OF_SUM = {
    "no XML": (lambda: {"step": b"\x08\x0a garbage"}, "it is no XML"),
    "bytes": (lambda: {"step": b"\xff\xfe\x00"}, "can't decode byte 0xff"),
    "a layer that is not there": (lambda: changed(SUM, 'from-layer="0"', 'from-layer="77"'), "that is not there"),
    "another contract": (lambda: {"step": converted(OTHER)[f"{FOLDER}/step.xml"]}, "for another contract"),
    "a state too few": (lambda: {"step": converted(SUM)[f"{FOLDER}/rows.xml"]}, DIFFERS, "step.xml takes ["),
    "another name": (lambda: changed(SUM, 'names="x"', 'names="z"'), DIFFERS, "step.xml takes [('z'"),
}
OF_TOKENS = {
    "entities": ("<net", '<!DOCTYPE net [<!ENTITY a "b">]><net', "it declares a document type, which no graph of"),
    "another version": ('version="11"', 'version="10"', "not IR of version 11"),
    "an extension": (ADD, 'type="Add" version="extension"', "Add of extension) is an operator that no graph of a"),
    "an unknown operator": ('type="Add"', 'type="Loop"', "Loop of opset1) is an operator"),
    "weights beyond the file": (CONST, 'offset="9999" size="40"', "does not hold"),
    "weights before the file": (CONST, 'offset="-40" size="40"', "does not hold"),
    "a shape that is larger": ('shape="5, 2"', 'shape="5, 2000"', "does not hold"),
}


@pytest.mark.parametrize("case", [*OF_SUM, *OF_TOKENS])
def test_ir_that_is_none_of_a_bundle(tmp_path, case):
    if case in OF_SUM:
        model, (make, *message) = SUM, OF_SUM[case]
    else:
        old, new, *message = OF_TOKENS[case]
        model, make = TOKENS, lambda: changed(TOKENS, old, new)
    path = with_openvino(tmp_path / "m.rnnx", model, **make())
    with raises(*(["openvino-graph-unusable"] * (len(message) == 1)), *message):
        load(path, backend="openvino")


def constant_layers(count: int) -> dict[str, bytes]:
    """A Broadcast to `count` values of a constant, whose sum is in the sizes of what comes after."""
    import openvino as ov

    ops = ov.opset13
    x, many = ops.parameter([1, 3], np.float32, name="x"), ops.constant(np.array([count], np.int64))
    one = ops.reduce_max(ops.broadcast(ops.constant(np.int64(1)), many), ops.constant(np.array([0])), keep_dims=True)
    y = ops.broadcast(x, ops.concat([one, ops.constant(np.array([3]))], 0))
    model = ov.Model([ops.result(y)], [x], "m")
    model.set_rt_info(SUM.spec.dumps(), ["framework", "rnn_export.spec"])
    text, weights = serialised(model, "fp32")
    return {"xml": text, "bin": weights}


def test_nothing_is_computed_while_it_is_read():
    """A few bytes that say 2**34 values, which OpenVINO would make before anybody could look at a size."""
    made = constant_layers(8)
    place = made["bin"].index(np.array([8], np.int64).tobytes())
    weights = made["bin"][:place] + np.array([2**34], np.int64).tobytes() + made["bin"][place + 8 :]
    with raises("openvino-graph-unusable", "computes from constants alone, of which a graph of a bundle has the"):
        read_graph("step.xml", made["xml"], weights, SUM.spec)


def test_it_is_data(both):
    assert code_of(open_bundle(both)) == ()


def test_a_target_without_its_weights(tmp_path):
    path, files = SUM.write(tmp_path / "m.rnnx"), {f"{FOLDER}/step.xml": b""}
    extend_bundle(open_bundle(path), TargetRow("openvino", "fp32", None, tuple(files), {}), files)
    with raises("openvino-file-missing", "step.xml", "rows.xml"):
        load(path, backend="openvino")


# --- the target


def refused(model: Model) -> str:
    given = {"step.onnx": model.files()["step.onnx"], "initial.npz": pack_arrays({})}
    with pytest.raises(ExportError) as error:
        convert(given, {"spec": model.spec.to_json(), "precision": "fp32"})
    return str(error.value)


def test_operators_that_openvino_refuses_or_no_bundle_has_are_named():
    nodes = [("Add", ["x", "h"], ["a"], {}), ("Det", ["a"], ["b"], {}), ("Add", ["a", "b"], ["y"], {})]
    said = refused(Model(spec("det", [X], [Y], [H]), [*nodes, ("Identity", ["y"], ["h.next"], {})]))
    assert re.match(r"OpenVINO [\d.]+ has no operator for Det of the step\. Leave openvino out, or write", said)
    nodes = [
        ("NonZero", ["x"], ["a"], {}), ("ReduceMax", ["a"], ["m"], {"keepdims": 0}), ("Cast", ["m"], ["f"], {"to": 1}),
        ("Add", ["h", "f"], ["y"], {}), ("Identity", ["y"], ["h.next"], {}),
    ]  # fmt: skip
    said = refused(Model(spec("nonzero", [X], [Y], [H]), nodes))
    assert "(NonZero of opset3) is an operator that no graph of a bundle has" in said


@pytest.mark.parametrize("dtype", ["int64", "float64", "int16"])
def test_states_that_openvino_loses_are_refused(dtype):
    assert f"state 'h' is {dtype}, and OpenVINO" in refused(previous(dtype))


def test_two_states_of_one_name_are_refused():
    one, other = replace(state("a", 3), input="a", output="bc"), replace(state("b", 3), input="ab", output="c")
    nodes = [("Add", ["x", "a"], ["bc"], {}), ("Add", ["x", "ab"], ["c"], {}), ("Add", ["bc", "c"], ["y"], {})]
    assert "two states would have one name in OpenVINO" in refused(Model(spec("twice", [X], [Y], [one, other]), nodes))


# --- the command


def test_a_bundle_gains_it_later(tmp_path):
    path = tmp_path / "net.rnnx"
    shutil.copytree(store.bundle("two-layers-on-onnx"), path)
    built = json.loads(invoke("build", path, "--target", "openvino", "--json"))
    assert (built["target"], built["precision"], built["parity"]["ok"]) == ("openvino", "fp32", True)
    again = invoke("build", path, "--target", "openvino", code=1)
    assert f"{path} has openvino (fp32): give --rebuild to write it again." in again
    small = json.loads(invoke("build", path, "--target", "openvino", "--precision", "int8", "--json"))
    half = json.loads(invoke("build", path, "--target", "openvino", "--precision", "fp16", "--json"))
    assert small["parity"]["backend"] == half["parity"]["backend"] == "openvino"
    sizes = [(path / f"targets/openvino-{p}/step.bin").stat().st_size for p in ("fp32", "fp16", "int8")]
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * sizes[2]
    assert [(c.backend, c.precision) for c in candidates(open_bundle(path), ["openvino"])] == [
        ("openvino", "fp32"), ("openvino", "int8"), ("openvino", "fp16"),
    ]  # fmt: skip
    report = json.loads(invoke("verify", path, "--backend", "openvino", "--precision", "fp32", "--json"))
    assert report["ok"] is True
    assert report["by_default"] is None or report["by_default"]["backend"] == "openvino"
    shown = invoke("verify", path, "--backend", "openvino", "--precision", "fp32")
    assert "Parity on openvino (cpu)" in shown


def test_a_recording_is_not_needed_in_int8(tmp_path):
    options = {"targets": ("openvino",), "precision": "int8", "calibrate": np.zeros((9, 4), np.float32)}
    with raises("openvino-int8-calibration"):
        export(torch.nn.GRU(4, 8).eval(), (torch.zeros(1, 1, 4),), tmp_path / "m.rnnx", steps=8, **options)


def test_a_converter_that_is_killed_leaves_no_bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(
        isolated_process, "_CHILD", "import os; print('converting', flush=True); os.kill(os.getpid(), 9)"
    )
    with raises("isolated-process-ended", "openvino.ir_conversion was ended by SIGKILL: converting"):
        export(torch.nn.GRU(4, 8).eval(), (torch.zeros(1, 1, 4),), tmp_path / "m.rnnx", targets=("openvino",), steps=8)
    assert [*tmp_path.iterdir()] == []


# --- the page


def test_the_c_plus_plus_of_the_page(tmp_path):
    import openvino.utils

    path, _ = exported("openvino")
    shutil.copytree(path, tmp_path / "detector.rnnx")
    wanted = load(path, backend="onnxruntime").stream().run(frames(12, 8))
    (tmp_path / "detector.cpp").write_text(block_of("openvino", "cpp"))
    (tmp_path / "CMakeLists.txt").write_text(block_of("openvino", "cmake"))
    configure = ["cmake", "-S", ".", "-B", "build", f"-DOpenVINO_DIR={openvino.utils.get_cmake_path()}"]
    for command in (configure, ["cmake", "--build", "build"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["./build/detector"], cwd=tmp_path, input=frames(12, 8).tobytes(), capture_output=True)
    given = np.frombuffer(done.stdout, np.float32).reshape(wanted.shape)
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)
