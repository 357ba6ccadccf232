"""Core ML: the target, and the backend on a stand-in for coremltools on a Mac. Nothing here runs on macOS."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from ..lifting import lift  # noqa: TID252

if importlib.util.find_spec("coremltools") is None and not os.environ.get("CI"):
    pytest.skip("coreml: coremltools is not here: pip install 'rnn-export[coreml]'", allow_module_level=True)

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.bundle.code import code_of
from rnn_export.bundle.draft import Draft
from rnn_export.cli.main import main
from rnn_export.contract.precision import TOLERANCES
from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import BundleError
from rnn_export.export import export
from rnn_export.export.targets.coreml.mil_interpreter import FUNCTIONS, MilRun, MilSession
from rnn_export.export.targets.coreml.writer import Writer
from rnn_export.platform.installing import pip_install
from rnn_export.runtime import Engine, load
from rnn_export.runtime.backends.coreml.mil import read_program
from rnn_export.runtime.backends.coreml.mil_operators import OPERATORS
from rnn_export.runtime.backends.coreml.package_inspection import read_package
from rnn_export.runtime.backends.coreml.package_names import BEGUN, PLACES, join, part_names, split, tensor_names
from rnn_export.runtime.replay.checks import replay_golden

from ..messages import raises  # noqa: TID252
from ..stages import without_stages  # noqa: TID252
from .test_backends import golden_of

FOLDER = "targets/coreml-{}/step.mlpackage"
STEPS = 24
X, Y = TensorSpec("x", "float32", ("batch", 1)), TensorSpec("y", "float32", ("batch", 1))


class Net(nn.Module):
    """An LSTM from learned states, two layers deep in what it remembers, and names that MIL has for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)
        self.h, self.c = (nn.Parameter(torch.randn(1, 1, 8)) for _ in range(2))

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        start = self.h.expand(-1, tensor.shape[0], -1), self.c.expand(-1, tensor.shape[0], -1)
        return self.head(self.lstm(tensor, start)[0])


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "m.rnnx"
    export(net(), (torch.zeros(2, 7, 5),), path, targets=("onnx", "coreml"), chunk=2, steps=STEPS)
    return path


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    """By the command, which says nothing of the converter's; in fp16."""
    place = tmp_path_factory.mktemp("half")
    (place / "nets.py").write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.LSTM(5, 8).eval(), (torch.zeros(3, 1, 5),)\n"
    )
    command = [Path(sys.executable).with_name("rnn-export"), "export", f"{place}/nets.py:net", "-o", place / "m.rnnx"]
    command += ["--target", "coreml", "--precision", "fp16", "--steps", str(STEPS)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = " ".join(without_stages(done.stderr).split())
    assert said.startswith("note: coreml was not run on hardware: its program was executed in numpy. On a Mac,")
    assert said.endswith("holds Core ML itself to the golden vectors.")
    return place / "m.rnnx"


def files_of(path: Path, precision: str = "fp32") -> dict[str, bytes]:
    place = path / FOLDER.format(precision)
    return {name: (place / inside).read_bytes() for name, inside in PLACES.items()}


def program_of(path: Path, precision: str = "fp32"):
    files = files_of(path, precision)
    return read_program(files["model.mlmodel"], files["weight.bin"])


# --- coremltools of a Mac, whose models are executed in numpy


@dataclass
class StandInModel:
    """MLModel's interface: fp16 states that begin at zeros, and a prediction that overwrites them."""

    package: str
    compute_units: str

    def __post_init__(self) -> None:
        files = {name: Path(self.package, place).read_bytes() for name, place in PLACES.items()}
        items = json.loads(files["Manifest.json"])
        root = items["itemInfoEntries"][items["rootModelIdentifier"]]
        assert Path(self.package, "Data", root["path"]).read_bytes() == files["model.mlmodel"]
        self.program = read_program(files["model.mlmodel"], files["weight.bin"])
        self.session = MilSession(None, self.program, "")

    def make_state(self) -> MilRun:
        return MilRun(self.program, self.session.calls)

    def predict(self, data, state):
        if {name: (str(a.dtype), a.shape) for name, a in data.items()} != dict(self.program.inputs):
            raise RuntimeError("the input is of another type")
        if max(np.abs(a).max() for a in data.values()) > 1e9:
            raise RuntimeError("no such numbers\nhere")
        return state.predict(data)


@pytest.fixture
def mac(monkeypatch) -> SimpleNamespace:
    units = SimpleNamespace(CPU_ONLY="CPU_ONLY", CPU_AND_GPU="CPU_AND_GPU", CPU_AND_NE="CPU_AND_NE", ALL="ALL")
    tools = SimpleNamespace(models=SimpleNamespace(MLModel=StandInModel), ComputeUnit=units)
    monkeypatch.setitem(sys.modules, "coremltools", tools)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    return tools


def test_the_golden_vectors_replay(bundle, mac):
    engine = load(bundle, backend="coreml")
    assert (engine.backend, engine.device, engine.precision) == ("coreml", "cpu", "fp32")
    report = replay_golden(engine, golden_of(bundle))
    assert report.ok
    assert max(drift.relative for drift in report.drifts) < 2e-6
    assert {d.check for d in report.drifts} >= {"step", "chunked", "reset", "snapshot", "batch-invariance", "pool"}


def test_the_command_for_a_mac(bundle, mac):
    done = CliRunner().invoke(main, ["verify", str(bundle), "--backend", "coreml"])
    assert done.exit_code == 0, done.output
    assert "Parity on coreml (cpu)" in done.stdout


def test_a_snapshot_moves_to_and_from_it(bundle, mac):
    xs = golden_of(bundle).inputs["tensor"][:1]
    a, b, c = (load(bundle, backend=name).stream() for name in ("onnxruntime", "coreml", "onnxruntime"))
    a.run(xs[:, :10])
    b.restore(a.snapshot())
    b.run(xs[:, 10:20])
    c.restore(b.snapshot())
    whole = load(bundle, backend="onnxruntime").stream().run(xs[:, :30])
    np.testing.assert_allclose(c.run(xs[:, 20:30]), whole[:, 20:30], rtol=1e-5, atol=1e-6)


def test_a_frame_that_core_ml_refuses_leaves_the_state(bundle, mac):
    stream = load(bundle, backend="coreml").stream()
    stream.step(np.ones((2, 5), np.float32))
    before = stream.states
    with raises("coreml-frame-refused", "no such numbers"):
        stream.run(np.full((2, 5), 2e9, np.float32))
    for name, value in stream.states.items():
        np.testing.assert_array_equal(value, before[name])


def test_devices(bundle, mac):
    assert load(bundle, backend="coreml", device="all").device == "all"
    for options, message in (
        ({"device": "cuda"}, ("coreml-device-unknown", "'cuda'", "'cpu', 'gpu', 'ane', 'all'")),
        ({"threads": 2}, ("coreml-threads-option", "2")),
        ({"precision": "fp16"}, ("target-precision-missing", "'coreml' in fp32", "fp16")),
    ):
        with raises(*message):
            load(bundle, backend="coreml", **options)


def test_what_a_mac_may_lack(bundle, mac, monkeypatch):
    mac.models.MLModel = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no such operator\nat all"))
    with raises("coreml-cannot-compile", "step.mlpackage: no such operator"):
        load(bundle, backend="coreml")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with raises("coremltools-not-here", pip_install("coreml")):
        load(bundle, backend="coreml")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("14.7.1", ("", "", ""), "arm64"))
    with raises("coreml-macos-too-old", "15", "14.7.1"):
        load(bundle, backend="coreml")


def test_elsewhere_it_says_why_not_and_auto_passes_it_over(bundle, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with raises("coreml-needs-macos", "Linux"):
        load(bundle, backend="coreml")
    engine = load(bundle)
    assert engine.backend == "onnxruntime"
    assert not any("coreml" in why for why in engine.skipped_backends)


# --- what is written


def test_the_program_keeps_pairs_of_fp16_and_begins_by_itself(bundle):
    """Fresh Core ML states are zeros: the first step takes the stored states of the model, with nothing set."""
    program, spec = program_of(bundle), open_bundle(bundle).spec
    kept = part_names(spec, "fp32")
    assert kept == {f"lstm.l0.{n}": (f"state_lstm_l0_{n}", f"state_lstm_l0_{n}_low") for n in "hc"}
    assert dict(program.states) == {
        **{name: ("float16", (1, 8)) for names in kept.values() for name in names}, BEGUN: ("float16", (1,)),
    }  # fmt: skip
    assert tensor_names(spec)["tensor"] == "port_tensor" in program.inputs
    golden, name = golden_of(bundle), tensor_names(spec)[spec.outputs[0].name]
    fresh = MilRun(program, MilSession(spec, program, "fp32").calls)
    for start in range(0, 10, 2):
        y = fresh.predict({"port_tensor": golden.inputs["tensor"][:1, start : start + 2]})[name]
        np.testing.assert_allclose(y, golden.outputs[spec.outputs[0].name][:1, start : start + 2], rtol=1e-5, atol=1e-6)


def test_the_weights_are_the_model_s(bundle, half):
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 8)
    for path, precision, model in ((bundle, "fp32", net().lstm), (half, "fp16", lstm)):
        stored = [a for a in program_of(path, precision).constants.values() if a.dtype.kind == "f" and a.ndim == 2]
        for name, weight in model.named_parameters():
            if name.startswith("weight_"):
                i, f, g, o = weight.detach().numpy().astype(stored[0].dtype).reshape(4, 8, -1)
                assert any(np.array_equal(a, np.concatenate([i, o, f, g])) for a in stored), name
    assert stored[0].dtype == np.float16


def test_half_computes_and_keeps_in_half(half):
    row, spec = open_bundle(half).target("coreml", "fp16"), open_bundle(half).spec
    assert row.requires == {"ios": "18", "macos": "15", "compute": "fp16", "states": "fp16"}
    program = program_of(half, "fp16")
    assert set(program.states) == {"state_l0_h", "state_l0_c"}
    computing = [o for o in program.operations if o.kind in ("linear", "sigmoid", "tanh", "mul", "add")]
    assert len(computing) > 8
    assert {dtype for o in computing for dtype, _ in o.outputs.values()} == {"float16"}
    golden = replace(golden_of(half), tolerance=TOLERANCES["fp16"], precision="fp16")
    report = replay_golden(Engine(open_bundle(half), "numpy", MilSession(spec, program, "fp16")), golden)
    assert report.ok
    assert 1e-5 < max(drift.relative for drift in report.drifts) < 1e-2


def test_the_manifest_says_what_is_kept_in_what(bundle):
    opened = open_bundle(bundle)
    requires = opened.target("coreml", "fp32").requires
    assert requires == {"ios": "18", "macos": "15", "compute": "fp32", "states": "pairs of fp16, which hold fp32"}
    assert "coreml was not run on hardware" in (bundle / "README.md").read_text()
    assert code_of(opened) == ()


def test_every_operator_of_a_bundle_can_be_verified():
    assert {*FUNCTIONS, "read_state", "write_state"} == OPERATORS


@pytest.mark.parametrize("dtype", ["float32", "int64", "int32", "int16", "bool", "uint8"])
def test_what_a_state_is_kept_in_holds_it(dtype):
    state = StateSpec("h", "h", "h.next", dtype, ("batch", 400), "zeros")
    random = np.random.default_rng(0)
    if dtype == "float32":
        value = (random.standard_normal(400) * 10.0 ** random.integers(-4, 4, 400)).astype(dtype)
        value[:4] = 0, -np.inf, np.inf, 1e6
    else:
        low, high = (0, 2) if dtype == "bool" else (0, 255) if dtype == "uint8" else (-(2**15), 2**15)
        value = random.integers(low, high, 400).astype(dtype)
        if dtype in ("int64", "int32"):
            value[:3] = 2**31 - 1, -(2**31), -1
    kept = split(value, len(part_names(StreamSpec((X,), (Y,), (state,)), "fp32")["h"]))
    assert {part.dtype for part in kept} == {np.dtype("float16")}
    got = join(kept, dtype)
    assert got.dtype == value.dtype
    if dtype == "float32":
        np.testing.assert_array_equal(got[:4], [0, -np.inf, np.inf, np.inf])
        np.testing.assert_allclose(got[4:], value[4:], rtol=2**-23, atol=2e-11)
    else:
        np.testing.assert_array_equal(got, value)


def test_names_of_tensors_are_words_and_different():
    tensors = [TensorSpec(n, "float32", ("batch", 1)) for n in ("x.0", "x_0", "0", "bool", "state_x", "é")]
    names = tensor_names(StreamSpec(tuple(tensors), (Y,), ()))
    assert [*names.values()] == ["x_0", "x_0_", "port_0", "port_bool", "port_state_x", "port__", "y"]
    states = [StateSpec(n, n, n + "n", "float32", ("batch", 1), "zeros") for n in ("a.b", "a_b", "a_b_low", "begun")]
    parts = part_names(StreamSpec((X,), (Y,), tuple(states)), "fp32")
    every = [name for names in parts.values() for name in names]
    assert len(every) == len({*every, BEGUN}) - 1 == 8


# --- packages of others


def packaged(bundle: Path, **changed: bytes) -> Draft:
    """The bundle's own package with other bytes in one of its files, which are named without their ends."""
    opened, place = open_bundle(bundle), FOLDER.format("fp32")
    files = {f"{place}/{PLACES[n]}": changed.get(n.partition(".")[0], data) for n, data in files_of(bundle).items()}
    return Draft(opened.spec, files, (TargetRow("coreml", "fp32", None, tuple(files), {}),), opened.initial_states())


def edited(bundle: Path, old: bytes, new: bytes) -> dict[str, bytes]:
    model = files_of(bundle)["model.mlmodel"]
    assert old in model
    assert len(old) == len(new)
    return {"model": model.replace(old, new)}


HOSTILE = {
    "no protobuf": (lambda b: {"model": b"garbage"}, ("coreml-package-invalid",)),
    "nothing": (lambda b: {"model": b""}, ("coreml-package-invalid", "it is of version 0 with 0 functions")),
    "another model": (
        lambda b: {"model": b"\xe2\x12\x00"},
        ("coreml-package-invalid", "it holds something else than a program, in field 300"),
    ),
    "an unknown operator": (
        lambda b: edited(b, b"sigmoid", b"sigmoyd"),
        ("coreml-package-invalid", "(sigmoyd) is an operator that no program"),
    ),
    "weights of another file": (
        lambda b: edited(b, b"@model_path", b"/etc/passwd"),
        ("coreml-package-invalid", "not inside of the weights"),
    ),
    "fewer weights": (lambda b: {"weight": files_of(b)["weight.bin"][:640]}, ("coreml-package-invalid", "weights")),
    "other weights": (
        lambda b: {"weight": bytes(len(files_of(b)["weight.bin"]))},
        ("coreml-package-invalid", "the weights at 64 are not float32"),
    ),
    "another contract": (
        lambda b: edited(b, b'"lstm.l0.h"', b'"lstm.l1.h"'),
        ("coreml-package-invalid", "was written for another contract"),
    ),
    "another name": (
        lambda b: edited(b, b"port_tensor", b"part_tensor"),
        ("coreml-package-invalid", "it takes {'part_tensor'"),
    ),
    "other files": (lambda b: {"Manifest": b"{}"}, ("coreml-package-invalid", "its Manifest.json names other files")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_package_that_is_none_of_a_bundle(bundle, mac, case):
    make, message = HOSTILE[case]
    with raises(*message):
        Engine.of(packaged(bundle, **make(bundle)), "coreml")


def test_any_damaged_bit_is_a_bundle_error_or_harmless(bundle):
    """A damaged bit gives an answer or one kind of error."""
    model, random = bytearray(files_of(bundle)["model.mlmodel"]), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(model)
        damaged[random.integers(len(model))] ^= 1 << random.integers(8)
        draft = packaged(bundle, model=bytes(damaged))
        try:
            read_package(draft, draft.targets[0])
        except BundleError:
            refused += 1
    assert refused > 50


def test_sizes_are_limited(bundle, mac, monkeypatch):
    draft = packaged(bundle)
    monkeypatch.setenv("RNN_EXPORT_MAX_BYTES", "400")
    with raises("coreml-package-invalid", "the program takes", "bytes, over the limit of 100 a tensor"):
        Engine.of(draft, "coreml")


# --- what is refused


class Erfcx(nn.Module):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.special.erfcx(x) * 0.1 + h
        return y, y


def test_an_operator_that_coremltools_has_not_is_named():
    lifted = lift(Erfcx().eval(), (torch.zeros(1, 3), torch.zeros(1, 3)), time_axis=None, states={"h": 1})
    with raises("coremltools-refuses-step", "has no operator for special_erfcx of the step"):
        Writer().write(lifted, TARGETS["coreml"], TargetOptions())


def test_build_writes_it_from_the_step(bundle, tmp_path):
    """In fp16, of a bundle that has fp32: what stands there is the same program, from the step in ONNX."""
    path = Path(shutil.copytree(bundle, tmp_path / "m.rnnx"))
    done = CliRunner().invoke(main, ["build", str(path), "--target", "coreml", "--precision", "fp16", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["requires"]["states"] == "fp16"
    assert said["parity"]["ok"] is True
    assert {drift["check"] for drift in said["parity"]["drifts"]} >= {"step", "chunked", "reset"}
    assert "not run on hardware" in said["notes"][0]
    assert f"{FOLDER.format('fp16')}/Manifest.json" in open_bundle(path).target("coreml", "fp16").files
