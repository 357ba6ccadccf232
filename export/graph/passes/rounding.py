"""Emulate a graph typed in fp16 or bf16 in fp32, with roundings where the types say so.

A product of two fp16 or bf16 numbers is exact in fp32, and a result in fp32 that is rounded once is that of the narrow
type (for + - * / and the root: Figueroa 1995, "When is double rounding innocuous?"). How products are added up
depends on the hardware: tensor cores add those of fp16 in fp32 or in fp16, those of bf16 in fp32 alone (PTX ISA, the
types of `mma`). In fp16 a sum is one fused multiply-add after another, as in a loop of HFMA.
"""

import math

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.mixed_precision import FLOAT, FLOAT_TYPES, MATRIX, MOVING
from rnn_export.export.graph.passes.nodes import Replacement
from rnn_export.export.graph.passes.pipeline import InferShapes

# In what products are added up.
ACCUMULATIONS = ("fp32", "fp16")
# Those that can be summed up in fp16.
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOAT16 = ir.DataType.FLOAT16
NARROW = tuple(dtype for dtype in FLOAT_TYPES.values() if dtype is not FLOAT)


class WriteOutRoundings(InPlacePass):
    """Every value in fp32; behind a node that gave a narrower one, a Cast there and a Cast back.

    `accumulate` is "fp32" if products are added up in fp32 and the sum is rounded, or "fp16" if each partial sum
    is, one product after another. Raises ExportError if the graph has no such sum.

    After: no input, output, weight or value but those between the two Casts is in fp16 or bf16. Run it with all graph
    optimisation off, since a runtime may remove the two Casts.
    """

    def __init__(self, accumulate: str = "fp32") -> None:
        if accumulate not in ACCUMULATIONS:
            raise ExportError(
                f"accumulate is {accumulate!r}: sums are in {' or in '.join(ACCUMULATIONS)}.", id="accumulation-unknown"
            )
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
            _sum_in_fp16(node)
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        inside = {value for node in model.graph if node.op_type == "Cast" for value in node.outputs}
        values = {*model.graph.inputs, *model.graph.outputs, *(v for node in model.graph for v in node.outputs)}
        left = sorted(str(value.name) for value in values - inside if value.dtype in NARROW)
        if left:
            raise ValueError(f"{', '.join(left)} should be in fp32, which is a fault of rnn-export.")


def _refuse_wide_sums(node: ir.Node, value: ir.Value) -> None:
    if value.dtype is not None and value.dtype is not FLOAT16:
        raise ExportError(
            f"node {node.name!r} ({node.op_type}) is in {value.dtype.name.lower()}, and sums in fp16 were asked for: "
            "tensor cores add up such products in fp32 alone. Take accumulate='fp32'.",
            id="fp16-sums-unfit",
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


def _sum_in_fp16(node: ir.Node) -> None:
    """Put a Scan over the terms of its sums in the place of `node`: of exact products, each partial sum rounded."""
    if node.op_type not in PRODUCTS:
        raise ExportError(
            f"node {node.name!r} ({node.op_type}) cannot be summed up in fp16 here, only {', '.join(PRODUCTS)} can: "
            "take accumulate='fp32'.",
            id="fp16-sums-unsupported",
        )
    sums = _Sums(node)
    sums.put([{"Gemm": sums.gemm, "MatMul": sums.matmul}.get(node.op_type, sums.convolution)()])


class _Sums(Replacement):
    def __init__(self, node: ir.Node) -> None:
        super().__init__(node, f"{node.name}.fp16_sums")
        inputs = [*node.inputs, None]
        assert inputs[0] is not None
        assert inputs[1] is not None
        self.a, self.b, self.c = inputs[0], inputs[1], inputs[2]

    def sum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The sum of a[k] * b[k] over k, axis 0 of both; the rest is broadcast."""
        first = [self.Gather(value, self.constant(np.array(0, np.int64)), axis=0) for value in (a, b)]
        zeros = self.ConstantOfShape(self.Shape(self.Mul(*first)))
        total, one, other, product, wide, narrow, result = (
            ir.Value(name=f"{self.node.name}.{name}", type=ir.TensorType(FLOAT16 if name == "narrow" else FLOAT))
            for name in ("total", "one", "other", "product", "wide", "narrow", "result")
        )
        nodes = [
            ir.node("Mul", [one, other], outputs=[product]),
            ir.node("Add", [total, product], outputs=[wide]),
            ir.node("Cast", [wide], {"to": FLOAT16}, outputs=[narrow]),
            ir.node("Cast", [narrow], {"to": FLOAT}, outputs=[result]),
        ]
        body = ir.Graph([total, one, other], [result], nodes=nodes, name="fp16 sum")
        return self.Scan(zeros, a, b, body=body, num_scan_inputs=2)

    def terms_first(self, value: ir.Value, axis: int) -> ir.Value:
        assert value.shape is not None
        rest = list(range(len(value.shape)))
        return self.Transpose(value, perm=[rest.pop(axis), *rest])

    def matmul(self) -> ir.Value:
        """(..., M, K) by (..., K, N), either without its other axis too."""
        ranks = [len(value.shape or ()) for value in (self.a, self.b)]
        a, b = self.terms_first(self.a, -1), self.terms_first(self.b, -2 if ranks[1] > 1 else 0)
        a = self.Unsqueeze(a, self.ints(-1)) if ranks[1] > 1 else a
        b = self.Unsqueeze(b, self.ints(-2)) if min(ranks) > 1 else b
        return self.sum(a, b)

    def gemm(self) -> ir.Value:
        attributes = self.node.attributes
        a = self.terms_first(self.a, 0 if attributes.get_int("transA", 0) else 1)
        b = self.terms_first(self.b, 1 if attributes.get_int("transB", 0) else 0)
        y = self.sum(self.Unsqueeze(a, self.ints(2)), self.Unsqueeze(b, self.ints(1)))
        alpha, beta = (np.array(attributes.get_float(name, 1.0), np.float32) for name in ("alpha", "beta"))
        y = self.Mul(y, self.constant(alpha)) if alpha != 1 else y
        if self.c is None:
            return y
        return self.Add(y, self.Mul(self.c, self.constant(beta)) if beta != 1 else self.c)

    def convolution(self) -> ir.Value:
        """The same convolution, channel by channel, with each tap alone gives the terms; their sum is a product."""
        node, weight, output = self.node, self.b.const_value, self.node.outputs[0]
        if weight is None or self.a.shape is None or not isinstance(channels := self.a.shape[1], int):
            raise ExportError(
                f"node {node.name!r} ({node.op_type}) has weights or channels that are computed.",
                id="fp16-sums-computed-weights",
            )
        w, groups = weight.numpy(), node.attributes.get_int("group", 1)
        kernel, taps = w.shape[2:], math.prod(w.shape[2:])
        w = w.reshape(groups, len(w) // groups, -1, taps)
        # (groups, terms, outputs): a term is an input channel and a tap.
        transposed = node.op_type == "ConvTranspose"
        w = w.transpose(0, 1, 3, 2) if transposed else w.transpose(0, 2, 3, 1)
        w = w.reshape(groups, channels // groups * taps, -1)
        alone = np.tile(np.eye(taps, dtype=np.float32), (channels, 1))
        alone = alone.reshape(channels, taps, *kernel) if transposed else alone.reshape(channels * taps, 1, *kernel)
        attributes = {**node.attributes, "group": ir.AttrInt64("group", channels)}
        terms = self.op(node.op_type, [self.a, self.constant(alone)], attributes)
        # (terms, batch, groups, places) by (terms, groups, outputs): (batch, groups, outputs, places).
        terms = self.Reshape(terms, self.ints(0, groups, w.shape[1], -1))
        terms = self.Transpose(terms, perm=[2, 0, 1, 3])
        y = self.sum(self.Unsqueeze(terms, self.ints(3)), self.constant(w.transpose(1, 0, 2)[:, None, ..., None]))
        assert output.shape is not None
        places = [size if isinstance(size, int) else -1 for size in output.shape[2:]]
        y = self.Reshape(y, self.ints(0, groups * w.shape[2], *places))
        if self.c is None:
            return y
        return self.Add(y, self.Reshape(self.c, self.ints(-1, *[1] * len(kernel))))
