"""LiteRT: the target and the backend. The common suite here covers its streams and pools."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import TargetRow, extend_bundle, open_bundle
from rnn_export.bundle.code import code_of
from rnn_export.export.targets.litert.tflite_conversion import reason
from rnn_export.runtime import load

from .graphs import SUM, TOKENS, H, Model, X, Y, spec

pytest.importorskip("ai_edge_litert", reason="litert: pip install 'rnn-export[litert]'")

from rnn_export.runtime.backends.litert.library import schema
from rnn_export.runtime.backends.litert.model import check_model, parsed

from ..messages import raises  # noqa: TID252
from .litert_toys import PATH, file_of, graph_of, named, on_microcontroller, packed
from .test_backends import DOCS, exported, golden_of


def with_litert(path: Path, model: Model, raw: bytes) -> Path:
    return model.with_target(path, "litert", {PATH: raw})


@pytest.fixture(scope="module")
def detector() -> Path:
    """A model of two layers by the command, for both backends."""
    pytest.importorskip("litert_torch", reason="litert-export: pip install 'rnn-export[litert-export]'")
    return exported("litert")[0]


# --- the target


def test_names_of_the_user_s_code_are_not_in_the_file(detector):
    model = parsed((detector / PATH).read_bytes())
    names = {tensor.name for tensor in model.subgraphs[0].tensors}
    assert all(re.fullmatch(rb"t\d+|x|y|l[01]\.[hc](\.next)?", name) for name in names)
    assert {m.name for m in model.metadata} <= {b"min_runtime_version", b"rnn_export.spec"}


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
    """The arena is what a device has to give."""
    bundle, golden = open_bundle(detector), golden_of(detector)
    states = [np.zeros((1, *s.row), np.float32) for s in bundle.spec.states]
    given, arena = on_microcontroller((detector / PATH).read_bytes(), golden.inputs["x"][0], states, capfd)
    np.testing.assert_allclose(given, golden.outputs["y"][0], rtol=1e-4, atol=1e-5)
    (said,) = re.findall(r"\| LSTM 8→16, 2 layers \| ([\d,]+) \|", (DOCS / "litert.md").read_text())
    assert arena == int(said.replace(",", ""))


def test_what_the_converter_says_is_said_with_the_operator():
    said = "Lowering not found: aten.linalg_det.default\nat ..."
    assert reason(said) == "it has no operator for aten.linalg_det.default"
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
    SUM.write(tmp_path / "n.rnnx")
    row, raw = TargetRow("litert", "fp32", None, (PATH,), {}), file_of(SUM)[:-8] + bytes(8)
    other = extend_bundle(open_bundle(tmp_path / "n.rnnx"), row, {PATH: raw}).path
    with raises("code-not-trusted", "litert (fp32)", "--target litert --precision fp32 --rebuild`"):
        load(other, backend="litert")


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


def table_of(graph) -> object:
    return next(t for t in graph.tensors if list(t.shape) == [5, 2])


OTHER = Model(spec("other", [X], [Y], [H]), SUM.step)
NO_FILES = {
    "no file of LiteRT's": (lambda: b"\x08\x0a garbage", "it is no file of LiteRT's"),
    "cut off": (lambda: file_of(SUM)[:300], "it is damaged"),
    "places far away": (lambda: b"\xf0\xff\xff\x7fTFL3" + file_of(SUM)[8:], "it is damaged"),
    "another contract": (lambda: file_of(OTHER), "it was written for another contract than the bundle's"),
}
# What becomes of the file of SUM, or of the constant of TOKENS; and what is said of it.
CHANGED = {
    "a custom operator": (custom, "it has the custom operator 'Evil', which no graph"),
    "two graphs": (lambda m, g: m.subgraphs.append(g), "it has 2 graphs, and a step has one"),
    "no contract": (lambda m, g: setattr(m, "metadata", []), "for another contract"),
    "another name": (lambda m, g: setattr(m.signatureDefs[0].inputs[0], "name", b"z"), "takes [('z'"),
    "another order": (lambda m, g: setattr(g, "inputs", g.inputs[::-1]), "its signature has another order than its"),
    "no signature": (lambda m, g: setattr(m, "signatureDefs", []), "not one signature, 'step'"),
    "a size that is none": (
        lambda m, g: setattr(g.tensors[0], "shapeSignature", [-1, 3]), "size of tensor 'x' follows from values: it has",
    ),
    "too large": (lambda m, g: setattr(g.tensors[-1], "shape", [2**30]), "over the limit of"),
    "a buffer that is not there": (lambda m, g: setattr(g.tensors[0], "buffer", 999), "'x' lies in a buffer that is n"),
    "a tensor that is not there": (
        lambda m, g: setattr(g.operators[0], "inputs", [0, 999]), "ADD reads or writes a tensor that is not there",
    ),
    "a kind that is not there": (lambda m, g: setattr(g.operators[0], "opcodeIndex", 99), "of it has no kind"),
    "text": (lambda m, g: setattr(g.tensors[0], "type", 5), "is of kind 5, which no step has"),
    "a tensor that stays": (lambda m, g: setattr(g.tensors[0], "isVariable", True), "'x' is kept, sparse or a list"),
    "a constant that is larger": (
        lambda m, g: setattr(table_of(g), "shape", [5, 2000]), "takes 40000 bytes, and 40 are stored",
    ),
    "a constant elsewhere": (
        lambda m, g: setattr(m.buffers[table_of(g).buffer], "offset", 4096), "lies outside of the graph, which none of",
    ),
    "a constant in another file": (
        lambda m, g: setattr(table_of(g), "externalBuffer", 1), "lies outside of the graph, which none of a bundle",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [*NO_FILES, *CHANGED])
def test_a_file_that_is_none_of_a_bundle(tmp_path, case):
    model = TOKENS if case.startswith("a constant") else SUM
    change, said = {**NO_FILES, **CHANGED}[case]
    path = with_litert(tmp_path / "m.rnnx", model, change() if case in NO_FILES else changed(model, change))
    with raises("litert-contract-differs" if case == "another name" else "litert-model-invalid", said):
        load(path, backend="litert")


def test_what_litert_refuses_is_told(tmp_path):
    """Sizes that do not fit each other, which LiteRT sees as it makes room."""
    graph = graph_of(SUM)
    graph.operator("ADD", ["x", graph.constant(np.zeros(7), np.float32)], "odd", np.zeros(7, np.float32))
    path = with_litert(tmp_path / "m.rnnx", SUM, named(packed(graph.model), SUM.spec))
    with raises("litert-cannot-open", "ADD"):
        load(path, backend="litert")
