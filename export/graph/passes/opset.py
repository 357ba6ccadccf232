"""One graph at another opset: raised by onnxscript's converter, lowered by a pass of ours.

Between two versions of the default domain most operators differ only in types, or in attributes that have a default.
The pass says the few others in the older form, and refuses, with node and operator, what the older opset cannot say.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import AttributeProto, ModelProto, NodeProto, numpy_helper
from onnxscript import version_converter

from rnn_export.errors import ExportError


def at_opset(model: ModelProto, opset: int) -> ModelProto:
    """`model` at exactly `opset`; raises ExportError where it cannot be said there."""
    found = _opset(model)
    if opset > found:
        graph = ir.from_proto(model)
        version_converter.convert_version(graph, opset)
        model = ir.to_proto(graph)
    elif opset < found:
        model = _Lowering(model, opset).lowered()
    others = sorted(entry.domain for entry in model.opset_import if entry.domain)
    if _opset(model) != opset or others:
        raise ExportError(
            f"asked for opset {opset}, but the graph has {_opset(model)} and the domains {others}: choose another."
        )
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    return model


def _opset(model: ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain == ""), 0)


class _Lowering:
    """Says each node of a flat graph in the operators of an older opset."""

    def __init__(self, model: ModelProto, opset: int) -> None:
        self.newer, self.opset = _opset(model), opset
        self.model = onnx.shape_inference.infer_shapes(model)
        graph = self.model.graph
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        values = (*graph.value_info, *graph.input, *graph.output)
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        self.types = {
            **{v.name: v.type.tensor_type.elem_type for v in values},
            **{i.name: i.data_type for i in graph.initializer},
        }

    def lowered(self) -> ModelProto:
        rewrites: dict[str, Callable[[NodeProto], None]] = {
            "Pad": self.pad,
            "Reshape": self.reshape,
            "Split": self.split,
        }
        for node in self.model.graph.node:
            if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
                self.reduce(node)
            elif node.op_type in rewrites:
                rewrites[node.op_type](node)
            self.drop_defaults(node)
            self.check(node)
        for entry in self.model.opset_import:
            entry.version = self.opset
        return self.model

    def refuse(self, node: NodeProto, reason: str) -> ExportError:
        return ExportError(
            f"node {node.name!r} ({node.op_type}) cannot be lowered from opset {self.newer} to {self.opset}: {reason}. "
            f"Write this part of the model in other operators, or ask for a target and opset of {self.newer} or later."
        )

    def schema(self, node: NodeProto, opset: int) -> onnx.defs.OpSchema:
        try:
            return onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            raise self.refuse(node, "the operator does not exist there") from None

    def constant(self, node: NodeProto, name: str) -> np.ndarray:
        if name not in self.constants:
            raise self.refuse(node, f"its input {name!r} is not constant")
        return self.constants[name]

    def shape(self, node: NodeProto, name: str) -> list[int]:
        """The sizes of a value, 0 where they are not fixed."""
        if name not in self.shapes:
            raise self.refuse(node, f"the shape of its input {name!r} is unknown")
        return self.shapes[name]

    def add(self, name: str, values: list[int]) -> str:
        array = np.array(values, np.int64)
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        self.types[name] = onnx.TensorProto.INT64
        return name

    def reduce(self, node: NodeProto) -> None:
        """From opset 18 on the axes are an input, before an attribute."""
        if self.opset < 18 and len(node.input) > 1:
            axes = self.constant(node, node.input[1]).tolist()
            del node.input[1:]
            node.attribute.append(onnx.helper.make_attribute("axes", axes))

    def pad(self, node: NodeProto) -> None:
        """From opset 18 on only some axes may be named, before all are padded."""
        if self.opset < 18 and len(node.input) > 3 and node.input[3]:
            rank = len(self.shape(node, node.input[0]))
            pads, axes = self.constant(node, node.input[1]), self.constant(node, node.input[3])
            whole = [0] * (2 * rank)
            for axis, before, after in zip(axes.tolist(), *np.split(pads, 2), strict=True):
                whole[axis % rank], whole[axis % rank + rank] = int(before), int(after)
            node.input[1] = self.add(f"{node.name}.pads", whole)
            del node.input[3:]

    def reshape(self, node: NodeProto) -> None:
        """Before opset 14 a size of 0 always means that of the input; where there is none it need not be said."""
        if self.opset < 14 and 0 not in self.constants.get(node.input[1], (0,)):
            kept = [a for a in node.attribute if a.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)

    def split(self, node: NodeProto) -> None:
        """From opset 18 on the number of parts is an attribute, and the last part may be smaller."""
        if self.opset >= 18:
            return
        if len(node.input) < 2:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            size, parts = self.shape(node, node.input[0])[axis], len(node.output)
            if not size:
                raise self.refuse(node, "the size of what it splits is not fixed")
            part = -(-size // parts)
            sizes = [part] * (parts - 1) + [size - part * (parts - 1)]
            node.input.append(self.add(f"{node.name}.sizes", sizes))
        kept = [a for a in node.attribute if a.name != "num_outputs"]
        del node.attribute[:]
        node.attribute.extend(kept)

    def drop_defaults(self, node: NodeProto) -> None:
        """An attribute that the older operator does not know says nothing where it has its default."""
        older, newer = self.schema(node, self.opset), self.schema(node, self.newer)
        kept = [a for a in node.attribute if a.name in older.attributes or not self.is_default(a, newer)]
        del node.attribute[:]
        node.attribute.extend(kept)

    def is_default(self, attribute: AttributeProto, schema: onnx.defs.OpSchema) -> bool:
        known = schema.attributes.get(attribute.name)
        if known is None or known.default_value.type != attribute.type:
            return False
        value = onnx.helper.get_attribute_value
        return bool(value(known.default_value) == value(attribute))

    def check(self, node: NodeProto) -> None:
        schema = self.schema(node, self.opset)
        unknown = [a.name for a in node.attribute if a.name not in schema.attributes]
        if unknown:
            raise self.refuse(node, f"it has the attributes {unknown}, which are not known there")
        if len(node.input) > schema.max_input:
            raise self.refuse(node, f"it has {len(node.input)} inputs where {schema.max_input} are allowed")
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        for name, formal in zip(node.input, schema.inputs, strict=False):
            kind = self.types.get(name)
            if kind and formal.type_str in allowed:
                text = f"tensor({onnx.helper.tensor_dtype_to_string(kind).removeprefix('TensorProto.').lower()})"
                if text not in allowed[formal.type_str]:
                    raise self.refuse(node, f"its input {name!r} is {text}, which is not allowed there")
