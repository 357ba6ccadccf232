"""The description for LEAPP; tests/published/test_robots.py runs one in LEAPP itself."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from rnn_export.bundle import TargetRow, open_bundle, write_bundle
from rnn_export.bundle.leapp import write_leapp
from rnn_export.cli.main import main

from .messages import raises
from .runtime.graphs import MIXED, MODELS, START, STORED, SUM, WHOLE

yaml = pytest.importorskip("yaml", reason="PyYAML comes with the extra docs")


def read(path):
    return yaml.safe_load(path.read_text())


def test_states_are_connections_back(tmp_path):
    bundle = open_bundle(STORED.write(tmp_path / "walk.rnnx"))
    raw = bundle.read("step.onnx")
    files = write_leapp(bundle)
    assert [path.name for path in files] == ["walk.yaml", "walk_initial_values.safetensors"]
    row = {"dtype": "float32", "shape": [1, 3], "type": "tensor"}
    assert read(files[0]) == {
        "models": {
            "walk": {
                "inputs": [{"name": "x", **row}, {"name": "h", **row}],
                "outputs": [{"name": "y", **row}, {"name": "h.next", **row}],
                "parameters": {
                    "model_path": "walk.rnnx/step.onnx",
                    "md5sum": hashlib.md5(raw).hexdigest(),
                    "sha256sum": hashlib.sha256(raw).hexdigest(),
                    "backend": "onnx",
                    "opset_version": 18,
                },
            }
        },
        "pipeline": {
            "data_flow": {},
            "feedback_flow": {"walk/h.next": ["walk/h"]},
            "initial_values": "walk_initial_values.safetensors",
            "inputs": {"walk": ["x"]},
            "outputs": {"walk": ["y"]},
        },
        "system information": {"leapp version": "0.7.2", "leapp config version": "1.3"},
        "rnn-export": {"digest": STORED.spec.digest, "chunk": 1},
    }
    numpy = pytest.importorskip("safetensors.numpy")
    np.testing.assert_array_equal(numpy.load_file(files[1])["walk/h"], START[None], strict=True)


def test_several_tensors_and_a_chunk(tmp_path):
    (path,) = write_leapp(open_bundle(MIXED.write(tmp_path / "m.rnnx")), tmp_path / "there.yaml")
    shapes = {t["name"]: t["shape"] for ts in ("inputs", "outputs") for t in read(path)["models"]["m"][ts]}
    assert shapes == {
        "x": [1, 3, 3], "z": [1, 3, 1], "gain": [1, 3], "h": [1, 3], "y": [1, 3, 3], "total": [1, 3], "h.next": [1, 3],
    }  # fmt: skip
    assert read(path)["pipeline"]["inputs"] == {"m": ["x", "z", "gain"]}


@pytest.mark.parametrize("name", ["on", "No", "my walk", "größe", "12"])
def test_names_that_are_words_of_yaml(tmp_path, name):
    (path,) = write_leapp(open_bundle(SUM.write(tmp_path / f"{name}.rnnx")))
    (node,) = read(path)["models"]
    assert node == name.replace(" ", "_")
    assert read(path)["pipeline"]["feedback_flow"] == {f"{node}/h.next": [f"{node}/h"]}
    assert (tmp_path / read(path)["models"][node]["parameters"]["model_path"]).exists()


def test_every_dtype_of_a_state_has_a_word(tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    for name, model in MODELS.items():
        if not name.startswith("previous"):
            continue
        spec = model.spec
        stored = replace(spec, states=tuple(replace(s, initial="stored") for s in spec.states))
        start = np.ones((), spec.states[0].dtype)
        path = replace(model, spec=stored, initial={"h": start}).write(tmp_path / f"{name}.rnnx")
        _, values = write_leapp(open_bundle(path))
        np.testing.assert_array_equal(load_file(values)[f"{name}/h"], start[None], strict=True)


def test_what_is_refused(tmp_path):
    bundle = open_bundle(SUM.write(tmp_path / "m.rnnx"))
    (path,) = write_leapp(bundle)
    path.write_text("mine")
    with raises("leapp-file-exists", "m.yaml"):
        write_leapp(bundle)
    assert path.read_text() == "mine"
    write_leapp(bundle, force=True)
    with raises("leapp-suffix-unknown", "m.txt"):
        write_leapp(bundle, tmp_path / "m.txt")
    with raises("leapp-not-written", "there/m.yaml", "No such file"):
        write_leapp(bundle, tmp_path / "there" / "m.yaml")
    with raises("leapp-graph-missing", "takes whole sequences only"):
        write_leapp(open_bundle(WHOLE.write(tmp_path / "whole.rnnx")))


def test_a_name_with_a_slash(tmp_path):
    spec = replace(SUM.spec, inputs=(replace(SUM.spec.inputs[0], name="joints/x"),))
    nodes = [("Add", ["joints/x", "h"], ["y"], {}), SUM.step[1]]
    bundle = open_bundle(replace(SUM, spec=spec, step=nodes).write(tmp_path / "m.rnnx"))
    with raises("leapp-slash-in-name", "'joints/x'"):
        write_leapp(bundle)


def test_a_bundle_stripped_of_its_graph(tmp_path):
    source = "targets/c-fp32/m.c"
    row = TargetRow("c", "fp32", None, (source,), {"name": "m"})
    bundle = write_bundle(tmp_path / "m.rnnx", spec=SUM.spec, producer={}, files={source: b"int x;"}, targets=[row])
    with raises("leapp-graph-missing", "was stripped of it (--keep onnx keeps it)"):
        write_leapp(bundle)


def test_the_command(tmp_path):
    path = MODELS["delayed"].write(tmp_path / "m.rnnx")
    done = CliRunner().invoke(main, ["leapp", str(path)])
    assert done.exit_code == 0, done.output
    assert "wrote" in done.stdout
    assert "m.yaml" in done.stdout.replace("\n", "")
    assert "the first 2 frames give no output" in done.output
    assert "LEAPP gives them all the same" in done.output.replace("\n", " ")
    done = CliRunner().invoke(main, ["leapp", str(path), "--json"])
    assert done.exit_code == 1
    assert "Say --force" in done.output
    done = CliRunner().invoke(main, ["leapp", str(path), "--json", "--force", "-o", str(tmp_path / "n.yaml")])
    assert json.loads(done.stdout)["files"] == [str(tmp_path / "n.yaml")]
