"""Targets for TensorRT engines: their files, their verification and their refusals."""

import functools
import hashlib
import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, nn

from rnn_export.bundle import Bundle, open_bundle, write_bundle
from rnn_export.contract.precision import TOLERANCES
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import ExportError
from rnn_export.export import export
from rnn_export.export.add_target import add_target
from rnn_export.export.graph.passes.mixed_precision import MATRIX
from rnn_export.export.graph.step import step_graph
from rnn_export.export.targets.tensorrt.lint import lint
from rnn_export.export.targets.tensorrt.parser_rules import parser_rules
from rnn_export.export.targets.tensorrt.writer import DEVICE, lower_for_tensorrt
from rnn_export.runtime import load
from rnn_export.runtime.build.tensorrt.recipe import Recipe
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..models.nets import TCN, Conv2dGRU, Features, Tagger  # noqa: TID252

X = torch.zeros(2, 7, 4)
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}
# One for each set of the parser's rules: the other boards have the rules of one of these.
ENGINES = ("tensorrt", "tensorrt-rtx", "jetson-nano", "jetson-agx-xavier", "jetson-orin-nano")
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
BATCH = (1, 4, 16)
STEPS = 8
CHECKS = ["step", "sequence", "chunked", "reset", "snapshot", "batch-invariance", "pool"]
ROWS = [(name, precision) for name in ENGINES for precision in TARGETS[name].precisions]
every_row = pytest.mark.parametrize(("target", "precision"), ROWS)
# Beside the LSTM, a GRU for a row of each family of versions.
GRU_ROWS = [(name, "fp16") for name in ("tensorrt-rtx", "jetson-nano", "jetson-orin-nano")]
KIND_ROWS = [("lstm", *row) for row in ROWS] + [("gru", *row) for row in GRU_ROWS]
every_kind_and_row = pytest.mark.parametrize(("kind", "target", "precision"), KIND_ROWS)
every_export = pytest.mark.parametrize(("kind", "precision"), dict.fromkeys((kind, p) for kind, _, p in KIND_ROWS))


def tagger(kind: str = "lstm") -> nn.Module:
    torch.manual_seed(0)
    return Tagger(KINDS[kind]).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[..., Bundle]:
    """Every target that has the precision, in one export."""

    @functools.cache
    def made(kind: str, precision: str) -> Bundle:
        targets = [name for known, name, p in KIND_ROWS if (known, p) == (kind, precision)]
        path = tmp_path_factory.mktemp("engines") / "m.rnnx"
        return export(tagger(kind), (X,), path, targets=targets, precision=precision, batch=BATCH, steps=STEPS)

    return made


PORTABLE = ("step.onnx", "sequence.onnx")
PRECISE = ("onnxruntime", "jetson-thor (fp32 sums)")


def graph_in(bundle: Bundle, target: str, precision: str) -> ModelProto:
    return onnx.load_from_string(bundle.read(f"targets/{target}-{precision}/step.onnx"))


def recipe_in(bundle: Bundle, target: str, precision: str) -> dict[str, Any]:
    return json.loads(bundle.read(f"targets/{target}-{precision}/recipe.json"))


def report_of(bundle: Bundle) -> dict[str, Any]:
    return json.loads(bundle.read("parity.json"))


def ports(model: ModelProto) -> dict[str, int]:
    return {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}


# --- what is written


def test_every_target_has_the_rules_of_one_that_is_exported_here():
    rules = {id(parser_rules(TARGETS[name], p)) for name, p in ROWS}
    rows = [row for row in TARGETS.values() if row.library]
    assert {id(parser_rules(row, p)) for row in rows for p in row.precisions} == rules


@every_kind_and_row
def test_a_row_has_a_recipe_and_a_graph_that_its_target_reads(exported, kind, target, precision):
    bundle = exported(kind, precision)
    row, place = bundle.target(target, precision), f"targets/{target}-{precision}"
    assert row.files == (f"{place}/step.onnx", f"{place}/recipe.json")
    assert row.opset == TARGETS[target].opset
    assert row.requires == {"library": TARGETS[target].library, "batch": list(BATCH)}
    model = graph_in(bundle, target, precision)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", TARGETS[target].opset)]
    assert not {"LSTM", "GRU", "RNN", "Loop", "Scan", "If"} & {node.op_type for node in model.graph.node}
    assert lint(ir.from_proto(model), parser_rules(TARGETS[target], precision), precision) == []
    # Products have their weights in the precision; inputs, outputs and states stay fp32.
    weights = {i.name: i for i in model.graph.initializer}
    read = [weights[n] for node in model.graph.node if node.op_type in MATRIX for n in node.input if n in weights]
    assert {i.data_type for i in read} == {TYPES[precision]}
    gates, states = {"lstm": (4, ["rnn.l0.h", "rnn.l0.c"]), "gru": (3, ["rnn.l0.h"])}[kind]
    assert sum(np.prod(i.dims) for i in read if len(i.dims) == 2) == 4 * 6 + 2 * gates * 6 * 6 + 6 * 3
    names = ["x", *states, "output", *(f"{name}.next" for name in states)]
    assert ports(model) == dict.fromkeys(names, TensorProto.FLOAT)
    assert recipe_in(bundle, target, precision)["state_precision"] == "fp32"


def test_what_recurrent_layers_become_is_called_by_their_module():
    row = TARGETS["tensorrt"]
    raw = lower_for_tensorrt(step_graph(lift(tagger("gru"), (X,))), row, TargetOptions("fp16", opset=row.opset))
    graph = onnx.load_from_string(raw).graph
    nodes = [node.name for node in graph.node]
    values = [*(tensor.name for tensor in graph.initializer), *(name for node in graph.node for name in node.output)]
    assert {"rnn.l0/Gemm", "rnn.l0/Gemm_2", "rnn.l0/Tanh"} <= {*nodes}
    assert {"rnn.l0/Gemm/B.fp16", "rnn.l0/Gemm_2/C.fp16"} <= {*values}
    assert not [name for name in (*nodes, *values) if name.startswith(("node_", "val_"))]
    assert len({*nodes}) == len(nodes)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_states_may_have_the_precision_too(tmp_path, precision):
    target = {"fp16": "jetson-orin-nano", "bf16": "tensorrt"}[precision]
    how = {"precision": precision, "state_precision": precision, "steps": STEPS}
    bundle = export(tagger(), (X,), tmp_path / "m.rnnx", targets=(target,), **how)
    found = ports(graph_in(bundle, target, precision))
    assert {found.pop("x"), found.pop("output")} == {TensorProto.FLOAT}
    assert set(found.values()) == {TYPES[precision]}
    assert recipe_in(bundle, target, precision)["state_precision"] == precision
    # The contract is the user's: it does not say how an engine keeps them.
    assert {state.dtype for state in bundle.spec.states} == {"float32"}


@every_row
def test_the_recipe_is_of_the_graph(exported, target, precision):
    bundle, place = exported("lstm", precision), f"targets/{target}-{precision}"
    found, graph = recipe_in(bundle, target, precision), bundle.read(f"{place}/step.onnx")
    line = shlex.split(found.pop("trtexec"))
    assert found == {
        "target": target,
        "precision": precision,
        "state_precision": "fp32",
        "opset": TARGETS[target].opset,
        "onnx": f"{place}/step.onnx",
        "sha256": hashlib.sha256(graph).hexdigest(),
        "batch": list(BATCH),
    }
    assert line[0] == ("tensorrt_rtx" if target == "tensorrt-rtx" else "trtexec")
    assert {"--onnx=step.onnx", "--minShapes=x:1x1x4,rnn.l0.h:1x6,rnn.l0.c:1x6"} < {*line}
    assert "--maxShapes=x:16x1x4,rnn.l0.h:16x6,rnn.l0.c:16x6" in line
    assert Recipe.from_file(bundle.read(f"{place}/recipe.json")).batch == BATCH


# --- what it was verified on


@every_export
def test_every_target_has_its_checks_in_the_report(exported, kind, precision):
    bundle = exported(kind, precision)
    report = report_of(bundle)
    how = "on onnxruntime" if precision == "fp32" else "(fp32 sums)"
    names = [*(f"{row.target} {how}" for row in bundle.targets[:-1]), "onnxruntime"]
    assert (report["backend"], report["ok"], report["source"]) == (", ".join(names), True, "noise")
    assert report["device"] == ("cpu" if precision == "fp32" else "numeric (not run on hardware), cpu")
    assert report["tolerance"] == asdict(TOLERANCES[precision])
    checks = {f"{name}.{check}" for name in names for check in CHECKS}
    assert {d["check"] for d in report["drifts"]} == {"lifted", "onnx.reference", *checks}
    for d in report["drifts"]:
        steps, errors = zip(*d["curve"], strict=True)
        assert d["step"] is None
        assert list(errors) == sorted(errors)
        if d["check"].endswith(".step"):
            assert steps == tuple(range(1, STEPS + 1))


@every_export
def test_sums_in_fp16_are_shown_in_fp16_alone(exported, kind, precision):
    bundle = exported(kind, precision)
    rough = report_of(bundle)["fp16_accumulate"]
    shown = [(r["backend"], r["device"], r["ok"]) for r in rough]
    want = [(f"{row.target} (fp16 sums)", "numeric (not run on hardware)", True) for row in bundle.targets[:-1]]
    assert shown == (want if precision == "fp16" else [])
    assert all([*dict.fromkeys(d["check"] for d in r["drifts"])] == CHECKS for r in rough)


class Cancelling(nn.Module):
    """Sums that are small, with partial sums beyond fp16; in fp32 they are exact, in whatever order a CPU adds."""

    def __init__(self) -> None:
        super().__init__()
        self.sum, self.gru = nn.Linear(16, 4), nn.GRU(4, 5, batch_first=True)
        with torch.no_grad():
            self.sum.weight.copy_(torch.tensor([60000.0] * 8 + [-60000.0] * 8).expand(4, 16))

    def forward(self, x: Tensor) -> Tensor:
        loud = (x.abs().clamp(1, 2) * 4).round() / 4
        y: Tensor = self.gru(x + self.sum(torch.cat([loud, loud], -1)[..., [*range(8)] * 2]) * 0.1)[0]
        return y


def test_sums_in_fp16_do_not_decide_and_are_said(tmp_path, caplog):
    torch.manual_seed(0)
    how = {"targets": ("tensorrt",), "precision": "fp16", "steps": STEPS}
    report = report_of(export(Cancelling().eval(), (X,), tmp_path / "m.rnnx", **how))
    assert report["ok"] is True
    assert [r["ok"] for r in report["fp16_accumulate"]] == [False]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("rnn_export")]
    assert said == report["notes"]
    assert said[-1] == "a GPU may add up in fp16 as well; an engine is held to the model where it is built"


def test_one_target_alone(tmp_path):
    bundle = export(tagger(), (X,), tmp_path / "m.rnnx", targets=("jetson-thor",), precision="bf16", steps=STEPS)
    report = report_of(bundle)
    assert set(bundle.files) == {*bundle.targets[0].files, *PORTABLE, "parity.json", FILE, "README.md", "report.html"}
    assert [(row.target, row.precision, row.opset) for row in bundle.targets] == [
        ("jetson-thor", "bf16", 18),
        ("onnx", "fp32", 18),
    ]
    assert (report["backend"], report["device"]) == ("jetson-thor (fp32 sums), onnxruntime", f"{DEVICE}, cpu")
    each = [f"{name}.{check}" for name in report["backend"].split(", ") for check in CHECKS]
    assert [*dict.fromkeys(d["check"] for d in report["drifts"])] == ["lifted", *each, "onnx.reference"]
    worst = {name: max(d["relative"] for d in report["drifts"] if d["check"] == f"{name}.step") for name in PRECISE}
    assert worst["onnxruntime"] < 2e-5 < worst["jetson-thor (fp32 sums)"]
    assert replay_golden(load(bundle.path), Golden.from_arrays(bundle.arrays(FILE), bundle.spec)).ok
    assert bundle.targets[0].requires["batch"] == [1, 1, 8]


def test_targets_next_to_portable_graphs_have_their_own_opset(tmp_path):
    targets = ("jetson-nano", "onnx", "torchscript")
    bundle = export(tagger(), (X,), tmp_path / "m.rnnx", targets=targets, steps=STEPS)
    assert [(row.target, row.opset) for row in bundle.targets] == [*zip(targets, (13, 18, None), strict=True)]
    assert report_of(bundle)["backend"] == "jetson-nano on onnxruntime, onnxruntime, torchscript"


@pytest.mark.parametrize(("opset", "kept"), [(None, True), (22, False)])
def test_what_has_no_form_in_the_precision_is_noted(tmp_path, opset, kept):
    torch.manual_seed(0)
    how = {"targets": ("tensorrt-rtx",), "precision": "bf16", "opset": opset, "steps": STEPS}
    bundle = export(Conv2dGRU().eval(), (torch.zeros(2, 1, 5, 8),), tmp_path / "m.rnnx", **how)
    note = "tensorrt-rtx: Conv stays in fp32, since ONNX has none in bf16 at opset 18"
    assert [n for n in report_of(bundle)["notes"] if "stays in fp32" in n] == [note] * kept
    weights = {i.name: i.data_type for i in graph_in(bundle, "tensorrt-rtx", "bf16").graph.initializer}
    nodes = graph_in(bundle, "tensorrt-rtx", "bf16").graph.node
    kinds = {weights[n.input[1]] for n in nodes if n.op_type == "Conv"}
    assert kinds == {TYPES["fp32" if kept else "bf16"]}


# --- from a bundle that is there


@pytest.fixture(scope="module")
def portable(tmp_path_factory) -> Bundle:
    return export(tagger(), (X,), tmp_path_factory.mktemp("portable") / "m.rnnx", steps=STEPS)


@every_row
def test_added_later_it_is_the_same_graph(exported, portable, target, precision):
    draft = add_target(portable, target, TargetOptions(precision, batch=BATCH))
    assert draft.targets == (exported("lstm", precision).target(target, precision),)
    assert {name: exported("lstm", precision).read(name) for name in draft.files} == dict(draft.files)
    assert (draft.base, portable) == (portable, open_bundle(portable.path))


@pytest.mark.parametrize("precision", TYPES)
def test_the_golden_vectors_are_the_models_in_fp32(exported, precision):
    bundle = exported("lstm", precision)
    golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
    assert (golden.precision, golden.tolerance) == (precision, TOLERANCES[precision])
    with torch.no_grad():
        want = tagger()(torch.from_numpy(golden.inputs["x"]))
    np.testing.assert_array_equal(golden.outputs["output"], want.numpy())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_that_is_added_is_held_to_the_golden_vectors(portable, tmp_path, precision):
    golden = Golden.from_arrays(portable.arrays(FILE), portable.spec)
    wrong = replace(golden, outputs={"output": golden.outputs["output"] + np.float32(0.5)})
    files = {name: portable.read(name) for name in portable.files} | {FILE: wrong.to_npz()}
    said = {"spec": portable.spec, "producer": {}, "targets": portable.targets}
    bundle = write_bundle(tmp_path / "m.rnnx", files=files, **said)
    with raises("parity-diverges", "tensorrt", "'step'", "Nothing was written"):
        add_target(bundle, "tensorrt", TargetOptions(precision))


def test_what_was_exported_for_one_precision_gains_another(exported):
    bundle = exported("lstm", "bf16")
    draft = add_target(bundle, "tensorrt", TargetOptions("fp16"))
    place = "targets/tensorrt-fp16"
    assert set(draft.files) == {f"{place}/step.onnx", f"{place}/recipe.json"}
    assert draft.read(f"{place}/step.onnx") == exported("lstm", "fp16").read(f"{place}/step.onnx")


# --- what is refused

NO_ENGINE = ("engine-options-without-engine",)
BAD = {
    "name": (
        {"targets": ("jetson-agx-oryn",)},
        ("target-unknown", "'jetson-agx-oryn'", "jetson-agx-orin or ", "onnx, "),
    ),
    "twice": ({"targets": ("tensorrt",) * 2}, ("target-named-twice", "tensorrt, tensorrt")),
    "hardware": (
        {"targets": ("jetson-agx-xavier",), "precision": "bf16"},
        ("target-precision-unwritten", "'jetson-agx-xavier'", "'bf16'", "fp32, fp16", "its GPU"),
    ),
    "precision": ({"precision": "int8"}, ("target-precision-unwritten", "'tensorrt'", "'int8'", "fp32, fp16, bf16")),
    "fp16 of onnx": (
        {"targets": ("onnx", "tensorrt"), "precision": "fp16"},
        ("target-precision-unwritten", "'onnx'", "'fp16'", "fp32"),
    ),
    "opset": (
        {"targets": ("tensorrt", "jetson-nano"), "opset": 17},
        ("target-opset-unsupported", "17", "'jetson-nano'", "13", "13", "Its oldest TensorRT, 8.2, reads no"),
    ),
    "batch without an engine": ({"targets": ("onnx",), "batch": (1, 2, 4)}, NO_ENGINE),
    "states without an engine": ({"targets": ("onnx", "pt2"), "state_precision": "fp16"}, NO_ENGINE),
    "batch": ({"batch": (4, 2, 8)}, ("option-refused", "(4, 2, 8)", "three ints of at least 1 that rise")),
    "empty batch": ({"batch": (0, 1, 1)}, ("option-refused", "(0, 1, 1)", "three ints")),
    "states": (
        {"precision": "fp16", "state_precision": "bf16"},
        ("state-precision-unfit", "'bf16'", "'fp16'", "fp16 or fp32"),
    ),
    "states of fp32": ({"state_precision": "fp16"}, ("state-precision-unfit", "'fp16'", "'fp32'", "fp32")),
    "whole sequences": ({"sequence_only": True}, ("sequence-only-targets",)),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_a_bad_call_is_refused_and_leaves_nothing(tmp_path, options, message):
    with raises(*message):
        export(tagger(), (X,), tmp_path / "m.rnnx", **{"targets": ("tensorrt",), "steps": STEPS, **options})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch", [(1, 2), 4, (1, 2.5, 4), (1, "2", 4), (True, True, True)], ids=str)
def test_a_batch_of_another_form_is_refused(batch):
    with raises("batch-option-invalid"):
        TargetOptions(batch=batch)


def too_large() -> nn.Module:
    model = tagger()
    with torch.no_grad():
        model.out.weight[0, 0] = 1e5
    return model


FRAMES = torch.zeros(2, 4, 7)
UNSAYABLE = {
    "fused norm": (
        Features,
        X,
        {"targets": ("onnx", "jetson-agx-xavier")},
        (
            "tensorrt-rules-broken",
            "'jetson-agx-xavier'",
            "- node 'norm/LayerNormalization' (LayerNormalization): TensorRT 8.5 has no such operator; write this part",
        ),
    ),
    "fused norm below its opset": (
        Features,
        X,
        {"targets": ("jetson-nano",)},
        ("lowering-unknown-operator", "'norm/LayerNormalization' (LayerNormalization", "18 to 13"),
    ),
    "weight": (too_large, X, {"precision": "fp16"}, ("weight-becomes-inf", "100000", "fp16")),
    "no product": (
        TCN,
        FRAMES,
        {"precision": "bf16"},
        ("nothing-in-precision", "'tensorrt' in bf16", "Conv", "bf16", "18"),
    ),
    "no product by choice": (
        TCN,
        FRAMES,
        {"targets": ("tensorrt-rtx",), "precision": "bf16", "opset": 21},
        ("nothing-in-precision", "'tensorrt-rtx' in bf16", "Conv", "bf16", "21"),
    ),
}


@pytest.mark.parametrize(("make", "example", "options", "message"), UNSAYABLE.values(), ids=UNSAYABLE)
def test_a_model_that_a_target_cannot_say_is_refused(tmp_path, make, example, options, message):
    torch.manual_seed(0)
    with raises(*message):
        export(make().eval(), (example,), tmp_path / "m.rnnx", **{"targets": ("tensorrt",), "steps": STEPS, **options})
    assert not list(tmp_path.iterdir())


def test_the_advice_is_one_that_the_target_has(tmp_path):
    with pytest.raises(ExportError) as caught:
        export(Features().eval(), (X,), tmp_path / "m.rnnx", targets=("jetson-nano",), steps=STEPS)
    assert "jetson-nano" in str(caught.value)
    assert "Ask for opset" not in str(caught.value)


def test_a_tolerance_that_the_precision_cannot_keep(tmp_path):
    how = {"targets": ("tensorrt",), "precision": "fp16", "atol": 0.0, "rtol": 1e-5, "steps": STEPS}
    with raises("parity-diverges", "tensorrt (fp32 sums)", "'step'", "0 + 1e-05"):
        export(tagger(), (X,), tmp_path / "m.rnnx", **how)
    assert not list(tmp_path.iterdir())
