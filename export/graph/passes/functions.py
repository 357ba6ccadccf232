"""Write out operators that ONNX defines as functions, where a target has none of its own for them."""

from collections.abc import Container
from typing import Any

import onnx
from onnx import defs, helper, inliner, shape_inference


def written_out(model: onnx.ModelProto, known: Container[str]) -> onnx.ModelProto:
    """The same model with every operator that is not `known`, but has a function, replaced by its nodes."""
    version = {each.domain: each.version for each in model.opset_import}.get("", 1)
    unknown = {node.op_type for node in model.graph.node if node.domain == "" and node.op_type not in known}
    found = [("", op_type) for op_type in sorted(unknown) if _is_function(op_type, version)]
    if not found:
        return model
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    # The functions of some depend on types, and those of constants are not looked for.
    stored = (helper.make_tensor_value_info(c.name, c.data_type, list(c.dims)) for c in typed.graph.initializer)
    typed.graph.value_info.extend(stored)
    typed = shape_inference.infer_shapes(typed)
    for node in typed.graph.node:
        if ("", node.op_type) in found and node.domain == "":
            _complete(node, version)
    result = inliner.inline_selected_functions(typed, found, inline_schema_functions=True)
    del result.graph.value_info[:]
    return result


def _complete(node: onnx.NodeProto, version: int) -> None:
    """Give a node the default attributes that it leaves out and its function may need."""
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in defs.get_schema(node.op_type, version).attributes.items():
        if name not in given and attribute.default_value.name:
            node.attribute.append(attribute.default_value)


def _is_function(op_type: str, version: int) -> bool:
    if not defs.has(op_type):
        return False
    schema: Any = defs.get_schema(op_type, version)
    return bool(schema.has_function or schema.has_context_dependent_function)
