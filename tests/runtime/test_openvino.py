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
from click.testing import CliRunner

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.bundle.code import code_of
from rnn_export.bundle.writing import extend_bundle
from rnn_export.cli.main import main
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
from ..stages import without_stages  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .graphs import STORED, SUM, TOKENS, H, Model, X, Y, frames, previous, spec, state
from .openvino_toys import FOLDER, converted, with_openvino
from .test_backends import golden_of


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
CONST = 'offset="0" size="40"'
HOSTILE = {
    "no XML": (lambda: {"step": b"\x08\x0a garbage"}, ("openvino-graph-unusable", "it is no XML")),
    "bytes": (lambda: {"step": b"\xff\xfe\x00"}, ("openvino-graph-unusable", "can't decode byte 0xff")),
    "entities": (
        lambda: changed(TOKENS, "<net", '<!DOCTYPE net [<!ENTITY a "b">]><net'),
        ("openvino-graph-unusable", "it declares a document type, which no graph of a bundle"),
    ),
    "another version": (lambda: changed(TOKENS, 'version="11"', 'version="10"'),
        ("openvino-graph-unusable", "not IR of version 11")),
    "an extension": (
        lambda: changed(TOKENS, 'type="Add" version="opset1"', 'type="Add" version="extension"'),
        ("openvino-graph-unusable", "Add of extension) is an operator that no graph of a bundle has"),
    ),
    "an unknown operator": (lambda: changed(TOKENS, 'type="Add"', 'type="Loop"'),
        ("openvino-graph-unusable", "Loop of opset1) is an operator")),
    "weights beyond the file": (lambda: changed(TOKENS, CONST, 'offset="9999" size="40"'),
        ("openvino-graph-unusable", "does not hold")),
    "weights before the file": (lambda: changed(TOKENS, CONST, 'offset="-40" size="40"'),
        ("openvino-graph-unusable", "does not hold")),
    "a shape that is larger": (lambda: changed(TOKENS, 'shape="5, 2"', 'shape="5, 2000"'),
        ("openvino-graph-unusable", "does not hold")),
    "a layer that is not there": (lambda: changed(SUM, 'from-layer="0"', 'from-layer="77"'),
        ("openvino-graph-unusable", "that is not there")),
    "another contract": (lambda: {"step": converted(OTHER)[f"{FOLDER}/step.xml"]},
        ("openvino-graph-unusable", "for another contract")),
    "a state too few": (lambda: {"step": converted(SUM)[f"{FOLDER}/rows.xml"]},
        ("openvino-contract-differs", "step.xml takes [")),
    "another name": (lambda: changed(SUM, 'names="x"', 'names="z"'),
        ("openvino-contract-differs", "step.xml takes [('z'")),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_ir_that_is_none_of_a_bundle(tmp_path, case):
    make, message = HOSTILE[case]
    model = TOKENS if case in ("weights beyond the file", "weights before the file") or "shape" in case else SUM
    if case in ("entities", "another version", "an extension", "an unknown operator"):
        model = TOKENS
    path = with_openvino(tmp_path / "m.rnnx", model, **make())
    with raises(*message):
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
    with raises(
        "openvino-graph-unusable", "computes from constants alone, of which a graph of a bundle has the result"
    ):
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


def test_operators_that_openvino_refuses_are_named():
    nodes = [("Add", ["x", "h"], ["a"], {}), ("Det", ["a"], ["b"], {}), ("Add", ["a", "b"], ["y"], {})]
    said = refused(Model(spec("det", [X], [Y], [H]), [*nodes, ("Identity", ["y"], ["h.next"], {})]))
    assert re.match(r"OpenVINO [\d.]+ has no operator for Det of the step\. Leave openvino out, or write", said)


def test_operators_of_no_bundle_are_named():
    nodes = [
        ("NonZero", ["x"], ["a"], {}), ("ReduceMax", ["a"], ["m"], {"keepdims": 0}), ("Cast", ["m"], ["f"], {"to": 1}),
        ("Add", ["h", "f"], ["y"], {}), ("Identity", ["y"], ["h.next"], {}),
    ]  # fmt: skip
    assert "(NonZero of opset3) is an operator that no graph of a bundle has" in refused(
        Model(spec("nonzero", [X], [Y], [H]), nodes)
    )


@pytest.mark.parametrize("dtype", ["int64", "float64", "int16"])
def test_states_that_openvino_loses_are_refused(dtype):
    assert f"state 'h' is {dtype}, and OpenVINO" in refused(previous(dtype))


def test_two_states_of_one_name_are_refused():
    one, other = replace(state("a", 3), input="a", output="bc"), replace(state("b", 3), input="ab", output="c")
    nodes = [("Add", ["x", "a"], ["bc"], {}), ("Add", ["x", "ab"], ["c"], {}), ("Add", ["bc", "c"], ["y"], {})]
    assert "two states would have one name in OpenVINO" in refused(Model(spec("twice", [X], [Y], [one, other]), nodes))


# --- the command


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name("rnn-export"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


NET = """
import torch
def net():
    torch.manual_seed(0)
    return torch.nn.GRU(4, 8).eval(), (torch.zeros(1, 1, 4),)
"""


def test_export_by_the_command_says_nothing_of_openvino_s(tmp_path):
    (tmp_path / "nets.py").write_text(NET)
    done = run("export", f"{tmp_path}/nets.py:net", "-o", tmp_path / "net.rnnx", "--target", "openvino", "--steps", 16)
    assert (done.returncode, without_stages(done.stderr)) == (0, "")
    row = open_bundle(tmp_path / "net.rnnx").target("openvino", "fp32")
    assert row.requires == {"openvino": "2026.0"}


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(main, [*map(str, arguments)])
    return done.stdout if done.exit_code == 0 else f"exit {done.exit_code}: {done.stderr}"


def test_a_bundle_gains_it_later(tmp_path):
    path = tmp_path / "net.rnnx"
    shutil.copytree(store.bundle("two-layers-on-onnx"), path)
    built = json.loads(invoke("build", path, "--target", "openvino", "--json"))
    assert (built["target"], built["precision"], built["parity"]["ok"]) == ("openvino", "fp32", True)
    assert f"{path} has openvino (fp32): give --rebuild to write it again." in invoke(
        "build", path, "--target", "openvino"
    )
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "bf16"), "target 'openvino' is not written in 'bf16': choose from fp32, fp16, int8"),
        (("--batch", "1:2:4"), "--batch does not go with --target openvino: leave it out."),
        (("--triple", "cortex-m4", "--cpu", "x"), "--triple, --cpu do not go with --target openvino"),
        (("--precision", "int8", "--calibrate", __file__), "--calibrate does not go with --target openvino"),
    ],
)
def test_what_does_not_go_with_it(arguments, message):
    assert message in invoke("build", store.bundle("two-layers-on-onnx"), "--target", "openvino", *arguments)


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
