"""Findings 5, 8, 9 and 10: declared sizes are bounded, and the size of the manifest bounds the time to open."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from rnn_export import limits
from rnn_export.bundle import open_bundle
from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.runtime import load
from rnn_export.runtime.backends.remote.server_config import read_config

from ..messages import raises  # noqa: TID252
from .forging import forge

HUGE = 2**31
DECLARED = {
    "input": lambda s: s["inputs"][0].update(shape=["batch", HUGE]),
    "output": lambda s: s["outputs"][0].update(shape=["batch", HUGE]),
    "state": lambda s: s["states"][0].update(shape=["batch", HUGE]),
    "chunk": lambda s: (s.update(chunk=HUGE), s["inputs"][0].update(shape=["batch", "time", 3])),
    "dimensions": lambda s: s["states"][0].update(shape=["batch", *[10**18] * 15]),
}


@pytest.mark.parametrize("edit", DECLARED.values(), ids=DECLARED)
def test_what_is_declared_is_refused_before_it_is_allocated(path: Path, edit) -> None:
    forge(path, lambda m: edit(m["spec"]))
    with raises("manifest-unusable", "over the limit of 268435456 a tensor", "RNN_EXPORT_"):
        load(path)


def test_all_tensors_together_have_a_limit(path: Path) -> None:
    """Each of them is within its own."""
    tensor = {"dtype": "float32", "shape": ["batch", 2**26]}
    forge(path, lambda m: m["spec"]["outputs"].extend({"name": f"y{i}", **tensor} for i in range(5)))
    with raises("manifest-unusable", "the tensors of a step of one stream take 1342177", "over the limit"):
        load(path)


def test_the_limit_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def spec() -> StreamSpec:
        return StreamSpec((TensorSpec("x", "int8", ("batch", 2**29)),), (TensorSpec("y", "int8", ("batch",)),), ())

    with raises("contract-contradiction", "RNN_EXPORT_MAX_BYTES=2147483648"):
        spec()
    monkeypatch.setenv("RNN_EXPORT_MAX_BYTES", "2147483648")
    assert spec().inputs[0].frame == (2**29,)
    monkeypatch.setenv("RNN_EXPORT_MAX_BYTES", "2 GiB")
    with raises("max-bytes-invalid", "'2 GiB'"):
        spec()


class _Config:
    """A ModelConfig of Triton's as far as a client reads it."""

    def __init__(self, **parameters: str) -> None:
        self.parameters = {f"rnn_export.{k}": type("Value", (), {"string_value": v}) for k, v in parameters.items()}
        self.input = ()


def test_a_false_server_cannot_make_a_client_allocate() -> None:
    text = StreamSpec((TensorSpec("x", "int8", ("batch", 2)),), (TensorSpec("y", "int8", ("batch",)),), ()).dumps()
    state = '{"name":"h","input":"h","output":"n","dtype":"float32","shape":["batch",2147483648],"initial":"zeros"}'
    config = _Config(spec=text.replace('"states":[]', f'"states":[{state}]'), wire="rnn-export-1", precision="fp32")
    read = ("remote-parameters-unreadable", "'h' of a step", "over the limit")
    unknown = ("remote-protocol-unknown", "talks")
    for kind, message in {"packed": unknown, "tensors": read, "snapshot": unknown, "rnn-export-1": unknown}.items():
        config.parameters["rnn_export.wire"].string_value = kind
        with raises(*message):
            read_config("vad", config)


COUNTS = {
    "inputs": (
        lambda m: m["spec"].update(inputs=[{**m["spec"]["inputs"][0], "name": f"x{i}"} for i in range(200_000)])
    ),
    "doubled inputs": lambda m: m["spec"].update(inputs=m["spec"]["inputs"] * 100_000),
    "axes": lambda m: m["spec"]["states"][0].update(shape=["batch", *[1] * 100_000]),
    "name": lambda m: m["spec"]["inputs"][0].update(name="x" * 10**6),
    "path": lambda m: m["files"].extend(
        {"path": f"{i}/" + "a/" * 20_000 + "b", "sha256": "0" * 64, "bytes": 0} for i in range(300)
    ),
    "files": lambda m: m["files"].extend({"path": f"f{i}", "sha256": "0" * 64, "bytes": 0} for i in range(100_000)),
    "delay": lambda m: m["spec"].update(delay=10**15),
}


@pytest.fixture
def forged(path: Path, edit) -> Path:
    """Made before the time of the test begins."""
    return forge(path, edit)


@pytest.mark.parametrize("edit", COUNTS.values(), ids=COUNTS)
def test_counts_and_lengths_are_limited_and_quickly_so(forged: Path, quick) -> None:
    with raises("manifest-unusable", "over the limit"):
        open_bundle(forged)
    quick(100)


def test_a_hole_in_a_file_is_not_hashed(path: Path, quick) -> None:
    os.truncate(path / "step.onnx", 40 * 2**30)
    forge(path, lambda m: m["files"][0].update(path="step.onnx", bytes=40 * 2**30))
    with raises("bundle-too-large", "42949672960", "4294967296"):
        open_bundle(path)
    quick(40)


def test_what_is_at_the_limit_opens(path: Path, quick) -> None:
    """Thousands of tensors are no reason to wait."""
    more = [{"name": f"y{i}", "dtype": "float32", "shape": ["batch", 3]} for i in range(limits.TENSORS - 2)]
    forge(path, lambda m: m["spec"]["outputs"].extend(more))
    assert len(open_bundle(path).spec.outputs) == limits.TENSORS - 1
    quick(100)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_snapshot_is_held_to_what_a_given_state_is(path: Path, bad: float) -> None:
    engine = load(path, backend="onnxruntime")
    stream, pool = engine.stream(), engine.pool(2)
    y = stream.step(np.ones(3, np.float32))
    forged = bytearray(stream.snapshot()[:-4])
    forged[-4:] = np.float32(bad).tobytes()
    whole = bytes(forged) + struct.pack("<I", zlib.crc32(forged))
    one = pool.open()
    for restore in (stream.restore, lambda s: pool.restore(one, s), lambda s: pool.open(snapshot=s)):
        with raises("frame-not-finite", "'h'", "index (0, 2)"):
            restore(whole)
    assert np.array_equal(stream.step(np.ones(3, np.float32)), y + 1)


@pytest.mark.parametrize("name", ["../OUTSIDE", "a/b", "", "a b", "1a", "a\n", "ä", 5, None])
def test_the_name_of_c_sources_is_an_identifier(path: Path, name) -> None:
    row = {"target": "c", "precision": "fp32", "opset": None, "files": [], "requires": {"name": name}}
    forge(path, lambda m: m["targets"].append(row))
    with raises("manifest-unusable", "target 'c' requires name =", "a name that C can have"):
        open_bundle(path)


@pytest.mark.parametrize(("field", "value"), [("target", "../.."), ("precision", "fp32/../../x"), ("target", "A;rm")])
def test_no_field_of_a_row_is_a_path(path: Path, field: str, value: str) -> None:
    forge(path, lambda m: m["targets"][0].update({field: value}))
    with raises("manifest-unusable", f"a target row has {field} =", "which is no word"):
        open_bundle(path)
