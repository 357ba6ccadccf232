"""The module path of each node of a step: kept in the graph, read without onnx, and in the node's name."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from rnn_export.export.graph.passes.module_paths import KeepModulePaths, module_of
from rnn_export.export.graph.passes.naming import NameByModules, names_in
from rnn_export.onnx.onnx_file import read_model


def graph(scopes: str | None, classes: str = "['flat', 'Net', 'Linear', 'op']") -> onnx.ModelProto:
    """A node as torch.onnx leaves it."""
    node = helper.make_node("Relu", ["x"], ["y"], name="node_relu", doc_string="a place on somebody's disk")
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)])
    notes = {"pkg.torch.onnx.stack_trace": "File ...", "pkg.torch.onnx.class_hierarchy": classes}
    notes |= {} if scopes is None else {"pkg.torch.onnx.name_scopes": scopes}
    for key, value in notes.items():
        model.graph.node[0].metadata_props.add(key=key, value=value)
    return model


@pytest.mark.parametrize(
    ("scopes", "classes", "path"),
    [
        ("['flat', 'flat.model', 'flat.model.enc.0', 'linear']", "['F', 'Net', 'Linear', 'op']", "enc.0"),
        ("['flat', 'flat.model', 'flat.model.rnn.layers.1', 'lstm']", "['F', 'Net', 'a.OpaqueLayer', 'op']", "rnn.l1"),
        ("['flat', 'flat.model', 'flat.model.layers.1', 'relu']", "['F', 'Net', 'Linear', 'op']", "layers.1"),
        ("['flat', 'flat.model', 'softmax']", "['F', 'Net', 'op']", ""),
        ("['', 'unsqueeze']", "['W', 'op']", ""),
        (None, "[]", ""),
    ],
)
def test_the_path_alone_is_kept(scopes: str | None, classes: str, path: str) -> None:
    model = ir.from_proto(graph(scopes, classes))
    (node,) = KeepModulePaths()(model).model.graph
    assert module_of(node) == (path or "y")
    assert dict(node.metadata_props) == ({"rnn_export.module": path} if path else {})
    assert not node.doc_string
    (read,) = read_model(ir.to_proto(model).SerializeToString()).nodes
    assert read.module == path


def flat(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray]) -> ir.Model:
    """A graph from x to y, its weights by name."""
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in "xy")
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "g", [x], [y], stored)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def named(model: ir.Model) -> list[tuple[str, list[str], list[str]]]:
    return [(str(n.name), [str(v.name) for v in n.inputs if v], [str(v.name) for v in n.outputs]) for n in model.graph]


def chain(*names: str) -> list[onnx.NodeProto]:
    """A Relu for each name, from x to y."""
    values = ["x", *(f"v{i}" for i in range(len(names) - 1)), "y"]
    return [helper.make_node("Relu", [a], [b], name=n) for n, a, b in zip(names, values, values[1:], strict=False)]


def test_what_had_a_name_before_keeps_it() -> None:
    model = flat(*chain("Relu", "", "mine", "other"), weights={})
    kept = NameByModules(keep=["Relu", "mine", "v1"])(model).model
    assert named(kept) == [
        ("Relu", ["x"], ["Relu"]),
        ("Relu_2", ["Relu"], ["v1"]),
        ("mine", ["v1"], ["mine"]),
        ("Relu_3", ["mine"], ["y"]),
    ]
    before = named(kept)
    assert named(NameByModules(keep=names_in(kept))(kept).model) == before


def test_no_name_is_taken_from_an_input_or_an_output() -> None:
    """A module and a weight may be called as an input of the contract is."""
    nodes = [helper.make_node("Mul", ["x", "flat.model.x"], ["v"]), helper.make_node("Relu", ["v"], ["y"])]
    weight = np.array([2, 3], np.float32)
    model = NameByModules(weights={"x": weight})(flat(*nodes, weights={"flat.model.x": weight})).model
    assert named(model) == [("Mul", ["x", "x_2"], ["Mul"]), ("Relu", ["Mul"], ["y"])]


def test_a_weight_in_another_shape_is_found_and_an_equal_number_is_not() -> None:
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(4, np.float32)}
    nodes = [
        helper.make_node("Mul", ["x", "val_0"], ["v"]),
        helper.make_node("Add", ["v", "val_1"], ["w"]),
        helper.make_node("Sub", ["w", "val_2"], ["y"]),
    ]
    stored = {"val_0": weights["a"].T.reshape(1, 3, 2), "val_1": np.zeros(4, np.float32), "val_2": weights["a"] + 1}
    model = NameByModules(weights=weights)(flat(*nodes, weights=stored)).model
    assert [inputs[1] for _, inputs, _ in named(model)] == ["a.T.reshaped", "Add/B", "Sub/B"]
    (found, *_) = model.graph.initializers.values()
    assert found.const_value is not None
    assert found.const_value.doc_string == "a, transposed, in shape (1, 3, 2)"


def test_a_name_that_cannot_be_printed_is_written_out() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    node.metadata_props.add(key="rnn_export.module", value="heads.a\nb")
    assert named(NameByModules()(flat(node, weights={})).model)[0][0] == r"heads.a\nb/Relu"
