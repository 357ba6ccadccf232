"""LiteRT: the target and the backend. The common suite here covers its streams and pools."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rnn_export.bundle import open_bundle
from rnn_export.bundle.code import code_of
from rnn_export.errors import Untrusted
from rnn_export.export.targets.litert.tflite_conversion import reason
from rnn_export.runtime import load

from ..stages import without_stages  # noqa: TID252
from .graphs import SUM, TOKENS, H, Model, X, Y, frames, spec

pytest.importorskip("ai_edge_litert", reason="litert: pip install 'rnn-export[litert]'")

from rnn_export.runtime.backends.litert.library import schema
from rnn_export.runtime.backends.litert.model import check_model, parsed

from ..messages import raises  # noqa: TID252
from .litert_toys import PATH, file_of, graph_of, named, packed, with_litert
from .test_backends import golden_of

PAGE = Path(__file__).parents[2] / "docs/targets/litert.md"
NETS = """
import torch
def detector():
    torch.manual_seed(0)
    names = {"input_names": ["x"], "output_names": ["y"]}
    return torch.nn.LSTM(8, 16, 2).eval(), (torch.zeros(1, 1, 8),), names
"""


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name("rnn-export"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A model of two layers by the command, for both backends."""
    pytest.importorskip("litert_torch", reason="litert-export: pip install 'rnn-export[litert-export]'")
    folder = tmp_path_factory.mktemp("litert")
    (folder / "nets.py").write_text(NETS)
    path = folder / "detector.rnnx"
    targets = ("--target", "litert", "--target", "onnx")
    return path, run("export", f"{folder}/nets.py:detector", "-o", path, *targets, "--steps", 64, "--json")


@pytest.fixture(scope="module")
def detector(exported) -> Path:
    return exported[0]


# --- the target


def test_the_command_says_nothing_of_the_converter_s(exported):
    path, done = exported
    assert (done.returncode, without_stages(done.stderr)) == (0, "")
    assert json.loads(done.stdout)["parity"]["ok"] is True
    row = open_bundle(path).target("litert", "fp32")
    assert (row.files, row.requires, row.opset) == ((PATH,), {"litert": "2.3"}, None)
    floats = sum(p.numel() for p in torch.nn.LSTM(8, 16, 2).parameters())
    assert 4 * floats < (path / PATH).stat().st_size < 4 * floats + 12_000


def test_no_path_of_the_user_s_code_is_in_the_file(detector):
    raw = (detector / PATH).read_bytes()
    model = parsed(raw)
    names = {tensor.name for tensor in model.subgraphs[0].tensors}
    assert all(re.fullmatch(rb"t\d+|x|y|l[01]\.[hc](\.next)?", name) for name in names)
    assert {m.name for m in model.metadata} <= {b"min_runtime_version", b"rnn_export.spec"}
    assert str(detector.parent).encode() not in raw
    assert b"nets.py" not in raw


def test_constants_lie_where_the_schema_wants_them(detector):
    """At multiples of 16 bytes, which flatbuffers' own code for Python does not see to."""
    raw = (detector / PATH).read_bytes()
    model, weights = schema.Model.GetRootAs(raw, 0), 0
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.DataLength():
            place = buffer._tab.Vector(buffer._tab.Offset(4))
            assert place % 16 == 0
            weights += buffer.DataLength()
    assert weights > 4 * 3000


def test_microcontrollers_run_the_same_file(detector, capfd):
    """TFLM's own interpreter, by number and with no signature; its arena is what a device has to give."""
    tflm = pytest.importorskip("tflite_micro", reason="tflite-micro has wheels for Linux on x86-64 alone").runtime
    bundle, golden = open_bundle(detector), golden_of(detector)
    micro = tflm.Interpreter.from_bytes((detector / PATH).read_bytes())
    states = [np.zeros((1, *s.row), np.float32) for s in bundle.spec.states]
    given = []
    for x in golden.inputs["x"][0]:
        for number, value in enumerate([x.reshape(1, 1, 8), *states]):
            micro.set_input(value, number)
        micro.invoke()
        y, *states = (micro.get_output(number) for number in range(1 + len(states)))
        given.append(y.reshape(16))
    np.testing.assert_allclose(given, golden.outputs["y"][0], rtol=1e-4, atol=1e-5)
    capfd.readouterr()
    micro.print_allocations()
    total = re.search(r"Arena allocation total (\d+) bytes", capfd.readouterr().err)
    assert total is not None
    (said,) = re.findall(r"\| LSTM 8→16, 2 layers \| ([\d,]+) \|", PAGE.read_text())
    assert int(total[1]) == int(said.replace(",", ""))


def test_what_the_converter_says_is_said_with_the_operator():
    assert (
        reason("Lowering not found: aten.linalg_det.default\nat ...")
        == "it has no operator for aten.linalg_det.default"
    )
    said = "x: error: failed to legalize operation 'stablehlo.cholesky' that was explicitly marked illegal"
    assert reason(said) == "LiteRT has no operator for stablehlo.cholesky"
    assert reason("Something else.\nmore") == "Something else"


# --- the backend


def test_ids_beyond_the_table_and_beyond_32_bits(litert_engine):
    stream = litert_engine("tokens").stream()
    stream.step(3)
    for wrong in (7, -1, 2**32 + 3):
        with raises("litert-index-beyond-table", "'id'", wrong, "4"):
            stream.step(wrong)
    np.testing.assert_array_equal(stream.states["h"], [[6, 7]])


def test_a_sum_ends_at_the_largest_number(litert_engine):
    """LiteRT's own kernels: an overflow goes unnoticed, as the page says."""
    stream, big = litert_engine("sum").stream(), np.full(3, np.finfo(np.float32).max)
    stream.step(big)
    np.testing.assert_array_equal(stream.step(big), big)


# --- files of others


def test_it_is_code(tmp_path):
    path = with_litert(tmp_path / "m.rnnx", SUM, file_of(SUM))
    assert [code.title for code in code_of(open_bundle(path))] == ["litert (fp32)"]
    assert load(path, backend="litert").backend == "litert"
    other = with_litert(tmp_path / "n.rnnx", SUM, file_of(SUM)[:-8] + bytes(8))
    (other / "initial_states.npz").unlink(missing_ok=True)
    code = "import sys; from rnn_export.runtime import load; load(sys.argv[1], backend='litert')"
    given = subprocess.run(
        [sys.executable, "-c", code, other], capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin", "XDG_DATA_HOME": str(tmp_path), "PYTHONPATH": ":".join(p for p in sys.path if p)},
    )  # fmt: skip
    last = given.stderr.strip().splitlines()[-1]
    assert last.startswith(f"{Untrusted.__module__}.Untrusted: the bundle's litert (fp32) is code: ")
    assert "`rnn-export build NAME.rnnx --target litert --precision fp32 --rebuild`" in last


def a_few_bytes(values: int) -> bytes:
    """The graph of SUM, and one number that it makes so many of."""
    graph = graph_of(SUM)
    shape, one = graph.constant([values]), graph.constant([1.0], np.float32)
    graph.operator("BROADCAST_TO", [one, shape], "many", np.zeros(3, np.float32), version=2)
    return named(packed(graph.model), SUM.spec)


def test_why_it_is_code(tmp_path):
    """A size that no look at the file shows: LiteRT works it out of a constant as it makes room."""
    assert len(a_few_bytes(2**26)) < 2048
    check_model("step.tflite", a_few_bytes(2**26), SUM.spec)
    code = (
        "import sys\n"
        "from rnn_export.runtime.backends.litert.library import new_interpreter\n"
        "made = new_interpreter(open(sys.argv[1], 'rb').read(), 1)\n"
        "made.invoke()\n"
        "print(open('/proc/self/statm').read().split()[1])\n"
    )
    pages = []
    for values in (3, 2**26):
        (tmp_path / "step.tflite").write_bytes(a_few_bytes(values))
        command = [sys.executable, "-c", code, tmp_path / "step.tflite"]
        pages.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert (pages[1] - pages[0]) * os.sysconf("SC_PAGE_SIZE") > 2**27


def changed(model: Model, change) -> bytes:
    made = parsed(file_of(model))
    change(made, made.subgraphs[0])
    return packed(made)


def custom(model, graph) -> None:
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = schema.BuiltinOperator.CUSTOM, 32, b"Evil"


def renamed(model, graph) -> None:
    model.signatureDefs[0].inputs[0].name = b"z"


def swapped(model, graph) -> None:
    graph.inputs = graph.inputs[::-1]


def table_of(graph) -> object:
    return next(t for t in graph.tensors if list(t.shape) == [5, 2])


OTHER = Model(spec("other", [X], [Y], [H]), SUM.step)
HOSTILE = {
    "no file of LiteRT's": (lambda: b"\x08\x0a garbage", ("litert-model-invalid", "it is no file of LiteRT's")),
    "cut off": (lambda: file_of(SUM)[:300], ("litert-model-invalid", "it is damaged")),
    "places far away": (lambda: b"\xf0\xff\xff\x7fTFL3" + file_of(SUM)[8:], ("litert-model-invalid", "it is damaged")),
    "a custom operator": (lambda: changed(SUM, custom),
        ("litert-model-invalid", "it has the custom operator 'Evil', which no graph")),
    "two graphs": (lambda: changed(SUM, lambda m, g: m.subgraphs.append(g)),
        ("litert-model-invalid", "it has 2 graphs, and a step has one")),
    "another contract": (lambda: file_of(OTHER),
        ("litert-model-invalid", "it was written for another contract than the bundle's")),
    "no contract": (lambda: changed(SUM, lambda m, g: setattr(m, "metadata", [])),
        ("litert-model-invalid", "for another contract")),
    "another name": (lambda: changed(SUM, renamed), ("litert-contract-differs", "takes [('z'")),
    "another order": (lambda: changed(SUM, swapped),
        ("litert-model-invalid", "its signature has another order than its graph")),
    "no signature": (lambda: changed(SUM, lambda m, g: setattr(m, "signatureDefs", [])),
        ("litert-model-invalid", "not one signature, 'step'")),
    "a size that is none": (
        lambda: changed(SUM, lambda m, g: setattr(g.tensors[0], "shapeSignature", [-1, 3])),
        ("litert-model-invalid", "the size of tensor 'x' follows from values: it has no bound"),
    ),
    "too large": (lambda: changed(SUM, lambda m, g: setattr(g.tensors[-1], "shape", [2**30])),
        ("litert-model-invalid", "over the limit of")),
    "a constant that is larger": (
        lambda: changed(TOKENS, lambda m, g: setattr(table_of(g), "shape", [5, 2000])),
        ("litert-model-invalid", "takes 40000 bytes, and 40 are stored"),
    ),
    "a constant elsewhere": (
        lambda: changed(TOKENS, lambda m, g: setattr(m.buffers[table_of(g).buffer], "offset", 4096)),
        ("litert-model-invalid", "lies outside of the graph, which none of a bundle"),
    ),
    "a constant in another file": (
        lambda: changed(TOKENS, lambda m, g: setattr(table_of(g), "externalBuffer", 1)),
        ("litert-model-invalid", "lies outside of the graph, which none of a bundle"),
    ),
    "a buffer that is not there": (
        lambda: changed(SUM, lambda m, g: setattr(g.tensors[0], "buffer", 999)),
        ("litert-model-invalid", "tensor 'x' lies in a buffer that is not there"),
    ),
    "a tensor that is not there": (
        lambda: changed(SUM, lambda m, g: setattr(g.operators[0], "inputs", [0, 999])),
        ("litert-model-invalid", "ADD reads or writes a tensor that is not there"),
    ),
    "a kind that is not there": (
        lambda: changed(SUM, lambda m, g: setattr(g.operators[0], "opcodeIndex", 99)),
        ("litert-model-invalid", "an operator of it has no kind"),
    ),
    "text": (lambda: changed(SUM, lambda m, g: setattr(g.tensors[0], "type", 5)),
        ("litert-model-invalid", "is of kind 5, which no step has")),
    "a tensor that stays": (
        lambda: changed(SUM, lambda m, g: setattr(g.tensors[0], "isVariable", True)),
        ("litert-model-invalid", "tensor 'x' is kept, sparse or a list, which none of a step"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_none_of_a_bundle(tmp_path, case):
    make, message = HOSTILE[case]
    path = with_litert(tmp_path / "m.rnnx", TOKENS if case.startswith("a constant") else SUM, make())
    with raises(*message):
        load(path, backend="litert")


def test_what_litert_refuses_is_told(tmp_path):
    """Sizes that do not fit each other, which LiteRT sees as it makes room."""
    graph = graph_of(SUM)
    graph.operator("ADD", ["x", graph.constant(np.zeros(7), np.float32)], "odd", np.zeros(7, np.float32))
    path = with_litert(tmp_path / "m.rnnx", SUM, named(packed(graph.model), SUM.spec))
    with raises("litert-cannot-open", "ADD"):
        load(path, backend="litert")


# --- the page


def test_the_python_of_the_page(detector):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    np.save(detector.parent / "features.npy", frames(12, 8))
    code += "\nnp.save('out.npy', np.concatenate(outputs)[:, 0])"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=detector.parent, check=True)
    wanted = load(detector, backend="onnxruntime").stream().run(frames(12, 8))
    np.testing.assert_allclose(np.load(detector.parent / "out.npy"), wanted, rtol=1e-5, atol=1e-6)
