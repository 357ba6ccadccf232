"""Which module of the model a node of a step is of: kept in the graph, and read without onnx."""

import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from rnn_export.export.graph.passes.module_paths import KeepModulePaths, module_of
from rnn_export.onnx_file import read_model


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
