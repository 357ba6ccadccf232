"""The targets `torchscript` and `pt2`: files that need nothing but torch, verified like all others."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rnn_export.bundle import Bundle
from rnn_export.bundle.draft import Draft
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import TARGETS
from rnn_export.export import export
from rnn_export.export.targets import registry
from rnn_export.export.targets.registry import find_writer
from rnn_export.export.targets.torch_step import aten_step
from rnn_export.models import CustomGRU, CustomLSTM, SimpleRNN

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..models.nets import Explicit, Ids, LearnedStart, Loop, Several, Tagger  # noqa: TID252

TARGET_FOLDERS = Path(registry.__file__).parent
X = torch.zeros(2, 7, 4)
PATHS = {"torchscript": "targets/torchscript-fp32/step.pt", "pt2": "targets/pt2-fp32/step.pt2"}
every_target = pytest.mark.parametrize("target", PATHS)


class Sized(nn.Module):
    """Reads the batch off a tensor, and makes tensors of that size."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.gru(x)[0]
        y = y.reshape(y.shape[0], -1, 2, 3).mean(3) + torch.ones(x.shape[0], 1, 2)
        return torch.cat([y, torch.arange(3.0).expand(x.shape[0], y.shape[1], 3)], 2)


MODELS = {
    "nn.RNN": (lambda: nn.RNN(4, 5, nonlinearity="relu", batch_first=True), (X,), {}),
    "nn.GRU": (lambda: nn.GRU(4, 5, 2, batch_first=True), (X,), {"chunk": 3}),
    "nn.LSTM": (partial(Tagger, nn.LSTM, 2), (X,), {"chunk": 2}),
    "SimpleRNN-relu": (lambda: SimpleRNN(4, 5, 3, "relu"), (X.transpose(0, 1),), {}),
    "CustomLSTM-sigmoid": (lambda: CustomLSTM(4, 5, 2, "sigmoid"), (X.transpose(0, 1),), {}),
    "CustomGRU-before": (lambda: CustomGRU(4, 5, 2, False), (X.transpose(0, 1),), {"chunk": 2}),
    "CustomGRU-after": (lambda: CustomGRU(4, 5, 1, True), (X.transpose(0, 1),), {}),
    "one frame": (lambda: nn.LSTMCell(4, 5), (X[:, 0],), {}),
    "explicit states": (Explicit, (X, torch.zeros(2, 2, 5), torch.zeros(2, 2, 5)), {"states": {"h": 1, "c": 2}}),
    "stored state": (LearnedStart, (X,), {}),
    "several": (Several, (X, torch.zeros(2, 7, 3), torch.zeros(2, 2)), {"chunk": 2}),
    "ids": (Ids, (torch.zeros(2, 7, dtype=torch.long),), {}),
    "own loop": (Loop, (X, torch.zeros(2, 5)), {"states": {"h": 1}, "chunk": 4}),
    "sized": (Sized, (X,), {"chunk": 2}),
}


PORTABLE = ("step.onnx", "sequence.onnx")


def exported(name: str, path: Path, **options) -> Bundle:
    torch.manual_seed(0)
    make, example, own = MODELS[name]
    return export(make().eval(), example, path, steps=16, **{**own, **options})


def test_every_target_has_its_writer():
    folders = {f"rnn_export.export.targets.{path.parent.name}.writer" for path in TARGET_FOLDERS.glob("*/writer.py")}
    assert {type(find_writer(name)).__module__ for name in TARGETS} == folders


# A program that knows torch alone: it drives each file in a closed loop over the golden inputs.
ALONE = """
import json, sys
from pathlib import Path
import numpy as np, torch

def axes(tensor):
    return [tensor["shape"].index(a) for a in ("batch", "time") if a in tensor["shape"]]

def worst(folder, path):
    step = torch.jit.load(path) if path.suffix == ".pt" else torch.export.load(path).module()
    golden, spec = np.load(folder / "golden.npz"), json.loads((folder / "manifest.json").read_text())["spec"]
    stored = np.load(folder / "initial_states.npz") if (folder / "initial_states.npz").exists() else {}
    frames, rows, chunk = int(golden["at"][-1]), 2, spec["chunk"]
    has_time = any("time" in t["shape"] for t in spec["inputs"])
    states = []
    for s in spec["states"]:
        row = stored[s["name"]] if s["initial"] == "stored" else np.zeros(s["shape"][1:], s["dtype"])
        states.append(torch.from_numpy(np.repeat(row[None], rows, 0)))
    given = []
    for at in range(0, frames, chunk):
        feeds = []
        for t in spec["inputs"]:
            a = golden["input/" + t["name"]]
            a = a[:, at : at + chunk] if "time" in t["shape"] else a if has_time else a[:, at]
            feeds.append(torch.from_numpy(np.moveaxis(a, range(len(axes(t))), axes(t)).copy()))
        with torch.no_grad():
            results = step(*feeds, *states)
        given.append([r.numpy() for r in results[: len(spec["outputs"])]])
        states = list(results[len(spec["outputs"]) :])
    errors = [abs(v.numpy() - golden["state/" + s["name"]][:, -1]).max() for s, v in zip(spec["states"], states)]
    for i, t in enumerate(spec["outputs"]):
        pieces = [np.moveaxis(g[i], axes(t), range(len(axes(t)))) for g in given]
        got = np.concatenate(pieces, 1) if has_time else np.stack(pieces, 1)
        errors.append(abs(got - golden["output/" + t["name"]]).max())
    return float(max(errors))

found = {}
for folder in Path().glob("*.rnnx"):
    for path in folder.glob("targets/*/*"):
        found[f"{folder.stem} {path.suffix}"] = worst(folder, path)
print(json.dumps([found, [m for m in sys.modules if m.split(".")[0] == "rnn_export"]]))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, float]:
    """The worst error of each file, by name of the model and kind of file."""
    folder = tmp_path_factory.mktemp("alone")
    for name in MODELS:
        exported(name, folder / f"{name}.rnnx", targets=tuple(PATHS))
    command = [sys.executable, "-I", "-W", "ignore", "-c", ALONE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, ours = json.loads(done.stdout)
    assert ours == []
    return found


@pytest.mark.slow
@every_target
@pytest.mark.parametrize("name", MODELS)
def test_a_program_that_knows_torch_alone_runs_the_file(alone, name, target):
    assert alone[f"{name} {Path(PATHS[target]).suffix}"] < 1e-5


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Bundle:
    return exported("sized", tmp_path_factory.mktemp("torch") / "m.rnnx", targets=("onnx", *PATHS))


def loaded(bundle: Bundle, target: str):
    file = io.BytesIO(bundle.read(PATHS[target]))
    return torch.jit.load(file) if target == "torchscript" else torch.export.load(file).module()


@every_target
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_free_and_the_states_are_arguments(several, target, batch):
    (state,) = several.spec.states
    y, h = loaded(several, target)(torch.randn(batch, 2, 4), torch.randn(batch, *state.row))
    assert (tuple(y.shape), tuple(h.shape)) == ((batch, 2, 5), (batch, *state.row))


def test_the_arguments_have_the_names_of_the_contract(several):
    assert [a.name for a in loaded(several, "torchscript").forward.schema.arguments] == ["self", "x", "gru_l0_h"]
    program = torch.export.load(io.BytesIO(several.read(PATHS["pt2"])))
    assert list(program.graph_signature.user_inputs) == ["x", "gru_l0_h"]


@every_target
def test_the_contract_is_in_the_file_and_no_path_of_the_users(several, target):
    raw, extra = several.read(PATHS[target]), {"rnn_export.spec": ""}
    if target == "torchscript":
        torch.jit.load(io.BytesIO(raw), _extra_files=extra)
    else:
        torch.export.load(io.BytesIO(raw), extra_files=extra)
    assert json.loads(extra["rnn_export.spec"]) == json.loads(several.spec.dumps())
    assert Path(__file__).name.encode() not in raw


def test_the_script_follows_its_inputs_to_another_device(several):
    step = torch.jit.load(io.BytesIO(several.read(PATHS["torchscript"])), map_location="meta")
    given = step(torch.zeros(3, 2, 4, device="meta"), torch.zeros(3, *several.spec.states[0].row, device="meta"))
    assert {t.device.type for t in given} == {"meta"}


def test_a_row_each_and_one_report_of_all(several):
    rows = {row.target: (row.precision, row.opset, row.files, dict(row.requires)) for row in several.targets}
    torchs = {"torch": torch.__version__}
    assert rows["onnx"] == ("fp32", 18, ("step.onnx", "sequence.onnx"), {})
    assert rows["torchscript"] == ("fp32", None, (PATHS["torchscript"],), torchs)
    assert rows["pt2"] == ("fp32", None, (PATHS["pt2"],), torchs)
    report = json.loads(several.read("parity.json"))
    assert (report["backend"], report["ok"]) == ("onnxruntime, torchscript, pt2", True)
    checks = {d["check"] for d in report["drifts"]}
    ways = ("step", "sequence", "chunked", "reset", "snapshot", "batch-invariance", "pool")
    for name in ("onnxruntime", "torchscript", "pt2"):
        assert {f"{name}.{way}" for way in ways} <= checks
    assert {"lifted", "onnx.reference"} <= checks


@every_target
def test_one_target_alone(tmp_path, target):
    bundle = exported("nn.LSTM", tmp_path / "m.rnnx", targets=(target,))
    assert [row.target for row in bundle.targets] == [target, "onnx"]
    assert set(bundle.files) == {PATHS[target], *PORTABLE, "golden.npz", "parity.json", "README.md", "report.html"}
    report = json.loads(bundle.read("parity.json"))
    assert report["backend"] == f"{target}, onnxruntime"
    assert {d["check"] for d in report["drifts"]} >= {"lifted", f"{target}.step", "onnxruntime.step", "onnx.reference"}


def test_the_digest_is_that_of_the_onnx_bundle(several, tmp_path):
    assert exported("sized", tmp_path / "m.rnnx").spec.digest == several.spec.digest


def test_on_a_recording_each_backend_is_tried_on_noise_too(tmp_path):
    data = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    bundle = exported("nn.LSTM", tmp_path / "m.rnnx", targets=("onnx", "torchscript"), data=data)
    assert json.loads(bundle.read("parity.json"))["source"] == "recording"


# --- what is refused


@pytest.mark.parametrize("targets", [("torchscript",), ("pt2", "torchscript")])
def test_an_opset_without_an_onnx_graph_is_refused(tmp_path, targets):
    with raises("opset-without-onnx", "17", ", ".join(targets)):
        exported("nn.LSTM", tmp_path / "m.rnnx", targets=targets, opset=17)
    assert not list(tmp_path.iterdir())


def test_the_opset_is_that_of_the_onnx_graph_alone(tmp_path):
    bundle = exported("nn.LSTM", tmp_path / "m.rnnx", targets=("torchscript", "onnx"), opset=17)
    assert [(row.target, row.opset) for row in bundle.targets] == [("torchscript", None), ("onnx", 17)]


@every_target
def test_a_wrong_file_is_named_and_nothing_is_written(tmp_path, monkeypatch, target):
    """The files of one target are made from other weights."""
    other = lift(Tagger(nn.LSTM, 2).eval(), (X,), chunk=2)
    writer, write = type(find_writer(target)), type(find_writer(target)).write
    monkeypatch.setattr(writer, "write", lambda self, model, *rest: write(self, replace(other, spec=model.spec), *rest))
    with raises("parity-diverges", target, "'step'", "Nothing was written"):
        exported("nn.LSTM", tmp_path / "m.rnnx", targets=("onnx", target))
    assert not list(tmp_path.iterdir())


@torch.library.custom_op("rnn_export_tests::half", mutates_args=())
def half(x: torch.Tensor) -> torch.Tensor:
    """By numpy, which no trace follows."""
    return torch.from_numpy(x.detach().numpy() / 2)


@half.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = half(self.gru(x)[0])
        return y


@every_target
def test_an_op_that_is_not_torchs_is_refused(tmp_path, target):
    name = "pt2-trace-fails" if target == "pt2" else "foreign-torch-operator"
    with raises(name, "rnn_export_tests.half.default"):
        export(Foreign().eval(), (X,), tmp_path / "m.rnnx", targets=(target,))
    assert not list(tmp_path.iterdir())


class Bessel(nn.Module):
    """An operator of torch's that ONNX has no form of."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(self.gru(x)[0])


def test_what_onnx_cannot_say_is_written_without_the_portable_graph_and_noted(tmp_path):
    bundle = export(Bessel().eval(), (X,), tmp_path / "m.rnnx", targets=("torchscript",), steps=16)
    assert [row.target for row in bundle.targets] == ["torchscript"]
    (note,) = json.loads(bundle.read("parity.json"))["notes"]
    assert note.startswith("the bundle has no portable graph, step.onnx, beside torchscript: ")
    said = r"\(test_torch_targets\.py:\d+\): torch\.onnx has no form of prims\.bessel_j0, so there is no ONNX graph"
    assert re.search(said, note)
    with raises("operator-without-onnx", "(test_torch_targets.py:", "prims.bessel_j0"):
        export(Bessel().eval(), (X,), tmp_path / "n.rnnx", targets=("torchscript", "onnx"), steps=16)


def test_a_pt2_file_that_is_none(several):
    draft = Draft(several.spec, {PATHS["pt2"]: b"none"}, several.targets, {})
    with raises("pt2-program-unloadable", "targets/pt2-fp32/step.pt2"):
        find_writer("pt2").engines(draft, TARGETS["pt2"], TargetOptions())


def test_what_depends_on_weights_alone_is_computed():
    step = aten_step.aten_step(lift(Tagger(nn.LSTM).eval(), (X,), chunk=3))
    names = [str(n.target) for n in step.graph.nodes if n.op == "call_function"]
    assert all(n.op != "get_attr" or isinstance(getattr(step, n.target), torch.Tensor) for n in step.graph.nodes)
    assert sum(p.numel() for p in step.buffers()) == 4 * 6 + 6 + (4 * 6 * 12 + 8 * 6) + 6 * 3 + 3
    assert not any("rnn_export" in name for name in names)
