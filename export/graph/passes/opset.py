"""Convert a graph to another opset: raised by onnxscript's converter, lowered by a pass of ours.

Between two versions of the default domain most operators differ only in types, or in attributes that have a default.
The pass writes the few others in the older form, and refuses, with node and operator, those that have none.
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnxscript import version_converter

from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.nodes import new_constant
from rnn_export.export.graph.passes.pipeline import InferShapes
from rnn_export.platform.arrays import Array


class ConvertOpset(InPlacePass):
    """The same graph at exactly `opset`, and in no other domain. Raises ExportError where it cannot be said there."""

    def __init__(self, opset: int) -> None:
        self.opset = opset

    def call(self, model: ir.Model) -> PassResult:
        found = model.opset_imports.get("", 0)
        if self.opset > found:
            version_converter.convert_version(model, self.opset)
        elif self.opset < found:
            InferShapes()(model)
            _Lowering(model, self.opset).lower()
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
        model.ir_version = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
        return PassResult(model, modified=self.opset != found)

    def ensures(self, model: ir.Model) -> None:
        found, others = model.opset_imports.get("", 0), sorted(domain for domain in model.opset_imports if domain)
        if found != self.opset or others:
            raise ExportError(
                f"asked for opset {self.opset}, but the graph has {found} and the domains {others}: choose another.",
                id="opset-not-reached",
            )


class _Lowering:
    """Says each node of a flat graph, whose shapes are known, in the operators of an older opset."""

    def __init__(self, model: ir.Model, opset: int) -> None:
        self.model, self.graph = model, model.graph
        self.newer, self.opset = model.opset_imports[""], opset

    def lower(self) -> None:
        rewrites: dict[str, Callable[[ir.Node], None]] = {"Pad": self.pad, "Reshape": self.reshape, "Split": self.split}
        for node in self.graph:
            if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
                self.reduce(node)
            elif node.op_type in rewrites:
                rewrites[node.op_type](node)
            self.drop_defaults(node)
            self.check(node)
        self.model.opset_imports[""] = self.opset

    def refuse(self, node: ir.Node, reason: str, *, id: str) -> ExportError:
        return ExportError(
            f"node {node.name!r} ({node.op_type}) cannot be lowered from opset {self.newer} to {self.opset}: {reason}. "
            f"Write this part of the model in other operators, or ask for a target and opset of {self.newer} or later.",
            id=id,
        )

    def schema(self, node: ir.Node, opset: int) -> onnx.defs.OpSchema:
        try:
            return onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            raise self.refuse(node, "the operator does not exist there", id="lowering-unknown-operator") from None

    def constant(self, node: ir.Node, index: int) -> Array:
        value = node.inputs[index]
        if value is None or value.const_value is None:
            raise self.refuse(
                node, f"its input {value.name if value else ''!r} is not constant", id="lowering-computed-input"
            )
        array: Array = value.const_value.numpy()
        return array

    def shape(self, node: ir.Node) -> ir.Shape:
        """The sizes of the first input."""
        value = node.inputs[0]
        if value is None or value.shape is None:
            raise self.refuse(
                node, f"the shape of its input {value.name if value else ''!r} is unknown", id="lowering-unknown-shape"
            )
        return value.shape

    def set_input(self, node: ir.Node, index: int, name: str, values: list[int]) -> None:
        """Make `values` the last input, at `index`."""
        value = new_constant(name, np.array(values, np.int64))
        self.graph.register_initializer(value)
        node.resize_inputs(index + 1)
        node.replace_input_with(index, value)

    def reduce(self, node: ir.Node) -> None:
        """From opset 18 on the axes are an input, before an attribute."""
        if self.opset < 18 and len(node.inputs) > 1:
            axes = self.constant(node, 1).tolist()
            node.resize_inputs(1)
            node.attributes["axes"] = ir.AttrInt64s("axes", axes)

    def pad(self, node: ir.Node) -> None:
        """From opset 18 on only some axes may be named, before all are padded."""
        if self.opset < 18 and len(node.inputs) > 3 and node.inputs[3] is not None:
            rank = len(self.shape(node))
            pads, axes = self.constant(node, 1), self.constant(node, 3)
            full = [0] * (2 * rank)
            for axis, before, after in zip(axes.tolist(), *np.split(pads, 2), strict=True):
                full[axis % rank], full[axis % rank + rank] = int(before), int(after)
            value = node.inputs[2]
            self.set_input(node, 1, f"{node.name}.pads", full)
            node.resize_inputs(3)
            node.replace_input_with(2, value)

    def reshape(self, node: ir.Node) -> None:
        """Before opset 14 a size of 0 always means that of the input; where there is none it need not be said."""
        sizes = node.inputs[1]
        known = sizes is not None and sizes.const_value is not None
        if self.opset < 14 and known and 0 not in self.constant(node, 1):
            node.attributes.pop("allowzero", None)

    def split(self, node: ir.Node) -> None:
        """From opset 18 on the number of parts is an attribute, and the last part may be smaller."""
        if self.opset >= 18:
            return
        if len(node.inputs) < 2:
            size, parts = self.shape(node)[node.attributes.get_int("axis", 0)], len(node.outputs)
            if not isinstance(size, int):
                raise self.refuse(node, "the size of what it splits is not fixed", id="lowering-split-size")
            part = -(-size // parts)
            self.set_input(node, 1, f"{node.name}.sizes", [part] * (parts - 1) + [size - part * (parts - 1)])
        node.attributes.pop("num_outputs", None)

    def drop_defaults(self, node: ir.Node) -> None:
        """An attribute that the older operator does not know says nothing where it has its default."""
        older, newer = self.schema(node, self.opset), self.schema(node, self.newer)
        for name, attribute in list(node.attributes.items()):
            if name in newer.attributes and name not in older.attributes:
                default = ir.serde.deserialize_attribute(newer.attributes[name].default_value)
                if default.type is attribute.type and default.value == attribute.value:
                    del node.attributes[name]

    def check(self, node: ir.Node) -> None:
        schema = self.schema(node, self.opset)
        unknown = [name for name in node.attributes if name not in schema.attributes]
        if unknown:
            raise self.refuse(
                node, f"it has the attributes {unknown}, which are not known there", id="lowering-unknown-attributes"
            )
        if len(node.inputs) > schema.max_input:
            raise self.refuse(
                node,
                f"it has {len(node.inputs)} inputs where {schema.max_input} are allowed",
                id="lowering-too-many-inputs",
            )
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        for value, formal in zip(node.inputs, schema.inputs, strict=False):
            if value is not None and value.dtype is not None and formal.type_str in allowed:
                text = f"tensor({value.dtype.name.lower()})"
                if text not in allowed[formal.type_str]:
                    raise self.refuse(
                        node,
                        f"its input {value.name!r} is {text}, which is not allowed there",
                        id="lowering-input-refused",
                    )
