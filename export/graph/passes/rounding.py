"""A graph typed in fp16 or bf16 as one of fp32 that rounds where the types said so.

A product of two fp16 or bf16 numbers is exact in fp32, and what is computed in fp32 and rounded once is what the narrow
type gives (for + - * / and the root: Figueroa 1995, "When is double rounding innocuous?"). How products are added up
depends on the hardware: tensor cores add those of fp16 in fp32 or in fp16, those of bf16 in fp32 alone (PTX ISA, the
types of `mma`).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.fp16_sums import sum_in_fp16
from rnn_export.export.graph.passes.mixed_precision import FLOAT, FLOAT_TYPES, MATRIX, MOVING
from rnn_export.export.graph.passes.pipeline import InferShapes

# In what products are added up.
ACCUMULATIONS = ("fp32", "fp16")
NARROW = tuple(dtype for dtype in FLOAT_TYPES.values() if dtype is not FLOAT)


class WriteOutRoundings(InPlacePass):
    """Every value in fp32; behind what gave a narrower one, a Cast there and a Cast back.

    `accumulate` is "fp32" where products are added up in fp32 and the sum is rounded, or "fp16" where each partial sum
    is, one product after another. Raises ExportError where the graph has no such sum.

    After: no input, output, weight or value but those between the two Casts is in fp16 or bf16. Run it with all graph
    optimisation off, since a runtime may take the two Casts for nothing.
    """

    def __init__(self, accumulate: str = "fp32") -> None:
        if accumulate not in ACCUMULATIONS:
            raise ExportError(f"accumulate is {accumulate!r}: sums are in {' or in '.join(ACCUMULATIONS)}.")
        self.accumulate = accumulate

    def call(self, model: ir.Model) -> PassResult:
        InferShapes()(model)
        graph = model.graph
        for weight in graph.initializers.values():
            if weight.dtype in NARROW and weight.const_value is not None:
                weight.const_value = ir.tensor(weight.const_value.numpy().astype(np.float32), name=weight.name)
                weight.dtype = FLOAT
        nodes, summed = list(graph), list[ir.Node]()
        for value in graph.inputs:
            if value.dtype in NARROW:
                graph.insert_before(nodes[0], _rounding(value))
        for node in nodes:
            for value in node.outputs:
                if value.dtype not in NARROW:
                    continue
                if node.op_type in MOVING:
                    value.dtype = FLOAT
                    continue
                if node.op_type in MATRIX and self.accumulate == "fp16":
                    _refuse_wide_sums(node, value)
                    summed.append(node)
                graph.insert_after(node, _rounding(value))
        for node in summed:
            sum_in_fp16(node)
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        inside = {value for node in model.graph if node.op_type == "Cast" for value in node.outputs}
        values = {*model.graph.inputs, *model.graph.outputs, *(v for node in model.graph for v in node.outputs)}
        left = sorted(str(value.name) for value in values - inside if value.dtype in NARROW)
        if left:
            raise ValueError(f"{', '.join(left)} should be in fp32, which is a fault of rnn-export.")


def _refuse_wide_sums(node: ir.Node, value: ir.Value) -> None:
    if value.dtype is not None and value.dtype is not ir.DataType.FLOAT16:
        raise ExportError(
            f"node {node.name!r} ({node.op_type}) is in {value.dtype.name.lower()}, and sums in fp16 were asked for: "
            "tensor cores add up such products in fp32 alone. Take accumulate='fp32'."
        )


def _rounding(value: ir.Value) -> list[ir.Node]:
    """The two Casts, for all that read `value`, which is in fp32 from now on."""
    narrow, name, maker = value.dtype, value.name, value.producer()
    assert narrow is not None
    if maker is not None and maker.op_type == "Cast":
        maker.attributes["to"] = ir.AttrInt64("to", FLOAT)
    down = ir.node("Cast", [value], {"to": narrow}, name=f"round {name}")
    back = ir.node("Cast", [down.outputs[0]], {"to": FLOAT}, name=f"round {name} back")
    between, result = down.outputs[0], back.outputs[0]
    between.name, result.name = f"{name}.{narrow.name.lower()}", f"{name}.rounded"
    between.type, result.type = ir.TensorType(narrow), ir.TensorType(FLOAT)
    between.shape = result.shape = value.shape
    value.dtype = FLOAT
    if value.is_graph_output():
        value.name, result.name = f"{name}.exact", name
    value.replace_all_uses_with(result, replace_graph_outputs=True)
    down.replace_input_with(0, value)
    return [down, back]
