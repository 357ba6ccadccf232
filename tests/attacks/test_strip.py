"""`strip`: the files kept for a device, and signatures afterwards."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import Bundle, atomic, open_bundle, write_bundle
from rnn_export.bundle.judgement import judge
from rnn_export.runtime import load
from rnn_export.runtime.backends.native.cpu import host_triple

from ..messages import raises  # noqa: TID252
from ..native.command import invoke, refused, unchanged  # noqa: TID252
from ..trusting import trusted  # noqa: TID252
from .hostile import with_library, with_sources

pytestmark = pytest.mark.usefixtures("compiler", "elsewhere")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not any(map(shutil.which, ("gcc", "clang"))):
        pytest.skip("no C compiler is here")
    folder = tmp_path_factory.mktemp("strip")
    return with_library(folder / "m.rnnx", folder / "mark")


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "m.rnnx"))


def again(bundle: Bundle, **more: bytes) -> Path:
    """With files that belong to no target."""
    files = {name: bundle.read(name) for name in bundle.files} | {
        name.replace("_", "."): raw for name, raw in more.items()
    }
    write_bundle(
        bundle.path, spec=bundle.spec, producer=bundle.producer, files=files, targets=bundle.targets,
        extra={"example.org/region": "EU"}, force=True,
    )  # fmt: skip
    return bundle.path


def test_the_device_streams_and_verifies_what_is_left(path: Path, tmp_path: Path) -> None:
    again(trusted_bundle(path), README_md=b"of all targets", notes_txt=b"of somebody")
    before, out = (path / "manifest.json").read_bytes(), tmp_path / "device.rnnx"
    done = invoke("strip", path, "--keep", "c", "-o", out, "--json")
    assert done.exit_code == 0, done.output
    left, whole, said = open_bundle(out), open_bundle(path), json.loads(done.stdout)
    assert said["targets"] == ["c-fp32"] == [f"{row.target}-{row.precision}" for row in left.targets]
    assert set(said["gone"]) == {"step.onnx", "sequence.onnx", "README.md", "report.html"} & set(whole.files)
    assert set(left.files) == set(whole.files) - set(said["gone"])
    assert {"golden.npz", "notes.txt"} <= set(left.files)
    assert (left.spec, left.extra) == (whole.spec, {"example.org/region": "EU"})
    assert said["bytes"] == sum(row.bytes for row in left.files.values()) < said["bytes_before"]
    assert said["signature"] is None
    unchanged(path, before)
    assert load(out).backend == "native"
    assert invoke("verify", out).exit_code == 0
    assert "has neither" not in done.stderr
    assert refused(invoke("verify", out, "--backend", "torchscript")) == (
        "the bundle has no target 'torchscript', only c: export it with --target torchscript."
    )


def trusted_bundle(path: Path) -> Bundle:
    return open_bundle(trusted(path))


def test_in_its_own_place_it_asks_for_force(path: Path) -> None:
    trusted(path)
    before = (path / "manifest.json").read_bytes()
    assert refused(invoke("strip", path, "--keep", "c")) == (
        f"{path} exists: choose another name, or replace it with --force (force=True)."
    )
    unchanged(path, before)
    done = invoke("strip", path, "--keep", "c", "--force")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"wrote {path} with c-fp32: ")
    assert "it has no ONNX graph any more" in done.stderr
    assert [row.target for row in open_bundle(path).targets] == ["c"]
    assert load(path, "native").stream().step(np.ones(3, np.float32)).shape == (3,)


def test_onnx_may_stay_alone(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "onnx.rnnx"
    done = invoke("strip", path, "--keep", "onnx-fp32", "-o", out)
    assert (done.exit_code, done.stderr) == (0, "")
    assert not judge(open_bundle(out)).untrusted
    assert invoke("verify", out, "--backend", "onnxruntime").exit_code == 0


def test_strangers_stay_strangers(path: Path, tmp_path: Path) -> None:
    done = invoke("strip", path, "--keep", "c", "-o", tmp_path / "out.rnnx")
    assert (
        f"it holds code and is not signed: for other machines, rnn-export sign {tmp_path / 'out.rnnx'}" in done.stderr
    )
    with raises("code-not-trusted", "is not recorded as built here"):
        load(tmp_path / "out.rnnx", "native")


def test_the_machines_that_are_kept(path: Path, tmp_path: Path) -> None:
    triple, other = host_triple(), "riscv64-linux-gnu"
    bundle = open_bundle(path)
    c = bundle.target("c", "fp32")
    assert c is not None
    add = {f"targets/c-fp32/build/{other}/native.so": b"elsewhere"}
    rows = [*(r for r in bundle.targets if r != c), type(c)(**{**vars(c), "files": (*c.files, *add)})]
    files = {name: bundle.read(name) for name in bundle.files} | add
    write_bundle(path, spec=bundle.spec, producer=bundle.producer, files=files, targets=rows, force=True)
    trusted(path)
    assert refused(invoke("strip", path, "--keep", "c", "--triple", "cortex-m4", "-o", tmp_path / "x.rnnx")) == (
        f"{path}: what is kept has nothing compiled for 'cortex-m4', only for {other}, {triple}: "
        f"rnn-export build {path} --target c --triple cortex-m4."
    )
    assert invoke("strip", path, "--keep", "c", "--triple", triple, "-o", tmp_path / "y.rnnx").exit_code == 0
    left = open_bundle(tmp_path / "y.rnnx").files
    assert {name.split("/")[3] for name in left if "/build/" in name} == {triple}
    assert load(tmp_path / "y.rnnx").backend == "native"


def test_what_is_not_there(path: Path, tmp_path: Path) -> None:
    assert refused(invoke("strip", path, "--keep", "c-int8", "-o", tmp_path / "x.rnnx")) == (
        f"{path} has no target 'c-int8' to keep; it has onnx-fp32, c-fp32."
    )
    assert not (tmp_path / "x.rnnx").exists()
    sources = with_sources(tmp_path / "s.rnnx", tmp_path / "mark")
    said = refused(invoke("strip", sources, "--keep", "c", "--triple", host_triple(), "-o", tmp_path / "x.rnnx"))
    assert f"nothing compiled for {host_triple()!r}, for no machine" in said


def test_a_signature_goes_and_what_it_vouched_for_stays_trusted_here(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="the extra sign is not here")
    key, out = tmp_path / "maker", tmp_path / "device.rnnx"
    for arguments in (("keygen", key), ("sign", path, "--key", key), ("trust", f"{key}.pub")):
        assert invoke(*arguments).exit_code == 0
    done = invoke("strip", path, "--keep", "c", "-o", out, "--json")
    whole, said = open_bundle(path), json.loads(done.stdout)
    assert whole.signature is not None
    assert said["signature"] == "does not hold"
    assert said["notes"][0] == (
        f"the signature by {whole.signature.key} is of the bundle as it came, and does not hold for this one: "
        f"before it goes elsewhere, rnn-export sign {out} --key KEY"
    )
    assert open_bundle(out).signature is None
    assert load(out).backend == "native"
    assert "is not signed" in refused(invoke("verify", out, "--signed-by", f"{key}.pub"))
    assert invoke("sign", out, "--key", key).exit_code == 0
    assert invoke("verify", out, "--signed-by", f"{key}.pub").exit_code == 0


def test_a_bundle_that_changes_meanwhile_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = atomic.locked

    def late(folder: Path) -> object:
        monkeypatch.undo()
        again(open_bundle(path), late_txt=b"by another process")
        return locked(folder)

    monkeypatch.setattr(atomic, "locked", late)
    said = refused(invoke("strip", path, "--keep", "c", "--force"))
    assert said == f"{path} was replaced meanwhile: nothing was taken from it. Do it again."
    assert "late.txt" in open_bundle(path).files
