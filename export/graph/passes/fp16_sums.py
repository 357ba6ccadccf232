"""A product whose sums are in fp16: one fused multiply-add after another, as in a loop of HFMA, in one Scan.

The factors are fp16 numbers carried in fp32, so their products are exact; each partial sum is rounded to fp16.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.nodes import Replacement

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16


def sum_in_fp16(node: ir.Node) -> None:
    """Put a Scan over the terms of each sum in the place of `node`, whose values are all carried in fp32.

    Raises ExportError where `node` is no product that this is written for.
    """
    if node.op_type not in PRODUCTS:
        raise ExportError(
            f"node {node.name!r} ({node.op_type}) cannot be summed up in fp16 here, only {', '.join(PRODUCTS)} can: "
            "take accumulate='fp32'."
        )
    writer = _Writer(node)
    writer.op.put([{"Gemm": writer.gemm, "MatMul": writer.matmul}.get(node.op_type, writer.convolution)()])


class _Writer:
    def __init__(self, node: ir.Node) -> None:
        self.node, self.op = node, Replacement(node, f"{node.name}.fp16_sums")
        inputs = [*node.inputs, None]
        assert inputs[0] is not None
        assert inputs[1] is not None
        self.a, self.b, self.c = inputs[0], inputs[1], inputs[2]

    def ints(self, *numbers: int) -> ir.Value:
        return self.op.constant(np.array(numbers, np.int64))

    def sum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The sum of a[k] * b[k] over k, axis 0 of both; the rest is broadcast."""
        first = [self.op.Gather(value, self.op.constant(np.array(0, np.int64)), axis=0) for value in (a, b)]
        zeros = self.op.ConstantOfShape(self.op.Shape(self.op.Mul(*first)))
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
        return self.op.Scan(zeros, a, b, body=body, num_scan_inputs=2)

    def terms_first(self, value: ir.Value, axis: int) -> ir.Value:
        """The axis of the terms in front."""
        assert value.shape is not None
        rest = list(range(len(value.shape)))
        return self.op.Transpose(value, perm=[rest.pop(axis), *rest])

    def matmul(self) -> ir.Value:
        """(..., M, K) by (..., K, N), either without its other axis too."""
        ranks = [len(value.shape or ()) for value in (self.a, self.b)]
        a, b = self.terms_first(self.a, -1), self.terms_first(self.b, -2 if ranks[1] > 1 else 0)
        a = self.op.Unsqueeze(a, self.ints(-1)) if ranks[1] > 1 else a
        b = self.op.Unsqueeze(b, self.ints(-2)) if min(ranks) > 1 else b
        return self.sum(a, b)

    def gemm(self) -> ir.Value:
        attributes = self.node.attributes
        a = self.terms_first(self.a, 0 if attributes.get_int("transA", 0) else 1)
        b = self.terms_first(self.b, 1 if attributes.get_int("transB", 0) else 0)
        y = self.sum(self.op.Unsqueeze(a, self.ints(2)), self.op.Unsqueeze(b, self.ints(1)))
        alpha, beta = (np.array(attributes.get_float(name, 1.0), np.float32) for name in ("alpha", "beta"))
        y = self.op.Mul(y, self.op.constant(alpha)) if alpha != 1 else y
        if self.c is None:
            return y
        return self.op.Add(y, self.op.Mul(self.c, self.op.constant(beta)) if beta != 1 else self.c)

    def convolution(self) -> ir.Value:
        """The same convolution, channel by channel, with each tap alone gives the terms; their sum is a product."""
        node, weight, output = self.node, self.b.const_value, self.node.outputs[0]
        if weight is None or self.a.shape is None or not isinstance(channels := self.a.shape[1], int):
            raise ExportError(f"node {node.name!r} ({node.op_type}) has weights or channels that are computed.")
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
        terms = self.op.op(node.op_type, [self.a, self.op.constant(alone)], attributes)
        # (terms, batch, groups, places) by (terms, groups, outputs): (batch, groups, outputs, places).
        terms = self.op.Reshape(terms, self.ints(0, groups, w.shape[1], -1))
        terms = self.op.Transpose(terms, perm=[2, 0, 1, 3])
        y = self.sum(self.op.Unsqueeze(terms, self.ints(3)), self.op.constant(w.transpose(1, 0, 2)[:, None, ..., None]))
        assert output.shape is not None
        places = [size if isinstance(size, int) else -1 for size in output.shape[2:]]
        y = self.op.Reshape(y, self.ints(0, groups * w.shape[2], *places))
        if self.c is None:
            return y
        return self.op.Add(y, self.op.Reshape(self.c, self.ints(-1, *[1] * len(kernel))))
