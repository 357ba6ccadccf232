"""Bundles of every format that was ever written: they are read, run, extended, and their snapshots go on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnn_export.bundle import FORMAT, Bundle, TargetRow, extend_bundle, open_bundle
from rnn_export.runtime import load
from rnn_export.runtime.build.native.native_build import build_c
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

from .messages import raises
from .test_bundle import forge, write

# By release, what it wrote.
RELEASES = {"0.1.0": Path(__file__).parent / "data/format1", "0.2.0": Path(__file__).parent / "data/format2"}
DIGEST = "51cb0a07ba2ba87faafead19161aba4f47ef142ed0e557cffa72f3ae6507b2dd"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RELEASES["0.1.0"] / "lstm.rnnx", tmp_path / "lstm.rnnx"))


@pytest.fixture(params=RELEASES)
def released(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(RELEASES[request.param] / "lstm.rnnx", tmp_path / "lstm.rnnx"))


def manifest(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
    return data


def goes_on(path: Path) -> None:
    """A stream restored from the snapshot of each release does what its own stream did then."""
    for folder in RELEASES.values():
        stream = load(path, backend="onnxruntime").stream()
        stream.restore((folder / "snapshot.bin").read_bytes())
        with np.load(folder / "io.npz") as then:
            np.testing.assert_allclose(stream.run(then["x"]), then["y"], rtol=1e-5, atol=1e-6)


def added(bundle: Bundle) -> Bundle:
    return extend_bundle(
        bundle,
        TargetRow("pt2", "fp32", None, ("targets/pt2-fp32/step.pt2",), {}),
        {"targets/pt2-fp32/step.pt2": b"step"},
    )


# --- format 1, and what every release wrote


def test_a_bundle_of_each_release_is_read_and_verified(released: Path) -> None:
    bundle = open_bundle(released)
    assert [(row.target, row.precision) for row in bundle.targets] == [("onnx", "fp32"), ("c", "fp32")]
    assert bundle.spec.digest == DIGEST
    assert bundle.producer["rnn-export"] in RELEASES
    engine = load(released, backend="onnxruntime")
    assert replay_golden(engine, Golden.from_arrays(bundle.arrays(FILE), bundle.spec)).ok
    goes_on(released)


def test_format_1_has_no_number_of_weights(old: Path) -> None:
    assert manifest(old)["format"] == 1
    assert (open_bundle(old).weights, open_bundle(old).extra) == (None, {})


def test_a_bundle_of_format_1_that_is_extended_is_of_this_format(old: Path) -> None:
    before = open_bundle(old)
    bundle = added(before)
    assert manifest(old)["format"] == FORMAT == 2
    assert bundle == open_bundle(old)
    assert (bundle.spec, bundle.producer, bundle.weights) == (before.spec, before.producer, None)
    assert {name: bundle.files[name] for name in before.files} == before.files
    goes_on(old)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not here")
def test_the_sources_of_each_release_are_compiled_as_they_are(released: Path) -> None:
    with raises("build-sources-untrusted"):
        build_c(open_bundle(released))
    done = build_c(open_bundle(released), trust=True)
    assert done.report is not None
    assert done.report.ok
    assert load(released).backend == "native"
    goes_on(released)


def test_format_1_has_its_own_fields_alone(old: Path) -> None:
    forge(old, lambda m: m.update(weights=5))
    fields = "exactly the fields ['files', 'format', 'producer', 'spec', 'targets']"
    with raises("manifest-unusable", fields, "'weights'"):
        open_bundle(old)


# --- format 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "vad.rnnx", weights=7, extra={"example.org/region": ["eu", None]})
    return tmp_path / "vad.rnnx"


def test_what_a_reader_does_not_know_stays(path: Path) -> None:
    bundle = open_bundle(path)
    assert (bundle.weights, bundle.extra) == (7, {"example.org/region": ["eu", None]})
    again = added(bundle)
    assert again == open_bundle(path)
    assert (again.weights, again.extra) == (bundle.weights, bundle.extra)


WRONG: list[tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]] = [
    (lambda m: m.pop("weights"), ("exactly the fields ['extra', ", "'weights'], but has")),
    (lambda m: m.pop("extra"), ("exactly the fields ['extra', ", "'weights'], but has")),
    (lambda m: m.update(weights=-1), ("weights is -1",)),
    (lambda m: m.update(weights=True), ("weights = True",)),
    (lambda m: m.update(weights=1.5), ("weights = 1.5",)),
    (lambda m: m.update(extra=[]), ("extra = []",)),
    (lambda m: m.update(format=1), ("exactly the fields ", "but has ", "'extra'")),
]


@pytest.mark.parametrize(("edit", "values"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_wrong_manifests_of_format_2(
    path: Path, edit: Callable[[dict[str, Any]], Any], values: tuple[str, ...]
) -> None:
    forge(path, edit)
    with raises("manifest-unusable", *values):
        open_bundle(path)


def test_what_is_no_json_is_not_written(path: Path) -> None:
    before = open_bundle(path)
    with raises("manifest-not-writable", "Out of range float values"):
        write(path, extra={"a": float("nan")}, force=True)
    assert open_bundle(path) == before
