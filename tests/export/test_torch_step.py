"""ONNX steps as torch modules: operators in the test forms of the C writer, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from rnn_export.errors import ExportError
from rnn_export.export.targets.torch_step.aten_step import step_of_graph
from rnn_export.export.targets.torch_step.step_module import OPERATORS, OnnxStep

from ..messages import raises  # noqa: TID252
from .c_cases import FAMILIES, cases_of
from .c_sheet import Case, Constant, Sheet, case, pages

# Where torch adds up in another order; most are within 3e-7 of the largest.
TOLERANCE = 2e-6
# What ONNX has and torch's operators do not say, or not alone: refused by one of these.
REFUSED = {
    "MaxPool": {"torch-max-pool-form"},
    "AveragePool": {"torch-average-pool-ceil", "torch-average-pool-padding"},
    "ConvTranspose": {"torch-transposed-padding"},
    "ArgMax": {"torch-last-of-places"},
    "ArgMin": {"torch-last-of-places"},
    "Pad": {"torch-operand-not-constant"},
    "ScatterElements": {"torch-scatter-reduction"},
}


def refused(found: Case) -> bool:
    attributes = found.attributes
    rounded = attributes.get("ceil_mode") or attributes.get("dilations") or len(found.outputs) > 1
    uncounted = any(attributes.get("pads", ())) and not attributes.get("count_include_pad")
    return {
        "MaxPool": bool(attributes.get("ceil_mode") or len(found.outputs) > 1),
        "AveragePool": bool(rounded or uncounted or attributes.get("auto_pad", "").startswith("SAME")),
        "ConvTranspose": "output_shape" in attributes or attributes.get("auto_pad", "NOTSET") != "NOTSET",
        "ArgMax": bool(attributes.get("select_last_index")),
        "ArgMin": bool(attributes.get("select_last_index")),
        "Pad": len(found.inputs) > 2 and isinstance(found.inputs[2], np.ndarray),
        "ScatterElements": attributes.get("reduction", "none") != "none",
    }.get(found.op, False)


def from_the_end(found: Case) -> bool:
    """Rows that are counted from the end, and are fed: ids never are."""
    if found.op not in ("Gather", "GatherElements") or isinstance(found.inputs[1], Constant):
        return False
    return bool((found.inputs[1] < 0).any())


def computed(sheet: Sheet) -> dict[str, np.ndarray]:
    step = OnnxStep(sheet.graph(None))
    with torch.no_grad():
        given = step(*(torch.from_numpy(sheet.feed[str(port.name)].copy()) for port in step.graph.inputs))
    return {str(port.name): value.numpy() for port, value in zip(step.graph.outputs, given, strict=True)}


@pytest.mark.parametrize("family", FAMILIES)
def test_as_onnx_runtime_has_it(family):
    opset, cases = cases_of(family)
    known = [found for found in cases if found.op in OPERATORS and not refused(found) and not from_the_end(found)]
    for page in pages(known):
        sheet = Sheet(page, opset)
        got = computed(sheet)
        for name, found in sheet.results.items():
            want = sheet.wanted[name]
            assert (got[name].shape, got[name].dtype) == (want.shape, want.dtype), str(found)
            np.testing.assert_allclose(got[name], want, rtol=0, atol=TOLERANCE * sheet.scale(want), err_msg=str(found))


@pytest.mark.parametrize("family", ["more pools", "transposed", "ordered", "padded", "indices"])
def test_forms_that_torch_has_not(family):
    opset, cases = cases_of(family)
    wrong = [found for found in cases if refused(found)]
    assert wrong
    for found in wrong:
        with pytest.raises(ExportError) as caught:
            computed(Sheet([found], opset))
        assert caught.value.id in REFUSED[found.op]
        assert f"({found.op})" in str(caught.value)


def test_an_operator_that_is_not_written_is_named():
    x = np.ones((1, 4), np.float32)
    with raises("torch-operator-unknown", "Hardmax, TopK", "'n0'"):
        OnnxStep(Sheet([case("Hardmax", x), case("TopK", x, [1], out=2)]).graph(None))


def test_what_goes_in_comes_out():
    """A state that a step hands on, and an output that is constant."""
    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "h", "y")]
    same = helper.make_tensor_value_info("h.next", TensorProto.FLOAT, ["batch", 2])
    nodes = [helper.make_node("Add", ["x", "h"], ["y"]), helper.make_node("Identity", ["x"], ["h.next"])]
    graph = helper.make_graph(nodes, "step", port[:2], [port[2], same])
    step = OnnxStep(helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]).SerializeToString())
    y, after = step(torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]]))
    assert (y.tolist(), after.tolist()) == ([[11.0, 22.0]], [[1.0, 2.0]])


def test_as_a_program_in_torch_s_own_operators():
    """Converters get one graph of plain operators; refusals are the project's own."""
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    sheet = Sheet([case("Softmax", x), case("ReduceMean", x, [1], keepdims=0)])
    program = step_of_graph(sheet.graph(sheet.spec), sheet.spec)
    assert {node.op for node in program.graph.nodes} <= {"placeholder", "get_attr", "call_function", "output"}
    assert all(node.target.namespace == "aten" for node in program.graph.nodes if node.op == "call_function")
    for value, want in zip(program(*[torch.from_numpy(x.reshape(1, 6))] * 2), sheet.wanted.values(), strict=False):
        np.testing.assert_allclose(value, want, rtol=1e-6)
    wrong = Sheet([case("ArgMax", x, select_last_index=1)])
    with raises("torch-last-of-places", "'n0' (ArgMax"):
        step_of_graph(wrong.graph(wrong.spec), wrong.spec)
