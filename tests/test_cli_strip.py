"""`rnn-export strip`: the bundle that a device needs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rnn_export.bundle import open_bundle
from rnn_export.cli.main import main
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime import load

from .zoo import store


def invoke(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [*map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def bundle(tmp_path) -> Path:
    return Path(shutil.copytree(store.bundle("two-layers"), tmp_path / "net.rnnx"))


def test_what_is_kept_runs_and_is_proved(bundle):
    code, out, err = invoke("strip", bundle, "--keep", "c", "--json")
    assert (code, err) == (0, "")
    path = bundle.with_name("net-c.rnnx")
    stripped, before = open_bundle(path), open_bundle(bundle)
    assert json.loads(out)["files"] == sorted(stripped.files)
    assert {row.target for row in stripped.targets} == {"c"}
    assert not {"step.onnx", "sequence.onnx", "README.md"} & set(stripped.files)
    assert {"golden.npz", "parity.json"} <= set(stripped.files)
    assert stripped.spec == before.spec
    assert load(path).backend == "native"
    assert invoke("verify", path)[0] == 0
    with pytest.raises(BackendUnavailable, match="the bundle has no target 'onnx', only c"):
        load(path, backend="onnxruntime")
    snapshot = load(bundle).stream().snapshot()
    load(path).stream().restore(snapshot)


def test_one_of_two_targets(bundle, tmp_path):
    code, out, _ = invoke("strip", bundle, "--keep", "onnx", "-o", tmp_path / "onnx.rnnx")
    assert (code, "onnx (fp32)" in out) == (0, True)
    xs = np.ones((3, 8), np.float32)
    one, other = (load(p, backend="onnxruntime").stream().run(xs) for p in (bundle, tmp_path / "onnx.rnnx"))
    np.testing.assert_array_equal(one, other)


def test_a_signature_is_not_of_what_is_left(bundle, tmp_path, monkeypatch):
    assert invoke("keygen", tmp_path / "maker")[0] == 0
    assert invoke("sign", bundle, "--key", tmp_path / "maker")[0] == 0
    code, out, err = invoke("strip", bundle, "--keep", "c", "--json")
    assert (code, json.loads(out)["signed"]) == (0, False)
    assert f"the signature is of {bundle} as a whole" in err
    assert f"rnn-export sign {bundle.with_name('net-c.rnnx')} --key KEY" in err
    assert open_bundle(bundle.with_name("net-c.rnnx")).signature is None
    assert open_bundle(bundle).signature is not None
    # Who has neither record nor key is told.
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nobody"))
    _, _, err = invoke("strip", bundle, "--keep", "c", "--force")
    assert "note: code in it is not trusted here: c (fp32)" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--keep", "tensorrt"), "has no tensorrt to keep, only onnx (fp32), c (fp32)."),
        (("--keep", "c", "--precision", "int8"), "has no c in int8 to keep, only onnx (fp32), c (fp32)."),
        (("--keep", "c", "-o", "{bundle}"), "net.rnnx"),
    ],
)
def test_what_it_refuses(bundle, arguments, message):
    code, _, err = invoke("strip", bundle, *(a.format(bundle=bundle) for a in arguments))
    assert code == 1
    assert message in err
    assert open_bundle(bundle).target("onnx", "fp32")
